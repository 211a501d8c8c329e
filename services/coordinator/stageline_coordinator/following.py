"""Taking over what the other coordinator has: rows into the store, models once their blobs are here, too."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from stageline import logs
from stageline.coordinators import NO_TERM_FROM
from stageline.errors import StagelineError, StoreError
from stageline.messages import Followed, StoreRow

from .copier import Copier
from .journal import manifest_of
from .registry import check_model
from .store import Store

RETRY_S = 1.0


class Following:
    """`since`: the last change of the partner's that came; `applied`: up to which all are on our disk."""

    def __init__(self, store: Store, copier: Copier) -> None:
        self._store, self._copier = store, copier
        self._log = logs.get(service="coordinator", part="following")
        self._partner = 0
        self.since = self.applied = 0
        self._waiting: dict[str, StoreRow] = {}
        self._again: dict[str, float] = {}

    def whom(self, coordinator: int) -> None:
        """Follow this one; what was known of another does not count."""
        if coordinator != self._partner:
            self._partner = coordinator
            self.since = self.applied = self._store.applied(coordinator)
            self._waiting.clear()

    @property
    def waiting(self) -> int:
        """Models whose blobs are being copied."""
        return len(self._waiting)

    @property
    def wanted(self) -> tuple[str, ...]:
        """The manifests of those."""
        return tuple(manifest_of(row) for row in self._waiting.values())

    def received(self, message: Followed) -> list[StoreRow]:
        """The rows that became ours. A message that does not follow the last one is ignored: it is asked for again."""
        if message.after != self.since or not 0 <= message.upto < NO_TERM_FROM:
            return []
        if not all(map(_sound, message.rows)):
            self._log.error("rows of the other coordinator are malformed")
            return []
        ready = []
        for row in message.rows:
            if row.kind == "model":
                self._waiting.pop(row.key, None)
            if row.kind == "model" and not row.gone and self._store.journal.newer(row) and not self._whole(row):
                self._waiting[row.key] = row
                self._copier.want(manifest_of(row))
            else:
                ready.append(row)
        self.since = message.upto
        return self._merge(ready)

    def copied(self, manifest: str, complete: bool, now: float) -> list[StoreRow]:
        """All blobs of a manifest are here, or cannot be had now; the rows that became ours by it."""
        rows = [row for row in self._waiting.values() if manifest_of(row) == manifest]
        if not complete or not all(map(self._whole, rows)):
            self._again |= {manifest: now + RETRY_S} if rows else {}
            return []
        for row in rows:
            del self._waiting[row.key]
        return self._merge(rows)

    def tick(self, now: float) -> None:
        """Try again to copy what could not be had."""
        for manifest in [manifest for manifest, at in self._again.items() if at <= now]:
            del self._again[manifest]
            self._copier.want(manifest)

    def _merge(self, rows: Sequence[StoreRow]) -> list[StoreRow]:
        applied = self.applied if self._waiting else self.since
        if not rows and applied == self.applied:
            return []
        try:
            taken = self._store.merge(rows, self._partner, applied)
        except StoreError as error:  # it is asked for again
            self._log.error("what the other coordinator has cannot be written", reason=error.message)
            self.since = self.applied
            self._waiting.clear()
            return []
        self.applied = applied
        return taken

    def _whole(self, row: StoreRow) -> bool:
        try:
            check_model(self._store.blobs, manifest_of(row))
            return True
        except StagelineError:
            return False


def _sound(row: StoreRow) -> bool:
    """Whether a row can be read and stored."""
    if not (0 <= row.term < NO_TERM_FROM and 0 <= row.number < NO_TERM_FROM):
        return False
    try:
        if row.kind == "model" and not row.gone:
            manifest_of(row)
    except msgspec.DecodeError:
        return False
    return True
