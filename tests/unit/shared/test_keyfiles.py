"""Key files: made once, readable by their owner alone, one directory a service."""

from __future__ import annotations

from pathlib import Path

import pytest
import zmq

from stageline import curve
from stageline.config import StageConfig
from stageline.curve import KeyPair, read_pair, read_secret, write_pair, write_secret
from stageline.errors import ConfigError
from stageline.joining import advertised_host, node_keyring
from stageline.keyfiles import add_node, init_keys, read_keyring, read_principals, remove_node
from stageline.keyring import Principal


def test_keys_are_made_once_and_for_their_owner_alone(tmp_path: Path) -> None:
    made = [*init_keys(tmp_path), *add_node(tmp_path, "box-1")]
    names = {path.relative_to(tmp_path).as_posix() for path in made}
    assert names == {"coordinator/coordinator.key", "admin/admin.key", "nodes/box-1/node.key"}
    assert {path.stat().st_mode & 0o777 for path in made} == {0o600}
    before = [path.read_bytes() for path in made]
    assert init_keys(tmp_path) == [] and add_node(tmp_path, "box-1") == []
    assert [path.read_bytes() for path in made] == before


def test_each_service_reads_its_own_directory_and_trusts_the_same_coordinator(tmp_path: Path) -> None:
    init_keys(tmp_path)
    add_node(tmp_path, "box-1")
    coordinator, admin = read_keyring(tmp_path / "coordinator"), read_keyring(tmp_path / "admin")
    node = node_keyring(StageConfig(keys_dir=tmp_path / "nodes/box-1", name="box-1"))
    assert coordinator and admin and node
    assert coordinator.own.public == coordinator.coordinator == admin.coordinator == node.coordinator
    assert coordinator.principals == {
        coordinator.own.public: Principal("coordinator", "coordinator"),
        admin.own.public: Principal("admin", "admin"),
        node.own.public: Principal("node", "box-1"),
    }
    assert node.data.public != node.own.public, "what others see is new at every start"
    assert read_keyring(None) is None


def test_who_is_removed_is_let_in_no_more(tmp_path: Path) -> None:
    init_keys(tmp_path)
    add_node(tmp_path, "box-1")
    remove_node(tmp_path, "box-1")
    key = read_pair(tmp_path / "coordinator/coordinator.key")[0].public
    assert Principal("node", "box-1") not in read_principals(tmp_path / "coordinator", key).values()
    for name in ("box-1", "../admins/admin"):
        with pytest.raises(ConfigError, match="there are: none"):
            remove_node(tmp_path, name)


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "x" * 200, "a b"])
def test_a_name_is_no_path(tmp_path: Path, name: str) -> None:
    init_keys(tmp_path)
    with pytest.raises(ConfigError, match="cannot be the name"):
        add_node(tmp_path, name)


def test_a_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    write_secret(tmp_path / "token", "x\n")
    (tmp_path / "token").chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_secret(tmp_path / "token")


def test_an_existing_file_is_never_overwritten(tmp_path: Path) -> None:
    write_secret(tmp_path / "token", "x\n")
    with pytest.raises(ConfigError, match="cannot write"):
        write_secret(tmp_path / "token", "y\n")
    assert (tmp_path / "token").read_text() == "x\n"


@pytest.mark.parametrize("text", ["", "name x\n", "name x\npublic 00\nsecret 00\n"])
def test_a_damaged_key_file_says_so(tmp_path: Path, text: str) -> None:
    write_secret(tmp_path / "a.key", text)
    with pytest.raises(ConfigError, match=r"a\.key"):
        read_pair(tmp_path / "a.key")


def test_a_public_key_of_another_pair_is_found_out(tmp_path: Path) -> None:
    one, other = KeyPair.fresh(), KeyPair.fresh()
    write_pair(tmp_path / "a.key", KeyPair(one.public, other.secret), "a")
    with pytest.raises(ConfigError, match="damaged"):
        read_pair(tmp_path / "a.key")


def test_the_wrong_directory_says_what_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no key: name the directory of one service"):
        read_keyring(tmp_path)
    with pytest.raises(ConfigError, match="keys init"):
        add_node(tmp_path, "box-1")
    init_keys(tmp_path)
    add_node(tmp_path, "box-1")
    with pytest.raises(ConfigError, match="--name box-1"):
        node_keyring(StageConfig(keys_dir=tmp_path / "nodes/box-1", name="box-2"))


def test_a_libzmq_without_curve_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zmq, "has", lambda feature: False)
    with pytest.raises(ConfigError, match="built without CURVE"):
        curve.require_curve()


def test_a_secret_is_not_shown() -> None:
    pair = KeyPair.fresh()
    assert pair.secret.hex() not in repr(pair) and repr(pair.secret) not in repr(pair)


def test_the_advertised_host_is_found_where_all_interfaces_are_meant() -> None:
    assert advertised_host("0.0.0.0", "", "tcp://127.0.0.1:1,tcp://x:2") == "127.0.0.1"
    assert advertised_host("0.0.0.0", "box.example", "tcp://x:1") == "box.example"
    assert advertised_host("10.0.0.1", "", "tcp://x:1") == ""
