"""`stageline emulate` where nothing is emulated: one line and an exit code for what cannot be."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest

from stageline.cli import run

SITE = 'nodes: [{name: n, cpus: 0.1}]\nmodel: {source: "m:make", name: net}\n'


@pytest.fixture
def site(tmp_path: Path) -> Path:
    path = tmp_path / "site.yaml"
    path.write_text(SITE)
    return path


def said(capsys: pytest.CaptureFixture[str]) -> str:
    line = capsys.readouterr().err.strip()
    assert "\n" not in line
    return line


def test_a_preset_is_shown_to_be_copied(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["emulate", "wifi-mesh-5", "--show"]) == 0
    copy = tmp_path / "mine.yaml"
    copy.write_text(capsys.readouterr().out)
    assert run(["emulate", str(copy), "--show"]) == 0


def test_what_is_wrong_is_said_in_a_line(capsys: pytest.CaptureFixture[str], site: Path) -> None:
    assert run(["emulate"]) == 2
    assert "a file or a preset" in said(capsys)
    assert run(["emulate", "nowhere.yaml"]) == 2
    assert "neither a file nor a preset" in said(capsys)
    site.write_text(SITE.replace("cpus", "cpu"))
    assert run(["emulate", str(site)]) == 2
    assert f"{site}, line 1: nodes[0].cpu is not known here" in said(capsys)


def test_without_docker(capsys: pytest.CaptureFixture[str], site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    assert run(["emulate", str(site)]) == 2
    assert "DOCKER_HOST is tcp://127.0.0.1:1: unset it" in said(capsys)
    monkeypatch.setenv("DOCKER_HOST", f"unix://{site.parent}/none")
    for arguments in ([str(site)], [str(site), "--check"], ["--clean"]):
        assert run(["emulate", *arguments]) == 1
        assert "no Docker engine answers at unix://" in said(capsys)
    real = builtins.__import__

    def without(name: str, *arguments: Any, **more: Any) -> Any:
        if name == "docker":
            raise ModuleNotFoundError("No module named 'docker'", name="docker")
        return real(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    assert run(["emulate", str(site)]) == 2
    assert "pip install 'stageline[cluster]'" in said(capsys)
