from __future__ import annotations

import gc
import os
import weakref

import torch

from stageline_stage.executor.memory import give_back, settle
from stageline_stage.resources import resident_bytes

PIECES, PIECE_BYTES = 3000, 16 << 10


def test_what_is_free_in_the_middle_of_the_heap_goes_back_to_the_system() -> None:
    pieces = [torch.ones(PIECE_BYTES // 4) for _ in range(PIECES)]
    last = pieces.pop()
    full = resident_bytes(os.getpid())
    del pieces
    give_back()
    assert resident_bytes(os.getpid()) < full - PIECES * PIECE_BYTES // 2
    assert last.sum() == PIECE_BYTES // 4


def test_weights_of_modules_that_refer_to_themselves_are_freed() -> None:
    module = torch.nn.Linear(4, 4)
    module.itself = [module]  # type: ignore[assignment]
    weight = weakref.ref(module.weight)
    del module
    give_back()
    assert weight() is None


def test_the_collector_passes_over_what_was_there_at_the_start_and_takes_what_came_since() -> None:
    before = len(gc.get_objects())
    try:
        settle()
        assert len(gc.get_objects()) < before // 100
        module = torch.nn.Linear(4, 4)
        module.itself = [module]  # type: ignore[assignment]
        weight = weakref.ref(module.weight)
        del module
        give_back()
        assert weight() is None
    finally:
        gc.unfreeze()
