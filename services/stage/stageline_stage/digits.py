"""A small residual network for scikit-learn's 8x8 handwritten digits: trained in seconds, cut like a large one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

from stageline_stage.importer.export import Signature

HELD_OUT = 360
BATCH_SIZE = 64


class Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut; `stride` 2 halves the image."""

    def __init__(self, channels_in: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(channels)
        same = stride == 1 and channels_in == channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels_in, channels, 1, stride=stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, channels_in, h, w] to [batch, channels, h / stride, w / stride]."""
        y = functional.relu(self.first_norm(self.first(x)))
        y = self.second_norm(self.second(y))
        return functional.relu(y + self.shortcut(x))


class DigitsNet(nn.Module):
    """`pixel_values` [batch, 1, 8, 8] in [0, 1] to logits [batch, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.stages = nn.Sequential(
            Residual(16, 16), Residual(16, 32, stride=2), Residual(32, 32), Residual(32, 64, stride=2), Residual(64, 64)
        )
        self.classifier = nn.Linear(64, 10)

    def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        """The logits, by name."""
        features = self.stages(self.stem(pixel_values)).mean(dim=(2, 3))
        return {"logits": self.classifier(features)}


@dataclass(frozen=True)
class TrainedDigits:
    """The trained network, its call signature, and the images that it never saw, with labels."""

    module: DigitsNet
    signature: Signature
    test_images: torch.Tensor
    test_labels: torch.Tensor
    accuracy: float


def train_digits(seed: int = 0, epochs: int = 10) -> TrainedDigits:
    """Train from scratch; the same seed and thread count give the same weights.

    `test_images` is float32 [360, 1, 8, 8] in [0, 1], `test_labels` int64 [360], `accuracy` the fraction of them
    that the network gets right.
    """
    images, labels = digits_data()
    train_images, train_labels = images[:-HELD_OUT], labels[:-HELD_OUT]
    test_images, test_labels = images[-HELD_OUT:], labels[-HELD_OUT:]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = DigitsNet()
        _fit(module, train_images, train_labels, epochs)
    module.eval()
    with torch.inference_mode():
        right = module(test_images)["logits"].argmax(dim=1) == test_labels
    signature = Signature.batched({"pixel_values": test_images[:2].clone()})
    return TrainedDigits(module, signature, test_images, test_labels, float(right.float().mean()))


def digits_data() -> tuple[torch.Tensor, torch.Tensor]:
    """All 1797 images, float32 [1797, 1, 8, 8] in [0, 1], and labels, in a fixed shuffled order."""
    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16.0
    return images[order], torch.tensor(data.target, dtype=torch.int64)[order]


def _fit(module: DigitsNet, images: torch.Tensor, labels: torch.Tensor, epochs: int) -> None:
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3, weight_decay=1e-2)
    steps = epochs * -(-len(images) // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=steps)
    module.train()
    for _ in range(epochs):
        for batch in torch.split(torch.randperm(len(images)), BATCH_SIZE):
            loss = functional.cross_entropy(module(images[batch])["logits"], labels[batch])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()


def digits(seed: int = 0) -> tuple[nn.Module, Signature]:
    """A factory for `stageline models add stageline_stage.digits:digits`: trains, then gives the network."""
    trained = train_digits(seed)
    return trained.module, trained.signature
