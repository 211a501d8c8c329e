"""What the engine is told, and what it asks the shell to do. Times are seconds on the gateway's monotonic clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Union

from stageline.data import Activation, Buffer, Failure
from stageline.errors import StagelineError
from stageline.plan import Digest, Plan
from stageline.protocol import Infer, Result

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
class PlanApplied:
    """A plan was received."""

    plan: Plan


@dataclass(frozen=True)
class DigestApplied:
    """A digest was received."""

    digest: Digest


@dataclass(frozen=True)
class Tick:
    """A time asked for by `WakeAt` has come."""


@dataclass(frozen=True)
class DrainBegan:
    """Accept nothing new."""


@dataclass(frozen=True)
class DrainEnded:
    """Answer what is left with an error."""


Event = Union[
    RequestArrived, CancelRequested, ClientGone, ResultArrived, FailureArrived,
    PlanApplied, DigestApplied, Tick, DrainBegan, DrainEnded,
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
class WakeAt:
    """Send a `Tick` at this time; replaces the one asked for before."""

    time: float


@dataclass(frozen=True)
class FetchPlan:
    """A digest speaks of a plan that did not arrive: ask the coordinator for it."""


Instruction = Union[Accept, Answer, Refuse, Disconnect, Dispatch, WakeAt, FetchPlan]
