"""The stages that an executor serves, and how they get loaded: files in, something callable out."""

from __future__ import annotations

import hashlib
import math
import queue
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, TypeVar, Union
from weakref import WeakValueDictionary

import torch

from stageline.blobs import sha256_of
from stageline.errors import BlobCorruptError, BlobMissingError, StagelineError
from stageline.logs import Logger
from stageline.messages import Load, Loaded, LoadFailed
from stageline.plan import StageKey
from stageline_stage.executor.device import StageCall
from stageline_stage.executor.memory import give_back
from stageline_stage.executor.sustain import Sustained
from stageline_stage.graph.rebuild import load_stage
from stageline_stage.tensorfile import load_tensor

R = TypeVar("R")
Announce = Callable[[Union[Loaded, LoadFailed]], None]


class LoadedStage:
    """What runs a stage, and how long its last batch took (the main thread's to write): long until one is known."""

    def __init__(self, call: StageCall) -> None:
        self.call = call
        self.seconds = math.inf
        self.sustained: Sustained | None = None


class Stages:
    """Loaded stages by key. Readers see a mapping that is replaced whole, so they need no lock."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._loaded: Mapping[StageKey, LoadedStage] = {}
        self._weights: WeakValueDictionary[str, torch.Tensor] = WeakValueDictionary()
        self._verified: set[str] = set()
        self._lock = threading.Lock()

    def get(self, key: StageKey) -> LoadedStage | None:
        """The stage, if it is loaded."""
        return self._loaded.get(key)

    def load(self, message: Load) -> None:
        """Read, check and join; the stage is served when this returns. Raises as `load_stage` and `load_tensor`."""
        if message.stage in self._loaded:
            return
        graphs = [self._graph(Path(name)) for name in message.graphs]
        tensors = {sha: self._tensor(sha, Path(name)) for sha, name in message.tensors.items()}
        stage = load_stage(graphs, tensors, self._device).forward  # calling the module takes 10 us more
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        with self._lock:
            self._loaded = {**self._loaded, message.stage: LoadedStage(stage)}

    def unload(self, key: StageKey) -> None:
        """Forget a stage; a batch that runs it keeps it until it is done."""
        with self._lock:
            self._loaded = {other: stage for other, stage in self._loaded.items() if other != key}

    def _graph(self, path: Path) -> bytes:
        data = _reading(path.read_bytes)
        if hashlib.sha256(data).hexdigest() != path.name:
            raise BlobCorruptError("a block graph does not match its SHA-256: fetch it again")
        return data

    def _tensor(self, sha: str, path: Path) -> torch.Tensor:
        known = self._weights.get(sha)
        if known is not None:
            return known
        if sha not in self._verified:
            if _reading(lambda: sha256_of(path)) != sha:
                raise BlobCorruptError("a tensor does not match its SHA-256: fetch it again")
            self._verified.add(sha)
        tensor = load_tensor(path).to(self._device)
        self._weights[sha] = tensor
        return tensor


class Follower(Protocol):
    """Told by the loader's thread what is served now."""

    def loaded(self, message: Load, stage: LoadedStage) -> None:
        """A stage is served."""

    def unloaded(self, key: StageKey) -> None:
        """It is not any more."""


class Loader:
    """A thread that loads one stage after the other, so that neither computing nor heartbeats wait for it."""

    def __init__(self, stages: Stages, announce: Announce, log: Logger, follower: Follower) -> None:
        self._stages, self._follower = stages, follower
        self._announce = announce
        self._log = log
        self._jobs: queue.SimpleQueue[Load | StageKey | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="loader", daemon=True)
        self._thread.start()

    def load(self, message: Load) -> None:
        """Load soon; `announce` tells the outcome."""
        self._jobs.put(message)

    def unload(self, stage: StageKey) -> None:
        """Unload, after what was asked before."""
        self._jobs.put(stage)

    def close(self) -> None:
        """End the thread after the current job."""
        self._jobs.put(None)

    def _run(self) -> None:
        with torch.inference_mode():
            while (job := self._jobs.get()) is not None:
                if isinstance(job, Load):
                    self._announce(self._load(job))
                    stage = self._stages.get(job.stage)
                    if stage is not None:
                        self._follower.loaded(job, stage)
                else:
                    self._stages.unload(job)
                    self._follower.unloaded(job)
                give_back()

    def _load(self, job: Load) -> Loaded | LoadFailed:
        begun = time.monotonic()
        try:
            self._stages.load(job)
        except StagelineError as error:
            return LoadFailed(stage=job.stage, code=error.code, message=error.message)
        except (RuntimeError, MemoryError) as error:
            self._log.exception("loading failed", stage=str(job.stage))
            return LoadFailed(stage=job.stage, code="failed", message=f"loading failed ({type(error).__name__})")
        return Loaded(stage=job.stage, seconds=time.monotonic() - begun)


def _reading(read: Callable[[], R]) -> R:
    try:
        return read()
    except OSError:
        raise BlobMissingError("a blob is no longer in the cache: fetch it again") from None
