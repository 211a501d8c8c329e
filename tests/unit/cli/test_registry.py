"""State files and processes: a dead or reused pid never counts as a running cluster."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from stageline.embedded import processes, shutdown, state
from stageline.embedded.processes import group_members, is_running, read_stat, signal_group
from stageline.embedded.state import ClusterState, ProcessRecord


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A group leader with one child; it prints when the child runs."""
    program = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'])\n"
        "print(child.pid, flush=True)\n"
        "child.wait()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, start_new_session=True) as child:
        assert child.stdout is not None
        child.stdout.readline()
        yield child
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def started(child: subprocess.Popen[bytes]) -> int:
    stat = read_stat(child.pid)
    assert stat is not None
    return stat.started


def record(child: subprocess.Popen[bytes], name: str = "coordinator") -> ProcessRecord:
    return ProcessRecord(name=name, role="coordinator", pid=child.pid, started=started(child), log="")


def cluster(tmp_path: Path, *records: ProcessRecord, identity: str = "c1", created: float = 1.0) -> ClusterState:
    (tmp_path / identity).mkdir(exist_ok=True)
    return ClusterState(
        id=identity,
        data_dir=str(tmp_path / identity),
        boot=processes.boot_id(),
        created=created,
        coordinator="tcp://127.0.0.1:1",
        processes=records,
    )


def test_a_process_is_known_by_its_start_time(sleeper: subprocess.Popen[bytes]) -> None:
    assert is_running(sleeper.pid, started(sleeper))
    assert not is_running(sleeper.pid, started(sleeper) - 1)
    assert not is_running(1 << 30, 1)


def test_a_group_is_found_and_ended_with_its_children(sleeper: subprocess.Popen[bytes]) -> None:
    begun = started(sleeper)
    assert len(group_members(sleeper.pid, begun)) == 2
    assert group_members(sleeper.pid, begun - 1) == []
    assert signal_group(sleeper.pid, begun, signal.SIGKILL)
    sleeper.wait()
    gone = ProcessRecord(name="x", role="stage", pid=sleeper.pid, started=begun, log="")
    assert shutdown._wait([gone], shutdown._lives, 10, int) == []
    assert not signal_group(sleeper.pid, begun, signal.SIGKILL)


def test_running_clusters_are_listed_newest_first(sleeper: subprocess.Popen[bytes], tmp_path: Path) -> None:
    old = cluster(tmp_path, record(sleeper), identity="old", created=1.0)
    new = cluster(tmp_path, record(sleeper), identity="new", created=2.0)
    for one in (new, old):
        state.save(one)
    assert state.running() == [new, old]
    assert state.find(tmp_path / "old") == old


def test_what_ended_or_is_another_boot_does_not_run(sleeper: subprocess.Popen[bytes], tmp_path: Path) -> None:
    alive = cluster(tmp_path, record(sleeper))
    assert alive.alive
    assert not msgspec.structs.replace(alive, boot="another").alive
    reused = msgspec.structs.replace(alive.processes[0], started=1)
    state.save(msgspec.structs.replace(alive, processes=(reused,)))
    assert state.running() == []
    assert state.find(tmp_path / "c1") is None


def test_a_damaged_file_counts_for_nothing(tmp_path: Path) -> None:
    state.registry_dir().mkdir(parents=True)
    (state.registry_dir() / "x.json").write_text("{")
    assert state.running() == []
    assert state.find(tmp_path) is None


def test_stop_ends_everything_and_forgets_it(sleeper: subprocess.Popen[bytes], tmp_path: Path) -> None:
    one = cluster(tmp_path, record(sleeper))
    state.save(one)
    (tmp_path / "c1/run").mkdir()
    assert shutdown.stop(one, reap=sleeper.poll) == ["coordinator"], "its child does not end by itself"
    assert group_members(sleeper.pid, one.processes[0].started) == []
    assert list((tmp_path / "c1").iterdir()) == []
    assert list(state.registry_dir().iterdir()) == []
    assert shutdown.stop(one) == []


def test_forgetting_leaves_the_files_of_a_successor(tmp_path: Path) -> None:
    first = cluster(tmp_path)
    successor = msgspec.structs.replace(first, id="c2")
    state.save(successor)
    state.forget(first)
    assert state.load(tmp_path / "c1" / state.STATE_FILE) == successor
