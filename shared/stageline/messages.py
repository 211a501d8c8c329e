"""Every message between services, and the one table of the channels that carry them.

Who says what on which socket is `CHANNELS`; a type that is not listed for a channel is refused there. The client
port has its own protocol (`stageline.protocol`), tensors between stages theirs (`stageline.data`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Union

import msgspec
import zmq

from stageline.nodewishes import Duty
from stageline.plan import Digest, Endpoint, Epoch, Plan, StageKey
from stageline.wire import PROTOCOL_MAX, PROTOCOL_MIN, Message, Part
from stageline.wishes import Wishes

Role = Literal["agent", "gateway", "admin"]

# --- parts --------------------------------------------------------------------------------------------------


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


class Progress(Part, frozen=True):
    """How far a worker is, so that a live heartbeat beside a stuck computation is seen."""

    executor: str
    items_done: int = 0
    busy_s: float = 0.0
    queue_depth: int = 0
    current_age_s: float = 0.0


class Mark(Part, frozen=True):
    """The newest batch of `gateway` that passed between here and `peer`: an executor, or the gateway itself.

    Gateways number their batches upwards, and links keep their order. `nbytes`: the largest message sent there lately.
    """

    gateway: str
    peer: str
    batch: int
    nbytes: int = 0


class Passage(Part, frozen=True):
    """What came to `end` (an executor, or a gateway as headers name it) over each link, and went away from it.

    `looks` changes with every look at the data socket that left nothing there.
    """

    end: str
    looks: int
    came: tuple[Mark, ...] = ()
    went: tuple[Mark, ...] = ()


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
    """A measured link from a node to `peer` (``role:name``), for listings. Errors are relative; 0 bytes/s: no way."""

    peer: str
    bytes_per_s: float
    latency_s: float
    error: float = 0.0
    latency_error: float = 0.0


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


# --- control: joining and heartbeats ------------------------------------------------------------------------


class Hello(Message, frozen=True):
    """The first message of any peer, and again after `Rejoin`. `incarnation` is new at every process start.

    `probe`: where a worker or gateway answers link measurements. `term`: the highest that it was welcomed under.
    `data_key`: the public key that it shows to other workers and gateways until it ends (empty: it has none).
    `data`: where a gateway takes results. `features`: what of later versions it understands (`REACHED`, `ROTATES`).
    """

    role: Role
    name: str
    incarnation: str
    protocol_min: int = PROTOCOL_MIN
    protocol_max: int = PROTOCOL_MAX
    features: tuple[str, ...] = ()
    version: str = ""
    pid: int = 0
    http: str = ""
    client_address: str = ""
    node: NodeInfo | None = None
    probe: Endpoint | None = None
    term: int = 0
    data_key: bytes = b""
    data: Endpoint | None = None


class Welcome(Message, frozen=True):
    """Admitted. Addresses of the plan and blob channels; how often to expect a `Ping` (seconds)."""

    term: int
    plan: str
    blobs: str
    ping_interval_s: float
    cluster: str
    protocol: int = PROTOCOL_MAX


class Refused(Message, frozen=True):
    """Not admitted: bad version, duplicate node name, or `not_leading`; then `leader` is who leads, if known."""

    code: str
    message: str
    leader: str = ""


class Tried(Part, frozen=True):
    """An address that a peer tells others, as the coordinator found it; no `problem`: it was reached there."""

    address: str
    problem: str = ""


REACHED = "reached"


class Reached(Message, frozen=True):
    """What the coordinator saw when it tried the addresses that we tell others; `came_from`: where it sees us."""

    tried: tuple[Tried, ...]
    came_from: str = ""


class Rejoin(Message, frozen=True):
    """We do not know you (we restarted, or evicted you): say `Hello` again."""


class Admit(Message, frozen=True):
    """Let peers with these keys (32 bytes each) connect for data and probes; answered with `Admitted`.

    They take the place of those of before, or stand `beside` them as long as the coordinator does not know everybody.
    Who has one of the `revoked` is not listened to, over a connection of before either.
    """

    version: int
    keys: tuple[bytes, ...]
    beside: bool = False
    revoked: tuple[bytes, ...] = ()


class Admitted(Message, frozen=True):
    """The keys of `Admit` `version` are let in from now on."""

    version: int


ROTATES = "rotates"


class MakeKey(Message, frozen=True):
    """Make a new key of your own, and answer `KeyMade`."""


class KeyMade(Message, frozen=True):
    """The public half of the sender's next key (32 bytes), which is on its disk; or why there is none."""

    public: bytes = b""
    error: str = ""


