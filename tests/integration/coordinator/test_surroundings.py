"""A coordinator whose disk is full, whose ports are taken, or whose files are not as it needs them."""

from __future__ import annotations

import os
import resource
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stageline.blobs import BlobStore
from stageline.errors import BlobCorruptError, StoreError

from .conftest import Process, wait_until


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A coordinator that is expected to give up."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith("STAGELINE_")}
    command = [sys.executable, "-m", "stageline_coordinator", "--http-port", "0", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environ)


def one_line(done: subprocess.CompletedProcess[str], code: int) -> str:
    """The only thing that it said besides its log."""
    said = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert (done.returncode, len(said)) == (code, 1), done.stderr
    return said[0]


def test_an_upload_beyond_what_a_file_may_hold_is_refused_and_the_rest_goes_on(
    coordinator: Process, tmp_path_factory: pytest.TempPathFactory
) -> None:
    local = BlobStore(tmp_path_factory.mktemp("local"))
    large, small = local.put_bytes(bytes(3 << 20)), local.put_bytes(b"small")
    unlimited = resource.prlimit(coordinator.child.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(coordinator.child.pid, resource.RLIMIT_FSIZE, (1 << 20, unlimited[1]))
    with coordinator.admin() as admin:
        with pytest.raises(StoreError, match=r"writing blob .* failed: File too large; check the data directory"):
            admin.upload(local, [large])
        admin.upload(local, [small])
        assert admin.missing([large, small]).keys() == {large}
        resource.prlimit(coordinator.child.pid, resource.RLIMIT_FSIZE, unlimited)
        admin.upload(local, [large])
        assert admin.missing([large]) == {}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"cannot mount a small disk: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_full_disk_is_named_and_can_be_cured(small_disk: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    local = BlobStore(tmp_path_factory.mktemp("local"))
    shas = [local.put_bytes(bytes([i]) * (2 << 20)) for i in range(2)]
    coordinator = Process(small_disk)
    try:
        with coordinator.admin() as admin:
            with pytest.raises(StoreError, match=r"the disk is full: writing blob .* needs \d+ more bytes; free"):
                admin.upload(local, shas)
            wait_until("what was sent is let go", lambda: len(admin.missing(shas)) == 2)
            assert admin.models() == ()
            subprocess.run(["mount", "-o", "remount,size=16m", str(small_disk)], check=True)
            admin.upload(local, shas)
            assert admin.missing(shas) == {}
        assert "Traceback" not in coordinator.log()
    finally:
        assert coordinator.stop() == 0


def test_a_blob_that_is_damaged_on_disk_is_noticed(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    sha = store.put_bytes(b"weights")
    path = store.path(sha)
    path.chmod(0o644)
    path.write_bytes(b"weighty")
    with pytest.raises(BlobCorruptError, match="did not match its SHA-256 and was removed: fetch it again"):
        store.read(sha)


@pytest.mark.parametrize("flag", ["--port", "--plan-port", "--blob-port", "--http-port"])
def test_a_busy_port_is_one_line_that_names_it(tmp_path: Path, flag: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        free = [word for name in ("--port", "--plan-port", "--blob-port") for word in (name, "0")]
        done = run("--data-dir", str(tmp_path), *free, flag, port)
    assert port in one_line(done, 2)


def test_a_directory_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    first = Process(tmp_path)
    assert first.stop() == 0
    (database,) = tmp_path.glob("*.sqlite*")
    with sqlite3.connect(database) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    before = database.read_bytes()
    done = run("--data-dir", str(tmp_path), "--port", "0", "--plan-port", "0", "--blob-port", "0")
    assert "written by a newer Stageline (schema 99, this one knows" in one_line(done, 1)
    assert "upgrade, or use another data directory" in done.stderr
    assert database.read_bytes() == before


def test_an_unknown_setting_in_the_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("coordinator: {pingms: 5}\n")
    said = one_line(run("--config", str(file), "--data-dir", str(tmp_path)), 2)
    assert "unknown setting coordinator.pingms; known: " in said
    assert "ping_ms" in said


def test_a_data_directory_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "file" in one_line(run("--data-dir", str(tmp_path / "file"), "--port", "0"), 1)
