"""Who killed an executor: only what it was computing is suspected, and runs alone from then on.

What an executor computes alone when it dies, having been suspected before, is not tried a third time. That no other
request shares its fate is worth the second crash; that a worker may be killed from outside is why it takes two.
"""

from __future__ import annotations

from collections import OrderedDict

from stageline.errors import FailedError
from stageline.plan import Crash
from stageline_gateway.core import Core
from stageline_gateway.dispatch import Dispatcher
from stageline_gateway.inflight import Entry

REMEMBERED = 1024
"""Dead executors that are remembered, for each is told again and again."""


class Suspects:
    """Looks at every crash once."""

    def __init__(self, core: Core, dispatcher: Dispatcher) -> None:
        self._core = core
        self._dispatcher = dispatcher
        self._seen: OrderedDict[str, None] = OrderedDict()

    def look(self, now: float) -> None:
        """At what the coordinator says; before the requests of the dead are dispatched again."""
        for node, crash in self._core.view.crashes:
            if crash.executor not in self._seen:
                self._seen[crash.executor] = None
                self._crashed(node, crash, now)
        while len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)

    def _crashed(self, node: str, crash: Crash, now: float) -> None:
        for key in crash.computing:
            entry = self._core.table.get(key)
            if entry is None or not self._was_there(entry, crash.executor):
                continue
            if entry.suspect and len(crash.computing) == 1:
                text = "the worker died whenever it computed the request, the last time alone: it is not tried again"
                self._core.refuse(entry, FailedError(text, node=node), now)
            else:
                entry.suspect = entry.alone = True
                self._dispatcher.enqueue_again(entry, now)

    def _was_there(self, entry: Entry, executor: str) -> bool:
        batches = (self._core.batches.get(number) for number in entry.batches)
        return any(hop.executor == executor for batch in batches if batch is not None for hop in batch.path)