class KeyTaken(Message, frozen=True):
    """That key of yours is let in, and the one of before for a while: show the new one from now on."""

    public: bytes


class NextKey(Message, frozen=True):
    """The sender will have this key (32 bytes): whoever has it is to be taken for it, too."""

    public: bytes


class Ping(Message, frozen=True):
    """`sent_s` is the coordinator's monotonic clock, echoed by `Pong`."""

    sequence: int
    sent_s: float


class Pong(Message, frozen=True):
    """Answers `Ping`; a gateway adds the oldest epoch that it still has requests in flight on, and stage times.

    `passages`: of the sender's executors, or of the gateway.
    A worker adds `upkeep`: the part of its speed that it takes for itself, whatever it serves.
    """

    sequence: int
    sent_s: float
    incarnation: str
    epoch: Epoch = (0, 0)
    progress: tuple[Progress, ...] = ()
    oldest_in_flight: Epoch | None = None
    stage_times: tuple[StageTime, ...] = ()
    passages: tuple[Passage, ...] = ()
    upkeep: float = 0.0


class Leaving(Message, frozen=True):
    """A worker or gateway wants to stop (SIGTERM): plan without me, tell me when I may go."""

    name: str


class Farewell(Message, frozen=True):
    """Nothing needs you any more: stop."""


# --- control: plans -----------------------------------------------------------------------------------------


class Prepare(Message, frozen=True):
    """Load these stages for plan (term, version), keep what is loaded; answer `Prepared` or `PrepareFailed`."""

    term: int
    version: int
    stages: tuple[StageKey, ...]


class Prepared(Message, frozen=True):
    """Everything that `Prepare` named is loaded, each in `executors` order beside `stages`."""

    term: int
    version: int
    stages: tuple[StageKey, ...] = ()
    executors: tuple[str, ...] = ()


class PrepareFailed(Message, frozen=True):
    """A stage could not be loaded."""

    term: int
    version: int
    stage: StageKey
    code: str
    message: str


class Retire(Message, frozen=True):
    """Nothing uses older plans any more: unload all but `keep`."""

    term: int
    version: int
    keep: tuple[StageKey, ...]


class ExecutorUp(Message, frozen=True):
    """A new executor runs on the sender's node."""

    executor: ExecutorInfo


class ExecutorDown(Message, frozen=True):
    """An executor died or was killed for not answering. `computing` are the request ids of its current batch."""

    executor: str
    exit_code: int
    reason: str
    computing: tuple[int, ...] = ()


class ProfileRequest(Message, frozen=True):
    """Measure these blocks of the model, on synthetic weights, at these batch sizes."""

    manifest: str
    blocks: tuple[int, ...]
    batches: tuple[int, ...] = (1,)


class Profiled(Message, frozen=True):
    """Measured; an empty `error` means success."""

    manifest: str
    fingerprint: str
    times: tuple[BlockTime, ...] = ()
    error: str = ""


class ProbeRequest(Message, frozen=True):
    """Measure the link to `peer` (``role:name``), which answers at `endpoint`, for about `budget_s` seconds."""

    peer: str
    endpoint: Endpoint
    budget_s: float


class Probed(Message, frozen=True):
    """The link to `peer` was measured; `link` is missing where `error` says why not."""

    peer: str
    link: LinkTime | None = None
    error: str = ""


# --- control: administration (each carries `id`, its reply the same) ----------------------------------------


class GetPlan(Message, frozen=True):
    """Ask for the current plan; answered with `PlanReply`."""

    id: int


