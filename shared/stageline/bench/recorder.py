"""What came of the requests of a run, as numbers. Pure: times are arguments, in seconds since the start.

All values are kept, so percentiles are exact. A request belongs to the measured window when its *intended* time does,
and its latency counts from there (see `stageline.bench.schedule`). One that is still unanswered when the run gives up
counts with its age then, a lower bound: leaving it out would flatter the percentiles.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, fsum

from stageline.bench.schedule import Window


@dataclass(frozen=True)
class Distribution:
    """Of values in seconds; percentiles by nearest rank. All are 0 when there are no values."""

    count: int = 0
    mean: float = 0.0
    p50: float = 0.0
    p90: float = 0.0
    p99: float = 0.0
    max: float = 0.0


@dataclass(frozen=True)
class Figures:
    """A run's outcome, of the requests that were due in the window: answered, failed or unanswered, each exactly one.

    `errors` counts the failed by code, `messages` has one message for each. `retries` are dispatches beyond the first.
    `throughput_rps` are answers per second that came within the window, whenever they were due. `latency` is that of
    the answered and unanswered; `lag` is how long after its intended time a request was sent. `shared` is the mean
    number of items in the batches in which the gateway had requests computed.
    """

    requests: int
    answered: int
    failed: int
    unanswered: int
    errors: dict[str, int]
    messages: dict[str, str]
    retries: int
    throughput_rps: float
    latency: Distribution
    lag: Distribution
    shared: float


class Recorder:
    """Collects the outcomes; tell it of every request once that it was sent, and once how it ended."""

    def __init__(self, window: Window) -> None:
        self._window = window
        self._latencies, self._lags = array("d"), array("d")
        self._errors: Counter[str] = Counter()
        self._messages: dict[str, str] = {}
        self._answered = self._unanswered = self._retries = self._shared = self._within = 0
        self.answers = self.failures = 0
        """Of the whole run, warm-up included: for people who watch."""

    def sent(self, intended: float, now: float) -> None:
        """It is on its way."""
        if intended in self._window:
            self._lags.append(now - intended)

    def answered(self, intended: float, now: float, *, attempts: int = 1, shared: int = 1) -> None:
        """It was answered after so many dispatches, computed in a batch of `shared` items."""
        self.answers += 1
        self._within += now in self._window
        if intended in self._window:
            self._answered += 1
            self._latencies.append(now - intended)
            self._retries += attempts - 1
            self._shared += shared

    def failed(self, intended: float, code: str, message: str) -> None:
        """It ended with an error."""
        self.failures += 1
        if intended in self._window:
            self._errors[code] += 1
            self._messages.setdefault(code, message)

    def abandoned(self, intended: float, now: float) -> None:
        """It had no outcome when the run gave up; perhaps it was never sent."""
        if intended in self._window:
            self._unanswered += 1
            self._latencies.append(now - intended)

    def figures(self) -> Figures:
        """The numbers so far."""
        failed = sum(self._errors.values())
        return Figures(
            requests=self._answered + failed + self._unanswered,
            answered=self._answered,
            failed=failed,
            unanswered=self._unanswered,
            errors=dict(self._errors.most_common()),
            messages=dict(self._messages),
            retries=self._retries,
            throughput_rps=self._within / self._window.duration_s,
            latency=distribution(self._latencies),
            lag=distribution(self._lags),
            shared=self._shared / self._answered if self._answered else 0.0,
        )


def distribution(values: Sequence[float]) -> Distribution:
    """Of these values."""
    if not values:
        return Distribution()
    ordered = sorted(values)
    p50, p90, p99 = (_ranked(ordered, percent) for percent in (50, 90, 99))
    return Distribution(len(ordered), fsum(ordered) / len(ordered), p50, p90, p99, ordered[-1])


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile: the smallest value that at least `percent` % do not exceed; 0 without values."""
    return _ranked(sorted(values), percent) if values else 0.0


def _ranked(ordered: Sequence[float], percent: float) -> float:
    # Multiplying first keeps whole ranks whole: 0.07 * 100 is 7.000000000000001, whose ceiling is 8.
    return ordered[max(0, ceil(percent * len(ordered) / 100) - 1)]
