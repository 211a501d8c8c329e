"""A network whose answers say whose they are: a watermark passes through every layer unchanged, bit by bit."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from stageline.blobs import BlobStore
from stageline.manifest import ModelManifest
from stageline_stage.importer import Signature, import_module

NAME = "marked"
WIDTH = 768
MARK = 16
BLOCKS = 6
BASES = 256
TOLERANCE = 1e-4

Floats = npt.NDArray[np.float32]


class Marked(torch.nn.Module):
    """Residual layers that neither change the first `MARK` numbers of an item nor read them: x + tanh(0) is x."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        layers = [torch.nn.Linear(WIDTH, WIDTH) for _ in range(BLOCKS)]
        self.layers = torch.nn.ModuleList(layers)
        with torch.no_grad():
            for layer in layers:
                layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) * WIDTH**-0.5)
                layer.weight[:MARK] = 0
                layer.weight[:, :MARK] = 0
                layer.bias.zero_()

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        for layer in self.layers:
            x = x + torch.tanh(layer(x))
        return {"y": x}


def import_marked(folder: Path) -> tuple[BlobStore, ModelManifest]:
    """The network in a blob store of its own."""
    store, signature = BlobStore(folder), Signature.batched({"x": torch.zeros(2, WIDTH)})
    return store, import_module(Marked().eval(), signature, name=NAME, store=store)


@dataclass(frozen=True)
class Verdict:
    """`right`, or what is wrong: the answer to request `owner` (`stolen`), or false numbers."""

    right: bool
    owner: int = -1
    stolen: bool = False


class Judge:
    """Makes the input of request `number` and judges its answer; no two inputs are alike."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        bases = np.random.default_rng(seed).standard_normal((BASES, WIDTH)).astype(np.float32)
        bases[:, :MARK] = 0
        self._bases = bases
        with torch.no_grad():
            self._expected: Floats = Marked().eval()(torch.from_numpy(bases))["y"].numpy()
        self._allowed = TOLERANCE * (1 + np.abs(self._expected))
        self._owners: dict[bytes, int] = {}

    def question(self, number: int) -> Floats:
        """Shape (1, WIDTH): one of `BASES` vectors, behind the request's own watermark."""
        x: Floats = self._bases[number % BASES : number % BASES + 1].copy()
        x[0, :MARK] = self._mark(number)
        self._owners[x[0, :MARK].tobytes()] = number
        return x

    def __call__(self, number: int, answer: npt.NDArray[Any]) -> Verdict:
        """Judge the answer to request `number`."""
        if answer.shape != (1, WIDTH) or answer.dtype != np.float32:
            return Verdict(False)
        mark = answer[0, :MARK].tobytes()
        if mark != self._mark(number).tobytes():
            owner = self._owners.get(mark, -1)
            return Verdict(False, owner, owner >= 0)
        base = number % BASES
        off = np.abs(answer[0, MARK:] - self._expected[base, MARK:])
        return Verdict(bool((off <= self._allowed[base, MARK:]).all()), number)

    def _mark(self, number: int) -> Floats:
        digest = hashlib.sha256(f"{self._seed}/{number}".encode() + self._bases[number % BASES].tobytes()).digest()
        mark: Floats = np.frombuffer(digest, dtype="<u2").astype(np.float32) / np.float32(1 << 16)
        return mark
