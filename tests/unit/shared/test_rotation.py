"""A node's key changes: both are on disk until the coordinator knows the new one, and whichever it knows is found."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from stageline.curve import KeyPair, read_pair, read_public
from stageline.keyfiles import (
    COORDINATOR_PUBLIC,
    COORDINATOR_PUBLIC_NEXT,
    NODE_KEY,
    NODE_KEY_NEXT,
    add_node,
    init_keys,
    read_keyring,
)
from stageline.keyring import Keyring
from stageline.messages import KeyMade, KeyTaken, NextKey
from stageline.monitors import STRANGER, UNKNOWN_KEY
from stageline.rotation import Rotation

LIMIT_S = 20.0


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    init_keys(tmp_path)
    add_node(tmp_path, "box")
    return tmp_path / "nodes" / "box"


def keyring(directory: Path) -> Keyring:
    found = read_keyring(directory)
    assert found is not None
    return found


def made(rotation: Rotation) -> KeyMade:
    """What it answers, once its thread is done."""
    rotation.make()
    end = time.monotonic() + LIMIT_S
    while time.monotonic() < end:
        for answer in rotation.answers():
            return answer
    raise AssertionError("no answer")


def test_the_new_key_is_shown_once_it_is_let_in_and_stays_once_it_is_welcome(directory: Path) -> None:
    ring = keyring(directory)
    old, rotation = ring.own, Rotation(ring)
    answer = made(rotation)
    next_one = read_pair(directory / NODE_KEY_NEXT)[0]
    assert answer == KeyMade(public=next_one.public) and ring.own == old
    assert (directory / NODE_KEY_NEXT).stat().st_mode & 0o777 == 0o600
    rotation.welcomed()
    rotation.settle()
    assert ring.own == old == read_pair(directory / NODE_KEY)[0]
    assert not rotation.taken(KeyTaken(public=old.public)) and ring.own == old
    assert rotation.taken(KeyTaken(public=next_one.public)) and ring.own == next_one
    assert read_pair(directory / NODE_KEY)[0] == old, "not before it has been welcome"
    rotation.welcomed()
    rotation.settle()
    assert read_pair(directory / NODE_KEY)[0] == next_one and not (directory / NODE_KEY_NEXT).exists()
    rotation.refused(UNKNOWN_KEY)
    assert ring.own == next_one, "there is no other"


def test_who_was_cut_short_finds_the_key_that_the_coordinator_knows(directory: Path) -> None:
    first = made(Rotation(keyring(directory)))
    again = keyring(directory)  # another process: the answer may have come, or not
    old, rotation = again.own, Rotation(again)
    rotation.refused(UNKNOWN_KEY)
    assert again.own.public == first.public
    rotation.refused(UNKNOWN_KEY)
    assert again.own == old
    assert made(rotation) == first, "the pair that the coordinator may know is not thrown away"
    rotation.refused(UNKNOWN_KEY)
    rotation.welcomed()
    rotation.settle()
    assert read_pair(directory / NODE_KEY)[0].public == first.public == again.own.public


def test_the_coordinator_is_known_by_the_key_that_it_has_and_the_one_that_it_will_have(directory: Path) -> None:
    ring = keyring(directory)
    old, new, rotation = ring.coordinator, KeyPair.fresh().public, Rotation(ring)
    rotation.refused(STRANGER)
    assert ring.coordinator == old, "there is no other"
    rotation.announced(NextKey(public=new))
    rotation.settle()
    rotation.welcomed()
    assert (ring.coordinator, ring.successor) == (old, new)
    assert read_public(directory / COORDINATOR_PUBLIC_NEXT) == new
    again = keyring(directory)  # another process
    assert (again.coordinator, again.successor) == (old, new)
    later = Rotation(again)
    later.refused(STRANGER)
    assert (again.coordinator, again.successor) == (new, old)
    later.refused(STRANGER)
    later.refused(UNKNOWN_KEY)
    assert again.coordinator == old
    later.refused(STRANGER)
    later.welcomed()
    later.settle()
    assert read_public(directory / COORDINATOR_PUBLIC) == new and not (directory / COORDINATOR_PUBLIC_NEXT).exists()
    assert (again.coordinator, again.successor) == (new, b""), "the old one is trusted no more"


def test_what_cannot_be_written_is_told(directory: Path) -> None:
    rotation = Rotation(keyring(directory))
    (directory / NODE_KEY_NEXT).write_text("nonsense")
    (directory / NODE_KEY_NEXT).chmod(0o600)
    answer = made(rotation)
    assert not answer.public and str(directory / NODE_KEY_NEXT) in answer.error
    assert made(Rotation(None)).error and made(Rotation(Keyring(KeyPair.fresh(), b"c" * 32, "x"))).error
