"""The coordinator dies at every step of a commit, and inside SQLite's own writing: the next one goes on from there."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stageline.blobs import BlobStore
from stageline.plan import ModelPlan, Plan, Signature
from stageline.wire import encode
from stageline_coordinator.store import Store

from .conftest import Peer, Process
from .models import register, serving, two_blocks

STEPS = [f"{when} {what}" for what in ("disk", "plan", "digest", "retire") for when in ("before", "after")]
TORN = [0, 1, 24, 1000, 4119]
"""Bytes of SQLite's write-ahead log that are written before the end: the commit is one frame of 24 + 4096."""


class Dying(Process):
    """Dies at `step`; whoever comes after it on its directory does not."""

    step = ""

    def spawn(self, *arguments: str) -> subprocess.Popen[bytes]:
        if not self.step:
            return super().spawn(*arguments)
        command = [sys.executable, str(Path(__file__).parent / "dying.py"), self.step]
        return self.launch(command, *arguments)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], Dying]]:
    made: list[Dying] = []

    def begin(step: str) -> Dying:
        Dying.step = step
        made.append(Dying(tmp_path))
        Dying.step = ""
        return made[0]

    yield begin
    for process in made:
        if process.child.poll() is None:
            assert process.stop() == 0, process.log()


@pytest.mark.parametrize("step", [*STEPS, *(f"disk {nbytes}" for nbytes in TORN)])
def test_it_dies_in_a_commit_and_the_next_one_serves(
    start: Callable[[str], Dying], step: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    model = two_blocks(BlobStore(tmp_path_factory.mktemp("model")))
    coordinator = start(step)
    register(coordinator, model)
    peer = Peer(coordinator.control, coordinator.ready["plan"])
    try:
        peer.hello()
        peer.until("it has died", lambda: coordinator.child.poll() is not None)
        died_of = signal.SIGXFSZ if step.startswith("disk ") else signal.SIGKILL
        assert coordinator.child.returncode == -died_of
        coordinator.start()
        peer.hello()
        peer.until("the model is served", lambda: serving(peer, 2))
        check_epochs(peer)
        assert peer.loaded, "what serves is loaded"
    finally:
        peer.sockets.close()


def check_epochs(peer: Peer) -> None:
    """No plan is followed by an older one, and no two are called the same."""
    plans = [plan for plan in peer.of(Plan) if plan.version]
    epochs = [plan.epoch for plan in plans]
    assert epochs == sorted(epochs)
    for plan in plans:
        assert all(other == plan for other in plans if other.epoch == plan.epoch)


WRITER = """
import resource, signal, sys
from pathlib import Path
import msgspec
from stageline.plan import ModelPlan, Plan, Signature
from stageline.wire import encode
from stageline_coordinator.store import Store
from stageline_coordinator.database import DATABASE
from stageline_coordinator.store import Store

folder, plan, how, nbytes = Path(sys.argv[1]), Path(sys.argv[2]).read_bytes(), sys.argv[3], int(sys.argv[4])
store = Store(folder)

def limit(size):
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

if how == "commit":
    limit((folder / (DATABASE + "-wal")).stat().st_size + nbytes)
store.put_plan(msgspec.msgpack.decode(plan, type=Plan))
print("committed", flush=True)
if how == "checkpoint":
    limit(nbytes)
store.close()
"""


def large(version: int) -> Plan:
    """A plan of many pages."""
    models = (ModelPlan(f"m{i}-{version}", "ab" * 32, Signature((), ()), "unavailable", "x" * 300) for i in range(60))
    return Plan(term=1, version=version, models=tuple(models))


@pytest.mark.parametrize("how", ["commit", "checkpoint"])
def test_it_dies_while_sqlite_writes_many_pages(tmp_path: Path, how: str) -> None:
    folder, file = tmp_path / "data", tmp_path / "plan"
    with Store(folder) as store:
        term = store.begin_term()
        store.put_plan(large(1))
    version, before, torn = 1, large(1), 0
    for nbytes in range(0, 60_000, 3_500):
        version += 1
        file.write_bytes(encode(large(version)))
        command = [sys.executable, "-c", WRITER, str(folder), str(file), how, str(nbytes)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode in (0, -signal.SIGXFSZ), done.stderr
        committed = "committed" in done.stdout
        assert committed or (how, done.returncode) == ("commit", -signal.SIGXFSZ)
        torn += done.returncode != 0
        with Store(folder) as store:
            assert store._db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert store.plan() == large(version) if committed else store.plan() in (before, large(version))
            before = store.plan() or before
            assert store.begin_term() > term
            term += 1
    assert torn >= 5, "it died in the middle"
