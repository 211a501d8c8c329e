"""The thread that puts compiled stages in the place of those that torch runs, one after the other.

A stage is served by torch from the moment it is loaded. A compiled one is taken from the disk, or made in a child
process of the lowest priority, and takes over between two batches: the main thread looks up what to call for each.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stageline.logs import Logger
from stageline.manifest import ModelManifest
from stageline.messages import Backed, Load
from stageline.plan import StageKey
from stageline_stage.backends.artifacts import Artifacts, Report
from stageline_stage.backends.base import Backend
from stageline_stage.backends.job import Interrupted
from stageline_stage.backends.workshop import Found, Workshop
from stageline_stage.executor.guarded import Guarded
from stageline_stage.executor.measure import read_manifest
from stageline_stage.executor.memory import give_back
from stageline_stage.executor.stages import LoadedStage
from stageline_stage.resources import available_bytes

GAIN = 0.95
"""Where the choice is ours, a compiled stage has to take less than this part of torch's time."""

LOADING_WEIGHTS = 3
"""Free memory in which a compiled stage is loaded: its weights so many times. OpenVINO takes twice them."""


@dataclass(frozen=True)
class Wish:
    """What stages shall be served by: "eager", "auto" or a compiling backend, and where compiled ones are kept.

    `crashed`: pid of the executor before if it crashed (0: it did not). `again`: try what failed before.
    """

    backend: str = "eager"
    threads: int = 1
    folder: Path = Path()
    max_bytes: int = 0
    crashed: int = 0
    again: bool = False


@dataclass(frozen=True)
class _Task:
    """Compile it."""

    message: Load
    stage: LoadedStage


@dataclass(frozen=True)
class _Lost:
    """A compiled stage was found to be of no use."""

    key: str
    reason: str


class Compiling:
    """`announce` tells what came of each stage. Nothing is done, and no thread started, without `backends`."""

    def __init__(
        self, wish: Wish, backends: Sequence[Backend], announce: Callable[[Backed], None], log: Logger
    ) -> None:
        self._wish, self._backends, self._announce, self._log = wish, backends, announce, log
        self._tasks: queue.SimpleQueue[_Task | _Lost | None] = queue.SimpleQueue()
        self._wanted: set[StageKey] = set()
        self._keys: dict[StageKey, str] = {}
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._current: StageKey | None = None
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        if backends:
            self._artifacts = self._open(wish)
            self._workshop = Workshop(self._artifacts, wish.threads)
            self._thread = threading.Thread(target=self._run, name="compiling", daemon=True)
            self._thread.start()

    def _open(self, wish: Wish) -> Artifacts:
        artifacts = Artifacts(wish.folder, wish.max_bytes)
        if wish.crashed:
            artifacts.distrust(wish.crashed, "crashed")
        if wish.again:
            artifacts.forget_failures()
        return artifacts

    def loaded(self, message: Load, stage: LoadedStage) -> None:
        """Torch serves the stage; compile it if that is wanted."""
        if self._backends and message.manifest:
            with self._lock:
                self._wanted.add(message.stage)
            self._tasks.put(_Task(message, stage))

    def unloaded(self, key: StageKey) -> None:
        """Nobody wants the stage any more."""
        with self._lock:
            self._wanted.discard(key)
            if self._current == key:
                os.eventfd_write(self._wake, 1)
            used = self._keys.pop(key, "")
        if used:
            self._artifacts.unused(used)

    def close(self) -> None:
        """End the thread, and the child if there is one."""
        if self._thread is None:
            return
        with self._lock:
            self._wanted.clear()
            os.eventfd_write(self._wake, 1)
        self._tasks.put(None)
        self._thread.join()
        for key in self._keys.values():
            self._artifacts.unused(key)
        os.close(self._wake)
        self._thread = None

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            if isinstance(task, _Lost):
                self._artifacts.fail(task.key, task.reason)
                continue
            with self._lock:
                if task.message.stage not in self._wanted or task.message.stage in self._keys:
                    continue
                self._current = task.message.stage
                self._quieten()
            try:
                self._serve(task)
            except Interrupted:
                pass
            except Exception as error:  # a backend may raise anything; torch goes on serving
                self._log.exception("compiling failed", stage=str(task.message.stage))
                self._say(task, f"compiling failed ({type(error).__name__})")
            finally:
                self._current = None
                give_back()

    def _quieten(self) -> None:
        try:
            os.eventfd_read(self._wake)
        except BlockingIOError:
            return

    def _serve(self, task: _Task) -> None:
        """Have the best backend run it that there is for it."""
        manifest = read_manifest(Path(task.message.manifest))
        found: list[Found] = []
        reasons: list[str] = []
        for backend in self._backends:
            for precision in backend.precisions:
                got = self._workshop.obtain(task.message, manifest, backend, precision, self._wake)
                if isinstance(got, Found):
                    found.append(got)
                else:
                    reasons.append(f"{backend.name}: {got}")
        if not found:
            self._say(task, "; ".join(reasons))
            return
        best = min(found, key=lambda one: one.report.seconds)
        report = best.report
        if self._wish.backend == "auto" and report.seconds >= GAIN * report.eager_s:
            self._say(task, f"{report.backend} is not faster", report, lost=False)
            return
        start, end = task.message.stage.start, task.message.stage.end
        if available_bytes() < LOADING_WEIGHTS * manifest.weight_bytes_of(start, end):
            self._say(task, f"there is too little memory to load it beside torch's for {report.backend}")
            return
        self._swap(task, manifest, best)

    def _swap(self, task: _Task, manifest: ModelManifest, found: Found) -> None:
        key, stage, loaded = found.key, task.message.stage, task.stage
        outputs = manifest.blocks[stage.end - 1].outputs
        self._artifacts.using(key, os.getpid())
        try:
            call = found.backend.load(self._artifacts.folder(key), outputs, found.report.precision, self._wish.threads)
        except Exception as error:  # where the child could load it
            self._artifacts.fail(key, f"it cannot be loaded ({type(error).__name__})")
            self._say(task, f"{found.backend.name}: {self._artifacts.failure(key)}")
            return
        eager = loaded.call

        def gave_up(reason: str) -> None:
            loaded.call = eager
            self._tasks.put(_Lost(key, reason))  # files are not the computing thread's business
            self._say(task, f"{found.backend.name}: {reason}")

        with self._lock:
            if stage not in self._wanted:
                self._artifacts.unused(key)
                return
            self._keys[stage] = key
            loaded.call = Guarded(call, eager, manifest.tolerance, gave_up=gave_up)
        self._say(task, "", found.report, lost=False)

    def _say(self, task: _Task, reason: str, report: Report | None = None, *, lost: bool = True) -> None:
        served = report is not None and not reason
        self._announce(
            Backed(
                stage=task.message.stage,
                backend=report.backend if served and report else "eager",
                precision=report.precision if served and report else "f32",
                reason=reason,
                lost=lost,
                eager_s=report.eager_s if report else 0.0,
                seconds=report.seconds if report else 0.0,
            )
        )
