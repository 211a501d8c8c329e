"""The services' command lines: flags from the config, one line per error, exit codes, the ready file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from stageline.config import GatewayConfig
from stageline.errors import NotReadyError
from stageline.service_main import announce, service_command


def command(run: object = None) -> tuple[click.Command, list[GatewayConfig]]:
    seen: list[GatewayConfig] = []
    return service_command(GatewayConfig, run or seen.append, "stageline-gateway", "A gateway."), seen  # type: ignore[arg-type]


def test_every_setting_is_a_flag() -> None:
    built, seen = command()
    result = CliRunner().invoke(built, ["--max-batch", "3", "--name", "g1"])
    assert result.exit_code == 0, result.output
    assert (seen[0].max_batch, seen[0].name) == (3, "g1")
    text = CliRunner().invoke(built, ["--help"]).output
    assert "--batch-delay-ms" in text and "[default: 2.0]" in text


def test_a_config_error_is_one_line_and_exit_code_2() -> None:
    built, _ = command()
    result = CliRunner().invoke(built, ["--max-batch", "many"])
    assert result.exit_code == 2
    assert result.stderr.startswith("stageline-gateway: --max-batch")
    assert len(result.stderr.splitlines()) == 1


def test_another_error_is_one_line_and_exit_code_1() -> None:
    def fail(config: GatewayConfig) -> None:
        raise NotReadyError("no coordinator answers: start it")

    result = CliRunner().invoke(command(fail)[0], [])
    assert result.exit_code == 1
    assert result.stderr == "stageline-gateway: no coordinator answers: start it\n"


def test_the_ready_file_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "run/gateway.json"
    announce(path, {"client": "tcp://127.0.0.1:1"})
    assert json.loads(path.read_text()) == {"pid": os.getpid(), "client": "tcp://127.0.0.1:1"}
    assert [p.name for p in path.parent.iterdir()] == ["gateway.json"]


def test_no_ready_file_is_fine() -> None:
    announce(None, {})


@pytest.mark.parametrize("setting", ["host", "http-port", "log-level", "log-format", "ready-file"])
def test_common_settings_are_there(setting: str) -> None:
    assert f"--{setting}" in CliRunner().invoke(command()[0], ["--help"]).output
