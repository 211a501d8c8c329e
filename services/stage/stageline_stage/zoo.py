"""Well-known networks with seeded random weights, for demos, tests and benchmarks that need no download."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification

from stageline_stage.importer.export import Named, Signature

IMAGE_SIZE = 224


def resnet50(seed: int = 0) -> tuple[nn.Module, Signature]:
    """ResNet-50 (He et al., arXiv:1512.03385) for 1000 classes: `pixel_values` [batch, 3, 224, 224] to `logits`.

    The same seed gives the same weights. Residual branches are damped so that activations stay near 1 at every
    depth, and normalisation has random statistics, so that no two weights are alike.
    """
    sizes: dict[str, Any] = {"depths": [3, 4, 6, 3], "hidden_sizes": [256, 512, 1024, 2048], "num_labels": 1000}
    config = ResNetConfig(layer_type="bottleneck", **sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ResNetForImageClassification(config)
        _randomise(model)
        model.train(False)
        example = torch.randn(8, 3, IMAGE_SIZE, IMAGE_SIZE)
        _spread_logits(model, example)
    named = Named(model, ["pixel_values"], ["logits"], {"return_dict": True})
    return named, Signature.batched({"pixel_values": example[:2].clone()})


def _randomise(model: nn.Module) -> None:
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, nn.BatchNorm2d):
                ends_residual_branch = name.endswith("layer.2.normalization")
                scale = 0.25 if ends_residual_branch else 1.0
                module.weight.uniform_(0.75 * scale, 1.25 * scale)
                module.bias.normal_(0.0, 0.1)
                assert module.running_mean is not None and module.running_var is not None
                module.running_mean.normal_(0.0, 0.1)
                module.running_var.uniform_(0.75, 1.25)
            elif isinstance(module, nn.Linear):
                module.weight.normal_(0.0, 0.02)
                module.bias.zero_()


def _spread_logits(model: ResNetForImageClassification, images: torch.Tensor) -> None:
    """Centre and scale the classifier so that different images get different classes.

    The numbers are rounded coarsely: the last bits of a convolution, which vary with the machine, do not
    reach the weights.
    """
    with torch.no_grad():
        features = model.resnet(images).pooler_output.flatten(1)
        linear = next(module for module in model.classifier.modules() if isinstance(module, nn.Linear))
        mean = (features.mean(dim=0) * 256).round() / 256
        spread = float((linear.weight @ (features - mean).T).std())
        linear.weight.mul_(2.0 ** round(-math.log2(spread)))
        linear.bias.copy_(-((linear.weight @ mean) * 64).round() / 64)
