from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import torch

from stageline.checksum import MARK
from stageline.data import DATA_VERSION, Activation, Failure, Hop, Tensor, decode_frames
from stageline.errors import ManifestError
from stageline.plan import StageKey
from stageline_stage.blackbox import BlackBox
from stageline_stage.executor.batches import Batch, Outgoing, is_out_of_memory, next_message, reason_of
from stageline_stage.executor.cancelled import Cancelled
from stageline_stage.executor.compute import LONG_S, Computer
from stageline_stage.executor.device import CpuRunner, Finished
from stageline_stage.executor.outbox import Outbox
from stageline_stage.executor.queue import WorkQueue, urgency_of
from stageline_stage.executor.stages import LoadedStage

KEY = StageKey(manifest="a" * 64, start=0, end=1)


class Log:
    """Swallows what is logged."""

    def warning(self, *_: object, **__: object) -> None:
        """Nothing."""


class Carrier:
    """Stands in for `Traffic`: nothing comes, what is sent is kept."""

    full = False

    def __init__(self) -> None:
        self.cancelled = Cancelled()
        self.sent: list[Any] = []
        self.lent = 0
        self.sent_at_last_turn = -1

    def turn(self) -> bool:
        self.sent_at_last_turn = len(self.sent)
        return False

    def send(self, outgoing: Outgoing, header: Activation) -> None:
        self.sent.append(outgoing)

    def while_lent(self, run: Callable[[], Any]) -> Any:
        self.lent += 1
        return run()


class Timed(CpuRunner):
    """Says that every batch took so long."""

    def __init__(self, seconds: float) -> None:
        super().__init__(torch.device("cpu"))
        self.seconds = seconds

    def start(self, stage: Any, inputs: Any) -> Finished:
        return Finished(list(stage(*inputs)), self.seconds)


def header(hop: int = 0, ids: tuple[int, ...] = (1, 2)) -> Activation:
    path = (Hop(KEY, "ipc://@stageline-a", "n1", "e1"), Hop(KEY, "ipc://@stageline-b", "n2", "e2"))
    values = (Tensor("float32", (len(ids), 1)),)
    return Activation(DATA_VERSION, "g", 7, ids, (1,) * len(ids), 1, (1, 1), path, hop, "tcp://127.0.0.1:9", values)


def decoded(outgoing: Any) -> Any:
    assert isinstance(outgoing, Outgoing)
    return decode_frames(outgoing.frames)


def compute(
    stage: Any, *batches: Batch, blackbox: BlackBox | None = None, carrier: Any = None, runner: Any = None
) -> tuple[list[Any], Computer]:
    box = blackbox or BlackBox.create()
    loaded = LoadedStage(stage) if stage else None
    queue: WorkQueue[Any] = WorkQueue()
    carrier = carrier or Carrier()
    for batch in batches:
        queue.put(urgency_of(0, 0), batch)
    queue.close()
    computer = Computer(
        node="n1",
        executor="e1",
        queue=queue,
        stages=type("Stages", (), {"get": lambda _, key: loaded})(),
        runner=runner or CpuRunner(torch.device("cpu")),
        traffic=carrier,
        outbox=Outbox(),
        blackbox=box,
        log=Log(),  # type: ignore[arg-type]
    )
    computer.run()
    return carrier.sent, computer


def batch() -> Batch:
    return Batch(header(), [torch.ones(2, 1).numpy().data], 0.0)


def test_the_outcome_goes_to_the_next_hop_and_the_last_to_the_gateway() -> None:
    first = next_message(header(0), [torch.ones(2, 3)], 0.5, 0.25)
    assert first.address == "ipc://@stageline-b"
    following, (buffer,) = decoded(first)
    assert following.hop == 1 and following.values == (Tensor("float32", (2, 3)),) and len(buffer) == 24
    assert (following.timings[0].queue_us, following.timings[0].compute_us) == (500_000, 250_000)
    last = next_message(following, [torch.ones(2, 1)], 0.0, 0.0)
    assert last.address == "tcp://127.0.0.1:9"
    assert decoded(last)[0].finished and len(decoded(last)[0].timings) == 2


