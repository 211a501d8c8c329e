"""Small networks of other families: shifted windows, channels last, depthwise, rotary, sequence-to-class."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from stageline_stage.importer.hf import load_hf

TEXT = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 99}
FAMILIES: dict[str, tuple[type, dict[str, Any]]] = {
    "SwinForImageClassification": (
        transformers.SwinConfig,
        {"image_size": 56, "embed_dim": 24, "depths": [2, 2], "num_heads": [2, 4]},
    ),
    "ConvNextV2ForImageClassification": (
        transformers.ConvNextV2Config,
        {"image_size": 64, "depths": [1, 1, 2, 1], "hidden_sizes": [16, 32, 48, 64]},
    ),
    "MobileNetV2ForImageClassification": (transformers.MobileNetV2Config, {"image_size": 64}),
    "Qwen2ForCausalLM": (transformers.Qwen2Config, {**TEXT, "intermediate_size": 96, "num_key_value_heads": 2}),
    "BertForMaskedLM": (transformers.BertConfig, {**TEXT, "intermediate_size": 96}),
    "DistilBertForSequenceClassification": (
        transformers.DistilBertConfig,
        {"dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 96, "vocab_size": 99},
    ),
}


@pytest.mark.parametrize("architecture", FAMILIES)
def test_family(architecture: str, bring: Any, config_dir: Any) -> None:
    kind, settings = FAMILIES[architecture]
    module, signature = load_hf(config_dir(kind(**settings), architecture), seed=3)
    model = bring(architecture, module, signature)
    everywhere = list(range(1, len(model.manifest.blocks)))
    assert len(everywhere) >= 4
    for batch in (1, 4):
        example = signature.inputs[model.manifest.inputs[0].name]
        if example.is_floating_point():
            inputs = {"pixel_values": torch.randn(batch, *example.shape[1:])}
        else:
            ids = torch.randint(0, 99, (batch, 11))
            inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            if "token_type_ids" in signature.inputs:
                inputs["token_type_ids"] = torch.zeros_like(ids)
        model.check(inputs, everywhere)
        model.check(inputs, model.random_cuts(batch, 2))
