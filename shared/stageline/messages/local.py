"""Between an agent and its executors."""

from __future__ import annotations

from stageline.messages.parts import BlockTime, Passage, Progress
from stageline.plan import Endpoint, StageKey
from stageline.wire import Message


class ExecutorHello(Message, frozen=True):
    """An executor's sockets are bound and torch is imported. `memory_bytes`: the device's own (0: none).

    `hop_s`, `byte_s`: as in `NodeInfo`.
    """

    executor: str
    pid: int
    endpoint: Endpoint
    fingerprint: str
    device: str
    base_bytes: int = 0
    backend: str = ""
    memory_bytes: int = 0
    hop_s: float = 0.0
    byte_s: float = 0.0


class Load(Message, frozen=True):
    """Join these block graphs (files, in order) with these tensors (SHA-256 → file) and serve them as `stage`.

    `manifest`: the model's (a file), without which the stage is not compiled.
    """

    stage: StageKey
    graphs: tuple[str, ...]
    tensors: dict[str, str]
    manifest: str = ""


class Loaded(Message, frozen=True):
    """The stage answers from now on."""

    stage: StageKey
    seconds: float = 0.0


class LoadFailed(Message, frozen=True):
    """The stage could not be loaded."""

    stage: StageKey
    code: str
    message: str


class Backed(Message, frozen=True):
    """What runs the stage from the next batch on.

    `seconds`: at nominal sizes, where torch takes `eager_s` (0: unknown). `reason`: why no compiled stage runs it,
    where one was tried; `lost` if that is not as it should be.
    """

    stage: StageKey
    backend: str
    precision: str = "f32"
    reason: str = ""
    lost: bool = False
    eager_s: float = 0.0
    seconds: float = 0.0


class Unload(Message, frozen=True):
    """Forget the stage."""

    stage: StageKey


class Measure(Message, frozen=True):
    """Measure one block on synthetic weights; `dims` fixes the dynamic sizes."""

    manifest: str
    manifest_path: str
    block: int
    graph: str
    batches: tuple[int, ...]


class Measured(Message, frozen=True):
    """Answer to `Measure`; an empty `error` means success."""

    manifest: str
    block: int
    times: tuple[BlockTime, ...] = ()
    error: str = ""


class Beat(Message, frozen=True):
    """An executor's sign of life, sent by its I/O thread every 100 ms; `io_s`: processor time of that thread so far."""

    progress: Progress
    computing: tuple[int, ...] = ()
    passage: Passage | None = None
    io_s: float = 0.0


class Stop(Message, frozen=True):
    """Finish what is queued, then exit."""
