"""What fuzzing found, each as it was found: it ended a process, or took its memory."""

from __future__ import annotations

import io
import json
import math
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
import seeds

from stageline import protocol
from stageline.client.core import ClientCore
from stageline.config import GatewayConfig, StageConfig, load
from stageline.errors import BlobCorruptError, ConfigError, ManifestError, ModelImportError, RemoteProtocolError
from stageline.manifest import ModelManifest
from stageline.messages import BlockTime, Hello, NodeInfo, Profiled
from stageline_coordinator.peers import Node
from stageline_coordinator.planner import Problem
from stageline_coordinator.planner.check import check
from stageline_coordinator.profiling import ProfileBook
from stageline_stage.importer.archive import clean_copy
from stageline_stage.tensorfile import load_tensor


def with_changes(old: str, new: str) -> Any:
    text = json.dumps(seeds.model().to_json())
    assert old in text
    return json.loads(text.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        ('["batch", "sequence", 4]', '["batch", 9223372036854775807, 4]', "more than 2[*][*]50 bytes"),
        ('"workspace_bytes": 20', '"workspace_bytes": 9223372036854775807', "workspace_bytes must be an integer in"),
        ('"name": "x"', '"name": "\\ud800"', "name must be text"),
    ],
)
def test_a_manifest_that_no_message_could_carry(old: str, new: str, wanted: str) -> None:
    """A coordinator that took it could not publish its plan, nor start again: the model was on disk by then."""
    with pytest.raises(ManifestError, match=wanted):
        ModelManifest.from_json(with_changes(old, new))


def test_weights_that_no_message_could_count() -> None:
    document = seeds.model().to_json()
    document["blocks"][0]["tensors"][0].update(shape=[1 << 60], nbytes=1 << 62, blob_bytes=1 << 62)
    with pytest.raises(ManifestError, match="weights of the manifest take more"):
        ModelManifest.from_json(document)


def test_an_empty_tensor_of_enormous_sizes() -> None:
    """numpy and torch multiply the other sizes in 64 bits, and raised what the client did not expect."""
    core = ClientCore()
    hello = protocol.ServerHello((1,), "s", "g", protocol.Limits(8, 1))
    result = protocol.Result(1, (protocol.TensorSpec("y", "float32", (0, 1 << 62, 1 << 62)),))
    frames = b"".join(map(bytes, [*protocol.encode_frame(hello), *protocol.encode_frame(result)]))
    with pytest.raises(RemoteProtocolError, match="strides"):
        core.received(core.reader.feed(frames))


@pytest.mark.parametrize("odd", [{"workspace_bytes": 1 << 63}, {"batch": 1 << 63}, {"error": math.nan}])
def test_figures_that_no_database_holds(odd: dict[str, Any]) -> None:
    """A coordinator that a worker told them ended with an OverflowError of sqlite3."""
    node = Node(Hello("agent", "n", "i", node=NodeInfo(1 << 30, "cpu", "cpu", "h")))
    time = msgspec.structs.replace(BlockTime(0, 1, 0.01, 100), **odd)
    book = ProfileBook({})
    assert book.profiled(node, Profiled(seeds.SHA, "cpu", (time,)), {"m": (seeds.SHA, seeds.model())}, 0.0) == []


def test_a_solution_with_blocks_that_nobody_has() -> None:
    """The checker counted them one by one, all four thousand million."""
    document = json.loads(seeds.solutions()[0])
    document["stages"]["m"][-1]["blocks"] = [0, 1 << 32]
    assert any("ends at block" in fault for fault in check(seeds.problem(), document).violations)


def test_an_empty_tensor_file_of_enormous_sizes(tmp_path: Path) -> None:
    """torch could not unpack the sizes, and its TypeError ended the loader's thread."""
    data = seeds.tensor_files()[1]
    start = 8 + int.from_bytes(data[:8], "little")
    header = data[8:start].replace(b"[0]", b"[0,18446744073709551615]")
    path = tmp_path / "tensor"
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[start:])
    with pytest.raises(BlobCorruptError, match="enormous"):
        load_tensor(path)


