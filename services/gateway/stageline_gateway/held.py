"""An idempotency key in use: who waits for it, and its outcome."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Union

from stageline.data import Buffer
from stageline.errors import FailedError, StagelineError
from stageline.protocol import Result, TensorSpec

Key = tuple[str, str, str]
"""(user, model, key)."""


@dataclass(frozen=True)
class Waiter:
    """A client's unanswered request; `number` is never used again."""

    number: int
    client: int
    id: int
    arrived: float
    deadline: float
    want_timings: bool
    want_accepted: bool


@dataclass(frozen=True)
class Answered:
    """A result as it was first given."""

    result: Result
    buffers: tuple[Buffer, ...]


Outcome = Union[Answered, StagelineError]
KEPT = (Answered, FailedError)
"""Outcomes that another try would not change."""


@dataclass
class Held:
    """A key in use: until there is an `outcome`, the in-flight table knows the request by `number`.

    `accepted`: it will not be lost, as far as that is promised.
    """

    key: Key
    level: int
    tensors: Mapping[str, tuple[TensorSpec, Buffer]]
    number: int
    waiters: dict[int, Waiter] = field(default_factory=dict)
    outcome: Outcome | None = None
    nbytes: int = 0
    expires: float = 0.0
    told: set[int] = field(default_factory=set)
    accepted: bool = False
