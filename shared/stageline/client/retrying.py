"""When to try again, and where: no I/O, no clock, and chance comes in as an argument."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stageline.errors import ConfigError, StagelineError

Chance = Callable[[], float]
"""A random number from [0, 1)."""


@dataclass(frozen=True)
class Retry:
    """How a client repeats what may succeed later. `attempts` counts every time that a request is sent.

    Pauses start at `first_s` and double up to `longest_s`, each shortened by chance by up to a half, so that clients
    that were turned away together do not come back together. A gateway's own `retry_after_s` is respected, and
    lengthened by chance by up to a half. A request that finds no gateway fails after `reconnect_s` seconds, and nothing
    is repeated beyond a request's deadline.
    """

    attempts: int = 8
    first_s: float = 0.05
    longest_s: float = 2.0
    reconnect_s: float = 10.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or not 0 < self.first_s <= self.longest_s or self.reconnect_s < 0:
            raise ConfigError(
                f"{self}: attempts must be at least 1, first_s positive and at most longest_s, reconnect_s not negative"
            )

    def pause_s(self, failures: int, chance: float, at_least_s: float = 0.0) -> float:
        """How long to wait after so many failures (1, 2, …), if the gateway wants `at_least_s`."""
        longest = min(self.longest_s, self.first_s * 2.0 ** min(failures - 1, 60))
        return max(longest * (1 - chance / 2), at_least_s * (1 + chance / 2))


DEFAULT = Retry()
NEVER = Retry(attempts=1, reconnect_s=0.0)


class Dialer:
    """Which gateway to connect to next, and not before when. An address that fails makes room for the next."""

    def __init__(self, addresses: Sequence[str], retry: Retry, chance: Chance) -> None:
        if not addresses:
            raise ConfigError("a client needs the address of at least one gateway, such as 127.0.0.1:7710")
        self._addresses = tuple(addresses)
        self._retry = retry
        self._chance = chance
        self._place = 0
        self._failures = 0
        self._why: dict[str, str] = {}
        self.not_before = 0.0

    @property
    def address(self) -> str:
        """The gateway in use, or to try next."""
        return self._addresses[self._place]

    def failed(self, now: float, at_least_s: float = 0.0, why: str = "") -> bool:
        """The address cannot be reached, or its connection broke; whether this was the last one of a round."""
        self._why[self.address] = why
        self._place = (self._place + 1) % len(self._addresses)
        self._failures += 1
        rounds, rest = divmod(self._failures, len(self._addresses))
        if rest == 0:
            self.not_before = now + self._retry.pause_s(rounds, self._chance(), at_least_s)
        return rest == 0

    def works(self) -> None:
        """The gateway has answered something: forget the failures."""
        self._failures = 0
        self._why.clear()

    def of_all(self, error: StagelineError) -> StagelineError:
        """The error that ended a round, of the last address, with what became of the others, too."""
        if len(self._why) < 2:
            return error
        told = "; ".join(why if address in why else f"{address}: {why}" for address, why in self._why.items())
        said = f"no answer from any of {len(self._why)} gateways: {told}"
        return type(error)(said, retry_after_s=error.retry_after_s, node=error.node)
