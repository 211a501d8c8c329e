"""A cluster with keys, under load: who joins, dies, is revoked or restarts loses nothing, and strangers stay out."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import zmq

from stageline.admin import AdminClient
from stageline.curve import KeyPair, read_pair
from stageline.embedded.processes import read_stat
from stageline.errors import ForbiddenError, NoClusterError
from stageline.keyfiles import COORDINATOR, COORDINATOR_KEY, NODES, remove_node
from stageline.keyring import Keyring
from stageline.messages import CONTROL, DATA, FromCoordinator, Hello, NodeInfo, PutModel, Refused
from stageline.monitors import refusal
from stageline.sockets import Sockets
from stageline.wire import Decoder, encode

from .conftest import Bench, signal_one, signal_worker, wait_until

REFUSED = "refused: the key is not known here"
WAIT_MS = 10_000


def logs(bench: Bench) -> dict[str, str]:
    """What each process has logged."""
    return {path.stem: path.read_text() for path in (Path(bench.cluster.state.data_dir) / "logs").glob("*.log")}


def test_who_joins_or_dies_under_load_costs_no_answer_and_nobody_known_is_refused(keyed: Bench) -> None:
    load = keyed.load()
    keyed.join("late")
    wait_until("the new worker is here", lambda: (row := keyed.nodes().get("late")) and row.state == "alive")
    assert not any(REFUSED in text for text in logs(keyed).values()), "a key was used before all had been told of it"
    victim = keyed.victim()
    signal_worker(victim, signal.SIGKILL)
    wait_until("a plan without it", lambda: keyed.serving_without(victim.node))
    after = load.answered()
    wait_until("answers go on", lambda: load.answered() > after + 100)
    assert keyed.check(load.stop()) >= 0


def test_a_restarted_coordinator_finds_everybody_again(keyed: Bench) -> None:
    load = keyed.load()
    coordinator = keyed.cluster.state.process("coordinator")
    assert coordinator is not None
    term = keyed.admin.plan().term
    signal_one(coordinator.pid, signal.SIGKILL)
    port = keyed.cluster.state.coordinator.rpartition(":")[2]
    command = [sys.executable, "-m", "stageline_coordinator", "--data-dir", keyed.cluster.state.data_dir]
    command += ["--port", port, "--plan-port", "0", "--blob-port", "0", "--http-port", "0", "--rejoin-ms", "1500"]
    command += ["--keys-dir", str(Path(keyed.cluster.state.keys) / COORDINATOR)]
    with (Path(keyed.cluster.state.data_dir) / "logs" / "again.log").open("wb") as log:
        keyed._extra.append(subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True))
    wait_until("the new term serves", lambda: serves_later(keyed, term))
    after = load.answered()
    wait_until("answers go on", lambda: load.answered() > after + 100)
    keyed.check(load.stop())


def test_keys_change_under_load_and_no_answer_is_lost(keyed: Bench) -> None:
    """Old and new are let in for a while, then the new one alone; who starts anew has it."""
    names, folder = ["stage-0", "stage-1", "stage-2", "gateway"], Path(keyed.cluster.state.keys) / NODES
    old = {name: read_pair(folder / name / "node.key")[0] for name in names}
    load = keyed.load()
    keyed.admin.rotate_key("stage-0", overlap_s=6.0)
    assert answers(keyed, old["stage-0"]), "the old key is let in, too"
    for name in names[1:]:
        keyed.admin.rotate_key(name, overlap_s=6.0)
    for name in names:
        wait_until(f"{name} has its key", lambda name=name: read_pair(folder / name / "node.key")[0] != old[name])
    wait_until("the old key is let in no more", lambda: not answers(keyed, old["stage-0"]))
    assert answers(keyed, read_pair(folder / "stage-0" / "node.key")[0])
    after = load.answered()
    wait_until("answers go on", lambda: load.answered() > after + 100)
    assert all(row.state == "alive" for row in keyed.nodes().values())
    victim = keyed.victim()
    signal_worker(victim, signal.SIGKILL)
    wait_until("a plan without it", lambda: keyed.serving_without(victim.node))
    keyed.join(victim.node)
    wait_until("it is back, with its new key", lambda: keyed.nodes()[victim.node].state == "alive")
    the_coordinators_changes(keyed)
    after = load.answered()
    wait_until("answers go on", lambda: load.answered() > after + 100)
    keyed.check(load.stop())
    secrets = [read_pair(path)[0].secret.hex() for path in folder.rglob("node.key")]
    assert not [one for one in secrets for text in logs(keyed).values() if one in text]


def the_coordinators_changes(keyed: Bench) -> None:
    """Everybody who was here when it was announced knows it by its new key, and by that alone."""
    before, term = coordinator_key(keyed), keyed.admin.plan().term
    new = keyed.admin.rotate_coordinator(5.0)
    keyed.admin.close()
    pid = keyed.cluster.state.process("coordinator")
    wait_until("it has its new key", lambda: coordinator_key(keyed) == new)
    keyed.admin = AdminClient(keyed.cluster.state.coordinator, timeout_s=60.0, keys=keyed.cluster.state.admin_keys)
    wait_until("it leads again", lambda: keyed.admin.plan().term > term)
    wait_until("all are here", lambda: all(row.state == "alive" for row in keyed.nodes().values()))
    wait_until("the tower is served", lambda: keyed.plan().status == "serving")
    assert pid is not None and lives(pid.pid) and before != new
    for name in ("stage-0", "gateway"):
        told = Path(keyed.cluster.state.keys) / NODES / name / "coordinator.pub"
        wait_until(f"{name} has it on disk", lambda told=told: told.read_text().strip() == new.hex())


def lives(pid: int) -> bool:
    """Whether the process is there."""
    stat = read_stat(pid)
    return stat is not None and not stat.dead


def answers(bench: Bench, pair: KeyPair) -> bool:
    """Whether the coordinator speaks with who has this key of stage-0's, and claims to be a second one of that name."""
    made = Sockets(keyring=Keyring(pair, coordinator_key(bench), "stage-0"))
    try:
        socket = made.connect(CONTROL, bench.cluster.state.coordinator, identity=b"agent:stage-0/other")
        info = NodeInfo(memory_bytes=1, fingerprint="f", device="cpu", host="h")
        socket.send(encode(Hello(role="agent", name="stage-0", incarnation="other", node=info)))
        for _ in range(WAIT_MS // 50):
            if socket.poll(50):
                return True
            if refusal(socket):
                return False
        return False
    finally:
        made.close()


def serves_later(bench: Bench, term: int) -> bool:
    """Whether a plan of a later term is in force; what was asked of a dead coordinator is not answered."""
    try:
        return bench.admin.plan().term > term and bench.plan().status == "serving"
    except NoClusterError:
        return False


def test_a_revoked_worker_is_dropped_and_not_let_in_again(keyed: Bench) -> None:
    load = keyed.load()
    victim = keyed.victim()
    remove_node(Path(keyed.cluster.state.keys), victim.node)
    wait_until("a plan without it", lambda: keyed.serving_without(victim.node))
    assert keyed.nodes()[victim.node].state == "gone"
    wait_until("its new connections are refused", lambda: REFUSED in logs(keyed)["coordinator"])
    assert "the key of this worker or gateway was revoked" in logs(keyed)[victim.node]
    wait_until("it sees why", lambda: "does not know our key" in logs(keyed)[victim.node])
    keyed.check(load.stop())


def test_without_its_keys_nobody_administers_the_cluster(unhurt: Bench) -> None:
    control = unhurt.cluster.state.coordinator
    with pytest.raises(NoClusterError):
        AdminClient(control, timeout_s=1.0)
    wait_until("a plain-text peer is logged", lambda: "speaks without keys" in logs(unhurt)["coordinator"])
    stranger = Sockets(keyring=Keyring(KeyPair.fresh(), coordinator_key(unhurt)))
    try:
        socket = stranger.connect(CONTROL, control, identity=b"admin:stranger")
        socket.send(encode(Hello(role="admin", name="stranger", incarnation="i")))
        wait_until("a stranger is logged", lambda: REFUSED in logs(unhurt)["coordinator"])
        assert not socket.poll(200)
    finally:
        stranger.close()


def test_a_workers_key_opens_nothing_but_a_workers_part(unhurt: Bench) -> None:
    control = unhurt.cluster.state.coordinator
    pair, name = read_pair(Path(unhurt.cluster.state.keys) / NODES / "stage-0" / "node.key")
    decode: Decoder[object] = Decoder(FromCoordinator)
    made = Sockets(keyring=Keyring(pair, coordinator_key(unhurt), name))
    try:
        for identity, message in (
            (b"admin:x", Hello(role="admin", name="x", incarnation="i")),
            (b"agent:stage-1/i", Hello(role="agent", name="stage-1", incarnation="i")),
        ):
            socket = made.connect(CONTROL, control, identity=identity)
            socket.send(encode(message))
            assert socket.poll(WAIT_MS)
            refused = decode(socket.recv())
            assert isinstance(refused, Refused) and refused.code == ForbiddenError.code
        socket = made.connect(CONTROL, control, identity=b"agent:stage-0/other")
        socket.send(encode(PutModel(id=1, manifest="0" * 64)))
        assert socket.poll(WAIT_MS) and b"only an administrator's key" in socket.recv()
    finally:
        made.close()


def test_a_stranger_reaches_no_executor(unhurt: Bench) -> None:
    endpoint = unhurt.nodes()["stage-0"].executors[0].endpoint
    stranger = Sockets(keyring=Keyring(KeyPair.fresh(), coordinator_key(unhurt)))
    plain = Sockets()
    try:
        push = stranger.connect(DATA, endpoint.tcp)
        naked = plain.connect(DATA, endpoint.tcp.partition("?")[0])
        wait_until(
            "both are logged",
            lambda: REFUSED in logs(unhurt)["stage-0"] and "speaks without" in logs(unhurt)["stage-0"],
        )
        assert not push.poll(200, zmq.POLLOUT) and not naked.poll(0, zmq.POLLOUT)
    finally:
        stranger.close()
        plain.close()


def test_no_secret_is_among_arguments_or_in_logs(unhurt: Bench) -> None:
    directory = Path(unhurt.cluster.state.keys)
    secrets = [read_pair(path)[0].secret.hex() for path in directory.rglob("*.key")]
    assert len(secrets) == 6, "coordinator, administrator, gateway and three workers"
    pids = [process.pid for process in unhurt.cluster.state.processes]
    pids += [executor.pid for node in unhurt.nodes().values() for executor in node.executors]
    told = [Path(f"/proc/{pid}/cmdline").read_text() for pid in pids] + list(logs(unhurt).values())
    assert not [secret for secret in secrets for text in told if secret in text]


def coordinator_key(bench: Bench) -> bytes:
    """Its public key."""
    return read_pair(Path(bench.cluster.state.keys) / COORDINATOR / COORDINATOR_KEY)[0].public
