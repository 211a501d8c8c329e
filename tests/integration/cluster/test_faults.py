"""Workers and executors die or freeze under load: nothing is lost, nothing is answered wrongly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stageline.errors import UnavailableError

from .conftest import DEADLINE_S, Bench, question, signal_one, signal_worker, wait_until


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
def test_a_worker_is_lost_under_load(bench: Bench, number: signal.Signals) -> None:
    load = bench.load()
    victim = bench.victim()
    signal_worker(victim, number)
    assert load.outstanding >= 20
    wait_until("a plan without the victim", lambda: bench.serving_without(victim.node))
    before = load.answered()
    wait_until("answers flow again", lambda: load.answered() >= before + 100)
    assert bench.check(load.stop()) > 0, "the fault hit no request"
    if number == signal.SIGSTOP:
        signal_worker(victim, signal.SIGCONT)
        wait_until("the thawed worker is back", lambda: bench.nodes()[victim.node].state == "alive")
        again = bench.load()
        bench.check(again.stop())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
def test_an_executor_is_lost_under_load(bench: Bench, number: signal.Signals) -> None:
    load = bench.load()
    victim = bench.victim()
    (executor,) = victim.executors
    os.kill(executor.pid, number)
    wait_until(
        "the executor was replaced",
        lambda: [e.pid for e in bench.nodes()[victim.node].executors] not in ([], [executor.pid]),
    )
    with pytest.raises(ProcessLookupError):
        os.kill(executor.pid, 0)
    before = load.answered()
    wait_until("answers flow again", lambda: load.answered() >= before + 100)
    assert bench.check(load.stop()) > 0, "the fault hit no request"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
def test_an_agent_is_lost_under_load(bench: Bench, number: signal.Signals) -> None:
    load = bench.load()
    victim = bench.victim()
    signal_one(victim.pid, number)
    wait_until("a plan without the victim", lambda: bench.serving_without(victim.node))
    before = load.answered()
    wait_until("answers flow again", lambda: load.answered() >= before + 100)
    bench.check(load.stop())
    if number == signal.SIGSTOP:
        os.kill(victim.pid, signal.SIGCONT)
        wait_until("the thawed worker is back", lambda: bench.nodes()[victim.node].state == "alive")


def test_two_workers_die_at_once(bench: Bench) -> None:
    load = bench.load()
    first, second = (bench.nodes()[name] for name in bench.stage_nodes()[:2])
    signal_worker(first, signal.SIGKILL)
    signal_worker(second, signal.SIGKILL)
    wait_until(
        "a plan on the last worker", lambda: bench.serving_without(first.node) and bench.serving_without(second.node)
    )
    assert bench.check(load.stop()) > 0, "the fault hit no request"


def test_a_worker_leaves_on_sigterm_without_a_retry(bench: Bench) -> None:
    load = bench.load()
    victim = bench.victim()
    record = bench.cluster.state.process(victim.node)
    assert record is not None
    os.kill(record.pid, signal.SIGTERM)
    wait_until("the worker has left", lambda: bench.cluster.exited().get(victim.node) == 0)
    before = load.answered()
    wait_until("answers flow on", lambda: load.answered() >= before + 100)
    assert bench.check(load.stop()) == 0, "a drain must not make requests run twice"


def test_the_coordinator_restarts_without_disturbing_traffic(bench: Bench) -> None:
    load = bench.load()
    state = bench.cluster.state
    record = state.process("coordinator")
    assert record is not None
    plan = bench.plan()
    term = bench.admin.plan().term
    signal_one(record.pid, signal.SIGKILL)
    before = load.answered()
    wait_until("answers flow without it", lambda: load.answered() >= before + 300)
    ports = [address.rsplit(":", 1)[1] for address in (state.coordinator,)]
    command = [sys.executable, "-m", "stageline_coordinator", "--data-dir", state.data_dir, "--port", ports[0]]
    command += ["--plan-port", "0", "--blob-port", "0", "--http-port", "0"]
    with (Path(state.data_dir) / "logs" / "coordinator-2.log").open("wb") as log:
        again = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_until("all have joined the new one", lambda: joined(bench, term))
        after = load.answered()
        wait_until("answers flow on", lambda: load.answered() >= after + 300)
        assert bench.check(load.stop()) == 0, "the restart made requests run twice"
        placed, before = ([(s.start, s.end, s.replicas) for s in one.stages] for one in (bench.plan(), plan))
        assert placed == before, "the restart changed the plan"
    finally:
        again.terminate()
        again.wait(DEADLINE_S)


def joined(bench: Bench, old_term: int) -> bool:
    """Whether a coordinator of a later term sees all workers alive and serves the tower."""
    listing = bench.admin.nodes()
    return (
        listing.term > old_term
        and [row.state for row in listing.nodes] == ["alive"] * 3
        and bench.plan().status == "serving"
    )


@pytest.mark.parametrize("bench", [1], indirect=True)
def test_without_workers_requests_fail_in_time_and_service_resumes(bench: Bench) -> None:
    (victim,) = bench.nodes().values()
    bench.client.infer("tower", {"x": question(0)})
    signal_worker(victim, signal.SIGKILL)
    wait_until("the loss is known", lambda: bench.plan().status == "unavailable")
    with pytest.raises(UnavailableError) as caught:
        bench.client.infer("tower", {"x": question(1)}, deadline_s=0.5)
    assert "worker" in str(caught.value) or "node" in str(caught.value)
    waiting = bench.client.submit("tower", {"x": question(2)}, deadline_s=DEADLINE_S)
    bench.join("newcomer")
    outputs = waiting.result(DEADLINE_S).outputs["y"]
    assert outputs.shape == (1, 768)
    load = bench.load()
    bench.check(load.stop())