class PlanReply(Message, frozen=True):
    """The current plan."""

    id: int
    plan: Plan


class ListModels(Message, frozen=True):
    """Answered with `ModelList`."""

    id: int


class ModelList(Message, frozen=True):
    """All registered models."""

    id: int
    models: tuple[ModelRow, ...]


class ListNodes(Message, frozen=True):
    """Answered with `NodeList`."""

    id: int


class StandbyRow(Part, frozen=True):
    """The other coordinator, for listings: `state` is alive, suspect or gone; `behind`: changes that it lacks."""

    address: str
    state: str
    behind: int = 0


class NodeList(Message, frozen=True):
    """All nodes and gateways that are or were here, and the objective of plans."""

    id: int
    nodes: tuple[NodeRow, ...]
    gateways: tuple[GatewayRow, ...] = ()
    term: int = 0
    pid: int = 0
    cluster: str = ""
    standby: StandbyRow | None = None
    objective: str = "throughput"


class PutModel(Message, frozen=True):
    """Register the model whose manifest blob (and every blob it names) was uploaded before."""

    id: int
    manifest: str


class RemoveModel(Message, frozen=True):
    """Retire a model and forget it."""

    id: int
    name: str


class RemoveNode(Message, frozen=True):
    """Forget a worker that is gone; it may come back."""

    id: int
    name: str


class SetNode(Message, frozen=True):
    """Have plans treat a worker like that (None: as before), and give it these labels, without those in `unset`."""

    id: int
    name: str
    duty: Duty | None = None
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    unset: tuple[str, ...] = ()


class SetWishes(Message, frozen=True):
    """Heed what `wishes` says in the model's plans, and no longer what it said of the fields in `unset`."""

    id: int
    model: str
    wishes: Wishes = Wishes()
    unset: tuple[str, ...] = ()


class SetObjective(Message, frozen=True):
    """Make plans best in this from now on: "throughput", "latency" or "weighted"."""

    id: int
    objective: str


class GetProblem(Message, frozen=True):
    """Ask what the planner is asked now, for these models (none: all); answered with `ProblemReply`."""

    id: int
    models: tuple[str, ...] = ()


class ProblemReply(Message, frozen=True):
    """The planner's problem as JSON, which names the version of its schema itself."""

    id: int
    problem: str


class Done(Message, frozen=True):
    """The request was carried out and is on disk."""

    id: int


class ErrorReply(Message, frozen=True):
    """The request was refused or failed."""

    id: int
    code: str
    message: str


class MakeToken(Message, frozen=True):
    """Make a token with which `uses` workers and gateways may join (0: any number), for `expires_s` seconds."""

    id: int
    uses: int
    expires_s: float


class TokenMade(Message, frozen=True):
    """The token; it is kept nowhere but here."""

    id: int
    token: str


class RotateKey(Message, frozen=True):
    """Have a worker or gateway change its key; the old one is let in for `overlap_s` more seconds."""

    id: int
    name: str
    overlap_s: float


class RotateCoordinator(Message, frozen=True):
    """Announce a new key of the coordinator's own, and take it in `overlap_s` seconds; answered with `NextKeyIs`."""

    id: int
    overlap_s: float


class NextKeyIs(Message, frozen=True):
    """The public half of the key that the coordinator will have."""

    id: int
    public: bytes


class RevokeKey(Message, frozen=True):
    """Let the worker or gateway `name` in no more, whatever key it has now."""

    id: int
    name: str


# --- joining: before a worker or gateway is known --------------------------------------------------------------


class Join(Message, frozen=True):
    """Let in the key that this comes under: the token proves the right. `time_s` is the sender's clock (Unix)."""

    name: str
    token: str
    secret: bytes
    time_s: float
    protocol_min: int
    protocol_max: int
    version: str = ""


class Joined(Message, frozen=True):
    """The key is let in, from now on and after restarts."""

    name: str
    cluster: str


# --- control: between two coordinators ------------------------------------------------------------------------


