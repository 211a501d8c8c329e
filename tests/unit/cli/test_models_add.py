"""`stageline models add` where a model of that name is registered already, and what it refuses."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from stageline.blobs import BlobStore
from stageline.cli import run
from stageline.cli.offline import DirectoryCatalogue
from stageline.cli.options import EXIT_USAGE
from stageline.manifest import BlockSpec, DimRange, ModelManifest, TensorRef, ValueSpec


def model(store: BlobStore, outputs: int = 2, weights: bytes = bytes(8)) -> ModelManifest:
    """One block; its blobs are put into the store."""
    x, y = ValueSpec("x", "float32", ("batch", 4)), ValueSpec("y", "float32", ("batch", outputs))
    tensor = TensorRef("w", store.put_bytes(weights), "float32", (2,), 8, len(weights))
    graph = b"graph"
    block = BlockSpec("b", store.put_bytes(graph), len(graph), (tensor,), (x,), (y,), 1, 1)
    return ModelManifest("net", (x,), (y,), (block,), {"batch": DimRange(1, 8, 1)})


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """How the model is made that is imported; registered is one as `model` makes it."""
    how: dict[str, Any] = {}
    store = BlobStore(tmp_path / "imported")

    @contextmanager
    def importing(source: str, **options: Any) -> Iterator[tuple[ModelManifest, BlobStore]]:
        yield model(store, **how), store

    monkeypatch.setattr(sys.modules["stageline.cli.models"], "importing", importing)
    assert run(["models", "add", "m:f"]) == 0
    return how


def registered(tmp_path: Path) -> str:
    (row,) = DirectoryCatalogue(tmp_path / "XDG_DATA_HOME/stageline").models()
    return row.manifest


def test_the_same_again_replaces_nothing(made: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "add", "m:f"]) == 0
    assert "replaced" not in capsys.readouterr().out


def test_new_weights_replace_the_old_ones(
    made: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = registered(tmp_path)
    made["weights"] = b"other wt"
    assert run(["models", "add", "m:f"]) == 0
    assert "replaced the net that was registered before" in capsys.readouterr().out
    made["weights"] = b"and more"
    now = registered(tmp_path)
    assert run(["models", "add", "m:f", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["replaced"] == now != old


def test_other_outputs_are_refused_unless_asked_for(
    made: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = registered(tmp_path)
    capsys.readouterr()
    made["outputs"] = 3
    assert run(["models", "add", "m:f"]) == EXIT_USAGE
    line = capsys.readouterr().err.splitlines()[-1]
    assert "net is registered with other outputs: y float32 -1 x 2, not y float32 -1 x 3" in line
    assert "--replace" in line and registered(tmp_path) == old
    assert run(["models", "add", "m:f", "--replace"]) == 0
    assert "replaced the net" in capsys.readouterr().out
    assert registered(tmp_path) != old


def test_a_tolerance_is_declared_and_shown(made: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "add", "m:f", "--tolerance", "0.01"]) == 0
    capsys.readouterr()
    assert run(["models", "show", "net", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tolerance"] == {"rtol": 0.01, "atol": 1e-5}
    assert run(["models", "show", "net"]) == 0
    assert "its answers may be off by 0.01 of their largest number, and 1e-05" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["m:f", "--tolerance", "2"], "--tolerance must be above 0 and at most 1"),
        (["m:f", "--name", ""], "--name is empty"),
        (["hf:"], "hf: names no model: give hf:ORG/NAME"),
        ([""], "SOURCE is empty"),
    ],
)
def test_what_is_empty_is_a_mistake_of_usage(
    arguments: list[str], wanted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["models", "add", *arguments]) == EXIT_USAGE
    text = capsys.readouterr().err
    assert wanted in text and len(text.splitlines()) == 1
