"""Stages loaded elsewhere serve when their own workers are lost: before there is a new plan, without a coordinator."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from stageline.demo.fault import read_gauge
from stageline.embedded.processes import group_members

from .conftest import Bench, Load, signal_one, signal_worker, wait_until


def guarded(bench: Bench) -> bool:
    """Whether the death of any worker leaves each stage with one that is alive."""
    stages = bench.plan().stages
    return len(stages) >= 2 and all({r.node for r in s.standbys} - {r.node for r in s.replicas} for s in stages)


@contextmanager
def no_new_plans(bench: Bench) -> Iterator[None]:
    """The coordinator lives, but its planner stands still."""
    record = bench.cluster.state.process("coordinator")
    assert record is not None
    children = [m.pid for m in group_members(record.pid, record.started) if m.pid != record.pid]
    assert children, "the coordinator has no planner"
    for pid in children:
        signal_one(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in children:
            os.kill(pid, signal.SIGCONT)


def on_standbys(bench: Bench) -> float:
    """Batches that the gateway sent to standbys."""
    record = bench.cluster.state.process("gateway")
    assert record is not None
    return read_gauge(record.http, "stageline_gateway_on_standbys_total", {})


def answers_flow(load: Load) -> None:
    """More are answered than were on their way."""
    enough = load.answered() + load.outstanding + 100
    wait_until("answers flow", lambda: load.answered() >= enough)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
def test_it_answers_before_there_is_a_new_plan(bench: Bench, number: signal.Signals) -> None:
    wait_until("standbys are ready", lambda: guarded(bench))
    load = bench.load()
    victim, epoch = bench.victim(), bench.admin.plan().epoch
    assert on_standbys(bench) == 0
    with no_new_plans(bench):
        signal_worker(victim, number)
        answers_flow(load)
        assert bench.admin.plan().epoch == epoch, "it was a new plan that answered"
        assert victim.node in bench.stage_nodes()
    wait_until("the gateway counts them", lambda: on_standbys(bench) > 0)
    wait_until("a plan without the victim", lambda: bench.serving_without(victim.node))
    wait_until("standbys for that plan", lambda: guarded(bench))
    answers_flow(load)
    repeated = bench.check(load.stop())
    assert repeated > 0 or number == signal.SIGKILL, "the frozen one was sent nothing before it was suspected"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
@pytest.mark.parametrize("stage", [0, 1, -1], ids=["first", "second", "last"])
def test_it_answers_while_the_coordinator_is_dead(bench: Bench, number: signal.Signals, stage: int) -> None:
    wait_until("standbys are ready", lambda: guarded(bench))
    load = bench.load()
    victim = bench.nodes()[bench.stage_nodes()[stage]]
    record = bench.cluster.state.process("coordinator")
    assert record is not None
    signal_one(record.pid, signal.SIGKILL)
    signal_worker(victim, number)
    answers_flow(load)
    wait_until("the gateway counts them", lambda: on_standbys(bench) > 0)
    assert bench.check(load.stop()) > 0, "the fault hit no request"
