"""What `stageline models add` accepts, what it refuses, and how it says so."""

from __future__ import annotations

import io
import json
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import nn

from stageline.blobs import BlobStore
from stageline.cli import run
from stageline.cli.options import EXIT_FAILED
from stageline.errors import (
    ManifestError,
    ModelError,
    ModelImportError,
    UnsafeArchiveError,
    UnsupportedOperatorError,
)
from stageline_stage.importer import Signature, export_module, import_model, import_module
from stageline_stage.importer.archive import clean_copy

from .conftest import MINILM

FACTORIES = """
import torch
from torch import nn

class Branching(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x + 1
        return x - 1

class Sorting(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4), Fourier())
    def forward(self, x):
        return self.inner(x)

class Fourier(nn.Module):
    def forward(self, x):
        return torch.fft.fft(x).real

class Choosing(nn.Module):
    def forward(self, x):
        return torch.nonzero(x)

class Fixing(nn.Module):
    def forward(self, x):
        return x.reshape(2, -1)

class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(1))
    def forward(self, x):
        self.count.add_(1)
        return x + self.count

class Sparse(nn.Module):
    def forward(self, x):
        return x.to_sparse()

class Half(nn.Module):
    def forward(self, x):
        return x.to(torch.float8_e4m3fn)

class Printing(nn.Module):
    def forward(self, x):
        print("looking at", x.shape)
        return {"y": x, "one": 1}

def inside(kind):
    return nn.Sequential(nn.Linear(4, 4), kind()), (torch.ones(2, 4),)

def fixing(): return inside(Fixing)
def counting(): return inside(Counting)
def sparse(): return inside(Sparse)
def half(): return inside(Half)
def printing(): return inside(Printing)
def deciding(): return inside(Branching)
def picking(): return inside(Choosing)

def choosing():
    return Choosing(), (torch.ones(2, 4),)

def pair():
    torch.manual_seed(0)
    return nn.Linear(4, 2), (torch.zeros(1, 4),)

def attribute():
    model = nn.Linear(4, 2)
    model.example_inputs = {"input": torch.zeros(3, 4)}
    return model

def branching():
    return Branching(), (torch.ones(2, 4),)

def sorting():
    return Sorting(), (torch.ones(2, 4),)

def failing():
    raise RuntimeError("no such file")

def number():
    return 3

def bare():
    return nn.Linear(2, 2)

def unreadable():
    import json
    return json.loads("{")
"""


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_factories.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    sys.modules.pop("my_factories", None)
    return "my_factories"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    program = export_module(module, Signature.batched({"input": torch.randn(2, 8)}))
    path = tmp_path_factory.mktemp("pt2") / "small.pt2"
    torch.export.save(program, path)
    return path


