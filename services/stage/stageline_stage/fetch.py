"""The thread that gets blobs: manifests first, then the graphs and tensors that they name and the cache lacks.

A broken download goes on where it stopped, every blob is verified before it is used, and a newer prepare
interrupts an older one (what it has fetched stays in the cache).
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Union

import msgspec

from stageline.blobs import BlobStore
from stageline.blocks import BlockSpec
from stageline.errors import ManifestError, StagelineError
from stageline.logs import Logger
from stageline.manifest import ModelManifest
from stageline.messages import ProfileRequest
from stageline.plan import Epoch, StageKey
from stageline.sockets import Sockets
from stageline.transfer import Interrupted, Transfer
from stageline_stage.loading import Fetch, StageFiles


@dataclass(frozen=True)
class StagesFetched:
    """All blobs of these stages are in the cache."""

    epoch: Epoch
    files: tuple[StageFiles, ...]


@dataclass(frozen=True)
class StageFailed:
    """The blobs of a stage cannot be had."""

    epoch: Epoch
    stage: StageKey
    code: str
    message: str


@dataclass(frozen=True)
class ProfileFetched:
    """Manifest and graphs (by block) of a request are in the cache."""

    request: ProfileRequest
    manifest_file: str
    graphs: Mapping[int, str]


@dataclass(frozen=True)
class ProfileFailed:
    """They cannot be had."""

    request: ProfileRequest
    message: str


@dataclass(frozen=True)
class Sweep:
    """Remove from the cache what no stage here has used for long."""


SWEEP_EVERY_S = 3600.0
"""And not before, after a start: by then the plan has said what is needed again."""

Fetched = Union[StagesFetched, StageFailed, ProfileFetched, ProfileFailed]
Job = Union[Fetch, ProfileRequest, Sweep]


class Fetcher:
    """`prepare`, `profile` and `pin` may be called from the agent's thread; `events` gives what came of them.

    What was not used for `keep_s` seconds leaves the cache.
    """

    def __init__(self, sockets: Sockets, store: BlobStore, name: str, log: Logger, keep_s: float) -> None:
        self._store, self._keep_s = store, keep_s
        self._sweep_at = time.monotonic() + SWEEP_EVERY_S
        self._log = log
        self._changed = threading.Condition()
        self._prepare: Fetch | None = None
        self._profiles: deque[ProfileRequest] = deque()
        self._current: Job | None = None
        self._closed = False
        self._pinned: frozenset[str] = frozenset()
        self._verified: set[str] = set()
        self._events: deque[Fetched] = deque()
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.transfer = Transfer(sockets, store, f"blobs:{name}".encode(), self._interrupted, log)
        self._thread = threading.Thread(target=self._run, name="fetch", daemon=True)
        self._thread.start()

    def fileno(self) -> int:
        """Readable when there are events."""
        return self._event

    def events(self) -> list[Fetched]:
        """What came of the jobs, oldest first."""
        try:
            os.eventfd_read(self._event)
        except BlockingIOError:
            return []
        return [self._events.popleft() for _ in range(len(self._events))]

    def prepare(self, job: Fetch) -> None:
        """Fetch these stages; an older prepare is given up."""
        with self._changed:
            self._prepare = job
            self._changed.notify()

    def profile(self, request: ProfileRequest) -> None:
        """Fetch what the request's measurements need, after what was asked before."""
        with self._changed:
            self._profiles.append(request)
            self._changed.notify()

    def pin(self, blobs: Collection[str]) -> None:
        """Keep these in the cache whatever its limit."""
        self._pinned = frozenset(blobs)
        self._store.pin(self._pinned)

    def doubt(self) -> None:
        """Verify again whatever is in the cache before it is used: something in it was found damaged."""
        self._verified = set()

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        self.transfer.close()
        os.close(self._event)

    def _interrupted(self) -> bool:
        newer = self._prepare is not None and isinstance(self._current, Fetch)
        return self._closed or newer

    def _next(self) -> Job | None:
        with self._changed:
            while not self._closed and self._prepare is None and not self._profiles:
                left_s = self._sweep_at - time.monotonic()
                if left_s <= 0:
                    self._current = Sweep()
                    return self._current
                self._changed.wait(left_s)
            if self._closed:
                return None
            self._current = self._prepare if self._prepare is not None else self._profiles.popleft()
            if isinstance(self._current, Fetch):
                self._prepare = None
            return self._current

    def _run(self) -> None:
        while (job := self._next()) is not None:
            if isinstance(job, Sweep):
                self._sweep()
                continue
            try:
                outcome = self._fetch_stages(job) if isinstance(job, Fetch) else self._fetch_profile(job)
            except Interrupted:
                continue
            self._events.append(outcome)
            os.eventfd_write(self._event, 1)

    def _sweep(self) -> None:
        self._sweep_at = time.monotonic() + SWEEP_EVERY_S
        try:
            files, freed = self._store.collect(time.time() - self._keep_s)
        except OSError as error:
            self._log.warning("the cache could not be swept", reason=error.strerror)
            return
        if files:
            self._log.info("unused blobs removed from the cache", blobs=files, bytes=freed)

    def _fetch_stages(self, job: Fetch) -> Fetched:
        files: list[StageFiles] = []
        for stage in job.stages:
            try:
                files.append(self._stage(stage, [one.blobs for one in files]))
            except StagelineError as error:
                self._log.warning("fetching failed", stage=str(stage), code=error.code, reason=error.message)
                return StageFailed(job.epoch, stage, error.code, error.message)
        return StagesFetched(job.epoch, tuple(files))

    def _stage(self, stage: StageKey, others: list[frozenset[str]]) -> StageFiles:
        keep = self._pinned.union(*others) | {stage.manifest}
        self._store.pin(keep)
        blocks = self._manifest(stage.manifest).blocks[stage.start : stage.end]
        if len(blocks) != stage.end - stage.start or not blocks:
            raise ManifestError(f"the model has no blocks {stage.start} to {stage.end}")
        sizes = {block.graph: block.graph_bytes for block in blocks}
        sizes |= {ref.sha256: ref.blob_bytes for block in blocks for ref in block.tensors}
        self._store.pin(keep | sizes.keys())
        self._ensure(sizes)
        return StageFiles(
            stage=stage,
            graphs=tuple(str(self._store.path(block.graph)) for block in blocks),
            tensors={ref.sha256: str(self._store.path(ref.sha256)) for block in blocks for ref in block.tensors},
            weights={ref.sha256: ref.nbytes for block in blocks for ref in block.tensors},
            blobs=frozenset({stage.manifest, *sizes}),
            manifest=str(self._store.path(stage.manifest)),
        )

    def _fetch_profile(self, request: ProfileRequest) -> Fetched:
        try:
            blocks = self._manifest(request.manifest).blocks
            unknown = [i for i in request.blocks if not 0 <= i < len(blocks)]
            if unknown:
                raise ManifestError(f"the model has no block {unknown[0]}")
            wanted: dict[int, BlockSpec] = {i: blocks[i] for i in request.blocks}
            self._ensure({block.graph: block.graph_bytes for block in wanted.values()})
            graphs = {i: str(self._store.path(block.graph)) for i, block in wanted.items()}
            return ProfileFetched(request, str(self._store.path(request.manifest)), graphs)
        except StagelineError as error:
            self._log.warning("fetching failed", model=request.manifest[:12], reason=error.message)
            return ProfileFailed(request, error.message)

    def _manifest(self, sha: str) -> ModelManifest:
        self._ensure({sha: None})
        try:
            content = msgspec.json.decode(self._store.read(sha))
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise ManifestError("the manifest is not JSON: import the model again") from None
        return ModelManifest.from_json(content)

    def _ensure(self, sizes: Mapping[str, int | None]) -> None:
        """Have these blobs in the cache, verified once in this process's life, or since `doubt`."""
        missing = {sha: size for sha, size in sizes.items() if not self._is_here(sha)}
        if missing:
            self.transfer.get(missing)
            self._verified.update(missing)

    def _is_here(self, sha: str) -> bool:
        if not self._store.has(sha):
            return False
        if sha not in self._verified:
            try:
                self._store.verify(sha)
            except StagelineError as error:
                self._log.warning("the cache was damaged", reason=error.message)
                return False
            self._verified.add(sha)
        return True
