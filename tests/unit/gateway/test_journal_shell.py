"""What the journal does when its disk does not take what it writes."""

from __future__ import annotations

import asyncio
import resource

import pytest

from stageline import logs
from stageline.errors import FailedError
from stageline.protocol import Infer, TensorSpec
from stageline_gateway import events as ev
from stageline_gateway.journal import Journal

INFER = Infer(1, "m", (TensorSpec("x", "uint8", (1, 100)),), idempotency_key="k")
PATIENCE_S = 20.0
LIMIT = 1 << 20  # what the tests' output is far from


@pytest.fixture
def full_at():
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda nbytes: resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def _fail_and_work_again(folder, full_at):
    said = asyncio.Queue()
    journal = Journal(asyncio.get_running_loop(), folder, said.put_nowait, logs.get(service="test"))
    try:
        full_at(LIMIT)
        journal.record(ev.Record(1, INFER, [bytes(2 * LIMIT)], 1e9))
        await asyncio.sleep(0)  # it is being written
        journal.outcome(ev.RecordOutcome(1, FailedError("it broke"), 1e9))
        assert isinstance(await asyncio.wait_for(said.get(), PATIENCE_S), ev.RecordingFailed)
        full_at(resource.RLIM_INFINITY)
        assert isinstance(await asyncio.wait_for(said.get(), PATIENCE_S), ev.RecordingWorks)
        journal.record(ev.Record(2, INFER, [bytes(100)], 1e9))
        assert await asyncio.wait_for(said.get(), PATIENCE_S) == ev.Recorded((2,))
    finally:
        await journal.close()


def test_an_outcome_that_comes_while_a_write_fails_does_not_keep_it_from_trying_again(tmp_path, full_at):
    asyncio.run(_fail_and_work_again(tmp_path, full_at))
