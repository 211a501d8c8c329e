"""Hugging Face models: a local directory or a hub id, with safetensors weights or random ones.

No code from the repository is run (`trust_remote_code` stays off) and no pickled weights are read.
"""

from __future__ import annotations

import inspect
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from stageline.errors import ModelError, ModelImportError, UnsafeArchiveError
from stageline.manifest import DimRange
from stageline_stage.importer.export import BATCH, Named, Signature

NOMINAL_SEQUENCE, MAX_SEQUENCE, EXAMPLE_SEQUENCE = 128, 4096, 16
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle")
OUTPUTS = ("logits", "start_logits", "end_logits", "last_hidden_state", "pooler_output")

TASKS: dict[str, str] = {
    "image-classification": "AutoModelForImageClassification",
    "causal-lm": "AutoModelForCausalLM",
    "masked-lm": "AutoModelForMaskedLM",
    "sequence-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "encoder": "AutoModel",
}
_SUFFIXES = {
    "ForImageClassification": "image-classification",
    "ForCausalLM": "causal-lm",
    "LMHeadModel": "causal-lm",
    "ForMaskedLM": "masked-lm",
    "ForSequenceClassification": "sequence-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "Model": "encoder",
}


def load_hf(location: str, *, seed: int | None = None, task: str | None = None) -> tuple[nn.Module, Signature]:
    """The model at a directory or hub id, ready for export: weights from safetensors, or random ones from `seed`.

    Raises `ModelImportError` (not there, no network, unknown kind) or `UnsafeArchiveError` (pickled weights only).
    """
    folder = _folder(location, weights=seed is None)
    with _quietly():
        try:
            config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
            model, missing = _build(config, folder, task or _task(config), seed)
            return _callable(model, config, missing)
        except ModelError:
            raise
        except Exception as error:  # transformers raises whatever its readers raise
            reason = " ".join(str(error).replace(str(folder), location).split())[:300]
            raise ModelImportError(
                f"{described(location)} cannot be loaded: {type(error).__name__}: {reason}"
            ) from error


def described(location: str) -> str:
    """A hub id as `hf:ORG/NAME`, a directory by its last part: nobody else has its path."""
    folder = Path(location)
    return f"directory {folder.resolve().name}" if folder.is_dir() else f"hf:{location}"


def _folder(location: str, *, weights: bool) -> Path:
    folder = Path(location)
    if not folder.is_dir():
        folder = _download(location, weights=weights)
    if not (folder / "config.json").is_file():
        raise ModelImportError(f"{described(location)} has no config.json, so it is no Hugging Face model")
    if weights and not any(folder.glob("*.safetensors")):
        pickled = sorted(path.name for pattern in PICKLED for path in folder.glob(pattern))
        if pickled:
            raise UnsafeArchiveError(
                f"the weights in {pickled[0]} are pickled, which can run code: convert them to safetensors first"
                " (model.save_pretrained does)"
            )
        raise ModelImportError(f"{described(location)} has no weights: give --random-weights SEED to make some")
    return folder


def _download(location: str, *, weights: bool) -> Path:
    if not HUB_ID.fullmatch(location):
        raise ModelImportError(f"{location!r} is neither a directory nor a hub id such as ORG/NAME")
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.safetensors"] if weights else ["config.json"]
    try:
        return Path(snapshot_download(location, allow_patterns=wanted))
    except Exception as error:  # network, authorisation, unknown repository: the hub has many errors
        raise ModelImportError(
            f"hf:{location} cannot be fetched from the hub ({type(error).__name__}): check the name and the network,"
            " or download it elsewhere and give the directory"
        ) from error


def _task(config: Any) -> str:
    for architecture in config.architectures or []:
        for suffix, task in _SUFFIXES.items():
            if architecture.endswith(suffix):
                return task
    images = transformers.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING
    causal = transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    if type(config) in images:
        return "image-classification"
    decoder_only = type(config) in causal and type(config) not in transformers.MODEL_FOR_MASKED_LM_MAPPING
    return "causal-lm" if decoder_only else "encoder"


def _build(config: Any, folder: Path, task: str, seed: int | None) -> tuple[nn.Module, set[str]]:
    if task not in TASKS:
        raise ModelImportError(f"task {task!r} is unknown: choose one of {', '.join(TASKS)}")
    auto = getattr(transformers, TASKS[task])
    if seed is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return auto.from_config(config, trust_remote_code=False, dtype=torch.float32), set()
    model, report = auto.from_pretrained(
        folder, config=config, use_safetensors=True, trust_remote_code=False, local_files_only=True,
        dtype=torch.float32, output_loading_info=True,
    )  # fmt: skip
    missing = {str(key) for key in report["missing_keys"]}
    unexplained = sorted(key for key in missing if "pooler" not in key)
    if unexplained:
        raise ModelImportError(f"the weights lack {len(unexplained)} tensors of a {task}, first {unexplained[0]!r}")
    _realign(model)
    return model, missing


def _realign(model: nn.Module) -> None:
    """Move weights out of the mapped file, where they may lie at odd addresses, into torch's own memory.

    Some kernels choose their path by alignment, and the bits of a result with it.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()


def _callable(model: nn.Module, config: Any, missing: set[str]) -> tuple[nn.Module, Signature]:
    model.train(False)
    is_image = getattr(model, "main_input_name", "") == "pixel_values"
    signature = _image(config) if is_image else _text(config, model)
    options: dict[str, Any] = {"return_dict": True}
    if "use_cache" in _parameters(model):
        options["use_cache"] = False
    with torch.no_grad():
        result = model(**signature.inputs, **options)
    outputs = [name for name in OUTPUTS if isinstance(result.get(name), torch.Tensor)]
    if missing and "pooler_output" in outputs:
        outputs.remove("pooler_output")
    if not outputs:
        raise ModelImportError(f"{type(model).__name__} gives none of {', '.join(OUTPUTS)}: use a Python factory")
    return Named(model, list(signature.inputs), outputs, options), signature


def _parameters(model: nn.Module) -> frozenset[str]:
    return frozenset(inspect.signature(model.forward).parameters)


def _image(config: Any) -> Signature:
    size = getattr(config, "image_size", None) or 224
    height, width = (size, size) if isinstance(size, int) else size
    pixels = torch.randn(2, getattr(config, "num_channels", 3), height, width, generator=_generator())
    return Signature.batched({"pixel_values": pixels})


def _text(config: Any, model: nn.Module) -> Signature:
    text = config.get_text_config()
    longest = min(int(getattr(text, "max_position_embeddings", 0) or MAX_SEQUENCE), MAX_SEQUENCE)
    example = min(EXAMPLE_SEQUENCE, longest)
    ids = torch.randint(0, text.vocab_size, (2, example), generator=_generator())
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if getattr(text, "type_vocab_size", 0) and "token_type_ids" in _parameters(model):
        inputs["token_type_ids"] = torch.zeros_like(ids)
    sequence = DimRange(1, longest, min(NOMINAL_SEQUENCE, longest))
    dynamic = {name: {0: "batch", 1: "sequence"} for name in inputs}
    return Signature(inputs, dynamic, {"batch": BATCH, "sequence": sequence})


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@contextmanager
def _quietly() -> Iterator[None]:
    """Silence transformers while it loads: its errors become ours, and its progress bars are not ours."""
    log = transformers.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity(logging.ERROR)
    if bars:
        log.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()  # type: ignore[no-untyped-call]
