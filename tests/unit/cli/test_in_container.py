"""`stageline models add` without torch: when it takes a container, which, and what it says where it cannot."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from stageline.cli import importing, run
from stageline.cli.importing import SCRATCH, scratch
from stageline.cli.offline import DirectoryCatalogue
from stageline.cli.options import EXIT_FAILED, EXIT_USAGE
from stageline.errors import ClusterError, ConfigError
from stageline.importjob import engine as engines
from stageline.importjob.engine import ABANDONED_S, OWNER, abandoned
from stageline.importjob.run import Order
from stageline.manifest import BlockSpec, DimRange, ModelManifest, TensorRef, ValueSpec
from stageline.owners import this_process

pytest.importorskip("docker")


class Docker:
    """What was asked of an engine: its address, TLS, and what to import."""

    memory_bytes = 8 << 30

    def __init__(self) -> None:
        self.asked: list[tuple[str, Path | None, Order]] = []

    def collect(self) -> list[str]:
        return ["stageline-import-old"]


@pytest.fixture
def docker(monkeypatch: pytest.MonkeyPatch) -> Docker:
    """An engine whose jobs make a small model."""
    found, where = Docker(), list[Any]()

    @contextmanager
    def reached(url: str, tls: Path | None = None) -> Iterator[Docker]:
        where[:] = [url, tls]
        yield found

    def job(engine: Docker, order: Order, store: Any, report: Any, told: Any) -> ModelManifest:
        found.asked.append((*where, order))
        x, weights = ValueSpec("x", "float32", ("batch", 4)), bytes(8)
        tensor = TensorRef("w", store.put_bytes(weights), "float32", (2,), 8, 8)
        block = BlockSpec("b", store.put_bytes(b"graph"), 5, (tensor,), (x,), (x,), 1, 1)
        return ModelManifest(order.request.name, (x,), (x,), (block,), {"batch": DimRange(1, 8, 1)})

    monkeypatch.setattr(engines.Engine, "reached", reached)
    monkeypatch.setattr("stageline.importjob.run.import_in_container", job)
    monkeypatch.delenv("STAGELINE_STAGE_IMAGE", raising=False)
    return found


@pytest.fixture
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "_missing", lambda: "torch")


def test_without_torch_it_is_done_in_a_container_and_registered(
    docker: Docker, no_torch: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["models", "add", "hf:org/some-net", "--random-weights", "3", "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["name"] == "some-net"
    assert "torch is not installed here: importing in a container of stageline-stage" in said.err
    assert "removed stageline-import-old, which an import had left over" in said.err
    ((url, tls, order),) = docker.asked
    assert (url, tls, order.image, order.memory_bytes) == ("", None, "stageline-stage", 6 << 30)
    assert (order.request.source, order.request.random_weights) == ("hf:org/some-net", 3)
    assert [row.name for row in DirectoryCatalogue(tmp_path / "XDG_DATA_HOME/stageline").models()] == ["some-net"]
    assert not list((tmp_path / "XDG_CACHE_HOME/stageline").iterdir()), "nothing is left"


def test_flags_say_which_container(docker: Docker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").touch()
    (tmp_path / "extra.txt").touch()
    flags = ["--image", "mine", "--docker", "ssh://pi@box", "--memory", "1.5g", "--include", "extra.txt"]
    assert run(["models", "add", "net:make", "--name", "n", *flags]) == 0
    ((url, _, order),) = docker.asked
    assert (url, order.image, order.memory_bytes) == ("ssh://pi@box", "mine", 3 << 29)
    assert sorted(order.parcel.files) == ["extra.txt", "net.py"] and order.request.name == "n"
    monkeypatch.setenv("STAGELINE_STAGE_IMAGE", "theirs")
    assert run(["models", "add", "net:make", "--in-container"]) == 0
    assert docker.asked[1][2].image == "theirs"


@pytest.mark.parametrize("size", ["", "0", "0.4", "-1g", "8q", "g", "1e9"])
def test_a_size_that_is_none_is_refused(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "add", "m:f", "--memory", size]) == EXIT_USAGE
    assert "is no size: want one like 512m or 8g" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("this needs Docker's SDK: pip install 'stageline[cluster]'"), EXIT_USAGE),
        (ClusterError("no Docker engine answers"), EXIT_FAILED),
    ],
)
def test_where_there_is_neither_torch_nor_docker_both_ways_are_named(
    error: Exception, code: int, no_torch: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @contextmanager
    def reached(url: str, tls: Path | None = None) -> Iterator[None]:
        raise error
        yield

    monkeypatch.setattr(engines.Engine, "reached", reached)
    assert run(["models", "add", "m:f"]) == code
    line = capsys.readouterr().err.splitlines()[-1]
    assert str(error) in line and "importing needs torch here: pip install 'stageline[import]'" in line
    assert run(["models", "add", "m:f", "--in-container"]) == code
    assert "pip install 'stageline[import]'" not in capsys.readouterr().err.splitlines()[-1]


HIDDEN = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "safetensors", "transformers", "sklearn"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hidden())
from stageline.cli import run
sys.exit(run(sys.argv[1:]))
"""


def test_the_command_line_itself_needs_no_torch(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HIDDEN, "models", "add", "stageline_stage.zoo:resnet50"]
    docker = ["--docker", f"unix://{tmp_path}/none.sock"]
    for more, says in (
        (docker, "no Docker engine answers at unix://"),
        (["--help"], "--in-container"),
    ):
        done = subprocess.run([*command, *more], capture_output=True, text=True, timeout=60)
        assert says in done.stdout + done.stderr and "Traceback" not in done.stderr, done.stderr


def test_what_killed_imports_left_on_disk_goes_with_the_next(tmp_path: Path) -> None:
    killed = tmp_path / f"{SCRATCH}killed"
    (killed / "ab").mkdir(parents=True)
    (tmp_path / "docker").mkdir()  # somebody else's
    with scratch(tmp_path) as first:
        assert not killed.exists()
        with scratch(tmp_path) as second:
            assert first.is_dir() and first != second, "one that is in use stays"
    assert [one.name for one in tmp_path.iterdir()] == ["docker"]


def test_only_containers_whose_command_is_gone_are_abandoned() -> None:
    def one(owner: str, state: str = "running", created: float = 0.0) -> dict[str, Any]:
        return {"Labels": {OWNER: owner}, "State": state, "Created": created}

    mine = this_process()
    boot, pid, started = mine.split(":")
    late = 2 * ABANDONED_S
    assert not abandoned(one(mine), late) and not abandoned(one(mine, "created"), late)
    assert abandoned(one(f"{boot}:{pid}:{int(started) + 1}"), late), "another process has that number now"
    for elsewhere in (f"other:{pid}:{started}", "", "nonsense"):
        assert not abandoned(one(elsewhere), late), "its command may run on another machine"
        assert abandoned(one(elsewhere, "created"), late) and not abandoned(one(elsewhere, "created", late), late)
