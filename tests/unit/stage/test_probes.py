"""The course of a link measurement on pretend links: right figures, little time, few bytes."""

from __future__ import annotations

import random

import pytest

from stageline.messages import MAX_BALLAST_BYTES, LinkTime
from stageline_stage.probes import SLOWEST, Exchange, course


class Wire:
    """`out` and `back` bytes/s, a round trip in seconds, both noisy by `noise` (relative)."""

    def __init__(self, out: float, back: float, rtt_s: float, noise: float = 0.0) -> None:
        self.out, self.back, self.rtt_s, self.noise = out, back, rtt_s, noise
        self.seconds = 0.0
        self.exchanges: list[Exchange] = []
        self._random = random.Random(1)

    def carry(self, exchange: Exchange) -> float:
        self.exchanges.append(exchange)
        taken = self.rtt_s + exchange.send_bytes / self.out + exchange.want_bytes / self.back
        taken *= 1 + self.noise * self._random.random()
        self.seconds += taken
        return taken

    def measure(self, budget_s: float = 0.06) -> LinkTime:
        steps = course(budget_s)
        exchange = next(steps)
        while True:
            try:
                exchange = steps.send(self.carry(exchange))
            except StopIteration as end:
                found: LinkTime = end.value
                return found


@pytest.mark.parametrize("rate", [1e5, 1e6, 12.5e6, 125e6, 2e9])
@pytest.mark.parametrize("rtt_s", [0.0001, 0.002, 0.02])
def test_bandwidth_and_round_trip_are_found_on_slow_and_fast_links(rate: float, rtt_s: float) -> None:
    wire = Wire(rate, rate / 3, rtt_s)
    found = wire.measure()
    assert found.rtt_s == pytest.approx(rtt_s)
    if MAX_BALLAST_BYTES / rate > rtt_s / 8:  # beyond that the round trip hides it
        assert found.out_bytes_per_s == pytest.approx(rate, rel=0.01)
        assert found.in_bytes_per_s == pytest.approx(rate / 3, rel=0.01)


def test_a_noisy_link_says_so() -> None:
    steady, noisy = Wire(5e7, 5e7, 0.001, 0.01).measure(), Wire(5e7, 5e7, 0.001, 1.0).measure()
    assert steady.out_error < 0.05 < noisy.out_error
    assert steady.rtt_error < noisy.rtt_error
    assert noisy.out_bytes_per_s == pytest.approx(5e7, rel=0.6)


def test_a_link_that_is_too_slow_for_a_second_message_claims_no_certainty() -> None:
    found = Wire(1e4, 5e7, 0.001).measure(0.03)
    assert (found.out_error, found.rtt_error) == (1.0, 0.0)
    assert found.in_error == pytest.approx(0.0)


@pytest.mark.parametrize("rate", [1e4, 1e6, 1e8, 5e9])
def test_a_measurement_keeps_to_its_time(rate: float) -> None:
    for budget_s in (0.01, 0.06):
        wire = Wire(rate, rate, 0.0005)
        wire.measure(budget_s)
        longest = max(exchange.send_bytes for exchange in wire.exchanges) / rate
        waits = len(wire.exchanges) * wire.rtt_s
        assert wire.seconds - waits < max(1.5 * budget_s, 2 * (SLOWEST * budget_s + longest))
        assert len(wire.exchanges) < 50
        assert max(exchange.want_bytes for exchange in wire.exchanges) <= MAX_BALLAST_BYTES