class StoreRow(Part, frozen=True):
    """A row of the store, `body` its values (msgpack); of two versions of a row the one with the higher stamp is valid.

    The stamp is (`term` of the coordinator that changed it, `number` of the change there).
    """

    kind: str
    key: str
    term: int
    number: int
    gone: bool = False
    body: bytes = b""


class Standing(Part, frozen=True):
    """How a coordinator stands: its id, the highest term that it promised, the last that it took, whether it leads.

    `cluster` is empty as long as it belongs to none; `schema` is its store's; `address` is its control address.
    `stamp` is a number that it drew when it started or last stood still, `echo` the last stamp that it heard of the
    other's: what does not bear the other's present one may have been under way since before that (0: none).
    """

    coordinator: int
    cluster: str
    schema: int
    address: str
    blobs: str
    term: int = 0
    taken: int = 0
    leads: bool = False
    stamp: int = 0
    echo: int = 0


class Follow(Message, frozen=True):
    """From one coordinator to the other, with every heartbeat: send me your rows that changed after `since`.

    Everything up to your change `applied` is on my disk, blobs included.
    """

    standing: Standing
    since: int = 0
    applied: int = 0


class Followed(Message, frozen=True):
    """Answers `Follow`, and is sent whenever there is more: rows that changed after `after`, up to `upto` of `last`.

    `uploaded` are blobs that have just come and will be needed.
    """

    standing: Standing
    after: int = 0
    upto: int = 0
    last: int = 0
    rows: tuple[StoreRow, ...] = ()
    uploaded: tuple[str, ...] = ()


# --- blobs: content-addressed bulk; chunk bytes travel as a second frame ------------------------------------


class BlobGet(Message, frozen=True):
    """Ask for bytes half-open [offset, offset + length) of a blob."""

    id: int
    sha256: str
    offset: int
    length: int


class BlobChunk(Message, frozen=True):
    """The bytes asked for are the second frame; `total` is the blob's size."""

    id: int
    sha256: str
    offset: int
    total: int


class BlobQuery(Message, frozen=True):
    """Which of these do you lack, and how much of each have you (bytes of a broken-off upload)?"""

    id: int
    sha256: tuple[str, ...]


class BlobStatus(Message, frozen=True):
    """Those that are missing, with the offset to go on from."""

    id: int
    missing: dict[str, int]


class BlobPut(Message, frozen=True):
    """The second frame holds bytes from `offset` of a blob of `total` bytes."""

    id: int
    sha256: str
    offset: int
    total: int


class BlobAck(Message, frozen=True):
    """Written up to `received`; `complete` once the hash was verified and the blob is in place."""

    id: int
    sha256: str
    received: int
    complete: bool = False


# --- local: an agent and its executors ----------------------------------------------------------------------


class ExecutorHello(Message, frozen=True):
    """An executor's sockets are bound and torch is imported. `memory_bytes`: the device's own (0: none).

    `hop_s`, `byte_s`: as in `NodeInfo`.
    """

    executor: str
    pid: int
    endpoint: Endpoint
    fingerprint: str
    device: str
    base_bytes: int = 0
    backend: str = ""
    memory_bytes: int = 0
    hop_s: float = 0.0
    byte_s: float = 0.0


class Load(Message, frozen=True):
    """Join these block graphs (files, in order) with these tensors (SHA-256 → file) and serve them as `stage`."""

    stage: StageKey
    graphs: tuple[str, ...]
    tensors: dict[str, str]


class Loaded(Message, frozen=True):
    """The stage answers from now on."""

    stage: StageKey
    seconds: float = 0.0


class LoadFailed(Message, frozen=True):
    """The stage could not be loaded."""

    stage: StageKey
    code: str
    message: str


class Unload(Message, frozen=True):
    """Forget the stage."""

    stage: StageKey


class Measure(Message, frozen=True):
    """Measure one block on synthetic weights; `dims` fixes the dynamic sizes."""

    manifest: str
    manifest_path: str
    block: int
    graph: str
    batches: tuple[int, ...]


