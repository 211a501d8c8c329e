"""What the planner is asked: nodes, models, links. JSON in and out, schema version 1.

Building a `Problem`, from JSON or directly, checks every value once; errors are `ConfigError` and name the
field. Unknown keys are ignored, so that a newer writer can add optional ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from stageline.errors import ConfigError

from .fields import Field, check_bytes, check_names, check_number, check_size

VERSION = 1
OBJECTIVES = ("throughput",)


@dataclass(frozen=True)
class Node:
    """A box. Its one executor's runtime takes `base_bytes` once, whatever number of stages it hosts."""

    id: str
    memory_bytes: int
    base_bytes: int = 0


@dataclass(frozen=True)
class Block:
    """The smallest piece that can be placed. `seconds[i]` on node i, per batch; inf: node i cannot run it."""

    name: str
    weight_bytes: int
    workspace_bytes: int
    seconds: tuple[float, ...]


@dataclass(frozen=True)
class Model:
    """A chain of blocks. `cuts_bytes[i]` enters block i; the last entry is the output.

    `rate_per_s` is the expected load (None: unknown); `buffer_bytes` are the bytes in flight of every stage.
    """

    name: str
    blocks: tuple[Block, ...]
    cuts_bytes: tuple[int, ...]
    priority: float = 1.0
    rate_per_s: float | None = None
    buffer_bytes: int = 0

    def stage_bytes(self, start: int, end: int) -> int:
        """Memory of blocks [start, end) on a node, its `base_bytes` not included."""
        run = self.blocks[start:end]
        workspace = max((block.workspace_bytes for block in run), default=0)
        return sum(block.weight_bytes for block in run) + workspace + self.buffer_bytes

    def stage_seconds(self, start: int, end: int, node: int) -> float:
        """Compute seconds of blocks [start, end) on the node with that index."""
        return math.fsum(block.seconds[node] for block in self.blocks[start:end])


@dataclass(frozen=True)
class Links:
    """Between nodes: row from, column to. Bandwidth 0: no link."""

    bandwidth_bytes_per_s: tuple[tuple[float, ...], ...]
    latency_s: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Port:
    """Between the gateway and each node (ingress or egress). Bandwidth 0: no link."""

    bandwidth_bytes_per_s: tuple[float, ...]
    latency_s: tuple[float, ...]


@dataclass(frozen=True)
class Problem:
    """Everything a plan depends on. Raises `ConfigError` naming the first field that is wrong."""

    nodes: tuple[Node, ...]
    models: tuple[Model, ...]
    links: Links | None = None
    ingress: Port | None = None
    egress: Port | None = None
    objective: str = "throughput"
    version: int = VERSION

    def __post_init__(self) -> None:
        if self.version != VERSION:
            raise ConfigError(f"version: this planner reads {VERSION}, not {self.version}")
        if self.objective not in OBJECTIVES:
            raise ConfigError(f"objective: must be one of {', '.join(OBJECTIVES)}, not '{self.objective}'")
        _check_nodes(self.nodes)
        check_names([model.name for model in self.models], "models", "name")
        for i, model in enumerate(self.models):
            _check_model(model, len(self.nodes), f"models[{i}]")
        _check_links(self, len(self.nodes))

    @classmethod
    def from_json(cls, document: object) -> Problem:
        """A problem from parsed JSON. Raises `ConfigError` naming the field."""
        root = Field(document, "")
        links, ingress, egress = (root.optional(name) for name in ("links", "ingress", "egress"))
        objective = root.optional("objective")
        return cls(
            version=root.key("version").integer(),
            objective=objective.text() if objective else "throughput",
            nodes=tuple(_read_node(item) for item in root.key("nodes").items()),
            models=tuple(_read_model(item) for item in root.key("models").items()),
            links=_read_links(links) if links else None,
            ingress=_read_port(ingress) if ingress else None,
            egress=_read_port(egress) if egress else None,
        )

    def to_json(self) -> dict[str, object]:
        """Values that `json.dumps` takes; `from_json` gives an equal problem back."""
        found: dict[str, object] = {
            "version": self.version,
            "objective": self.objective,
            "nodes": [vars(node).copy() for node in self.nodes],
            "models": [_write_model(model) for model in self.models],
        }
        if self.links:
            found["links"] = {name: [list(row) for row in rows] for name, rows in vars(self.links).items()}
        for name, port in (("ingress", self.ingress), ("egress", self.egress)):
            if port:
                found[name] = {key: list(row) for key, row in vars(port).items()}
        return found