def rewritten(source: Path, target: Path, change: Callable[[str, bytes], bytes | None], **extra: bytes) -> Path:
    """A copy of an archive with entries changed (None drops one) and added."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            data = change(info.filename, old.read(info))
            if data is not None:
                new.writestr(info.filename, data)
        for name, data in extra.items():
            new.writestr(f"{source.stem}/{name}", data)
    return target


def test_a_factory(factories: str, store: BlobStore) -> None:
    steps: list[str] = []
    manifest = import_model(f"{factories}:pair", store=store, progress=lambda step, _: steps.append(step))
    assert (manifest.name, manifest.source) == ("pair", f"{factories}:pair")
    assert [v.shape for v in (*manifest.inputs, *manifest.outputs)] == [(-1, 4), (-1, 2)]
    assert steps[-1] == "done"
    assert import_model(f"{factories}:attribute", name="named", store=store).name == "named"


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("failing", r"my_factories.py:\d+ in failing\): RuntimeError: no such file"),
        ("number", "gave int, not a torch.nn.Module"),
        ("bare", "gave no example inputs"),
        ("absent", r"my_factories:absent failed: AttributeError: .*has no attribute 'absent'"),
        ("unreadable", r"my_factories.py:\d+ in unreadable\): JSONDecodeError"),
        ("branching", r"cannot be exported at my_factories.py:7 in forward: .*needs the values of a tensor"),
    ],
)
def test_a_factory_that_does_not_work(factories: str, store: BlobStore, factory: str, message: str) -> None:
    with pytest.raises(ModelImportError, match=message):
        import_model(f"{factories}:{factory}", store=store)


def test_a_module_that_is_not_there_has_no_place(store: BlobStore) -> None:
    with pytest.raises(ModelImportError, match=r"^no_such_module:make failed: ModuleNotFoundError: No module named"):
        import_model("no_such_module:make", store=store)


@pytest.mark.parametrize(
    ("factory", "kind", "message"),
    [
        ("sorting", UnsupportedOperatorError, r"'aten\.fft_fft\.default'.*\(called in inner\.1, FILE:20 in forward\)"),
        ("picking", ModelImportError, r"aten\.nonzero.*depends on the values.* \(called in 1, FILE:24 in forward\)"),
        ("choosing", ModelImportError, r"aten\.nonzero.*depends on the values.* \(called in FILE:24 in forward\)"),
        ("deciding", ModelImportError, r" at 1, FILE:7 in forward: `if x\.sum\(\) > 0:` needs .* \(__bool__\)"),
        ("fixing", ModelImportError, r" at 1, FILE:28 in forward \(`return x\.reshape.*only right for batch = 2\."),
        ("counting", UnsupportedOperatorError, r"aten\.copy_\.default writes to the model's buffer '1\.count'"),
        ("sparse", UnsupportedOperatorError, r"aten\._to_sparse\.default .* \(called in 1, FILE:40 in forward\)"),
        ("half", ManifestError, r"float8_e4m3fn is not supported.* \(called in 1, FILE:44 in forward\)"),
        ("printing", ModelImportError, r"output 'one' of the model is a constant"),
    ],
)
def test_a_model_that_cannot_be_imported_is_told_with_operator_and_place(
    factories: str, store: BlobStore, capfd: pytest.CaptureFixture[str], factory: str, kind: type[ModelError],
    message: str,
) -> None:  # fmt: skip
    with pytest.raises(kind, match=message.replace("FILE", rf"{factories}\.py")) as caught:
        import_model(f"{factories}:{factory}", store=store)
    assert "/" not in str(caught.value), "no path of this machine"
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == "", "torch says nothing beside it"


def test_what_torch_says_of_a_failure_is_shown_where_it_is_asked_for(
    factories: str, store: BlobStore, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_LOGS", "-dynamo")
    with pytest.raises(ModelImportError):
        import_model(f"{factories}:deciding", store=store)
    assert "torch.ops.aten" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("content", "wanted"),
    [(None, "there is no file net.pt2"), (b"text", "is no zip archive"), (b"PK\3\4 and no end", "is damaged: copy it")],
)
def test_an_archive_that_is_none_says_why(content: bytes | None, wanted: str, store: BlobStore, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "net.pt2").write_bytes(content)
    with pytest.raises(ModelImportError, match=wanted):
        import_model(str(tmp_path / "net.pt2"), store=store)


def test_what_a_model_prints_is_no_result_of_a_command(
    factories: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(["models", "add", f"{factories}:printing", "--data-dir", str(tmp_path / "d"), "--json"]) == EXIT_FAILED
    told = capsys.readouterr()
    assert told.out == ""
    assert "looking at" in told.err


@pytest.mark.parametrize("source", ["", "resnet", "a b:c", "hf:", "hf:../../x", "os", "x.onnx"])
def test_what_names_no_model(source: str, store: BlobStore) -> None:
    with pytest.raises(ModelImportError):
        import_model(source, store=store)


def test_the_hub_without_network(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def offline(*args: Any, **kwargs: Any) -> str:
        raise OSError("unreachable")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(ModelImportError, match="check the name and the network"):
        import_model("hf:org/model", store=store)


def test_minilm_by_directory(store: BlobStore) -> None:
    manifest = import_model(f"hf:{MINILM}", name="minilm", store=store)
    weights = load_file(MINILM / "model.safetensors")
    named = {t.name: t for block in manifest.blocks for t in block.tensors}
    ours = named["embeddings.word_embeddings.weight"]
    assert ours.shape == tuple(weights["embeddings.word_embeddings.weight"].shape)
    assert str(MINILM) not in json.dumps(manifest.to_json())


def test_random_weights_are_seeded(config_dir: Any, store: BlobStore) -> None:
    config = transformers.BertConfig(
        num_hidden_layers=1, hidden_size=32, num_attention_heads=2, intermediate_size=64, vocab_size=99
    )
    folder = config_dir(config, "BertModel")
    first, same, other = (import_model(folder, name="b", store=store, random_weights=seed) for seed in (1, 1, 2))
    assert first.digest == same.digest
    assert first.blobs() != other.blobs()
    assert [value.name for value in first.outputs] == ["last_hidden_state", "pooler_output"]
    assert first.source == f"directory {Path(folder).name} with random weights, seed 1"
    with pytest.raises(ModelImportError, match=f"^directory {Path(folder).name} has no weights: give --random-weights"):
        import_model(folder, store=store)


def test_pickled_weights_are_refused(tmp_path: Path, store: BlobStore) -> None:
    shutil.copy(MINILM / "config.json", tmp_path / "config.json")
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(UnsafeArchiveError, match=r"pytorch_model\.bin.*convert"):
        import_model(str(tmp_path), store=store)


def test_an_archive(archive: Path, store: BlobStore) -> None:
    manifest = import_model(str(archive), store=store)
    assert (manifest.name, manifest.source) == ("small", "small.pt2")
    assert manifest.inputs[0].name == "input"
    assert manifest.inputs[0].dims == ("batch", 8)
    for sha, size in manifest.blobs().items():
        store.verify(sha)
        assert store.path(sha).stat().st_size == size


def test_the_same_model_by_archive_and_directly(archive: Path, store: BlobStore) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    direct = import_module(module, Signature.batched({"input": torch.randn(2, 8)}), name="x", store=store)
    assert direct.blocks == import_model(str(archive), store=store).blocks


def test_a_pickled_weight_is_refused(archive: Path, tmp_path: Path, store: BlobStore) -> None:
    def pickled(name: str, data: bytes) -> bytes:
        if name.endswith("model_weights_config.json"):
            return data.replace(b'"use_pickle": false', b'"use_pickle": true')
        return data

    bad = rewritten(archive, tmp_path / "bad.pt2", pickled)
    with pytest.raises(UnsafeArchiveError, match=r"'0\.weight'.* is pickled"):
        import_model(str(bad), store=store)


@pytest.mark.parametrize(
    "entry",
    ["data/weights/model.pt", "data/constants/custom_obj_0", "data/constants/opaque_obj_0", "data/aotinductor/m/a.so"],
)
def test_other_payloads_are_refused_by_name(archive: Path, tmp_path: Path, entry: str) -> None:
    bad = rewritten(archive, tmp_path / "bad.pt2", lambda _, data: data, **{entry: b"\x80\x04."})
    with pytest.raises(UnsafeArchiveError, match=entry):
        clean_copy(bad, tmp_path / "clean.pt2")


def test_an_old_archive_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "old.pt2", "w") as old:
        old.writestr("version", "1.0")
        old.writestr("serialized_state_dict.pt", b"\x80\x04.")
    with pytest.raises(UnsafeArchiveError, match="old form that is pickled"):
        clean_copy(tmp_path / "old.pt2", tmp_path / "clean.pt2")


def test_sample_inputs_are_never_loaded(archive: Path, tmp_path: Path, store: BlobStore) -> None:
    def poisoned(name: str, data: bytes) -> bytes:
        return b"\x80\x04cos\nsystem\n." if "sample_inputs" in name else data

    bad = rewritten(archive, tmp_path / "bad.pt2", poisoned)
    assert import_model(str(bad), name="same", store=store).inputs[0].name == "input"


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        (b"torch.ops.aten.relu.default", b"torch.os.system", UnsupportedOperatorError),
        (b"torch.ops.aten.relu.default", b"torch.ops.other.relu.default", UnsupportedOperatorError),
        (b"torch.ops.aten.relu.default", b"torch.ops.aten.rand_like.default", UnsupportedOperatorError),
        (b"Symbol('s", b"__import__('s", UnsafeArchiveError),
        (b"builtins.dict", b"collections.defaultdict", UnsafeArchiveError),
    ],
)
def test_what_torch_would_evaluate_is_checked(
    archive: Path, tmp_path: Path, store: BlobStore, old: bytes, new: bytes, error: type[Exception]
) -> None:
    def change(name: str, data: bytes) -> bytes:
        if name.endswith("model.json"):
            assert old in data
            return data.replace(old, new)
        return data

    bad = rewritten(archive, tmp_path / "bad.pt2", change)
    with pytest.raises(error):
        import_model(str(bad), store=store)


def test_damaged_archives(archive: Path, tmp_path: Path, store: BlobStore) -> None:
    whole = archive.read_bytes()
    half, text, empty = tmp_path / "half.pt2", tmp_path / "text.pt2", tmp_path / "empty.pt2"
    half.write_bytes(whole[: len(whole) // 2])
    text.write_text("not a zip")
    with zipfile.ZipFile(empty, "w"):
        pass
    unreadable = rewritten(archive, tmp_path / "u.pt2", lambda n, d: b"{" if n.endswith("model.json") else d)
    nonsense = rewritten(archive, tmp_path / "n.pt2", lambda n, d: b"{}" if n.endswith("model.json") else d)
    short = rewritten(archive, tmp_path / "s.pt2", lambda n, d: d[:-3] if n.endswith("weight_0") else d)
    for bad in (half, text, empty, unreadable, nonsense, short):
        with pytest.raises(ModelImportError):
            import_model(str(bad), store=store)
    with pytest.raises(ModelImportError, match=r"^there is no file absent\.pt2: "):
        import_model(str(tmp_path / "absent.pt2"), store=store)


def test_a_zip_bomb(tmp_path: Path) -> None:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("a/models/model.json", b" " * 10_000_000)
    (tmp_path / "bomb.pt2").write_bytes(data.getvalue())
    with pytest.raises(ModelImportError, match="zip bomb"):
        clean_copy(tmp_path / "bomb.pt2", tmp_path / "clean.pt2")