class Measured(Message, frozen=True):
    """Answer to `Measure`; an empty `error` means success."""

    manifest: str
    block: int
    times: tuple[BlockTime, ...] = ()
    error: str = ""


class Beat(Message, frozen=True):
    """An executor's sign of life, sent by its I/O thread every 100 ms; `io_s`: processor time of that thread so far."""

    progress: Progress
    computing: tuple[int, ...] = ()
    passage: Passage | None = None
    io_s: float = 0.0


class Stop(Message, frozen=True):
    """Finish what is queued, then exit."""


# --- probes: measuring a link; ballast travels as a second frame ----------------------------------------------


class Probe(Message, frozen=True):
    """Answer at once, with `want` bytes of ballast; what the second frame holds is ballast too."""

    id: int
    want: int = 0


class ProbeReply(Message, frozen=True):
    """The answer to `Probe`; the second frame has as many bytes as were wanted."""

    id: int


# --- the table ----------------------------------------------------------------------------------------------


def control_identity(role: Role, name: str, incarnation: str) -> str:
    """The identity of a DEALER on the control channel.

    It names the incarnation, so that a second process of the name is another peer to the ROUTER: it can be refused
    without taking the first one's place. Peers of before this, and administrators, have ``role:name``.
    """
    return f"{role}:{name}/{incarnation}"


@dataclass(frozen=True)
class Channel:
    """A kind of connection: socket types at its two ends, what may be said in each direction."""

    name: str
    bind_type: int
    connect_type: int
    to_binder: Any
    to_connector: Any
    heartbeats: bool = False


ToCoordinator = Union[
    Hello, Pong, Leaving, Prepared, PrepareFailed, ExecutorUp, ExecutorDown, Profiled, Probed,
    GetPlan, ListModels, ListNodes, GetProblem, PutModel, RemoveModel, RemoveNode, SetWishes, SetObjective, Follow,
    Admitted, MakeToken, RevokeKey, SetNode, RotateKey, KeyMade,
    RotateCoordinator,
]  # fmt: skip
FromCoordinator = Union[
    Welcome, Refused, Rejoin, Ping, Farewell, Prepare, Retire, ProfileRequest, ProbeRequest,
    PlanReply, ModelList, NodeList, ProblemReply, Done, ErrorReply, Followed, Admit, TokenMade, Reached,
    MakeKey, KeyTaken, NextKey, NextKeyIs,
]  # fmt: skip
ToBlobs = Union[BlobGet, BlobQuery, BlobPut]
FromBlobs = Union[BlobChunk, BlobStatus, BlobAck, ErrorReply]
ToAgent = Union[ExecutorHello, Loaded, LoadFailed, Measured, Beat, Admitted]
FromAgent = Union[Load, Unload, Measure, Stop, Admit]

CONTROL = Channel("control", zmq.ROUTER, zmq.DEALER, ToCoordinator, FromCoordinator, heartbeats=True)
PLAN = Channel("plan", zmq.PUB, zmq.SUB, None, Union[Plan, Digest])
BLOBS = Channel("blobs", zmq.ROUTER, zmq.DEALER, ToBlobs, FromBlobs)
LOCAL = Channel("local", zmq.ROUTER, zmq.DEALER, ToAgent, FromAgent)
JOIN = Channel("join", zmq.ROUTER, zmq.DEALER, Join, Union[Joined, Refused])
DATA = Channel("data", zmq.PULL, zmq.PUSH, None, None)
PROBE = Channel("probe", zmq.ROUTER, zmq.DEALER, Probe, ProbeReply)

CHANNELS = (CONTROL, PLAN, BLOBS, LOCAL, JOIN, DATA, PROBE)
MAX_JOIN_BYTES = 4096

TOPIC_PLAN = b"plan\x00"
TOPIC_DIGEST = b"digest\x00"
"""Topics end in NUL: a subscription is a prefix match, and no topic may be the prefix of another."""

BLOB_CHUNK_BYTES = 1 << 20
MAX_BALLAST_BYTES = 4 << 20
