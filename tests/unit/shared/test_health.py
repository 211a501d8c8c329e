"""`stageline-health`: what a container engine is told."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from stageline import health, http
from stageline.health import check, main


@pytest.fixture
def ready(tmp_path: Path) -> Path:
    return tmp_path / "ready.json"


def serve(ready: Path) -> http.StatusServer:
    server = http.StatusServer("127.0.0.1", 0, lambda: (False, {"reason": "no plan yet"}), CollectorRegistry())
    ready.write_text(json.dumps({"pid": 1, "http": server.address}))
    return server


def test_a_service_whose_loop_turns_is_healthy_though_not_ready(ready: Path) -> None:
    server = serve(ready)
    try:
        assert check(ready) == ""
    finally:
        server.close()


def test_a_service_whose_loop_is_stuck_is_not(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "STUCK_S", -1.0)
    server = serve(ready)
    try:
        said = json.loads(check(ready))
        assert said["status"] == "stuck" and "restart the service" in said["reason"]
        monkeypatch.setattr(http, "STUCK_S", 60.0)
        server.turned()
        assert check(ready) == ""
    finally:
        server.close()


def test_a_service_that_is_gone_is_named(ready: Path) -> None:
    serve(ready).close()
    assert "does not answer" in check(ready)


@pytest.mark.parametrize("text", ["", "[]", '{"pid": 1}'])
def test_a_service_that_is_not_up_yet(ready: Path, text: str) -> None:
    assert "not up yet" in check(ready)
    ready.write_text(text)
    assert "not up yet" in check(ready)


def test_exit_codes(ready: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv(health.VARIABLE, raising=False)
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 1 and health.VARIABLE in capsys.readouterr().out
    server = serve(ready)
    try:
        monkeypatch.setenv(health.VARIABLE, str(ready))
        with pytest.raises(SystemExit) as ended:
            main([])
    finally:
        server.close()
    assert ended.value.code == 0 and capsys.readouterr().out == "ok\n"


def test_it_imports_the_standard_library_only() -> None:
    code = "import sys, stageline.health; print([m for m in ('click', 'zmq', 'msgspec', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
