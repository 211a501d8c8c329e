"""Placements: the problem that the planner is given, its answer read back, and how good a placement is. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import msgspec

from stageline.blocks import BlockSpec
from stageline.codecs import CODECS
from stageline.config import DEFAULT_MAX_BATCH
from stageline.errors import PlacementError
from stageline.manifest import ModelManifest
from stageline.plan import StageKey

from . import charge
from .figures import FigureBook, Models
from .network import Network, finite
from .peers import Node
from .wanted import Wanted

BUFFERED_ITEMS = 4
"""Items in flight that a stage must have room for: two that came in, two that go out."""

CODING_S_PER_BYTE = {"fp16": 2e-10, "int8": 3e-10}
"""Processor seconds per byte of a tensor before coding, at either end: twice what one core of an EPYC takes."""


LEAST_HOP_S, LEAST_BYTE_S, MOST_MESSAGE_S = 1e-9, 1e-15, 1e2
"""Per message and per byte: less is nothing, more is not believed."""


@dataclass(frozen=True)
class Slot:
    """Blocks half-open [start, end) on `nodes` (several: replicas); `codec` of what comes in (empty: not coded)."""

    start: int
    end: int
    nodes: tuple[str, ...]
    codec: str = ""

    def key(self, sha: str) -> StageKey:
        return StageKey(manifest=sha, start=self.start, end=self.end)


Placement = Mapping[str, tuple[Slot, ...]]
"""By model name, the stages in order."""


@dataclass(frozen=True)
class Answer:
    """A solution: what is placed where, and why the rest is not. `inputs` is what it was computed from.

    `bottleneck_s` and `bound_s` are seconds of `objective`, by model.
    """

    inputs: object
    placement: Placement = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    bottleneck_s: Mapping[str, float] = field(default_factory=dict)
    bound_s: Mapping[str, float] = field(default_factory=dict)
    objective: str = "throughput"


class _Stage(msgspec.Struct):
    blocks: tuple[int, int]
    nodes: tuple[str, ...]
    codec: Literal["none", "fp16", "int8"] = "none"


class _Model(msgspec.Struct):
    objective_s: float | None = None
    lower_bound_s: float | None = None
    reason: str = ""


class _Solution(msgspec.Struct):
    stages: dict[str, tuple[_Stage, ...]]
    models: dict[str, _Model] = {}


def measured(manifest: ModelManifest, nodes: Sequence[Node], book: FigureBook) -> bool:
    """Whether at least one node's times are all known."""
    return any(book.complete(manifest, node.info.fingerprint) for node in nodes)


def can_plan(sha: str, manifest: ModelManifest, nodes: Sequence[Node], book: FigureBook) -> bool:
    """Whether that is so of a node that did not just fail to load the model."""
    return measured(manifest, [node for node in nodes if node.takes(sha)], book)


def build_problem(
    nodes: Sequence[Node],
    models: Models,
    book: FigureBook,
    network: Network,
    wanted: Wanted | None = None,
    *,
    running: bool = True,
) -> dict[str, Any]:
    """The JSON of a `planner.Problem` for models that `can_plan`, with nodes and links in the order of `nodes`.

    Where a model must not run its blocks take no finite time: a problem's nodes are excluded for all models.
    Nodes that just failed to load a model can run it, if it is `running`; otherwise they must not.
    """
    wanted = wanted or Wanted()
    here = {node.name for node in nodes}
    return {
        "version": 1,
        "objective": wanted.objective_for(models),
        "nodes": [_node(node) for node in nodes],
        "models": [
            {
                **_model(name, manifest, nodes, book, _allowed(name, sha, nodes, wanted, running)),
                **wanted.model_keys(name, here),
            }
            for name, (sha, manifest) in models.items()
        ],
        **network.to_json(),
    }


Allowed = Callable[[Node, int], bool]
"""Whether a block may be on a node."""


