"""Joining the control channel, keys of an incarnation, heartbeats, leaving."""

from __future__ import annotations

from stageline.messages.parts import NodeInfo, Passage, Progress, Role, StageTime
from stageline.plan import Endpoint, Epoch
from stageline.wire import PROTOCOL_MAX, PROTOCOL_MIN, Message, Part


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
