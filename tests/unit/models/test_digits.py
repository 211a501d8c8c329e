"""The demo's network: trained in seconds, the same every time, cut like a large one."""

from __future__ import annotations

from typing import Any

import torch

from stageline_stage.digits import train_digits


def test_digits(bring: Any) -> None:
    trained = train_digits(seed=0)
    assert trained.accuracy > 0.97
    assert trained.test_images.shape == (360, 1, 8, 8)
    model = bring("digits", trained.module, trained.signature)
    assert len(model.manifest.blocks) >= 5
    for batch in (1, 3, 8):
        model.check({"pixel_values": trained.test_images[:batch]}, model.random_cuts(batch, 2))


def test_training_is_seeded() -> None:
    first, same, other = (train_digits(seed, epochs=1) for seed in (1, 1, 2))
    weights = [trained.module.classifier.weight for trained in (first, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
