"""Problem and solution as the checker sees them: read straight from JSON, sharing nothing with the planner.

Only `fields.Field` is shared, so that errors (`ConfigError`) name the field in the same words. Values are taken as
they are: whether they are sensible is for `Problem.from_json`. What is not said is what the schema says then.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .fields import Field

Matrix = list[list[float]]

STATUSES = ("optimal", "feasible", "infeasible")
VERSION = 1


@dataclass(frozen=True)
class Box:
    """A node: bytes, and CPU seconds per message and per byte on the wire."""

    name: str
    memory: int
    base: int
    hop_s: float
    byte_s: float
    excluded: bool
    required: bool


@dataclass(frozen=True)
class Chain:
    """A model. `seconds[b][i]`: block b, node i; `codecs`: (ratio, CPU seconds per byte) of those within tolerance.

    `shared`: blocks, and how many bytes of weights they have in common.
    """

    name: str
    weights: list[int]
    workspaces: list[int]
    seconds: Matrix
    cuts: list[int]
    priority: float
    rate: float | None
    buffer: int
    source: str | None
    max_replicas: int
    codecs: dict[str, tuple[float, float]]
    required: list[str]
    shared: list[tuple[set[int], int]]

    def need(self, start: int, end: int) -> int:
        """Bytes of blocks [start, end), the node's base left out."""
        return self.load(set(range(start, end))) + max(self.workspaces[start:end]) + self.buffer

    def load(self, blocks: set[int]) -> int:
        """Bytes of these blocks' weights, those that several of them share counted for one."""
        own = sum(self.weights[block] for block in blocks)
        return own - sum(size * (len(here) - 1) for holders, size in self.shared if (here := holders & blocks))


@dataclass(frozen=True)
class Case:
    """A problem. Bandwidths are bytes per second (inf: unlimited), delays seconds."""

    objective: str
    boxes: list[Box]
    chains: dict[str, Chain]
    bandwidth: Matrix
    delay: Matrix
    ports: dict[str, tuple[list[float], list[float]]]
    media: list[tuple[str, set[str], float]]
    current: dict[str, list[tuple[int, int, list[str]]]]

    def share(self, chain: Chain) -> float:
        """Items of this model for each item of the most requested one."""
        rates = [other.rate for other in self.chains.values() if other.rate is not None]
        return 1.0 if chain.rate is None else chain.rate / max(rates)


@dataclass(frozen=True)
class Stage:
    """A stage as stated, and `where` it is stated."""

    start: int
    end: int
    nodes: list[str]
    codec: str
    compute_s: float | None
    transfer_in_s: float | None
    where: str


@dataclass(frozen=True)
class Claims:
    """What a set of figures claims to be: a solution, or one model's part of it."""

    status: str
    objective: float | None
    bound: float | None
    gap: float | None
    latency: float | None
    reason: str


@dataclass(frozen=True)
class Answer:
    """A solution as stated. `moved`: bytes by (model, node); `named`: all models in `stages`, also without a stage.

    `proven`: whether an infeasible one claims a proof that there is no plan; None: it does not say.
    """

    claims: Claims
    models: dict[str, Claims]
    stages: dict[str, list[Stage]]
    named: list[str]
    proven: bool | None
    moved: dict[tuple[str, str], int]
    moved_bytes: int | None
    load_factor: float | None


def read_case(document: object) -> Case:
    """Raises `ConfigError` naming the field."""
    root = Field(document, "")
    boxes = [_box(item) for item in root.key("nodes").items()]
    chains = [_chain(item) for item in root.key("models").items()]
    size = len(boxes)
    links, media, current = (root.optional(name) for name in ("links", "media", "current"))
    return Case(
        objective=_text(root, "objective", "throughput"),
        boxes=boxes,
        chains={chain.name: chain for chain in chains},
        bandwidth=_matrix(links, "bandwidth_bytes_per_s", size, math.inf),
        delay=_matrix(links, "latency_s", size, 0.0),
        ports={name: _port(root.optional(name), size) for name in ("ingress", "egress")},
        media=[_medium(item) for item in media.items()] if media else [],
        current={name: [_running(one) for one in item.items()] for name, item in current.members()} if current else {},
    )


def read_answer(document: object) -> Answer:
    """Raises `ConfigError` naming the field."""
    root = Field(document, "")
    models, moves = root.optional("models"), root.optional("moves")
    moved: dict[tuple[str, str], int] = {}
    for move in moves.items() if moves else ():
        key = move.key("model").text(), move.key("node").text()
        moved[key] = moved.get(key, 0) + move.key("bytes").integer()
    _check_about(root)
    claims, placed = _claims(root), root.key("stages").members()
    total, proven = root.optional("moved_bytes"), root.optional("proven")
    return Answer(
        claims=claims,
        models={name: _claims(item) for name, item in models.members()} if models else {},
        stages={name: stages for name, item in placed if (stages := _stages(item))},
        named=[name for name, _ in placed],
        proven=proven.flag() if proven else None,
        moved=moved,
        moved_bytes=total.integer() if total else None,
        load_factor=_maybe(root, "load_factor"),
    )


