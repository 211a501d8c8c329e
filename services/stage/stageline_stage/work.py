"""What the agent does for plans: it passes on what `loading` and `profiling` decide, and tells them what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from stageline.errors import BlobCorruptError, BlobMissingError
from stageline.logs import Logger
from stageline.messages import (
    Backed,
    ExecutorHello,
    ExecutorUp,
    Loaded,
    LoadFailed,
    Measure,
    Measured,
    Prepare,
    ProfileRequest,
    Retire,
)
from stageline.wire import Message
from stageline_stage import fetch, loading
from stageline_stage.profiling import Profiling, Step
from stageline_stage.served import Backends
from stageline_stage.slot import Died, ExecutorSlot

DAMAGED = (BlobCorruptError.code, BlobMissingError.code)


class Work:
    """Between coordinator (`tell`), fetcher and executor slot."""

    def __init__(
        self, fetcher: fetch.Fetcher, slot: ExecutorSlot, tell: Callable[[Message], None], log: Logger
    ) -> None:
        self.loading = loading.Loading()
        self.hello: ExecutorHello | None = None
        self.backends = Backends(log)
        self._profiling = Profiling()
        self._fetcher, self._slot, self._tell, self._log = fetcher, slot, tell, log

    @property
    def _fingerprint(self) -> str:
        return self.hello.fingerprint if self.hello is not None else ""

    def prepare(self, message: Prepare) -> None:
        """The coordinator wants stages."""
        self._do(self.loading.prepare(message))

    def retire(self, message: Retire) -> None:
        """The coordinator needs fewer stages."""
        self._do(self.loading.retire(message))

    def profile(self, message: ProfileRequest) -> None:
        """The coordinator wants measurements."""
        if self._profiling.request(message):
            self._fetcher.profile(message)

    def welcomed(self) -> None:
        """We joined, perhaps again."""
        self._do(self.loading.welcomed())

    def fetched(self, event: fetch.Fetched) -> None:
        """The fetcher is done with something."""
        if isinstance(event, fetch.StagesFetched):
            self._do(self.loading.fetched(event.epoch, event.files))
        elif isinstance(event, fetch.StageFailed):
            self._do(self.loading.fetch_failed(event.epoch, event.stage, event.code, event.message))
        elif not self._slot.up:
            self._pass_on(self._profiling.executor_down(self._fingerprint))
        elif isinstance(event, fetch.ProfileFetched):
            steps = self._profiling.fetched(event.request, event.manifest_file, event.graphs, self._fingerprint)
            self._pass_on(steps)
        else:
            self._pass_on(self._profiling.failed(event.request, event.message, self._fingerprint))

    def happened(self, happening: Any) -> None:
        """The executor said something, or died."""
        if isinstance(happening, ExecutorHello):
            self._up(happening)
        elif isinstance(happening, Died):
            self.loading.executor_down()
            self.backends.executor_down()
            if happening.was_up:
                self._tell(happening.down)
            self._pass_on(self._profiling.executor_down(self._fingerprint))
        elif isinstance(happening, Loaded):
            self._log.info("stage loaded", stage=str(happening.stage), seconds=round(happening.seconds, 3))
            self._do(self.loading.stage_loaded(happening.stage))
        elif isinstance(happening, LoadFailed):
            if happening.code in DAMAGED:
                self._fetcher.doubt()
            self._do(self.loading.load_failed(happening.stage, happening.code, happening.message))
        elif isinstance(happening, Backed):
            self.backends.heard(happening)
        elif isinstance(happening, Measured):
            self._pass_on(self._profiling.measured(happening, self._fingerprint))

    def _up(self, hello: ExecutorHello) -> None:
        first, self.hello = self.hello is None, hello
        info = self._slot.info(self.loading.loaded)
        if info is not None and not first:  # the first one is told by our `Hello`
            self._tell(ExecutorUp(executor=info))
        self._do(self.loading.executor_up(hello.executor))

    def _do(self, instructions: Iterable[loading.Instruction]) -> None:
        for step in instructions:
            if isinstance(step, loading.Fetch):
                self._fetcher.prepare(step)
            elif isinstance(step, loading.Pin):
                self._fetcher.pin(step.blobs)
            elif isinstance(step, loading.ToExecutor):
                self.backends.told(step.message)
                self._slot.send(step.message)
            else:
                self._log.info("prepare answered", answer=type(step.message).__name__, epoch=self.loading.epoch)
                self._tell(step.message)

    def _pass_on(self, steps: Iterable[Step]) -> None:
        for step in steps:
            if isinstance(step, Measure):
                self._slot.send(step)
            else:
                self._tell(step)
