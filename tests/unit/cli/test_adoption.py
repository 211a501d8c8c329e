"""Who took the place of a process that ended: only a live service of that role, and what the coordinator calls so."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from stageline.cli.processes import process_rows
from stageline.embedded import shutdown
from stageline.embedded.adoption import adopt
from stageline.embedded.processes import boot_id, read_stat
from stageline.embedded.state import ClusterState, ProcessRecord
from stageline.messages import GatewayRow, NodeList, NodeRow

ENDED = 1 << 30
"""A pid that no process has."""

Start = Callable[[str], int]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts what looks like a service, stubborn and in the group of the tests; returns its pid."""
    with ExitStack() as stack:

        def started(service: str) -> int:
            program = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); signal.pause()"
            child = stack.enter_context(
                subprocess.Popen([sys.executable, "-c", program, f"/usr/bin/{service}"], stdout=subprocess.PIPE)
            )
            stack.callback(child.kill)
            assert child.stdout is not None
            child.stdout.readline()
            return child.pid

        yield started


def state(**records: ProcessRecord) -> ClusterState:
    return ClusterState(
        id="c", data_dir="/none", boot=boot_id(), created=0.0, coordinator="tcp://127.0.0.1:1",
        processes=tuple(records.values()),
    )  # fmt: skip


def ended() -> ClusterState:
    return state(
        coordinator=ProcessRecord(
            name="coordinator", role="coordinator", pid=ENDED, started=1, log="", address="tcp://127.0.0.1:1"
        ),
        gateway=ProcessRecord(name="gateway", role="gateway", pid=ENDED, started=1, log=""),
        stage=ProcessRecord(name="stage-0", role="stage", pid=ENDED, started=1, log=""),
    )


def test_what_was_started_by_hand_is_shown_in_the_place_of_what_ended(start: Start) -> None:
    pids = [start(f"stageline-{role}") for role in ("coordinator", "gateway", "stage")]
    listing = NodeList(
        id=1, pid=pids[0],
        gateways=(GatewayRow(name="gateway", state="alive", pid=pids[1], client_address="127.0.0.1:2"),),
        nodes=(NodeRow(node="stage-0", state="suspect", incarnation="i", pid=pids[2]),),
    )  # fmt: skip
    rows = process_rows(adopt(ended(), listing), listing)
    assert [(row["name"], row["pid"], row["state"], row["address"]) for row in rows] == [
        ("coordinator", pids[0], "running", "tcp://127.0.0.1:1"),
        ("gateway", pids[1], "alive", "127.0.0.1:2"),
        ("stage-0", pids[2], "suspect", ""),
    ]


def test_nobody_elses_process_is_adopted(start: Start) -> None:
    gone = NodeRow(node="stage-0", state="gone", incarnation="i", pid=start("stageline-stage"))
    listing = NodeList(
        id=1, pid=start("editor"), nodes=(gone,), gateways=(GatewayRow(name="gateway", state="alive", pid=ENDED - 1),)
    )
    assert adopt(ended(), listing) == ended()


def test_what_still_runs_is_not_replaced(start: Start) -> None:
    pid = start("stageline-coordinator")
    stat = read_stat(pid)
    assert stat is not None
    running = state(it=ProcessRecord(name="coordinator", role="coordinator", pid=pid, started=stat.started, log=""))
    assert adopt(running, NodeList(id=1, nodes=(), pid=start("stageline-coordinator"))) == running


def test_an_adopted_process_is_stopped_though_it_leads_no_group(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutdown, "GRACE_S", dict.fromkeys(shutdown.GRACE_S, 0.0))
    monkeypatch.setattr(shutdown, "ORPHANS_S", 0.0)
    pid = start("stageline-coordinator")
    adopted = adopt(ended(), NodeList(id=1, nodes=(), pid=pid))
    assert shutdown.stop(adopted) == ["coordinator"]
    assert not adopted.processes[0].running
