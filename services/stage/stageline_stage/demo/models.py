"""The demo's digits network: trained once, then read from the cache."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

import stageline_stage.digits as digits_module
from stageline_stage.digits import HELD_OUT, DigitsNet, digits_data, train_digits
from stageline_stage.importer.export import Signature

CACHE_VARIABLE = "STAGELINE_DEMO_CACHE"
SEED = 0


def digits() -> tuple[nn.Module, Signature]:
    """A factory: the trained network, from the cache if it was trained before with the same code and torch."""
    images, _ = held_out()
    signature = Signature.batched({"pixel_values": images[:2].clone()})
    module = DigitsNet()
    path = _cache() / f"digits-{_key()}.safetensors"
    try:
        module.load_state_dict(load_file(path))
    except (OSError, RuntimeError, ValueError):
        module = train_digits(SEED).module
        _save(module, path)
    module.eval()
    return module, signature


def is_trained() -> bool:
    """Whether the cache has it."""
    return (_cache() / f"digits-{_key()}.safetensors").is_file()


def held_out() -> tuple[torch.Tensor, torch.Tensor]:
    """The images that training never saw, and their labels."""
    images, labels = digits_data()
    return images[-HELD_OUT:], labels[-HELD_OUT:]


def _cache() -> Path:
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named) if named else Path(tempfile.gettempdir()) / f"stageline-demo-{os.getuid()}"


def _key() -> str:
    """Changes with the code that trains and with torch."""
    source = Path(digits_module.__file__).read_bytes()
    return hashlib.sha256(source + f"{torch.__version__} {SEED}".encode()).hexdigest()[:16]


def _save(module: nn.Module, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    state = {name: tensor.contiguous() for name, tensor in module.state_dict().items()}
    save_file(state, temporary, metadata={"network": json.dumps({"seed": SEED, "torch": torch.__version__})})
    temporary.replace(path)
