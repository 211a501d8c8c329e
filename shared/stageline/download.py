"""Which chunk to ask for next. Pure: replies in, requests out.

Chunks of a blob are asked for in order and a few at a time, so that neither round trips nor big blobs leave the link
idle, and a server that answers in order gives bytes that can simply be appended.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from stageline.messages import BLOB_CHUNK_BYTES, BlobChunk, BlobGet

WINDOW = 4


@dataclass
class _Blob:
    sha256: str
    asked: int
    have: int
    total: int | None = None

    @property
    def more_to_ask(self) -> bool:
        """Only the first chunk until its answer tells the size."""
        return self.asked == self.have if self.total is None else self.asked < self.total


@dataclass(frozen=True)
class Arrived:
    """A chunk to append at `offset` of a blob of `total` bytes; `complete` when it was the last."""

    sha256: str
    offset: int
    total: int
    complete: bool


class Download:
    """Gets some blobs, given how many bytes of each are here already."""

    def __init__(self, have: Mapping[str, int], *, window: int = WINDOW, first_id: int = 1) -> None:
        self._window = window
        self._ids = first_id
        self._outstanding: dict[int, tuple[str, int]] = {}
        self._blobs: dict[str, _Blob] = {}
        self._queue: deque[str] = deque()
        for sha, nbytes in have.items():
            self.restart(sha, nbytes)

    @property
    def done(self) -> bool:
        """Whether nothing is missing any more."""
        return not self._blobs

    @property
    def next_id(self) -> int:
        """Ids from here on were not used yet."""
        return self._ids

    def restart(self, sha: str, have: int) -> None:
        """Get the rest of a blob from byte `have` on; answers under way for it no longer count."""
        self._outstanding = {i: asked for i, asked in self._outstanding.items() if asked[0] != sha}
        self._blobs[sha] = _Blob(sha, have, have)
        if sha not in self._queue:
            self._queue.append(sha)

    def lost(self, have: Mapping[str, int]) -> None:
        """The connection broke: ask again for everything that has not arrived."""
        self._outstanding.clear()
        for sha in list(self._blobs):
            self.restart(sha, have.get(sha, 0))

    def requests(self) -> list[BlobGet]:
        """What to ask for now."""
        asked: list[BlobGet] = []
        for sha in list(self._queue):
            blob = self._blobs[sha]
            while len(self._outstanding) < self._window and blob.more_to_ask:
                asked.append(self._ask(blob))
            if len(self._outstanding) >= self._window:
                break
            self._queue.remove(sha)
        return asked

    def arrived(self, chunk: BlobChunk, nbytes: int) -> Arrived | None:
        """A chunk of `nbytes` came; None if nobody waits for it any more."""
        asked = self._outstanding.pop(chunk.id, None)
        blob = self._blobs.get(chunk.sha256)
        if asked != (chunk.sha256, chunk.offset) or blob is None:
            return None
        blob.total = chunk.total
        if chunk.offset != blob.have or (nbytes == 0 and chunk.total > chunk.offset):
            self.restart(blob.sha256, blob.have)  # an answer before this one was short or got lost
            return None
        blob.have += nbytes
        if blob.have < chunk.total:
            if blob.sha256 not in self._queue:
                self._queue.appendleft(blob.sha256)
            return Arrived(blob.sha256, chunk.offset, chunk.total, False)
        del self._blobs[blob.sha256]
        if blob.sha256 in self._queue:
            self._queue.remove(blob.sha256)
        return Arrived(blob.sha256, chunk.offset, chunk.total, True)

    def asked_for(self, request: int) -> str | None:
        """The blob that a request was about, if its answer is still due."""
        return self._outstanding.get(request, (None, 0))[0]

    def _ask(self, blob: _Blob) -> BlobGet:
        request = BlobGet(id=self._ids, sha256=blob.sha256, offset=blob.asked, length=BLOB_CHUNK_BYTES)
        self._outstanding[request.id] = (blob.sha256, blob.asked)
        self._ids += 1
        blob.asked += BLOB_CHUNK_BYTES
        return request
