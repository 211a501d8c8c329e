"""Every decoder with inputs near valid ones; `make fuzz` goes on for longer, guided by coverage."""

from __future__ import annotations

from random import Random

import pytest
from forms import flipped, mutated
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from targets import TARGETS, Target


@pytest.fixture(params=sorted(TARGETS))
def target(request: pytest.FixtureRequest) -> Target:
    return TARGETS[request.param]


def test_seeds_are_valid(target: Target) -> None:
    """The first is accepted as it is, and all have the target's form: what starts from rubbish never gets far."""
    first, *others = target.seeds()
    target.read(first)
    for data in (first, *others):
        target.run(data)
        assert target.form is None or target.form.pack(target.form.parse(data))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.binary(max_size=200))
@example(data=b"")
def test_any_bytes(target: Target, data: bytes) -> None:
    target.run(data)


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 1 << 32), rounds=st.integers(1, 5))
def test_neighbours_of_valid_inputs(target: Target, seed: int, rounds: int) -> None:
    rng = Random(seed)
    data = rng.choice(target.seeds())
    for _ in range(rounds):
        data = mutated(target.form, data, rng, lambda old: flipped(old, rng))
    target.run(data)
