"""What the engine is told, and what it asks the shell to do. Times are seconds on the gateway's monotonic clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Union

from stageline.data import Activation, Buffer, Cancel, Failure
from stageline.errors import StagelineError
from stageline.plan import Digest, Plan
from stageline.protocol import Infer, Result
from stageline_gateway.held import Outcome

# --- events -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RequestArrived:
    """A client's request, its body cut into one buffer per input."""

    client: int
    infer: Infer
    buffers: Sequence[Buffer]


@dataclass(frozen=True)
class CancelRequested:
    """The client gives up a request."""

    client: int
    id: int


@dataclass(frozen=True)
class ClientGone:
    """The connection is closed: nobody waits for its requests any more."""

    client: int


@dataclass(frozen=True)
class ResultArrived:
    """An activation reached the gateway."""

    header: Activation
    buffers: Sequence[Buffer]


@dataclass(frozen=True)
class FailureArrived:
    """An executor could not run a batch."""

    failure: Failure


@dataclass(frozen=True)
class DamagedArrived:
    """A message of an executor came whose checksum does not fit; `header` is what can be read of it."""

    header: Activation | Failure


@dataclass(frozen=True)
class PlanApplied:
    """A plan was received."""

    plan: Plan


@dataclass(frozen=True)
class DigestApplied:
    """A digest was received."""

    digest: Digest


@dataclass(frozen=True)
class LinkChanged:
    """Our connection to the executor at `address` was made, or broke and could not be made again yet."""

    address: str
    up: bool


@dataclass(frozen=True)
class Tick:
    """A time asked for by `WakeAt` has come."""


@dataclass(frozen=True)
class RestoredRequest:
    """A request of before a restart. `until` is its deadline, or with an `outcome` when that may be forgotten."""

    number: int
    infer: Infer
    buffers: Sequence[Buffer]
    until: float
    outcome: Outcome | None = None


@dataclass(frozen=True)
class Restored:
    """What the journal knows; comes before everything else. `last` is the largest number that it has seen."""

    requests: Sequence[RestoredRequest]
    last: int


@dataclass(frozen=True)
class Recorded:
    """Those requests are in the journal, and on the disk."""

    numbers: tuple[int, ...]


@dataclass(frozen=True)
class RecordingFailed:
    """Those requests could not be written down, and no others can be for the time being."""

    numbers: tuple[int, ...]
    reason: str


@dataclass(frozen=True)
class RecordingWorks:
    """The journal can be written again."""


@dataclass(frozen=True)
class DrainBegan:
    """Accept nothing new."""


@dataclass(frozen=True)
class DrainEnded:
    """Answer what is left with an error."""


Event = Union[
    RequestArrived, CancelRequested, ClientGone, ResultArrived, FailureArrived, DamagedArrived,
    PlanApplied, DigestApplied, LinkChanged, Tick, DrainBegan, DrainEnded,
    Restored, Recorded, RecordingFailed, RecordingWorks,
]  # fmt: skip

# --- instructions -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Accept:
    """Tell the client that its request is in the table."""

    client: int
    id: int


@dataclass(frozen=True)
class Answer:
    """Send the result; `seconds` is the time since the request arrived."""

    client: int
    result: Result
    buffers: Sequence[Buffer]
    model: str
    seconds: float


@dataclass(frozen=True)
class Refuse:
    """Send the error that ends the request. `model` is empty where none is known by that name."""

    client: int
    id: int
    error: StagelineError
    model: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Disconnect:
    """The client broke the protocol: tell it, and close the connection."""

    client: int
    error: StagelineError


@dataclass(frozen=True)
class Dispatch:
    """Push a batch to its first hop."""

    address: str
    header: Activation
    buffers: Sequence[Buffer]


@dataclass(frozen=True)
class Abandon:
    """Tell the executors of a path that nobody waits for a batch any more; `address` is the first one's."""

    address: str
    header: Cancel


@dataclass(frozen=True)
class Record:
    """Write a request down, and say `Recorded`. `number` is its holder's."""

    number: int
    infer: Infer
    buffers: Sequence[Buffer]
    deadline: float


@dataclass(frozen=True)
class RecordOutcome:
    """Write down how it ended; that is kept until `expires`."""

    number: int
    outcome: Outcome
    expires: float


@dataclass(frozen=True)
class Forget:
    """The request need not be in the journal any more."""

    number: int


@dataclass(frozen=True)
class WakeAt:
    """Send a `Tick` at this time; replaces the one asked for before."""

    time: float


@dataclass(frozen=True)
class FetchPlan:
    """A digest speaks of a plan that did not arrive: ask the coordinator for it."""


Instruction = Union[
    Accept, Answer, Refuse, Disconnect, Dispatch, Abandon, Record, RecordOutcome, Forget, WakeAt, FetchPlan,
]  # fmt: skip
