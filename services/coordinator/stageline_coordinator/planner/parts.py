"""What a planner's problem is made of: nodes, models and their blocks, links, media. Plain values, unchecked.

`problem.Problem` puts them together and checks them. Seconds, bytes and rates are of one item unless `Model.batch`
says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from stageline_coordinator.charge import counted_again, stage_bytes

NO_CODEC = "none"


@dataclass(frozen=True)
class Node:
    """A box. Its one executor's runtime takes `base_bytes` once, whatever number of stages it hosts.

    `hop_s`: CPU seconds for each message received or sent; `byte_s`: for each byte of it on the wire (copies,
    encryption). An excluded node hosts nothing; a required one hosts at least one stage, of any model.
    """

    id: str
    memory_bytes: int
    base_bytes: int = 0
    excluded: bool = False
    required: bool = False
    hop_s: float = 0.0
    byte_s: float = 0.0


@dataclass(frozen=True)
class Block:
    """The smallest piece that can be placed. `seconds[i]` on node i, per batch; inf: node i cannot run it."""

    name: str
    weight_bytes: int
    workspace_bytes: int
    seconds: tuple[float, ...]


@dataclass(frozen=True)
class Shared:
    """So many of the weights' `bytes` are the same ones in each of these `blocks` (indices), such as tied embeddings.

    Each block's `weight_bytes` has them; a node that holds several of the blocks holds them once.
    """

    blocks: tuple[int, ...]
    bytes: int


@dataclass(frozen=True)
class Codec:
    """How a hop may be coded: `ratio` bytes on the wire per byte, at a relative `error`.

    `byte_s`: CPU seconds per uncompressed byte, on the node that encodes and again on the one that decodes.
    """

    name: str
    ratio: float
    error: float = 0.0
    byte_s: float = 0.0


@dataclass(frozen=True)
class Model:
    """A chain of blocks. `cuts_bytes[i]` enters block i; the last entry is the output.

    `rate_per_s` is the expected load (None: unknown); `buffer_bytes` are the bytes in flight of every stage;
    `batch` the items that seconds, workspace and cuts are stated for. `source`: the id of the node that must host
    the first stage; `required`: of nodes that must host a stage of this model. A codec may be used between two stages
    if its error is within `tolerance`.
    """

    name: str
    blocks: tuple[Block, ...]
    cuts_bytes: tuple[int, ...]
    priority: float = 1.0
    rate_per_s: float | None = None
    buffer_bytes: int = 0
    batch: int = 1
    source: str | None = None
    max_replicas: int = 1
    tolerance: float = 0.0
    codecs: tuple[Codec, ...] = ()
    required: tuple[str, ...] = ()
    shared: tuple[Shared, ...] = ()

    def weight_bytes(self, blocks: Collection[int]) -> int:
        """Of these blocks' weights together, what they share counted once."""
        each = sum(self.blocks[block].weight_bytes for block in blocks)
        return each - (counted_again(((one.blocks, one.bytes) for one in self.shared), blocks) if self.shared else 0)

    def stage_bytes(self, start: int, end: int) -> int:
        """Memory of blocks [start, end) on a node, its `base_bytes` not included."""
        workspaces = (block.workspace_bytes for block in self.blocks[start:end])
        return stage_bytes(self.weight_bytes(range(start, end)), workspaces, self.buffer_bytes)

    def stage_seconds(self, start: int, end: int, node: int) -> float:
        """Compute seconds of blocks [start, end) on the node with that index."""
        return math.fsum(block.seconds[node] for block in self.blocks[start:end])

    def allowed_codecs(self) -> tuple[Codec, ...]:
        """Those within the model's tolerance, as it declares them; not coding at all is always allowed."""
        return tuple(codec for codec in self.codecs if codec.error <= self.tolerance)


@dataclass(frozen=True)
class Links:
    """Between nodes: row from, column to. Bandwidth 0: no link; inf: unlimited. A node to itself is free."""

    bandwidth_bytes_per_s: tuple[tuple[float, ...], ...]
    latency_s: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Port:
    """Between the gateway and each node (ingress or egress). Bandwidth 0: no link; inf: unlimited."""

    bandwidth_bytes_per_s: tuple[float, ...]
    latency_s: tuple[float, ...]


@dataclass(frozen=True)
class Medium:
    """What several links share, for example a Wi-Fi channel: every hop between two of `nodes` takes its turn."""

    name: str
    nodes: tuple[str, ...]
    bandwidth_bytes_per_s: float


@dataclass(frozen=True)
class Running:
    """Blocks [start, end) of a model that `nodes` serve now; no nodes: whoever served them is gone.

    `codec`: of what comes in.
    """

    blocks: tuple[int, int]
    nodes: tuple[str, ...]
    codec: str = NO_CODEC


@dataclass(frozen=True)
class Replan:
    """When to leave the running plan.

    `threshold`: only for one that is better by more than this share, in [0, 1), of the running plan's objective.
    `tolerance`: how much, as a share of the best objective, may be given up to move fewer bytes.
    """

    threshold: float = 0.05
    tolerance: float = 0.02
