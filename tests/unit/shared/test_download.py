from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stageline.download import Download
from stageline.messages import BLOB_CHUNK_BYTES, BlobChunk, BlobGet

MIB = BLOB_CHUNK_BYTES
A, B = "a" * 64, "b" * 64


def answer(request: BlobGet, total: int) -> tuple[BlobChunk, int]:
    nbytes = max(0, min(request.length, total - request.offset))
    return BlobChunk(id=request.id, sha256=request.sha256, offset=request.offset, total=total), nbytes


@given(
    totals=st.lists(st.integers(0, 6 * MIB), min_size=1, max_size=4),
    have=st.lists(st.integers(0, 6 * MIB), min_size=4, max_size=4),
    window=st.integers(1, 5),
    losses=st.sets(st.integers(0, 30), max_size=5),
)
def test_every_byte_arrives_once_and_in_order(
    totals: list[int], have: list[int], window: int, losses: set[int]
) -> None:
    sizes = {f"{i}" * 64: total for i, total in enumerate(totals)}
    begun = {sha: min(have[i], size) for i, (sha, size) in enumerate(sizes.items())}
    written, complete = dict(begun), set()
    download = Download(begun, window=window)
    pending: list[BlobGet] = []
    for turn in range(200):
        if download.done:
            break
        pending += download.requests()
        assert 0 < len(pending) <= window
        if turn in losses:
            pending.clear()
            download.lost(written)
            continue
        request = pending.pop(0)
        arrived = download.arrived(*answer(request, sizes[request.sha256]))
        assert arrived is not None and arrived.offset == written[arrived.sha256]
        written[arrived.sha256] += min(MIB, sizes[arrived.sha256] - arrived.offset)
        if arrived.complete:
            complete.add(arrived.sha256)
    assert complete == set(sizes) and written == sizes


def test_only_the_first_chunk_is_asked_for_until_the_size_is_known() -> None:
    download = Download({A: 0})
    (first,) = download.requests()
    assert download.requests() == []
    download.arrived(*answer(first, 3 * MIB))
    assert [r.offset for r in download.requests()] == [MIB, 2 * MIB]


def test_a_resumed_download_asks_for_the_rest() -> None:
    (request,) = Download({A: 123}).requests()
    assert request.offset == 123


def test_answers_to_lost_questions_are_ignored() -> None:
    download = Download({A: 0})
    (old,) = download.requests()
    download.lost({A: 0})
    assert download.arrived(*answer(old, 10)) is None
    (new,) = download.requests()
    assert new.id != old.id
    assert download.arrived(*answer(new, 10)) is not None and download.done


def test_a_short_answer_is_followed_by_a_question_for_what_is_missing() -> None:
    download = Download({A: 0})
    (first,) = download.requests()
    download.arrived(BlobChunk(id=first.id, sha256=A, offset=0, total=2 * MIB), 10)
    (second,) = download.requests()
    download.arrived(*answer(second, 2 * MIB))
    assert [r.offset for r in download.requests()] == [10]


def test_a_damaged_blob_starts_over() -> None:
    download = Download({A: 0, B: 0})
    first, second = download.requests()
    download.arrived(*answer(first, 10))
    download.restart(A, 0)
    (again,) = download.requests()
    assert (again.sha256, again.offset) == (A, 0)
    download.arrived(*answer(second, 10))
    download.arrived(*answer(again, 10))
    assert download.done
