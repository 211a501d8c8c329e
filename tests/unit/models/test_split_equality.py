"""Split anywhere, the outputs have the same bits as the unsplit exported module at the same batch size."""

from __future__ import annotations

import pytest
import torch

from .conftest import Imported


def images(batch: int, size: int, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"pixel_values": torch.randn(batch, 3, size, size, generator=generator)}


def text(batch: int, sequence: int, vocabulary: int, *, types: bool = False) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(batch * 1000 + sequence)
    ids = torch.randint(0, vocabulary, (batch, sequence), generator=generator)
    mask = torch.ones_like(ids)
    mask[0, (sequence + 1) // 2 :] = 0
    inputs = {"input_ids": ids, "attention_mask": mask}
    return {**inputs, "token_type_ids": torch.zeros_like(ids)} if types else inputs


@pytest.mark.parametrize(("batch", "cuts"), [(1, 1), (2, 4), (5, 2), (8, 3)])
def test_resnet50(resnet: Imported, batch: int, cuts: int) -> None:
    resnet.check(images(batch, 224, batch), resnet.random_cuts(batch, cuts))


def test_resnet50_cut_everywhere(resnet: Imported) -> None:
    resnet.check(images(1, 224, 0), list(range(1, len(resnet.manifest.blocks))))


@pytest.mark.parametrize(("batch", "cuts"), [(1, 5), (3, 2)])
def test_vit_b16(vit: Imported, batch: int, cuts: int) -> None:
    vit.check(images(batch, 224, batch), vit.random_cuts(batch, cuts))


@pytest.mark.parametrize(("batch", "sequence", "cuts"), [(1, 16, 4), (2, 7, 2), (3, 1, 3), (8, 33, 1)])
def test_gpt2(gpt2: Imported, batch: int, sequence: int, cuts: int) -> None:
    gpt2.check(text(batch, sequence, 50257), gpt2.random_cuts(batch, cuts))


@pytest.mark.parametrize("batch", range(1, 9))
def test_minilm_with_its_weights(minilm: Imported, batch: int) -> None:
    inputs = text(batch, 5 + 9 * batch, 30522, types=True)
    minilm.check(inputs, minilm.random_cuts(batch, 1 + batch % 5))


def test_minilm_cut_everywhere(minilm: Imported) -> None:
    minilm.check(text(4, 40, 30522, types=True), list(range(1, len(minilm.manifest.blocks))))


def test_resnet50_offers_sixteen_cuts(resnet: Imported) -> None:
    assert len(resnet.manifest.blocks) - 1 >= 16
    assert resnet.manifest.blocks[1].name == "resnet.encoder.stages.0.layers.0"
    assert resnet.manifest.weight_bytes == pytest.approx(4 * 25.6e6, rel=0.01)
    flops = sum(block.flops for block in resnet.manifest.blocks)
    assert flops == pytest.approx(8.2e9, rel=0.02)


def test_twelve_layer_transformers_offer_twenty_four_cuts(gpt2: Imported, vit: Imported) -> None:
    assert len(gpt2.manifest.blocks) - 1 >= 24
    assert len(vit.manifest.blocks) - 1 >= 24
    assert "vit.layers.3.attention" in [block.name for block in vit.manifest.blocks]


def test_masks_do_not_cross_cuts(gpt2: Imported) -> None:
    names = {value.name for block in gpt2.manifest.blocks[2:20] for value in block.inputs if value.kind == "tensor"}
    widths = [len(block.inputs) for block in gpt2.manifest.blocks[2:20]]
    assert "attention_mask" in names
    assert max(widths) == 4  # the residual, the mask as it was sent, batch and sequence


def test_signatures(resnet: Imported, minilm: Imported) -> None:
    shown = resnet.manifest.describe()
    assert shown["inputs"] == [{"name": "pixel_values", "dtype": "float32", "shape": [-1, 3, 224, 224]}]
    assert shown["outputs"] == [{"name": "logits", "dtype": "float32", "shape": [-1, 1000]}]
    shown = minilm.manifest.describe()
    assert {"name": "input_ids", "dtype": "int64", "shape": [-1, -1]} in shown["inputs"]
    assert {"name": "last_hidden_state", "dtype": "float32", "shape": [-1, -1, 384]} in shown["outputs"]
    assert shown["blocks"][3]["cut_bytes"] == minilm.manifest.cut_bytes(4)


def test_tied_embeddings_are_stored_once(gpt2: Imported) -> None:
    big = [(b.name, t.sha256) for b in gpt2.manifest.blocks for t in b.tensors if t.shape == (50257, 768)]
    assert [name for name, _ in big] == ["transformer.wte", "lm_head"]
    assert len({sha for _, sha in big}) == 1
    assert gpt2.store.total_bytes == sum(gpt2.manifest.blobs().values())


def test_import_is_reproducible(resnet: Imported, bring: object, tmp_path: object) -> None:
    from stageline_stage.zoo import resnet50

    again = bring("again", *resnet50(seed=1))  # type: ignore[operator]
    assert again.manifest.digest == resnet.manifest.digest
