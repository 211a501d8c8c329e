"""Prepare the demo in a process of its own: ``python -m stageline_stage.demo DIRECTORY RESNET_IMAGES``.

Writes blobs, manifests, inputs and the unsplit models' answers (batch 1, one thread) into the directory, and progress
to stdout as JSON lines.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from stageline.blobs import BlobStore
from stageline.manifest import Tolerance, canonical_json
from stageline_stage.demo.models import digits, held_out, is_trained
from stageline_stage.importer import Signature, import_model, unsplit
from stageline_stage.zoo import IMAGE_SIZE, resnet50

MODELS = {"digits": "stageline_stage.demo.models:digits", "resnet50": "stageline_stage.zoo:resnet50"}
TOLERANCES = {"resnet50": Tolerance(rtol=1e-3, atol=1e-3)}
"""Batching changes the order of sums: with random weights 50 layers amplify that to 2e-4 on logits of deviation 1.2."""

IMAGE_SEED = 1
BATCH = 4
BATCHED_IMAGES = 8


def tell(text: str, fraction: float = 0.0) -> None:
    """One line of progress."""
    sys.stdout.write(json.dumps({"step": text, "fraction": fraction}) + "\n")
    sys.stdout.flush()


def main(directory: Path, resnet_images: int) -> None:
    """Prepare everything."""
    torch.set_num_threads(1)
    tell("digits: from the cache" if is_trained() else "digits: training")
    digits()
    store = BlobStore(directory / "blobs")
    for name, source in MODELS.items():
        manifest = import_model(source, name=name, store=store, progress=_reporter(f"{name}: "))
        manifest = replace(manifest, tolerance=TOLERANCES.get(name, manifest.tolerance))
        (directory / f"{name}.json").write_bytes(canonical_json(manifest.to_json()))
    images, labels = held_out()
    np.save(directory / "digits-labels.npy", labels.numpy())
    shift = {"digits": _references(directory, "digits", digits, images)}
    generator = torch.Generator().manual_seed(IMAGE_SEED)
    pictures = torch.randn(resnet_images, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator)
    shift["resnet50"] = _references(directory, "resnet50", resnet50, pictures)
    facts = {"torch": torch.__version__, "threads": torch.get_num_threads(), "batch": BATCH, "shift": shift}
    (directory / "facts.json").write_text(json.dumps(facts))
    tell("prepared", 1.0)


def _references(
    directory: Path, name: str, factory: Callable[[], tuple[nn.Module, Signature]], images: torch.Tensor
) -> float:
    """Save what the unsplit exported module answers to each image alone.

    Returns how far its own answers move when images share a batch: the largest absolute difference.
    """
    module = unsplit(*factory())
    answers = []
    with torch.inference_mode():
        for i in range(len(images)):
            if i % 8 == 0:
                tell(f"{name}: answers of the unsplit model", i / len(images))
            answers.append(_logits(module(pixel_values=images[i : i + 1])).numpy())
        some = torch.split(images[:BATCHED_IMAGES], BATCH)
        batched = torch.cat([_logits(module(pixel_values=batch)) for batch in some]).numpy()
    reference = np.concatenate(answers)
    np.save(directory / f"{name}-inputs.npy", images.numpy())
    np.save(directory / f"{name}-reference.npy", reference)
    return float(np.abs(batched - reference[: len(batched)]).max())


def _logits(answer: Any) -> torch.Tensor:
    logits: torch.Tensor = answer["logits"] if isinstance(answer, dict) else answer
    return logits


def _reporter(prefix: str) -> Callable[[str, float], None]:
    return lambda step, fraction: tell(prefix + step, fraction)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
