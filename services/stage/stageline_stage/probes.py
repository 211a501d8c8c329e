"""How a link is measured: what to send and ask for next, and what the times say. Pure; times come in.

First the round trip of messages of a few bytes, then the bandwidth away from here, then towards here: messages that
grow until one takes long enough to be timed well, then more of that size. Whatever the link, little is sent: about
`budget_s` seconds of transfer, and `SLOWEST` times that on one too slow for a few messages of the smallest size.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

from stageline.estimate import Estimate, estimate
from stageline.messages import MAX_BALLAST_BYTES, LinkTime

WARM_UP = 2
"""Exchanges that do not count: the connection is young, and the other end asleep."""

ECHOES = 9
FEWEST, MOST = 3, 9
SHARE = 0.4
"""Of the budget for each direction; the rest is for the round trip."""

FIRST_BYTES = 16 << 10
GROWTH = 4
LONG = 8
"""Messages stop growing when one takes an eighth of a direction's budget."""

SLOWEST = 5
LEAST = 0.1
"""Of an exchange's time, that counts as transfer at least: the round trip varies too."""


@dataclass(frozen=True)
class Exchange:
    """Send `send_bytes` of ballast and get `want_bytes` of it back."""

    send_bytes: int = 0
    want_bytes: int = 0


Course = Generator[Exchange, float, LinkTime]
"""Yields what to exchange next and is sent the seconds that it took; returns what they say."""


def course(budget_s: float) -> Course:
    """The exchanges that measure a link with about `budget_s` seconds of transfer."""
    rtt = yield from _round_trip(budget_s * (1 - 2 * SHARE))
    out = yield from _bandwidth(budget_s * SHARE, rtt.value, outwards=True)
    back = yield from _bandwidth(budget_s * SHARE, rtt.value, outwards=False)
    return LinkTime(
        rtt_s=rtt.value,
        rtt_error=rtt.error,
        out_bytes_per_s=out.value,
        out_error=out.error,
        in_bytes_per_s=back.value,
        in_error=back.error,
    )


def _round_trip(budget_s: float) -> Generator[Exchange, float, Estimate]:
    for _ in range(WARM_UP):
        yield Exchange()
    seconds: list[float] = []
    while len(seconds) < ECHOES and (len(seconds) < FEWEST or sum(seconds) < budget_s):
        seconds.append((yield Exchange()))
    return estimate(seconds)


def _bandwidth(budget_s: float, rtt_s: float, *, outwards: bool) -> Generator[Exchange, float, Estimate]:
    size, spent = FIRST_BYTES, 0.0
    rates: list[float] = []
    while True:
        elapsed = yield Exchange(send_bytes=size) if outwards else Exchange(want_bytes=size)
        transfer = max(elapsed - rtt_s, LEAST * elapsed, 1e-9)
        spent += transfer
        rates.append(size / transfer)
        if transfer < budget_s / LONG and size < MAX_BALLAST_BYTES:
            size, rates = size * GROWTH, []
        elif len(rates) == MOST or spent >= budget_s * (1 if len(rates) >= FEWEST else SLOWEST):
            return estimate(rates)
