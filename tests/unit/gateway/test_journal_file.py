"""The journal on disk: what was synced is there again, whatever happened to the rest."""

from __future__ import annotations

import os
import random
import resource
import struct
import subprocess

import pytest

from stageline.errors import ConfigError
from stageline.protocol import Error, Infer, Result, TensorSpec
from stageline_gateway import journal_file
from stageline_gateway.journal_file import NAME, JournalFile
from stageline_gateway.journal_format import HEAD, MAGIC, Ended, Freed, Taken, frame, head


def taken(number, nbytes=100):
    infer = Infer(1, "m", (TensorSpec("x", "uint8", (1, nbytes)),), idempotency_key=f"k{number}")
    return Taken(number, 1e9, infer), [bytes([number % 256]) * nbytes]


def ended(number):
    return Ended(number, 1e9, result=Result(1, (TensorSpec("y", "uint8", (1, 3)),))), [b"abc"]


@pytest.fixture
def opened(tmp_path):
    """Opens the journal; whatever was open before is closed."""
    open_now = []

    def again():
        for old in open_now:
            old.close()
        open_now[:] = [JournalFile(tmp_path)]
        return open_now[0]

    yield again
    for old in open_now:
        old.close()


@pytest.fixture
def file_limit():
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda nbytes: resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def held(journal):
    """The requests and outcomes by number, with their bodies."""
    index = journal.contents.index
    return tuple({n: journal.body(span) for n, span in table.items()} for table in (index.taken, index.ended))


def test_what_was_appended_is_there_again(opened):
    journal = opened()
    journal.append([taken(1), taken(2)])
    journal.append([ended(1), taken(3), (Freed(2), [])])
    journal.append([(Ended(3, 5.0, error=Error(0, "failed", "it broke")), [])])
    again = opened()
    assert held(again) == ({1: b"\1" * 100, 3: b"\3" * 100}, {1: b"abc", 3: b""})
    assert again.contents.index.ended[3].record.error.message == "it broke"
    assert (again.contents.index.last, again.damaged) == (3, "")


def test_a_torn_record_at_the_end_is_cut_off_and_written_over(opened, tmp_path):
    journal = opened()
    journal.append([taken(1), taken(2, 5000)])
    whole = (tmp_path / NAME).read_bytes()
    for cut in (1, 4999, 5000, 5100, journal.contents.index.taken[2].nbytes - 1):
        (tmp_path / NAME).write_bytes(whole[:-cut])
        again = opened()
        assert list(held(again)[0]) == [1]
        assert again.damaged == ""
        again.append([taken(7)])
        assert list(held(opened())[0]) == [1, 7]


def test_a_damaged_record_costs_only_itself(opened, tmp_path):
    journal = opened()
    for number in range(1, 5):
        journal.append([taken(number)])
    start = journal.contents.index.taken[2].start
    whole = bytearray((tmp_path / NAME).read_bytes())
    for at in (start, start + 5, start + 9, start + 13, start + 40, start + 150):
        broken = bytearray(whole)
        broken[at] ^= 0x40
        (tmp_path / NAME).write_bytes(broken)
        again = opened()
        assert list(held(again)[0]) == [1, 3, 4], at
        assert "bytes are damaged" in again.damaged


def test_any_damage_loses_no_more_than_it_hits(opened, tmp_path):
    random_ = random.Random(5)
    journal = opened()
    journal.append([taken(number, 200) for number in range(1, 31)])
    spans = dict(journal.contents.index.taken)
    whole = (tmp_path / NAME).read_bytes()
    for _ in range(100):
        at, length = random_.randrange(HEAD.size, len(whole)), random_.randrange(1, 600)
        broken = whole[:at] + random_.randbytes(length) + whole[at + length :]
        (tmp_path / NAME).write_bytes(broken[: len(whole)])
        found = held(opened())[0]
        intact = {n for n, span in spans.items() if span.end <= at or span.start >= at + length}
        assert intact <= found.keys()
        assert all(body == bytes([n]) * 200 for n, body in found.items())


