"""The batches that were dispatched: their credits, who waits for them, and which of them may still answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from stageline.plan import Epoch
from stageline_gateway.batching import Batch
from stageline_gateway.overtaken import Overtaken
from stageline_gateway.routing import Router


class BatchTable:
    """A batch holds credits while it is live; given up, it is kept as long as a late result could still answer."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._batches: dict[int, Batch] = {}
        self._last = 0
        self._items: Counter[str] = Counter()
        self._overtaken = Overtaken()

    def __len__(self) -> int:
        return len(self._batches)

    def next_id(self) -> int:
        """A new batch number."""
        self._last += 1
        return self._last

    def add(self, batch: Batch) -> None:
        """A batch goes out."""
        self._router.take(batch.model, batch.path, batch.nbytes)
        self._batches[batch.id] = batch
        self._overtaken.sent(batch)
        self._items[batch.model.name] += sum(batch.rows)

    def get(self, batch_id: int) -> Batch | None:
        """The batch, None if nobody waits for it."""
        return self._batches.get(batch_id)

    def give_up(self, batch: Batch) -> None:
        """Stop counting on it. A late result is still welcome while one of its requests is unanswered."""
        if batch.live:
            batch.live = False
            self._overtaken.ended(batch)
            self._items[batch.model.name] -= sum(batch.rows)
            self._router.release(batch.model, batch.path, batch.nbytes)
        self._forget_if_useless(batch)

    def back(self, batch: Batch) -> list[Batch]:
        """Its result came; returns those that must have been lost on the way. To be told before `finish`."""
        batch.over = True
        return self._overtaken.back(batch)

    def finish(self, batch: Batch) -> None:
        """It came back, or failed: nothing more will come of it."""
        batch.pending.clear()
        self.give_up(batch)

    def request_left(self, batch_id: int, key: int) -> Batch | None:
        """A request got its outcome. The batch keeps its credits, since executors may still work on it.

        Returns the batch if they do so for nobody now.
        """
        batch = self._batches.get(batch_id)
        if batch is None:
            return None
        batch.pending.discard(key)
        self._forget_if_useless(batch)
        return None if batch.pending or batch.over else batch

    def live(self) -> Iterator[Batch]:
        """Those that hold credits."""
        return iter([batch for batch in self._batches.values() if batch.live])

    def items(self, model: str) -> int:
        """Items of a model in live batches."""
        return self._items[model]

    def oldest_epoch(self) -> Epoch | None:
        """The oldest epoch that a live batch was dispatched under."""
        return min((batch.epoch for batch in self._batches.values() if batch.live), default=None)

    def _forget_if_useless(self, batch: Batch) -> None:
        if not batch.live and not batch.pending:
            self._batches.pop(batch.id, None)
