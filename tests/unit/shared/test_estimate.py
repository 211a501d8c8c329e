"""Medians with a stated error: what the interval leaves out, and that it covers the truth as often as promised."""

from __future__ import annotations

import random

import pytest

from stageline.estimate import UNKNOWN, estimate


def test_few_samples_give_their_whole_range() -> None:
    three = estimate([3.0, 1.0, 2.0])
    assert (three.value, three.error) == (2.0, 0.5)
    assert estimate([1.0, 2.0, 3.0, 6.0]).value == 2.5


def test_one_sample_says_nothing_of_its_error() -> None:
    assert (estimate([4.0]).value, estimate([4.0]).error) == (4.0, UNKNOWN)


def test_more_samples_leave_the_extremes_out() -> None:
    steady = [10.0, 10.1, 9.9, 10.0, 10.2, 9.8, 10.0, 500.0]
    assert estimate(steady).error < 0.05
    assert estimate([*steady[:4], 500.0]).error > 1


def test_equal_and_zero_samples_have_no_error() -> None:
    assert estimate([2.0] * 9).error == 0.0
    assert (estimate([0.0, 0.0, 1.0]).value, estimate([0.0, 0.0, 1.0]).error) == (0.0, 0.0)


@pytest.mark.parametrize("count", [5, 8, 9, 20, 25])
def test_the_interval_covers_the_true_median_in_nine_of_ten_cases(count: int) -> None:
    draw = random.Random(count)
    covered = 0
    for _ in range(2000):
        samples = sorted(draw.expovariate(1.0) for _ in range(count))
        half_width = estimate(samples).error * estimate(samples).value
        # the interval lies between two samples that are twice the half width apart
        ends = next((a, z) for a, z in zip(samples, reversed(samples), strict=True) if z - a <= 2 * half_width + 1e-12)
        covered += ends[0] <= 0.6931471805599453 <= ends[1]
    assert covered >= 0.88 * 2000