def test_a_client_cannot_forge_a_record(opened, tmp_path):
    _, pieces = frame(taken(99)[0], [bytes(100)], 0, 0)
    forged = b"".join(map(bytes, pieces))
    infer = Infer(1, "m", (TensorSpec("x", "uint8", (1, len(forged))),), idempotency_key="k")
    journal = opened()
    journal.append([(Taken(1, 1e9, infer), [forged])])
    broken = bytearray((tmp_path / NAME).read_bytes())
    broken[HEAD.size] ^= 1
    (tmp_path / NAME).write_bytes(broken)
    assert held(opened()) == ({}, {})


def test_it_is_rewritten_when_most_of_it_is_dead(opened, monkeypatch, tmp_path):
    monkeypatch.setattr(journal_file, "REWRITE_BYTES", 10_000)
    journal = opened()
    journal.append([taken(1), ended(1)])
    longest = 0
    for number in range(2, 80):
        journal.append([taken(number, 1000)])
        journal.append([ended(number), (Freed(number), [])])
        longest = max(longest, (tmp_path / NAME).stat().st_size)
    assert longest < 13_000
    assert held(opened()) == ({1: b"\1" * 100}, {1: b"abc"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lock", NAME]


def test_a_full_disk_is_an_error_and_then_it_goes_on(opened, file_limit, tmp_path):
    journal = opened()
    journal.append([taken(1)])
    file_limit(4096)
    for _ in range(3):
        with pytest.raises(OSError, match="too large"):
            journal.append([taken(2), taken(3, 10_000)])
    with pytest.raises(OSError, match="too large"):
        journal.make_room()
    journal.append([taken(4)])
    file_limit(resource.RLIM_INFINITY)
    journal.make_room()
    journal.append([taken(5, 10_000)])
    assert list(held(opened())[0]) == [1, 4, 5]


def test_no_room_for_a_rewrite_loses_nothing(opened, file_limit, monkeypatch, tmp_path):
    monkeypatch.setattr(journal_file, "REWRITE_BYTES", 0)
    journal = opened()
    journal.append([taken(1, 500)])
    monkeypatch.setattr(journal_file, "_create", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    for number in range(2, 12):
        journal.append([taken(number, 500)])
        journal.append([(Freed(number), [])])
    assert list(held(opened())[0]) == [1]


@pytest.fixture
def small_disk(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("a small disk needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={4 * journal_file.ROOM_BYTES}", "none", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_what_is_dead_does_not_fill_a_small_disk(small_disk):
    journal = JournalFile(small_disk)
    for number in range(1, 101):
        journal.append([taken(number, 100_000), (Freed(number - 1), [])])
    journal.close()
    again = JournalFile(small_disk)
    assert list(held(again)[0]) == [100]
    again.close()


@pytest.mark.parametrize("content", [b"", b"x", b"no journal at all, but a text", MAGIC + bytes(12)])
def test_what_is_no_journal_is_moved_away(opened, tmp_path, content):
    (tmp_path / NAME).write_bytes(content)
    journal = opened()
    assert "moved to requests.damaged" in journal.damaged
    assert (tmp_path / "requests.damaged").read_bytes() == content
    journal.append([taken(1)])
    assert list(held(opened())[0]) == [1]


def test_one_of_a_newer_version_is_left_alone(opened, tmp_path, monkeypatch):
    monkeypatch.setattr("stageline_gateway.journal_format.VERSION", 2)
    newer = head(7)
    monkeypatch.undo()
    (tmp_path / NAME).write_bytes(newer)
    with pytest.raises(ConfigError, match="version 2, this gateway reads up to 1: use the newer Stageline"):
        opened()
    assert (tmp_path / NAME).read_bytes() == newer


def test_a_directory_has_one_gateway(opened, tmp_path):
    opened()
    with pytest.raises(ConfigError, match="another gateway uses this directory"):
        JournalFile(tmp_path)


def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot use the directory"):
        JournalFile(tmp_path / "file" / "journal")


def test_the_bytes_are_pinned():
    span, pieces = frame(Freed(7), [], 0x01020304, 20)
    assert head(0x01020304).hex().startswith("5354474c4a524e4c" + "01000000" + "04030201")
    assert struct.unpack("<4sIII", pieces[0])[1:3] == (len(pieces[1]), 0)
    assert bytes(pieces[1]).hex() == "82a174a54672656564a66e756d62657207"
    assert (span.start, span.end) == (20, 20 + 16 + 17)