def _read_node(item: Field) -> Node:
    base = item.optional("base_bytes")
    return Node(item.key("id").text(), item.key("memory_bytes").integer(), base.integer() if base else 0)


def _read_block(item: Field) -> Block:
    seconds = (math.inf if one.value is None else one.number() for one in item.key("seconds").items())
    return Block(
        name=item.key("name").text(),
        weight_bytes=item.key("weight_bytes").integer(),
        workspace_bytes=item.key("workspace_bytes").integer(),
        seconds=tuple(seconds),
    )


def _read_model(item: Field) -> Model:
    priority, rate = item.optional("priority"), item.optional("rate_per_s")
    buffers = item.optional("buffer_bytes")
    return Model(
        name=item.key("name").text(),
        blocks=tuple(_read_block(one) for one in item.key("blocks").items()),
        cuts_bytes=tuple(one.integer() for one in item.key("cuts_bytes").items()),
        priority=priority.number() if priority else 1.0,
        rate_per_s=rate.number() if rate else None,
        buffer_bytes=buffers.integer() if buffers else 0,
    )


def _read_links(item: Field) -> Links:
    bandwidth = tuple(row.numbers() for row in item.key("bandwidth_bytes_per_s").items())
    return Links(bandwidth, tuple(row.numbers() for row in item.key("latency_s").items()))


def _read_port(item: Field) -> Port:
    return Port(item.key("bandwidth_bytes_per_s").numbers(), item.key("latency_s").numbers())


def _write_model(model: Model) -> dict[str, object]:
    blocks = [
        {
            "name": block.name,
            "weight_bytes": block.weight_bytes,
            "workspace_bytes": block.workspace_bytes,
            "seconds": [None if math.isinf(s) else s for s in block.seconds],
        }
        for block in model.blocks
    ]
    return {**vars(model), "blocks": blocks, "cuts_bytes": list(model.cuts_bytes)}


def _check_nodes(nodes: tuple[Node, ...]) -> None:
    check_names([node.id for node in nodes], "nodes", "id")
    for i, node in enumerate(nodes):
        check_bytes(node.memory_bytes, f"nodes[{i}].memory_bytes")
        check_bytes(node.base_bytes, f"nodes[{i}].base_bytes")


def _check_model(model: Model, nodes: int, path: str) -> None:
    if not model.blocks:
        raise ConfigError(f"{path}.blocks: must have at least one block")
    check_names([block.name for block in model.blocks], f"{path}.blocks", "name")
    check_size(model.cuts_bytes, len(model.blocks) + 1, f"{path}.cuts_bytes", "blocks + 1")
    for i, cut in enumerate(model.cuts_bytes):
        check_bytes(cut, f"{path}.cuts_bytes[{i}]")
    check_number(model.priority, f"{path}.priority")
    check_bytes(model.buffer_bytes, f"{path}.buffer_bytes")
    if model.rate_per_s is not None:
        check_number(model.rate_per_s, f"{path}.rate_per_s", positive=True)
    for i, block in enumerate(model.blocks):
        where = f"{path}.blocks[{i}]"
        check_bytes(block.weight_bytes, f"{where}.weight_bytes")
        check_bytes(block.workspace_bytes, f"{where}.workspace_bytes")
        check_size(block.seconds, nodes, f"{where}.seconds", "one per node")
        for j, seconds in enumerate(block.seconds):
            check_number(seconds, f"{where}.seconds[{j}]", infinite=True)


def _check_links(problem: Problem, nodes: int) -> None:
    rows: list[tuple[str, tuple[float, ...]]] = []
    if problem.links:
        for name, matrix in vars(problem.links).items():
            check_size(matrix, nodes, f"links.{name}", "one row per node")
            rows += [(f"links.{name}[{i}]", row) for i, row in enumerate(matrix)]
    for where, port in (("ingress", problem.ingress), ("egress", problem.egress)):
        if port:
            rows += [(f"{where}.{name}", row) for name, row in vars(port).items()]
    for path, row in rows:
        check_size(row, nodes, path, "one per node")
        for j, value in enumerate(row):
            check_number(value, f"{path}[{j}]")
