"""What the owner of a key may say."""

from __future__ import annotations

from pathlib import Path

import pytest

from stageline.errors import ForbiddenError
from stageline.keyfiles import add_node, init_keys, read_keyring, remove_node
from stageline.messages import ErrorReply, Follow, GetPlan, Hello, Leaving, ListModels, PutModel, Refused, Standing
from stageline.wire import Message
from stageline_coordinator.authority import LOOK_S, Authority

FOLLOW = Follow(standing=Standing(coordinator=1, cluster="", schema=1, address="a", blobs="b"))


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    init_keys(tmp_path)
    add_node(tmp_path, "box")
    directory = tmp_path / "coordinator"
    return Authority(directory, read_keyring(directory))


@pytest.mark.parametrize(
    ("user", "identity", "message"),
    [
        ("node:box", "agent:box/i", Hello(role="agent", name="box", incarnation="i")),
        ("node:box", "gateway:box", Leaving(name="box")),
        ("node:box", "gateway:box/i", GetPlan(id=1)),
        ("admin:admin", "admin:cli-1", PutModel(id=1, manifest="m")),
        ("coordinator:coordinator", "coordinator:00001", FOLLOW),
    ],
)
def test_what_each_role_may_say(authority: Authority, user: str, identity: str, message: Message) -> None:
    assert authority.refusal(user, identity, message) is None


@pytest.mark.parametrize(
    ("user", "identity", "message", "wanted"),
    [
        ("node:box", "agent:other/i", Leaving(name="other"), "start it with --name box"),
        ("node:box", "admin:box", ListModels(id=7), "--name box"),
        ("node:box", "agent:box/i", PutModel(id=7, manifest="m"), "only an administrator's key"),
        ("node:box", "gateway:box/i", ListModels(id=7), "only an administrator's key"),
        ("node:box", "agent:box/i", FOLLOW, "only an administrator's key"),
        ("node:box", "coordinator:00001", FOLLOW, "--name box"),
        ("admin:admin", "agent:box/i", Leaving(name="box"), "cannot speak as agent"),
        ("admin:admin", "coordinator:00001", FOLLOW, "cannot speak as coordinator"),
        ("node:gone", "agent:gone/i", Leaving(name="gone"), "let in no more"),
        ("", "admin:x", ListModels(id=7), "let in no more"),
        ("nonsense", "admin:x", ListModels(id=7), "let in no more"),
    ],
)
def test_what_each_role_may_not_say(
    authority: Authority, user: str, identity: str, message: Message, wanted: str
) -> None:
    answer = authority.refusal(user, identity, message)
    assert isinstance(answer, ErrorReply if hasattr(message, "id") else Refused)
    assert answer.code == ForbiddenError.code and wanted in answer.message


def test_only_administrators_store_blobs(authority: Authority) -> None:
    assert authority.blobs("admin:admin") == (True, True)
    assert authority.blobs("node:box") == authority.blobs("coordinator:coordinator") == (True, False)
    assert authority.blobs("node:gone") == authority.blobs("") == (False, False)


def test_files_that_come_and_go_are_noticed(authority: Authority, tmp_path: Path) -> None:
    assert not authority.changed(0.0) and authority.knows("box")
    add_node(tmp_path, "new")
    assert not authority.changed(LOOK_S / 2), "not looked at all the time"
    assert authority.changed(LOOK_S) and authority.knows("new")
    remove_node(tmp_path, "box")
    assert authority.changed(2 * LOOK_S) and not authority.knows("box")
    assert authority.refusal("node:box", "agent:box", Leaving(name="box")) is not None


def test_a_half_written_file_changes_nothing_yet(authority: Authority, tmp_path: Path) -> None:
    authority.changed(0.0)
    (tmp_path / "coordinator/nodes/half.pub").write_text("ab")
    assert not authority.changed(1.0) and authority.knows("box") and not authority.knows("half")


def test_without_keys_everybody_may_say_anything() -> None:
    authority = Authority(None, None)
    assert authority.refusal("", "admin:x", PutModel(id=1, manifest="m")) is None
    assert not authority.changed(0.0)
