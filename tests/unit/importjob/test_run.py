"""An import in a container, which here is a process: what it makes is checked, and how it fails is said in a line."""

from __future__ import annotations

import io
import os
import re
import sys
import textwrap
from pathlib import Path

import msgspec
import pytest
from boxed import Engine, small

from stageline.blobs import BlobStore
from stageline.errors import ConfigError, ModelImportError, StagelineError, UnsafeArchiveError
from stageline.importjob.files import Parcel, parcel
from stageline.importjob.run import Order, import_in_container
from stageline.importjob.words import Failed, Request, Said, encode
from stageline.manifest import ModelManifest, canonical_json

PLAYED = """
import json, os, pathlib, shutil, sys
folder = pathlib.Path(sys.argv[1])
def say(**words):
    print(json.dumps(words), flush=True)
def leave(manifest=True):
    shutil.copytree({made!r}, folder / "out", dirs_exist_ok=True)
"""
GOOD = 'say(type="ready"); json.loads(input()); leave(); say(type="ended", status=0); input()'


class Played:
    """An engine whose containers run a script that plays the job, with a model at hand."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.made = folder, folder / "made"
        self.manifest = small(self.made / "blobs")
        (self.made / "manifest.json").write_bytes(canonical_json(self.manifest.to_json()))
        self.steps: list[tuple[str, float]] = []
        self.told: list[str] = []
        self.store = BlobStore(folder / "store")

    def write(self, manifest: ModelManifest) -> None:
        """Another manifest for the same blobs."""
        (self.made / "manifest.json").write_bytes(canonical_json(manifest.to_json()))

    def __call__(self, script: str, image: str = "amd64", network: bool = False) -> ModelManifest:
        text = PLAYED.format(made=str(self.made)) + textwrap.dedent(script)
        self.engine = Engine(self.folder, ("-c", text), image)
        order = Order(Parcel("m:f", {}, network), Request("m:f", "net"), "stageline-stage", 3 << 29)
        return import_in_container(
            self.engine, order, self.store, lambda step, part: self.steps.append((step, part)), self.told.append
        )

    def fails(self, script: str, image: str = "amd64") -> StagelineError:
        with pytest.raises(StagelineError) as caught:
            self(script, image)
        assert self.engine.boxes[0].child.returncode is not None, "its container is gone"
        assert len(caught.value.message.splitlines()) == 1
        return caught.value


@pytest.fixture
def played(tmp_path: Path) -> Played:
    return Played(tmp_path)


def test_what_it_made_is_brought_here(played: Played) -> None:
    played.store.put_bytes(b"graph")  # is here already
    assert played(GOOD) == played.manifest
    assert all(played.store.has(sha) for sha in played.manifest.blobs())
    assert played.steps[0] == ("starting a container", 0.0) and played.steps[-1][0] == "fetching blocks"


def test_what_its_code_prints_is_told_line_by_line(played: Played) -> None:
    played('say(type="ready"); input(); say(type="printed", line="a"); leave(); say(type="printed", line=" "); '
           'say(type="printed", line="b"); say(type="ended", status=0); input()')  # fmt: skip
    assert played.told == ["a", "b"]


def test_only_a_job_that_fetches_weights_gets_a_network_and_what_that_takes(
    played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    played(GOOD)
    assert not played.engine.recipes[0].network and "HF_TOKEN" not in played.engine.recipes[0].environment
    played.folder = played.folder / "again"
    played.folder.mkdir()
    played(GOOD, network=True)
    assert played.engine.recipes[0].network and played.engine.recipes[0].environment["HF_TOKEN"] == "secret"


@pytest.mark.parametrize(
    ("script", "kind", "says"),
    [
        ('say(type="failed", code="unsafe_archive", message="pickled"); say(type="ended", status=1)',
         UnsafeArchiveError, "pickled"),
        ('say(type="failed", code="no_cluster", message="odd"); say(type="ended", status=1)', ModelImportError, "odd"),
        ('say(type="failed", code="model", message="x"); say(type="ended", status=1, out_of_memory=True)',
         ModelImportError, "the import ran out of its 1.5 GiB of memory: allow more by --memory"),
        ('say(type="printed", line="last words"); say(type="ended", status=-11)',
         ModelImportError, "the import ended by signal 11: last words"),
        ('say(type="ended", status=3)', ModelImportError, "the import ended with exit code 3: it said nothing"),
        ('print("cut", end="", file=sys.stderr)', ModelImportError, "the import's container ended: cut"),
        ('say(type="ended", status=0)', ModelImportError, "the import left no out/manifest.json"),
        ('print("nonsense")', ModelImportError, "said what this Stageline does not understand"),
        ('print("x" * (2 << 20))', ModelImportError, "wrote an endless line"),
    ],
)  # fmt: skip
def test_how_it_fails_is_one_line(played: Played, script: str, kind: type[StagelineError], says: str) -> None:
    found = played.fails(f'say(type="ready"); input(); {script}')
    assert type(found) is kind and says in found.message


@pytest.mark.parametrize(
    ("script", "image", "says"),
    [
        ('sys.exit("No module named stageline_stage.importjob")', "amd64",
         "the image stageline-stage cannot import models (No module named stageline_stage.importjob): build a stage"),
        ('sys.exit("exec /opt/stageline/bin/python: exec format error")', "arm64",
         "the image stageline-stage is for arm64, and Docker's machine is amd64: name one for it by --image"),
    ],
)  # fmt: skip
def test_an_image_that_cannot_is_a_mistake_of_usage(played: Played, script: str, image: str, says: str) -> None:
    found = played.fails(script, image)
    assert isinstance(found, ConfigError) and says in found.message


@pytest.mark.parametrize(
    ("mischief", "says"),
    [
        ('(folder / "out/blobs/more").write_text("x")', "left a file that its manifest does not name"),
        ('next((folder / "out/blobs").glob("??/*")).unlink()', "did not make 1 of the blobs that its manifest names"),
        ('b = next((folder / "out/blobs").glob("??/*")); b.unlink(); b.symlink_to("/etc/passwd")',
         "left a file that its manifest does not name"),
        ('b = next((folder / "out/blobs").glob("??/*")); b.chmod(0o644); b.write_bytes(bytes(b.stat().st_size))',
         "left a blob that is not what its name says"),
        ('(folder / "out/manifest.json").write_text("{")', "the manifest is not valid JSON"),
        ('(folder / "out/manifest.json").write_text("[" * 100000)', "the import left no manifest"),
        ('(folder / "out/manifest.json").write_text("{}")', "manifest lacks the field"),
    ],
)  # fmt: skip
def test_nothing_that_it_left_is_believed(played: Played, mischief: str, says: str) -> None:
    found = played.fails(GOOD.replace("leave();", f"leave(); {mischief};"))
    assert says in found.message


def test_it_cannot_take_the_place_of_another_model(played: Played) -> None:
    played.write(ModelManifest("other", played.manifest.inputs, played.manifest.outputs, played.manifest.blocks,
                               played.manifest.dims))  # fmt: skip
    assert "the import of net made a model of another name, other" in played.fails(GOOD).message


FACTORY = """
import os
import torch
from layers_of_tests import layer
print("made in", os.path.basename(os.getcwd()))
def make():
    torch.manual_seed(0)
    return torch.nn.Sequential(layer(), torch.nn.ReLU()), (torch.zeros(2, 4),)