def test_while_a_stage_runs_its_requests_are_noted() -> None:
    box, seen = BlackBox.create(), []

    def stage(x: torch.Tensor) -> tuple[torch.Tensor]:
        seen.append(box.read())
        return (x,)

    _, computer = compute(stage, batch(), blackbox=box)
    assert seen == [(1, 2)] and box.read() == ()
    assert computer.activity.items_done == 2 and computer.activity.computing == ()


def test_a_stage_that_is_not_loaded_is_a_retryable_failure() -> None:
    (posted,), _ = compute(None, batch())
    failure, _ = decoded(posted)
    assert isinstance(failure, Failure) and failure.code == "not_loaded" and failure.retryable
    assert posted.address == "tcp://127.0.0.1:9" and failure.batch == 7


@pytest.mark.parametrize(
    ("error", "code", "retryable"), [(RuntimeError("bad"), "failed", False), (MemoryError(), "out_of_memory", True)]
)
def test_an_error_of_a_stage_fails_its_batch_only(error: Exception, code: str, retryable: bool) -> None:
    outcomes = [error, None]

    def stage(x: torch.Tensor) -> tuple[torch.Tensor]:
        outcome = outcomes.pop(0)
        if outcome is not None:
            raise outcome
        return (x + 1,)

    (failed, fine), _ = compute(stage, batch(), batch())
    failure, _ = decoded(failed)
    assert failure.code == code and failure.retryable is retryable and failure.node == "n1"
    assert decoded(fine)[0].hop == 1


@pytest.mark.parametrize(("seconds", "lent"), [(LONG_S, 3), (LONG_S / 2, 1)])
def test_the_sockets_are_lent_while_a_stage_runs_that_is_long_or_new(seconds: float, lent: int) -> None:
    carrier = Carrier()
    compute(lambda x: (x,), batch(), batch(), batch(), carrier=carrier, runner=Timed(seconds))
    assert carrier.lent == lent and len(carrier.sent) == 3


def test_before_it_ends_it_looks_at_the_sockets_once_more() -> None:
    carrier = Carrier()
    compute(lambda x: (x,), batch(), carrier=carrier)
    assert carrier.sent_at_last_turn == 1


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (RuntimeError("sizes 3 and 4 differ\nException raised from /build/x.cpp"), "sizes 3 and 4 differ"),
        (RuntimeError("cannot open /home/someone/file"), "RuntimeError"),
        (ValueError(""), "ValueError"),
        (ManifestError("a block has 3/4 inputs"), "a block has 3/4 inputs"),
    ],
)
def test_clients_see_no_paths(error: Exception, text: str) -> None:
    assert reason_of(error) == text


def test_running_out_of_memory_is_recognised() -> None:
    assert is_out_of_memory(RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"))
    assert is_out_of_memory(RuntimeError("CUDA out of memory. Tried to allocate"))
    assert not is_out_of_memory(RuntimeError("shapes differ"))


@pytest.mark.parametrize(("hop", "checked"), [(0, (False, True)), (0, (True, False)), (1, (False, False))])
def test_the_outcome_bears_a_checksum_where_its_receiver_asks_for_one(hop: int, checked: tuple[bool, bool]) -> None:
    came = header(hop)
    path = tuple(msgspec.structs.replace(one, checked=wants) for one, wants in zip(came.path, checked, strict=True))
    came = msgspec.structs.replace(came, path=path, reply_checked=not checked[1])
    outgoing = next_message(came, [torch.zeros(2, 1)], 0.0, 0.0)
    assert (bytes(outgoing.frames[0])[0] == MARK) is (checked[1] if hop == 0 else True)


def test_a_batch_that_nobody_waits_for_is_not_computed_but_answered_for() -> None:
    ran = []
    carrier = Carrier()
    carrier.cancelled.add("g", 7)
    (posted,), computer = compute(lambda x: ran.append(x) or (x,), batch(), carrier=carrier)
    failure, _ = decoded(posted)
    assert isinstance(failure, Failure) and (failure.code, failure.batch) == ("cancelled", 7)
    assert ran == [] and computer.activity.items_done == 0
    assert len(compute(lambda x: (x,), batch(), carrier=carrier)[0]) == 2, "that was said of one batch only"
