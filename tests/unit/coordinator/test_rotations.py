"""Keys that are changed: old and new are let in for a while, then the new one alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
from fleet import FakeAgent, Fleet

from stageline.curve import KeyPair
from stageline.errors import StagelineError
from stageline.keyfiles import add_node, init_keys, read_keyring, remove_node
from stageline.messages import ROTATES, Done, ErrorReply, KeyMade, KeyTaken, Leaving, MakeKey, RevokeKey, RotateKey
from stageline.wire import Message
from stageline_coordinator.authority import LOOK_S, Authority
from stageline_coordinator.door import KeyRequests
from stageline_coordinator.rotations import PATIENCE_S, Rotations
from stageline_coordinator.store import Store
from stageline_coordinator.tokens import Key, OldKey

NEW, NEWER = KeyPair.fresh().public, KeyPair.fresh().public
LEAVING = Leaving(name="box")
HOUR = 3600.0


@dataclass
class Setting:
    """A coordinator that lets `box` in, by its file, with a clock of its own."""

    store: Store
    directory: Path
    ahead_s: float = 0.0
    sent: list[tuple[str, Message]] = field(default_factory=list)

    def __post_init__(self) -> None:
        keyring = read_keyring(self.directory)
        assert keyring is not None
        self.keyring = keyring
        self.authority = Authority(
            self.directory, keyring, self.store.keys, self.store.old_keys, lambda: time.time() + self.ahead_s
        )
        self.requests = KeyRequests(self.store, keyring, self.authority, 1)
        self.old = next(key for key, one in keyring.principals.items() if one.name == "box")
        self.fleet = Fleet()
        agent = FakeAgent("box")
        self.fleet.say("agent:box", msgspec.structs.replace(agent.hello(), features=(ROTATES,)))
        self.fleet.say("agent:other", FakeAgent("other").hello())
        self.rotations = Rotations(self.requests, self._send, lambda peer, message, now: self._send(peer, message))

    def _send(self, peer: str, message: Message) -> None:
        self.sent.append((peer, message))

    def may_speak(self, key: bytes) -> bool:
        """Whether what comes over a connection of that key is listened to, whenever it was made."""
        return self.authority.refusal(f"node:box#{key.hex()}", "agent:box/i", LEAVING) is None

    def let_in(self, *keys: bytes) -> list[bool]:
        """Whether a new connection with each key is let in, and what comes over one of before listened to."""
        found = [self.keyring.admits("control", key)[0] == b"200" for key in keys]
        assert found == [self.may_speak(key) for key in keys]
        return found

    def ask(self, name: str = "box", overlap_s: float = HOUR) -> Message:
        self.rotations.ask("admin:x", RotateKey(id=3, name=name, overlap_s=overlap_s), self.fleet.cluster.members, 0.0)
        return self.sent[-1][1]


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    init_keys(tmp_path / "keys")
    add_node(tmp_path / "keys", "box")
    with Store(tmp_path / "data") as store:
        yield Setting(store, tmp_path / "keys/coordinator")


def test_both_keys_are_let_in_until_the_overlap_is_over(setting: Setting) -> None:
    assert setting.ask() == MakeKey()
    assert setting.let_in(setting.old, NEW) == [True, False]
    setting.rotations.made("agent:box", KeyMade(public=NEW), 1.0)
    assert setting.sent[-2:] == [("agent:box", KeyTaken(public=NEW)), ("admin:x", Done(id=3))]
    assert setting.let_in(setting.old, NEW) == [True, True]
    assert setting.authority.owners()["box"] == Key("box", NEW.hex())
    assert setting.authority.changed(LOOK_S) and not setting.authority.changed(2 * LOOK_S)
    setting.ahead_s = HOUR + 1
    assert setting.authority.changed(3 * LOOK_S), "nothing but time has passed"
    assert setting.let_in(setting.old, NEW) == [False, True]
    assert setting.authority.knows("box"), "so that nobody drops it"


def test_the_file_that_names_the_old_key_does_not_bring_it_back(setting: Setting) -> None:
    setting.requests.rotate(RotateKey(id=3, name="box", overlap_s=HOUR), NEW)
    setting.requests.rotate(RotateKey(id=3, name="box", overlap_s=HOUR), NEWER)
    assert setting.let_in(setting.old, NEW, NEWER) == [True, True, True]
    assert isinstance(setting.requests.answer(RevokeKey(id=4, name="box")), Done)
    setting.authority.read()
    assert setting.let_in(setting.old, NEW, NEWER) == [False, False, False]
    assert not setting.authority.knows("box")
    setting.store.put_key(Key("box", (fresh := KeyPair.fresh().public).hex()))
    setting.authority.read()
    assert setting.let_in(setting.old, NEW, NEWER, fresh) == [False, False, False, True]


def test_who_has_changed_its_key_goes_with_its_file_all_the_same(setting: Setting, tmp_path: Path) -> None:
    setting.requests.rotate(RotateKey(id=3, name="box", overlap_s=HOUR), NEW)
    remove_node(tmp_path / "keys", "box")
    setting.authority.read()
    assert setting.let_in(setting.old, NEW) == [False, False] and not setting.authority.knows("box")
    add_node(tmp_path / "keys", "box")
    setting.authority.read()
    assert setting.let_in(NEW) == [True], "and comes back with it"
    setting.store.put_key(Key("box", NEWER.hex()))  # it joined with a token
    remove_node(tmp_path / "keys", "box")
    setting.authority.read()
    assert setting.let_in(setting.old, NEW, NEWER) == [False, False, True]


def test_the_same_answer_twice_and_one_that_nobody_asked_for_change_nothing(setting: Setting) -> None:
    setting.rotations.made("agent:box", KeyMade(public=NEW), 1.0)
    assert setting.sent == [] and setting.store.old_keys() == ()
    for _ in range(2):
        setting.ask()
        setting.rotations.made("agent:box", KeyMade(public=NEW), 1.0)
        assert setting.sent[-1] == ("admin:x", Done(id=3))
    assert [old.public for old in setting.store.old_keys()] == [setting.old.hex()]


def test_what_cannot_be_is_told_in_one_line(setting: Setting) -> None:
    def refused(answer: Message) -> str:
        assert isinstance(answer, ErrorReply) and answer.id == 3 and "\n" not in answer.message
        return answer.message

    assert "between 5 s and 30 days" in refused(setting.ask(overlap_s=1.0))
    assert "no worker or gateway is called 'nobody'; there are: box, other" in refused(setting.ask("nobody"))
    assert "upgrade it first" in refused(setting.ask("other"))
    setting.ask()
    assert "already" in refused(setting.ask())
    setting.rotations.made("agent:box", KeyMade(error="cannot write /k: Read-only file system"), 1.0)
    assert "box cannot change its key: cannot write /k" in refused(setting.sent[-1][1])
    setting.ask()
    setting.rotations.made("agent:box", KeyMade(public=setting.keyring.coordinator), 1.0)
    assert "a key that cannot be" in refused(setting.sent[-1][1])
    setting.ask()
    setting.rotations.tick(PATIENCE_S)
    assert "did not answer" in refused(setting.sent[-1][1])
    setting.fleet.lose("box")
    assert "box is gone" in refused(setting.ask())
    assert setting.let_in(setting.old) == [True] and setting.store.old_keys() == ()
    bare = KeyRequests(setting.store, None, Authority(None, None), 0)
    with pytest.raises(StagelineError, match="no keys"):
        bare.check_rotation(RotateKey(id=3, name="box", overlap_s=HOUR))


def test_both_are_on_disk_and_reach_the_other_coordinator(tmp_path: Path) -> None:
    with Store(tmp_path / "a") as a, Store(tmp_path / "b") as b:
        a.put_key(Key("box", "aa"))
        a.rotate_key(Key("box", "bb"), OldKey("aa", "box", 5.0, filed=True))
        b.journal.merge(a.journal.since(0)[0])
        assert b.keys() == a.keys() == (Key("box", "bb"),)
        assert b.old_keys() == a.old_keys() == (OldKey("aa", "box", 5.0, filed=True),)
        a.put_key(Key("box", "bb", revoked=True))
        b.journal.merge(a.journal.since(0)[0])
        assert b.old_keys() == a.old_keys() == (OldKey("aa", "box", 0.0),)