def _check_about(root: Field) -> None:
    """What a solution says of itself. A version that is not stated is this one."""
    version, spent = root.optional("version"), root.optional("solve_s")
    if version and version.integer() != VERSION:
        raise version.fail(f"this check reads {VERSION}, not {version.integer()}")
    if spent and spent.number() < 0:
        raise spent.fail(f"must be 0 or more, not {spent.number():g}")


def _box(item: Field) -> Box:
    excluded, required = item.optional("excluded"), item.optional("required")
    return Box(
        name=item.key("id").text(),
        memory=item.key("memory_bytes").integer(),
        base=int(_number(item, "base_bytes", 0)),
        hop_s=_number(item, "hop_s", 0.0),
        byte_s=_number(item, "byte_s", 0.0),
        excluded=excluded.flag() if excluded else False,
        required=required.flag() if required else False,
    )


def _chain(item: Field) -> Chain:
    blocks, codecs, source = item.key("blocks").items(), item.optional("codecs"), item.optional("source")
    required, shared = item.optional("required"), item.optional("shared")
    tolerance = _number(item, "tolerance", 0.0)
    return Chain(
        name=item.key("name").text(),
        weights=[block.key("weight_bytes").integer() for block in blocks],
        workspaces=[block.key("workspace_bytes").integer() for block in blocks],
        seconds=[_row(block.key("seconds")) for block in blocks],
        cuts=[cut.integer() for cut in item.key("cuts_bytes").items()],
        priority=_number(item, "priority", 1.0),
        rate=_maybe(item, "rate_per_s"),
        buffer=int(_number(item, "buffer_bytes", 0)),
        source=source.text() if source else None,
        max_replicas=int(_number(item, "max_replicas", 1)),
        codecs={
            one.key("name").text(): (one.key("ratio").number(), _number(one, "byte_s", 0.0))
            for one in (codecs.items() if codecs else ())
            if _number(one, "error", 0.0) <= tolerance
        },
        required=[one.text() for one in required.items()] if required else [],
        shared=[_common(one) for one in shared.items()] if shared else [],
    )


def _common(item: Field) -> tuple[set[int], int]:
    return {one.integer() for one in item.key("blocks").items()}, item.key("bytes").integer()


def _stages(item: Field) -> list[Stage]:
    return [_stage(one) for one in item.items()]


def _stage(item: Field) -> Stage:
    start, end = item.key("blocks").span()
    return Stage(
        start=start,
        end=end,
        nodes=[one.text() for one in item.key("nodes").items()],
        codec=_text(item, "codec", "none"),
        compute_s=_maybe(item, "compute_s"),
        transfer_in_s=_maybe(item, "transfer_in_s"),
        where=item.path,
    )


def _claims(item: Field) -> Claims:
    names = ("objective_s", "lower_bound_s", "gap", "latency_s")
    objective, bound, gap, latency = (_maybe(item, name) for name in names)
    status = item.key("status")
    if status.text() not in STATUSES:
        raise status.fail(f"must be one of {', '.join(STATUSES)}, not '{status.text()}'")
    return Claims(status.text(), objective, bound, gap, latency, _text(item, "reason", ""))


def _medium(item: Field) -> tuple[str, set[str], float]:
    nodes = {one.text() for one in item.key("nodes").items()}
    return item.key("name").text(), nodes, item.key("bandwidth_bytes_per_s").number()


def _running(item: Field) -> tuple[int, int, list[str]]:
    return (*item.key("blocks").span(), [one.text() for one in item.key("nodes").items()])


def _matrix(links: Field | None, name: str, size: int, default: float) -> Matrix:
    return [_row(row) for row in links.key(name).items()] if links else [[default] * size for _ in range(size)]


def _port(port: Field | None, size: int) -> tuple[list[float], list[float]]:
    if port is None:
        return [math.inf] * size, [0.0] * size
    return _row(port.key("bandwidth_bytes_per_s")), _row(port.key("latency_s"))


def _row(item: Field) -> list[float]:
    """Numbers; null is what JSON has no number for, infinity."""
    return [math.inf if one.value is None else one.number() for one in item.items()]


def _number(item: Field, name: str, default: float) -> float:
    found = _maybe(item, name)
    return default if found is None else found


def _maybe(item: Field, name: str) -> float | None:
    found = item.optional(name)
    return found.number() if found else None


def _text(item: Field, name: str, default: str) -> str:
    found = item.optional(name)
    return found.text() if found else default


def names(boxes: Sequence[Box]) -> dict[str, int]:
    """By node name, its place."""
    return {box.name: i for i, box in enumerate(boxes)}