def _allowed(name: str, sha: str, nodes: Sequence[Node], wanted: Wanted, running: bool) -> Allowed:
    forbidden = frozenset(wanted.forbidden(name, [node.name for node in nodes]))
    return lambda node, block: (
        node.name not in forbidden
        and wanted.may_take(node.name, sha, block, block + 1)
        and (running or node.takes(sha))
    )


def _node(node: Node) -> dict[str, Any]:
    return {
        "id": node.name,
        "memory_bytes": node.info.memory_bytes,
        "base_bytes": node.info.base_bytes,
        "hop_s": _message_s(node.info.hop_s, LEAST_HOP_S, node),
        "byte_s": _message_s(node.info.byte_s, LEAST_BYTE_S, node),
    }


def _model(
    name: str,
    manifest: ModelManifest,
    nodes: Sequence[Node],
    book: FigureBook,
    allowed: Allowed = lambda node, block: True,
) -> dict[str, Any]:
    ready = [book.complete(manifest, node.info.fingerprint) for node in nodes]
    cuts = [manifest.cut_bytes(cut) for cut in range(len(manifest.blocks) + 1)]
    blocks = [
        {
            "name": block.name,
            "weight_bytes": block.weight_bytes,
            "workspace_bytes": _workspace(block, book),
            "seconds": [
                finite(_seconds(block.graph, node, book)) if known and allowed(node, number) else None
                for node, known in zip(nodes, ready, strict=True)
            ],
        }
        for number, block in enumerate(manifest.blocks)
    ]
    return {
        "name": name,
        "blocks": blocks,
        "cuts_bytes": cuts,
        "buffer_bytes": _buffer_bytes(manifest),
        "shared": _shared(manifest),
        "tolerance": manifest.tolerance.rtol,
        "codecs": [
            {"name": codec.name, "ratio": codec.ratio, "error": codec.error, "byte_s": CODING_S_PER_BYTE[codec.name]}
            for codec in CODECS.values()
        ],
    }


def _shared(manifest: ModelManifest) -> list[dict[str, Any]]:
    """Tensors that several blocks have, such as tied embeddings, as bytes by these blocks: a node loads them once."""
    holders: dict[str, list[int]] = {}
    sizes: dict[str, int] = {}
    for number, block in enumerate(manifest.blocks):
        own = {tensor.sha256: tensor.nbytes for tensor in block.tensors}
        sizes |= own
        for sha in own:
            holders.setdefault(sha, []).append(number)
    together: dict[tuple[int, ...], int] = {}
    for sha, blocks in holders.items():
        if len(blocks) > 1 and sizes[sha]:
            together[tuple(blocks)] = together.get(tuple(blocks), 0) + sizes[sha]
    return [{"blocks": list(blocks), "bytes": size} for blocks, size in together.items()]


def _workspace(block: BlockSpec, book: FigureBook) -> int:
    """Bytes beside the weights while the block runs a full batch."""
    return book.workspace(block.graph, DEFAULT_MAX_BATCH) or DEFAULT_MAX_BATCH * block.workspace_bytes


def _seconds(graph: str, node: Node, book: FigureBook) -> float:
    """Of one item on that node, corrected by its live traffic and for what the worker takes for itself.

    inf where it cannot be run, or is not known.
    """
    figure = book.figure(graph, node.info.fingerprint)
    return figure.seconds * node.slowdown / _left(node) if figure else math.inf


def _left(node: Node) -> float:
    """The part of its speed that is left for stages."""
    return 1 - node.upkeep


def _message_s(seconds: float, least: float, node: Node) -> float:
    """What a worker says of its messages, if that can be, to two digits (what is noise makes no two nodes differ)."""
    return float(f"{seconds / _left(node):.2g}") if least <= seconds <= MOST_MESSAGE_S else 0.0


