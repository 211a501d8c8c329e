"""Parts of messages: what is told of nodes, links, models and progress."""

from __future__ import annotations

from typing import Literal

import msgspec

from stageline.plan import Endpoint, StageKey
from stageline.wire import Part
from stageline.wishes import Wishes

Role = Literal["agent", "gateway", "admin"]


class ExecutorInfo(Part, frozen=True):
    """An executor process that runs now; `loaded` are the stages that it can serve."""

    executor: str
    pid: int
    endpoint: Endpoint
    loaded: tuple[StageKey, ...] = ()


class NodeInfo(Part, frozen=True):
    """What a worker offers. `fingerprint` names everything that block times depend on except the block.

    `hop_s`, `byte_s`: seconds for each message received or sent, and for each byte of it, as the worker measured them.
    """

    memory_bytes: int
    fingerprint: str
    device: str
    host: str
    base_bytes: int = 0
    executors: tuple[ExecutorInfo, ...] = ()
    cpu: str = ""
    backend: str = ""
    hop_s: float = 0.0
    byte_s: float = 0.0


class Backing(Part, frozen=True):
    """What runs a stage where that is, or was to be, not torch; `reason` says why it is torch all the same.

    `seconds`: at the stage's nominal sizes, where torch takes `eager_s` (0: unknown).
    """

    stage: StageKey
    backend: str
    reason: str = ""
    eager_s: float = 0.0
    seconds: float = 0.0
    precision: str = "f32"


class Progress(Part, frozen=True):
    """How far a worker is, so that a live heartbeat beside a stuck computation is seen.

    `backends`: added by its agent.
    """

    executor: str
    items_done: int = 0
    busy_s: float = 0.0
    queue_depth: int = 0
    current_age_s: float = 0.0
    backends: tuple[Backing, ...] = ()


class Mark(Part, frozen=True):
    """The newest batch of `gateway` that passed between here and `peer`: an executor, or the gateway itself.

    Gateways number their batches upwards, and links keep their order. `nbytes`: the largest message sent there lately.
    """

    gateway: str
    peer: str
    batch: int
    nbytes: int = 0


class Flow(Part, frozen=True):
    """What came from `peer` so far: batches, bytes, and the seconds at least that the link took for them.

    `last_s`: when the last one came, by the receiver's monotonic clock.
    """

    peer: str
    batches: int
    nbytes: int
    busy_s: float
    last_s: float


class Passage(Part, frozen=True):
    """What came to `end` (an executor, or a gateway as headers name it) over each link, and went away from it.

    `looks` changes with every look at the data socket that left nothing there.
    """

    end: str
    looks: int
    came: tuple[Mark, ...] = ()
    went: tuple[Mark, ...] = ()
    flows: tuple[Flow, ...] = ()


class BlockTime(Part, frozen=True):
    """A block measured on a node: median seconds of one run at `batch`, its relative spread, workspace bytes.

    `error`: half the width of the confidence interval of the median, relative to it; `runs`: how many it comes from.
    `spent_s`: seconds that all of it took, with what was done between the runs (0: not said).
    """

    block: int
    batch: int
    seconds: float
    spread: float = 0.0
    workspace_bytes: int = 0
    error: float = 0.0
    runs: int = 0
    spent_s: float = 0.0


class StageTime(Part, frozen=True):
    """What a gateway saw a stage take: seconds that `node` computed in all for `batches` batches of `rows` items."""

    node: str
    stage: StageKey
    rows: int
    batches: int
    seconds: float


class LinkTime(Part, frozen=True):
    """A link as one end measured it: round trip in seconds, bytes/s away from it and towards it; errors relative."""

    rtt_s: float
    rtt_error: float
    out_bytes_per_s: float
    out_error: float
    in_bytes_per_s: float
    in_error: float


class ModelRow(Part, frozen=True):
    """A registered model, for listings. `wishes` None: nothing was said about its plans."""

    name: str
    manifest: str
    status: str
    reason: str = ""
    blocks: int = 0
    weight_bytes: int = 0
    wishes: Wishes | None = None


class LinkRow(Part, frozen=True):
    """A measured link from a node to `peer` (``role:name``), for listings. Errors are relative; 0 bytes/s: no way.

    `before_bytes_per_s`: what it was taken for until traffic showed otherwise; 0: traffic did not.
    """

    peer: str
    bytes_per_s: float
    latency_s: float
    error: float = 0.0
    latency_error: float = 0.0
    before_bytes_per_s: float = 0.0


class NodeProfile(Part, frozen=True):
    """How well a node is known: blocks and links measured of those that there are, and the largest relative error.

    `slowdown`: live seconds / profiled seconds that plans reckon with (1: as profiled); `drift`: as last seen.
    `upkeep`: the part of its speed that the worker takes for itself; `hop_s`, `byte_s`: seconds per message and byte.
    """

    blocks: int = 0
    blocks_total: int = 0
    block_error: float = 0.0
    batches: tuple[int, ...] = ()
    links_total: int = 0
    links: tuple[LinkRow, ...] = ()
    slowdown: float = 1.0
    drift: float = 1.0
    upkeep: float = 0.0
    hop_s: float = 0.0
    byte_s: float = 0.0


class NodeRow(Part, frozen=True):
    """A node, for listings. `standbys`: those of its stages that it serves only when others cannot.

    `duty`, `labels`: what users want of it. `unreached`: addresses that it tells others where the coordinator did not
    get through, with the problem.
    """

    node: str
    state: str
    incarnation: str
    device: str = ""
    cpu: str = ""
    memory_bytes: int = 0
    pid: int = 0
    executors: tuple[ExecutorInfo, ...] = ()
    progress: tuple[Progress, ...] = ()
    http: str = ""
    profile: NodeProfile | None = None
    standbys: tuple[StageKey, ...] = ()
    degraded: bool = False
    duty: str = "open"
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    unreached: tuple[str, ...] = ()


class GatewayRow(Part, frozen=True):
    """A gateway, for listings. `unreached`: as of a node."""

    name: str
    state: str
    pid: int = 0
    client_address: str = ""
    http: str = ""
    unreached: tuple[str, ...] = ()
