"""A model that is imported in a moment, for the soak: ``faults.small:small``."""

from __future__ import annotations

import torch

from stageline_stage.importer import Signature

WIDTH, LAYERS = 512, 8


def small(seed: int = 0) -> tuple[torch.nn.Module, Signature]:
    """8.4 MB of layers: float32 (batch, 512) in and out."""
    torch.manual_seed(seed)
    layers = [one for _ in range(LAYERS) for one in (torch.nn.Linear(WIDTH, WIDTH), torch.nn.ReLU())]
    return torch.nn.Sequential(*layers).eval(), Signature.batched({"input": torch.zeros(2, WIDTH)})