def lost():
    import left_at_home
def leaves():
    raise SystemExit("no weights")
"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with a factory."""
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "net_of_tests.py").write_text(FACTORY)
    (folder / "layers_of_tests.py").write_text("import torch\ndef layer(): return torch.nn.Linear(4, 4)\n")
    return folder


def test_a_factory_is_imported_by_the_real_job(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    steps: list[str] = []
    engine, store = Engine(tmp_path), BlobStore(tmp_path / "store")
    sent = parcel("net_of_tests:make", [Path("layers_of_tests.py")], here)
    order = Order(sent, Request(sent.source, "net"), "stageline-stage", 1 << 30)
    manifest = import_in_container(engine, order, store, lambda step, part: steps.append(step), told.append)
    assert told == ["made in source"] and "exporting" in steps
    assert engine.boxes[0].child.returncode == 0

    from stageline_stage.importer import import_model

    monkeypatch.syspath_prepend(here)
    assert import_model("net_of_tests:make", name="net", store=BlobStore(tmp_path / "local")) == manifest


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("lost", r"No module named 'left_at_home' \(left_at_home is not in the image: --include it if it is yours"),
        ("leaves", "net_of_tests:leaves ended with no weights"),
    ],
)
def test_why_a_factory_cannot_be_imported_is_said_in_a_line(
    function: str, says: str, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stageline_stage.importer import job

    reader, writer = os.pipe()
    monkeypatch.chdir(tmp_path)  # back afterwards
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "argv", ["job", str(tmp_path), str(writer)])
    request = encode(Request(f"net_of_tests:{function}", "net"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(request)))
    with pytest.raises(SystemExit) as ended:
        job.main()
    os.close(writer)
    with open(reader, "rb") as said:  # noqa: PTH123  a descriptor
        failed = msgspec.json.decode(said.readlines()[-1], type=Said)
    assert ended.value.code == 1 and isinstance(failed, Failed) and re.search(says, failed.message)
