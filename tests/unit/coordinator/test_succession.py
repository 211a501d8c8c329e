"""The coordinator's own next key: made and kept first, taken when it is time, whatever ends in between."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stageline.curve import read_pair
from stageline.errors import ClusterError
from stageline.keyfiles import COORDINATOR_KEY, COORDINATOR_KEY_NEXT, init_keys, read_keyring
from stageline_coordinator.store import Store
from stageline_coordinator.succession import Succession, take_next

LONG_S = 1000.0


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "data") as opened:
        yield opened


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    init_keys(tmp_path / "keys")
    return tmp_path / "keys" / "coordinator"


def own(directory: Path) -> bytes:
    keyring = read_keyring(directory)
    assert keyring is not None
    return keyring.own.public


def test_it_is_taken_at_the_start_after_its_time(
    store: Store, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, made = own(directory), Succession(directory, store)
    assert not made.public and not made.due
    new = made.begin(LONG_S)
    assert made.begin(LONG_S) == new == made.public and not made.due
    assert (directory / COORDINATOR_KEY_NEXT).stat().st_mode & 0o777 == 0o600
    take_next(directory, store)
    assert own(directory) == old and Succession(directory, store).public == new, "a restart meanwhile changes nothing"
    later = time.time() + LONG_S
    monkeypatch.setattr(time, "time", lambda: later)
    assert made.due and Succession(directory, store).due
    take_next(directory, store)
    assert own(directory) == new and not (directory / COORDINATOR_KEY_NEXT).exists()
    again = Succession(directory, store)
    assert not again.public and not again.due


def test_who_was_cut_short_after_taking_it_goes_on(store: Store, directory: Path) -> None:
    new = Succession(directory, store).begin(LONG_S)
    (directory / COORDINATOR_KEY_NEXT).replace(directory / COORDINATOR_KEY)
    take_next(directory, store)
    assert own(directory) == new and store.key_due() == 0.0 and not Succession(directory, store).due


def test_without_keys_there_is_nothing_to_change(store: Store) -> None:
    take_next(None, store)
    with pytest.raises(ClusterError, match="no keys"):
        Succession(None, store).begin(LONG_S)


def test_the_secret_is_in_its_file_alone(store: Store, directory: Path, tmp_path: Path) -> None:
    Succession(directory, store).begin(LONG_S)
    secret = read_pair(directory / COORDINATOR_KEY_NEXT)[0].secret
    kept = b"".join(path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file())
    assert secret not in kept and secret.hex().encode() not in kept
