"""The checks themselves: every kind of false outcome is told apart and counted."""

from __future__ import annotations

import numpy as np
import pytest
from faults.ledger import Ledger
from faults.model import MARK, Judge, Marked
from faults.rig import compare
from faults.service import Figures


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge(seed=3)


def test_every_request_is_counted_once_in_what_became_of_it() -> None:
    ledger = Ledger(deadline_s=10.0, slack_s=1.0)
    for number in range(1, 9):
        ledger.send(number, 0.0)
        ledger.accept(number, 0.1)
    ledger.answer(1, 1.0, attempts=1, wrong="")
    ledger.answer(2, 1.0, attempts=2, wrong="false numbers")
    ledger.answer(3, 1.0, attempts=1, wrong="stolen from 1")
    ledger.answer(3, 1.1, attempts=1, wrong="")
    ledger.error(4, 1.0, "rejected", "full", retryable=True, retry_after_ms=50.0)
    ledger.error(5, 1.0, "deadline", "passed", retryable=False, retry_after_ms=None)
    ledger.error(6, 1.0, "failed", "broken", retryable=False, retry_after_ms=None)
    ledger.answer(7, 11.5, attempts=1, wrong="")
    ledger.answer(99, 1.0, attempts=1, wrong="")
    tally = ledger.tally()
    assert (tally.sent, tally.accepted, tally.answered) == (8, 8, 4)
    assert (tally.refused, tally.expired, tally.failed, tally.lost) == (1, 1, 1, 1)
    assert (tally.wrong, tally.stolen, tally.repeated, tally.late) == (2, 1, 1, 1)
    assert tally.for_good == 0
    assert tally.duplicated == 2, "one answered twice, and one that nobody asked for"
    assert ledger.unsettled() == [8]
    assert ledger.outstanding == 1


@pytest.mark.parametrize(
    ("retryable", "retry_after_ms", "for_good"), [(True, 500.0, 0), (True, None, 1), (True, 0.0, 1), (False, 500.0, 1)]
)
def test_a_refusal_has_to_say_when_to_come_back(retryable: bool, retry_after_ms: float | None, for_good: int) -> None:
    ledger = Ledger(deadline_s=10.0, slack_s=1.0)
    ledger.send(1, 0.0)
    ledger.error(1, 1.0, "unavailable", "no", retryable=retryable, retry_after_ms=retry_after_ms)
    assert (ledger.tally().refused, ledger.tally().for_good) == (1, for_good)


def test_when_what_was_under_way_had_ended() -> None:
    ledger = Ledger(deadline_s=10.0, slack_s=1.0)
    for number in (1, 2):
        ledger.send(number, 0.0)
    ledger.answer(2, 3.0, attempts=1, wrong="")
    assert ledger.settled_after([1, 2]) is None
    ledger.error(1, 2.0, "deadline", "passed", retryable=False, retry_after_ms=None)
    assert ledger.settled_after([1, 2]) == 3.0


def test_the_right_answer_is_right(judge: Judge) -> None:
    import torch

    with torch.no_grad():
        answer = Marked().eval()(torch.from_numpy(judge.question(5)))["y"].numpy()
    assert np.array_equal(answer[0, :MARK], judge.question(5)[0, :MARK]), "the watermark passes unchanged"
    assert judge(5, answer).right


def test_an_answer_to_another_request_is_known_by_its_watermark(judge: Judge) -> None:
    import torch

    judge.question(6)
    with torch.no_grad():
        other = Marked().eval()(torch.from_numpy(judge.question(6 + 256)))["y"].numpy()
    verdict = judge(6, other)
    assert verdict.stolen, "the two inputs differ in nothing but their watermarks"
    assert verdict.owner == 6 + 256


@pytest.mark.parametrize("place", [0, MARK - 1, MARK, 767])
def test_a_flipped_bit_is_seen_wherever_it_matters(judge: Judge, place: int) -> None:
    import torch

    with torch.no_grad():
        answer = Marked().eval()(torch.from_numpy(judge.question(7)))["y"].numpy().copy()
    answer[0, place] += 0.01
    verdict = judge(7, answer)
    assert not verdict.right
    assert not verdict.stolen


@pytest.mark.parametrize("shape", [(2, 768), (1, 767), (768,)])
def test_an_answer_of_another_shape_is_wrong(judge: Judge, shape: tuple[int, ...]) -> None:
    assert not judge(7, np.zeros(shape, dtype=np.float32)).right


def test_what_stays_above_the_baseline_is_named() -> None:
    before = Figures(processes=2, threads=10, descriptors=50, resident_bytes=100 << 20)
    assert not compare("x", before, before)
    after = Figures(processes=3, threads=20, descriptors=90, resident_bytes=300 << 20)
    named = [line.split()[2].strip(",") for line in compare("x", before, after)]
    assert named == ["processes", "threads", "descriptors", "MiB"]
