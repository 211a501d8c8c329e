"""What the coordinator decides and broadcasts: the plan, in full, under (term, version).

`term` grows at every coordinator start and `version` at every plan, so receivers accept only what is newer and a
broadcast needs no history (the Clone pattern of the ZeroMQ guide).
"""

from __future__ import annotations

from typing import Literal

import msgspec

from stageline.wire import Message, Part

Epoch = tuple[int, int]
"""(term, version), compared as a pair."""

NodeState = Literal["alive", "suspect", "draining", "gone"]
ModelStatus = Literal["profiling", "loading", "serving", "unavailable"]


class Endpoint(Part, frozen=True):
    """Where a PULL socket listens: over TCP, and over ipc for peers with the same `host` key.

    `checksum`: what comes there bears one: all of it, or what comes over TCP.
    """

    tcp: str
    ipc: str = ""
    host: str = ""
    checksum: Literal["", "tcp", "all"] = ""

    def address_from(self, host: str) -> str:
        """The address to connect to for a sender on `host`."""
        return self.ipc if self.ipc and host and host == self.host else self.tcp

    def checked_from(self, host: str) -> bool:
        """Whether what a sender on `host` sends there bears a checksum."""
        return self.checksum == "all" or (self.checksum == "tcp" and self.address_from(host) == self.tcp)


class ValueSpec(Part, frozen=True):
    """One named input or output. `dims` holds sizes and the names of dynamic sizes; dim 0 is the batch."""

    name: str
    dtype: str
    dims: tuple[int | str, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape with -1 for dynamic sizes."""
        return tuple(d if isinstance(d, int) else -1 for d in self.dims)


class DimRange(Part, frozen=True):
    """Sizes that a dynamic dimension may take, closed [minimum, maximum]."""

    minimum: int
    maximum: int
    nominal: int


class Signature(Part, frozen=True):
    """What a model takes and gives, and how far batching may change its sums."""

    inputs: tuple[ValueSpec, ...]
    outputs: tuple[ValueSpec, ...]
    dims: dict[str, DimRange] = msgspec.field(default_factory=dict)
    rtol: float = 1e-4
    atol: float = 1e-5


class StageKey(Part, frozen=True, order=True):
    """A stage: blocks half-open [start, end) of the model whose manifest blob is `manifest` (SHA-256)."""

    manifest: str
    start: int
    end: int

    def __str__(self) -> str:
        return f"{self.manifest[:12]}:{self.start}-{self.end}"


class Replica(Part, frozen=True):
    """One executor that has a stage loaded."""

    node: str
    executor: str
    endpoint: Endpoint


class PlanStage(Part, frozen=True):
    """A stage and who serves it; seconds and bytes are those of one item (batch 1, nominal dims).

    `codec`: what its inputs travel in (`stageline.codecs`; empty: as they are). `standbys` have it loaded and get no
    work as long as a replica can take it; `exposed` says why there are fewer of them than were asked for.
    """

    start: int
    end: int
    replicas: tuple[Replica, ...]
    first_block: str = ""
    last_block: str = ""
    compute_s: float = 0.0
    weight_bytes: int = 0
    output_bytes: int = 0
    codec: str = ""
    standbys: tuple[Replica, ...] = ()
    exposed: str = ""


class ModelPlan(Part, frozen=True):
    """How one model is served; `stages` is empty unless `status` is serving.

    `bottleneck_s` and `bound_s` are seconds of `objective`, as it was when the plan was made.
    """

    name: str
    manifest: str
    signature: Signature
    status: ModelStatus
    reason: str = ""
    stages: tuple[PlanStage, ...] = ()
    bottleneck_s: float = 0.0
    bound_s: float = 0.0
    input_bytes: int = 0
    objective: str = "throughput"

    def key(self, stage: PlanStage) -> StageKey:
        """The stage's identity on workers."""
        return StageKey(manifest=self.manifest, start=stage.start, end=stage.end)


class Crash(Part, frozen=True):
    """An executor ended while it computed the requests of these ids."""

    executor: str
    computing: tuple[int, ...]


class NodeView(Part, frozen=True):
    """A node as the coordinator sees it; `executors` are those that run now, `crash` is of one that does no more.

    `degraded`: it is so much slower than it was measured that plans reckon with that.
    """

    node: str
    incarnation: str
    state: NodeState
    executors: tuple[str, ...] = ()
    crash: Crash | None = None
    degraded: bool = False


class Plan(Message, frozen=True):
    """The whole plan."""

    term: int
    version: int
    models: tuple[ModelPlan, ...] = ()
    nodes: tuple[NodeView, ...] = ()

    @property
    def epoch(self) -> Epoch:
        """(term, version)."""
        return (self.term, self.version)

    def model(self, name: str) -> ModelPlan | None:
        """The plan of the model called `name`."""
        return next((m for m in self.models if m.name == name), None)


class StalledLink(Part, frozen=True):
    """Batches went from `source` to `target` (executors, or gateways as headers name them) and did not come.

    `number` is new in the term each time that is found, so that what is lost is dispatched again once.
    """

    source: str
    target: str
    number: int


class Digest(Message, frozen=True):
    """Which plan is current, and how the nodes are: repeated every 200 ms and at once when a node changes.

    `sequence` grows with every digest of a term, so that an older one is never applied after a newer. `stalled`: links
    that let nothing through since they were found to be so.
    """

    term: int
    version: int
    sequence: int
    nodes: tuple[NodeView, ...] = ()
    stalled: tuple[StalledLink, ...] = ()
