"""Which stages are loaded, fetched or wanted, and what the coordinator gets told. Pure: events in, instructions out.

A `Prepare` goes through fetch (blobs on disk), load (executor) and answer. A newer one replaces it; what the older
one has loaded stays loaded until a `Retire` leaves it out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Union

from stageline.messages import Load, Prepare, Prepared, PrepareFailed, Retire, Unload
from stageline.plan import Epoch, StageKey


@dataclass(frozen=True)
class StageFiles:
    """A stage whose blobs are all in the cache: files by SHA-256, graphs in order; `weights` are bytes by SHA-256."""

    stage: StageKey
    graphs: tuple[str, ...]
    tensors: Mapping[str, str] = field(hash=False)
    weights: Mapping[str, int] = field(default_factory=dict, hash=False)
    blobs: frozenset[str] = frozenset()
    manifest: str = ""

    @property
    def load(self) -> Load:
        """The message that has an executor load it."""
        return Load(stage=self.stage, graphs=self.graphs, tensors=dict(self.tensors), manifest=self.manifest)


@dataclass(frozen=True)
class Fetch:
    """Get the blobs of these stages into the cache; replaces any fetch under way."""

    epoch: Epoch
    stages: tuple[StageKey, ...]


@dataclass(frozen=True)
class ToExecutor:
    """Send this to the executor."""

    message: Load | Unload


@dataclass(frozen=True)
class Answer:
    """Send this to the coordinator."""

    message: Prepared | PrepareFailed


@dataclass(frozen=True)
class Pin:
    """Keep these blobs in the cache."""

    blobs: frozenset[str]


Instruction = Union[Fetch, ToExecutor, Answer, Pin]


class Loading:
    """The stages of one worker and its one executor. `room_bytes` is what weights may take (0: unknown).

    Only what one prepare names has to fit: the old stages that are held beside it until the plan is committed are
    mapped files, whose pages the kernel takes back when it must.
    """

    def __init__(self, room_bytes: int = 0) -> None:
        self.room_bytes = room_bytes
        self.executor = ""
        self.loaded: set[StageKey] = set()
        self.epoch: Epoch = (0, 0)
        self._loading: set[StageKey] = set()
        self._files: dict[StageKey, StageFiles] = {}
        self._pending: Prepare | None = None
        self._answer: Prepared | PrepareFailed | None = None

    def new_cluster(self) -> None:
        """The coordinator has a history of its own: its epochs start anew."""
        self.epoch = (0, 0)
        self._pending = self._answer = None

    def executor_up(self, executor: str) -> list[Instruction]:
        """A fresh executor runs; a prepare under way goes on with it."""
        self.executor = executor
        self.loaded.clear()
        self._loading.clear()
        return self._advance()

    def executor_down(self) -> None:
        """The executor died, and what was loaded with it."""
        self.executor = ""
        self.loaded.clear()
        self._loading.clear()
        self._answer = None

    def prepare(self, message: Prepare) -> list[Instruction]:
        """Begin a new prepare; one older than the latest is ignored."""
        if (message.term, message.version) < self.epoch:
            return []
        self.epoch = (message.term, message.version)
        self._pending, self._answer = message, None
        missing = tuple(s for s in message.stages if s not in self._files and s not in self.loaded)
        fetch: list[Instruction] = [Fetch(self.epoch, missing)] if missing else []
        return fetch + self._advance()

    def fetched(self, epoch: Epoch, files: Iterable[StageFiles]) -> list[Instruction]:
        """The blobs of these stages are in the cache."""
        if epoch != self.epoch:
            return []
        self._files.update({one.stage: one for one in files})
        if self._pending is not None and (short := self._short_of(self._pending.stages)):
            needed = f"its weights need {short} bytes more than the {self.room_bytes} that are left"
            return self._fail(self._pending.stages[0], "placement", f"the plan does not fit this worker: {needed}")
        return [self._pin(), *self._advance()]

    def fetch_failed(self, epoch: Epoch, stage: StageKey, code: str, message: str) -> list[Instruction]:
        """The blobs of a stage cannot be had."""
        return self._fail(stage, code, message) if epoch == self.epoch else []

    def stage_loaded(self, stage: StageKey) -> list[Instruction]:
        """The executor serves the stage; one that nobody wants any more is unloaded again."""
        if stage not in self._loading:
            return []
        self._loading.discard(stage)
        self.loaded.add(stage)
        return self._advance()

    def load_failed(self, stage: StageKey, code: str, message: str) -> list[Instruction]:
        """The executor cannot load the stage."""
        self._loading.discard(stage)
        self._files.pop(stage, None)  # perhaps a damaged file: look again next time
        return self._fail(stage, code, message)

    def retire(self, message: Retire) -> list[Instruction]:
        """Unload all but what is to be kept and what a newer prepare wants; an old one is ignored."""
        if (message.term, message.version) < (self.epoch if self._pending is None else (0, 0)):
            return []
        self.epoch = max(self.epoch, (message.term, message.version))
        wanted = set(message.keep) | set(self._pending.stages if self._pending else ())
        gone = sorted((self.loaded | self._loading) - wanted)
        self.loaded &= wanted
        self._loading &= wanted
        self._files = {stage: files for stage, files in self._files.items() if stage in wanted}
        return [*(ToExecutor(Unload(stage=stage)) for stage in gone), self._pin()]

    def welcomed(self) -> list[Instruction]:
        """We (re)joined: the last answer may have been lost on the way."""
        return [Answer(self._answer)] if self._answer is not None else []

    def _short_of(self, stages: Iterable[StageKey]) -> int:
        sizes: dict[str, int] = {}
        for stage in stages:
            sizes.update(self._files[stage].weights if stage in self._files else {})
        return max(0, sum(sizes.values()) - self.room_bytes) if self.room_bytes else 0

    def _advance(self) -> list[Instruction]:
        """Load what is fetched, and answer once everything is loaded."""
        if self._pending is None or not self.executor:
            return []
        ready = [s for s in self._pending.stages if s in self._files and s not in self.loaded | self._loading]
        self._loading.update(ready)
        if not all(stage in self.loaded for stage in self._pending.stages):
            return [ToExecutor(self._files[stage].load) for stage in dict.fromkeys(ready)]
        stages = self._pending.stages
        term, version = self.epoch
        self._answer = Prepared(term=term, version=version, stages=stages, executors=(self.executor,) * len(stages))
        self._pending = None
        return [Answer(self._answer)]

    def _fail(self, stage: StageKey, code: str, message: str) -> list[Instruction]:
        if self._pending is None or stage not in self._pending.stages:
            return []
        term, version = self.epoch
        self._pending = None
        self._answer = PrepareFailed(term=term, version=version, stage=stage, code=code, message=message)
        return [Answer(self._answer)]

    def _pin(self) -> Pin:
        return Pin(frozenset(sha for files in self._files.values() for sha in files.blobs))