def read_answer(solution: Mapping[str, Any], inputs: object, models: Models) -> Answer:
    """Raises `PlacementError` for a solution that does not fit the models."""
    try:
        found = msgspec.convert(solution, _Solution)
    except msgspec.ValidationError as error:
        raise PlacementError(f"the planner's answer is malformed: {error}") from None
    placement = {
        name: tuple(Slot(*stage.blocks, stage.nodes, stage.codec.replace("none", "")) for stage in stages)
        for name, stages in found.stages.items()
        if stages
    }
    for name, slots in placement.items():
        cuts = [0, *(slot.end for slot in slots)]
        blocks = len(models[name][1].blocks) if name in models else -1
        if cuts[-1] != blocks or [slot.start for slot in slots] != cuts[:-1] or not all(s.nodes for s in slots):
            raise PlacementError(f"the planner's stages of {name} are not its blocks in order")
    return Answer(
        inputs=inputs,
        placement=placement,
        reasons={name: model.reason for name, model in found.models.items() if model.reason},
        bottleneck_s={name: model.objective_s or 0.0 for name, model in found.models.items()},
        bound_s={name: model.lower_bound_s or 0.0 for name, model in found.models.items()},
    )


def stage_seconds(manifest: ModelManifest, slot: Slot, node: Node, book: FigureBook) -> float:
    """Seconds of one item on that node; inf where a block's time is not known."""
    return math.fsum(_seconds(block.graph, node, book) for block in manifest.blocks[slot.start : slot.end])


def stay_put(placement: Placement, models: Models, nodes: Mapping[str, Node], book: FigureBook) -> Placement:
    """An equally good placement that moves fewer weights: nodes of equal speed swap their roles.

    Greedy: the role and the node with most bytes loaded already are paired first. Memory is respected; where
    the greedy rule leaves a role without a node, the placement is returned as it was.
    """
    roles: dict[str, list[tuple[str, Slot]]] = {}
    for name, slots in placement.items():
        for slot in slots:
            for node in slot.nodes:
                roles.setdefault(node, []).append((name, slot))
    pairs: list[tuple[int, bool, str, str]] = []
    for role, stages in roles.items():
        needed = sum(slot_bytes(models[name][1], slot, book) for name, slot in stages)
        for other in nodes.values():
            if _can_swap(nodes[role], other, needed):
                pairs.append((_held(stages, models, other), role == other.name, role, other.name))
    taken = _pair(pairs)
    if set(taken) != set(roles):
        return placement
    return {
        name: tuple(replace(slot, nodes=tuple(taken[node] for node in slot.nodes)) for slot in slots)
        for name, slots in placement.items()
    }


def _pair(pairs: Sequence[tuple[int, bool, str, str]]) -> dict[str, str]:
    """Role (named after the node that the planner gave it) → node; (bytes held, same node, role, node) in."""
    taken: dict[str, str] = {}
    for _, _, role, node in sorted(pairs, key=lambda pair: (-pair[0], not pair[1], pair[2], pair[3])):
        if role not in taken and node not in taken.values():
            taken[role] = node
    return taken


def _can_swap(role: Node, node: Node, needed: int) -> bool:
    if role is node:
        return True
    a, b = role.info, node.info
    equal = a.fingerprint == b.fingerprint and role.slowdown == node.slowdown and role.upkeep == node.upkeep
    return equal and needed + b.base_bytes <= b.memory_bytes


def _held(stages: Sequence[tuple[str, Slot]], models: Models, node: Node) -> int:
    loaded = node.loaded()
    here = [(models[m][1], slot) for m, slot in stages if slot.key(models[m][0]) in loaded]
    return sum(manifest.weight_bytes_of(slot.start, slot.end) for manifest, slot in here)


def slot_bytes(manifest: ModelManifest, slot: Slot, book: FigureBook) -> int:
    """What the planner charges a node for the stage."""
    workspaces = (_workspace(block, book) for block in manifest.blocks[slot.start : slot.end])
    return charge.stage_bytes(manifest.weight_bytes_of(slot.start, slot.end), workspaces, _buffer_bytes(manifest))


def _buffer_bytes(manifest: ModelManifest) -> int:
    return BUFFERED_ITEMS * max(manifest.cut_bytes(cut) for cut in range(len(manifest.blocks) + 1))
