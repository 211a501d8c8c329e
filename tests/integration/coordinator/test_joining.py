"""Joining a real coordinator with a token."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from stageline.admin import AdminClient
from stageline.cli import run
from stageline.config import StageConfig, load
from stageline.curve import read_pair
from stageline.embedded.processes import read_stat
from stageline.errors import ClusterError, ConfigError
from stageline.joining import join, node_keyring
from stageline.jointoken import JoinToken, read_token
from stageline.keyfiles import init_keys, read_keyring
from stageline.messages import CONTROL, Hello, NodeInfo
from stageline.sockets import Sockets
from stageline.wire import encode

from .conftest import Process, wait_until

CLIENT_S = 1.0


@pytest.fixture
def keyed(tmp_path: Path) -> Iterator[Process]:
    """A coordinator with keys."""
    init_keys(tmp_path / "keys")
    process = Process(tmp_path, keys_dir=tmp_path / "keys/coordinator", join_port=0)
    yield process
    if process.child.poll() is None:
        assert process.stop() == 0, process.log()
    assert "Traceback" not in process.log()


def admin(process: Process) -> AdminClient:
    return AdminClient(process.control, keys=process.data_dir / "keys/admin")


def token_of(process: Process, uses: int = 1, expires_s: float = 600.0) -> str:
    with admin(process) as client:
        return client.make_token(uses, expires_s)


def config(process: Process, name: str, token: str) -> StageConfig:
    return load(
        StageConfig,
        flags={"name": name, "coordinator": process.control, "keys_dir": process.data_dir / "own" / name},
        environ={"STAGELINE_JOIN_TOKEN": token},
    )


def greets(process: Process, config: StageConfig) -> bool:
    """Whether the coordinator answers who has these keys."""
    sockets = Sockets(keyring=node_keyring(config))
    try:
        socket = sockets.connect(CONTROL, config.coordinator, identity=f"agent:{config.name}/i".encode())
        node = NodeInfo(memory_bytes=1, fingerprint="f", device="cpu", host="h")
        socket.send(encode(Hello(role="agent", name=config.name, incarnation="i", node=node)))
        return bool(socket.poll(int(1000 * CLIENT_S)))
    finally:
        sockets.close()


def test_who_has_a_token_is_let_in_for_good(keyed: Process) -> None:
    box = config(keyed, "box", token_of(keyed))
    assert greets(keyed, box)
    files = sorted(path.name for path in (keyed.data_dir / "own/box").iterdir())
    assert files == ["coordinator.pub", "node.key"]
    keyed.kill()
    keyed.start()
    assert greets(keyed, box), "the token was used up, the key stays"


def test_a_replayed_token_is_refused_and_logged(keyed: Process) -> None:
    token = token_of(keyed)
    node_keyring(config(keyed, "box", token))
    with pytest.raises(ClusterError, match="used up"):
        node_keyring(config(keyed, "thief", token))
    assert "refused to let join" in keyed.log() and "used up" in keyed.log()
    (keyed.data_dir / "own/box/coordinator.pub").unlink()
    node_keyring(config(keyed, "box", token))  # its answer might have been lost


def test_a_bad_or_expired_token_and_a_taken_name_say_so(keyed: Process) -> None:
    made = read_token(token_of(keyed, uses=0))
    forged = JoinToken(made.coordinator, made.id, b"x" * 20, made.port)
    with pytest.raises(ClusterError, match="not one of this coordinator's"):
        node_keyring(config(keyed, "box", forged.text))
    node_keyring(config(keyed, "box", made.text))
    with pytest.raises(ClusterError, match="belongs to another key"):
        join(keyed.data_dir / "elsewhere", "box", keyed.control, made)
    short = token_of(keyed, expires_s=1e-6)
    with pytest.raises(ClusterError, match="expired"):
        node_keyring(config(keyed, "late", short))
    with pytest.raises(ConfigError, match="not whole"):
        node_keyring(config(keyed, "box-2", made.text[:-3]))


def test_a_token_made_beforehand_lets_in_any_number(keyed: Process, capsys: pytest.CaptureFixture[str]) -> None:
    port, files = read_token(token_of(keyed)).port, keyed.data_dir / "keys"
    assert run(["keys", "token", str(files), "--port", str(port)]) == 0
    token = capsys.readouterr().out.strip()
    assert all(greets(keyed, config(keyed, name, token)) for name in ("box-1", "box-2"))
    expired = JoinToken.beforehand(read_pair(files / "coordinator/coordinator.key")[0], port, expires=1)
    with pytest.raises(ClusterError, match="expired"):
        node_keyring(config(keyed, "late", expired.text))


def test_a_token_of_another_cluster_says_so(keyed: Process, tmp_path: Path) -> None:
    init_keys(tmp_path / "other")
    other = read_keyring(tmp_path / "other/coordinator")
    assert other is not None
    port = read_token(token_of(keyed)).port
    with pytest.raises(ClusterError, match="is not the coordinator that the join token is of"):
        node_keyring(config(keyed, "box", JoinToken.fresh(other.coordinator, port).text))


def test_a_revoked_node_is_refused_and_may_come_back_with_a_new_key(keyed: Process) -> None:
    box = config(keyed, "box", token_of(keyed, uses=0))
    assert greets(keyed, box)
    with admin(keyed) as client:
        client.revoke_key("box")
        wait_until("it is refused", lambda: not greets(keyed, box))
        assert "refused: the key is not known here" in keyed.log()
        with pytest.raises(ClusterError, match="no key of 'box' is let in"):
            client.revoke_key("box")
    (keyed.data_dir / "own/box/coordinator.pub").unlink()
    with pytest.raises(ClusterError, match="this key was revoked"):
        node_keyring(box)
    (keyed.data_dir / "own/box/node.key").unlink()
    assert greets(keyed, box)


def test_no_token_is_kept_in_the_clear(keyed: Process) -> None:
    token = read_token(token_of(keyed))
    with sqlite3.connect(keyed.data_dir / "coordinator.sqlite3") as database:
        rows = database.execute("SELECT * FROM tokens").fetchall()
    assert len(rows) == 1 and token.secret.hex() not in str(rows) and repr(token.secret) not in str(rows)
    assert token.secret.hex() not in keyed.log() and token.text not in keyed.log()


def test_without_keys_there_are_no_tokens(coordinator: Process) -> None:
    with coordinator.admin() as client, pytest.raises(ClusterError, match="no keys"):
        client.make_token()


def test_who_gets_no_answer_waits_for_the_coordinator(keyed: Process) -> None:
    token = token_of(keyed)
    os.kill(keyed.child.pid, signal.SIGSTOP)
    wait_until("it stands still", lambda: (stat := read_stat(keyed.child.pid)) is not None and stat.state == "T")
    thread = threading.Thread(target=node_keyring, args=(config(keyed, "box", token),))
    thread.start()
    wait_until("it has its own key", lambda: (keyed.data_dir / "own/box/node.key").exists())
    assert not (keyed.data_dir / "own/box/coordinator.pub").exists()
    os.kill(keyed.child.pid, signal.SIGCONT)
    thread.join(60.0)
    assert not thread.is_alive() and (keyed.data_dir / "own/box/coordinator.pub").exists()


def test_the_command_line_makes_tokens_and_revokes(keyed: Process, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--coordinator", keyed.control, "--keys-dir", str(keyed.data_dir / "keys/admin")]
    assert run(["nodes", "token", "--uses", "2", "--expires", "30m", *where]) == 0
    token = capsys.readouterr().out.strip()
    for name in ("box", "box-2"):
        assert greets(keyed, config(keyed, name, token))
    with pytest.raises(ClusterError, match="used up"):
        node_keyring(config(keyed, "box-3", token))
    assert run(["keys", "revoke", "box", *where]) == 0
    wait_until("it is refused", lambda: not greets(keyed, config(keyed, "box", token)))
    assert run(["nodes", "token", "--expires", "soon", *where]) == 2
    assert "--expires must look like 30m" in capsys.readouterr().err
