"""Batches that nobody waits for any more. Pure."""

from __future__ import annotations

from collections import OrderedDict

MOST = 4096
"""Remembered at most: the oldest have been computed or dropped long since, or went another way."""


class Cancelled:
    """May be told and asked by two threads: every step is one call into a dict."""

    def __init__(self) -> None:
        self.batches: OrderedDict[tuple[str, int], None] = OrderedDict()
        """(gateway, number); others only look whether there are any."""

    def __bool__(self) -> bool:
        return bool(self.batches)

    def add(self, gateway: str, batch: int) -> None:
        """It need not be computed."""
        self.batches[(gateway, batch)] = None
        while len(self.batches) > MOST:
            self.batches.popitem(last=False)

    def take(self, gateway: str, batch: int) -> bool:
        """Whether that was said of it; it is forgotten by this."""
        return self.batches.pop((gateway, batch), self) is None