def test_names_that_are_no_text() -> None:
    """Printing the answer, or the error, raised."""
    text = json.dumps(seeds.problem()).replace('"wifi"', '"\\ud800"')
    with pytest.raises(ConfigError, match=r"media\[0\].name: must be text"):
        Problem.from_json(json.loads(text))
    odd = {**seeds.problem(), "current": {"\ud800": []}}
    with pytest.raises(ConfigError, match="current: must be text"):
        Problem.from_json(odd)


class TestArchives:
    def test_damaged_deflate(self) -> None:
        whole = bytearray(seeds.archive_of([b'{"config": {}}'] * 3, zipfile.ZIP_DEFLATED))
        start = whole.index(seeds.ENTRIES[0].encode()) + len(seeds.ENTRIES[0])
        whole[start : start + 4] = b"\xff" * 4
        with pytest.raises(ModelImportError, match="damaged"):
            clean_copy(io.BytesIO(bytes(whole)), io.BytesIO())  # type: ignore[arg-type]

    @pytest.mark.parametrize("kind", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
    def test_rare_compression(self, kind: int) -> None:
        """Its own header says how much memory LZMA takes: up to 4 GiB."""
        with pytest.raises(ModelImportError, match="rare way"):
            clean_copy(io.BytesIO(seeds.archive_of([b"{}"] * 3, kind)), io.BytesIO())  # type: ignore[arg-type]

    def test_encryption(self) -> None:
        whole = bytearray(seeds.archive_of([b"{}"] * 3))
        whole[whole.index(b"PK\x01\x02") + 8] |= 1
        with pytest.raises(ModelImportError, match="encrypted"):
            clean_copy(io.BytesIO(bytes(whole)), io.BytesIO())  # type: ignore[arg-type]


class TestSettings:
    @pytest.mark.parametrize(
        ("content", "wanted"),
        [
            (b"gateway: {name: \xff}", "not valid YAML"),
            (rb'gateway: {name: "\UeAAAAAAA"}', "not valid YAML: a character that does not exist"),
            (rb'gateway: {name: "\U00110000"}', "not valid YAML: a character that does not exist"),
            (b"gateway: " + b"[" * 5000, "nested too deeply"),
            (b"a: &a [1, 1]\nb: &b [*a, *a]\nc: [*b, *b]\n", "aliases"),
            (b'stage: {cache_dir: "~nobody-of-that-name/x"}', "cache_dir"),
            (b"stage: {cache_dir: [1]}", "cache_dir"),
            (b"stage: {threads: 0x" + b"f" * 5000 + b"}", "threads"),
            (b"stage: {threads: 2001-99-99}", "threads"),
            (b"stage: {threads: !!timestamp x}", "threads"),
            (b" " * (1 << 20) + b"{}", "larger than"),
        ],
    )
    def test_a_file_that_cannot_be_meant(self, tmp_path: Path, content: bytes, wanted: str) -> None:
        path = tmp_path / "settings.yaml"
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=wanted) as caught:
            load(StageConfig, flags={}, environ={}, file=path)
        assert len(caught.value.message) < 20_000

    def test_text_stays_as_it_is_written(self, tmp_path: Path) -> None:
        """As YAML 1.1 has it, the first name was a number, and the second true."""
        path = tmp_path / "settings.yaml"
        path.write_text("gateway: {name: 1.10, max_batch: 4, batch_delay_ms: 0.5}\nstage: {name: on, threads: 2}\n")
        config = load(GatewayConfig, flags={}, environ={}, file=path)
        assert (config.name, config.max_batch, config.batch_delay_ms) == ("1.10", 4, 0.5)
        assert load(StageConfig, flags={}, environ={}, file=path).name == "on"
