"""Plans on the control channel: prepare, commit, what executors do, what is measured."""

from __future__ import annotations

from stageline.messages.parts import BlockTime, ExecutorInfo, LinkTime
from stageline.plan import Endpoint, StageKey
from stageline.wire import Message


class Prepare(Message, frozen=True):
    """Load these stages for plan (term, version), keep what is loaded; answer `Prepared` or `PrepareFailed`."""

    term: int
    version: int
    stages: tuple[StageKey, ...]


class Prepared(Message, frozen=True):
    """Everything that `Prepare` named is loaded, each in `executors` order beside `stages`."""

    term: int
    version: int
    stages: tuple[StageKey, ...] = ()
    executors: tuple[str, ...] = ()


class PrepareFailed(Message, frozen=True):
    """A stage could not be loaded."""

    term: int
    version: int
    stage: StageKey
    code: str
    message: str


class Retire(Message, frozen=True):
    """Nothing uses older plans any more: unload all but `keep`."""

    term: int
    version: int
    keep: tuple[StageKey, ...]


class ExecutorUp(Message, frozen=True):
    """A new executor runs on the sender's node."""

    executor: ExecutorInfo


class ExecutorDown(Message, frozen=True):
    """An executor died or was killed for not answering. `computing` are the request ids of its current batch."""

    executor: str
    exit_code: int
    reason: str
    computing: tuple[int, ...] = ()


class ProfileRequest(Message, frozen=True):
    """Measure these blocks of the model, on synthetic weights, at these batch sizes."""

    manifest: str
    blocks: tuple[int, ...]
    batches: tuple[int, ...] = (1,)


class Profiled(Message, frozen=True):
    """Measured; an empty `error` means success."""

    manifest: str
    fingerprint: str
    times: tuple[BlockTime, ...] = ()
    error: str = ""


class ProbeRequest(Message, frozen=True):
    """Measure the link to `peer` (``role:name``), which answers at `endpoint`, for about `budget_s` seconds."""

    peer: str
    endpoint: Endpoint
    budget_s: float


class Probed(Message, frozen=True):
    """The link to `peer` was measured; `link` is missing where `error` says why not."""

    peer: str
    link: LinkTime | None = None
    error: str = ""
