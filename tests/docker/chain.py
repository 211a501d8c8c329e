"""A network to emulate: as many equal layers as there are nodes, so that each of them gets one."""

from __future__ import annotations

import torch
from torch import nn

LAYERS, WIDTH = 4, 1536


def make() -> tuple[nn.Module, tuple[torch.Tensor]]:
    """Its weights do not matter."""
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS))), (torch.zeros(2, WIDTH),)
