"""The command line without a cluster: help, one-line errors, exit codes, precedence of addresses."""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np
import pytest

from stageline.cli import cli, run
from stageline.cli.infer import read_input, top_values
from stageline.cli.options import EXIT_FAILED, EXIT_NO_CLUSTER, EXIT_USAGE
from stageline.embedded.state import ClusterState
from stageline.errors import ConfigError, NoClusterError
from stageline.locate import locate


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No cluster of the user's is found."""
    for variable in ("XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    for variable in ("STAGELINE_COORDINATOR", "STAGELINE_GATEWAY", "STAGELINE_CONFIG"):
        monkeypatch.delenv(variable, raising=False)


def commands(group: click.Group, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for name, command in group.commands.items():
        found += commands(command, (*prefix, name)) if isinstance(command, click.Group) else [(*prefix, name)]
    return found


@pytest.mark.parametrize("words", commands(cli), ids=" ".join)
def test_every_command_helps_with_an_example(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*words, "--help"]) == 0
    text = capsys.readouterr().out
    assert "Example:" in text
    assert f"stageline {' '.join(words)}" in text


def test_the_exit_codes_are_documented(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    text = capsys.readouterr().out
    for code in ("0 ", "1 ", "2 ", "3 ", "130 "):
        assert f"\n    {code}" in text


@pytest.mark.parametrize(
    ("arguments", "code", "wanted"),
    [
        (["status"], EXIT_NO_CLUSTER, "no running cluster: start one with `stageline up`"),
        (["nodes", "list"], EXIT_NO_CLUSTER, "no running cluster"),
        (["plan", "show", "--data-dir", "nowhere"], EXIT_NO_CLUSTER, "no cluster runs on nowhere"),
        (["infer", "m", "--input", "x"], EXIT_USAGE, "--input wants NAME=FILE.npy"),
        (["infer", "m", "--input", "x=none.npy"], EXIT_USAGE, "cannot read none.npy"),
        (["infer", "m"], EXIT_USAGE, "--input"),
        (["up", "--nodes", "0"], EXIT_USAGE, "--nodes must be between 1 and"),
        (["up", "--nodes", "many"], EXIT_USAGE, "'many' is not a valid integer"),
        (["up", "--ready-timeout", "0"], EXIT_USAGE, "--ready-timeout must be positive"),
        (["models", "add", "m:f", "--timeout", "-1"], EXIT_USAGE, "--timeout must be positive"),
        (["nonsense"], EXIT_USAGE, "No such command 'nonsense'"),
        (["status", "--coordinator", "nonsense"], EXIT_USAGE, "want tcp://HOST:PORT"),
        (["demo", "--json", "none/figures.json"], EXIT_FAILED, "none is no directory"),
        (["logs"], EXIT_NO_CLUSTER, "there are no logs"),
    ],
)
def test_an_error_is_one_line_that_says_what_to_do(
    arguments: list[str], code: int, wanted: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == code
    text = capsys.readouterr().err
    assert len(text.splitlines()) == 1
    assert text.startswith("stageline: ")
    assert wanted in text


def test_an_address_where_nobody_answers_is_no_cluster(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stageline.cli.inspect.STATUS_TIMEOUT_S", 0.1)
    assert run(["status", "--coordinator", "tcp://127.0.0.1:9"]) == EXIT_NO_CLUSTER
    assert "no coordinator answers at tcp://127.0.0.1:9" in capsys.readouterr().err


def test_down_without_a_cluster_says_so_and_succeeds(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["down"]) == 0
    assert capsys.readouterr().out == "no cluster was running\n"
    assert run(["down", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"stopped": None}


def test_models_are_listed_offline_as_an_empty_table(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["models", "list", "--data-dir", str(tmp_path / "data")]) == 0
    assert capsys.readouterr().out == "model\tstate\tblocks\tweights\treason\n"
    assert run(["models", "show", "m", "--data-dir", str(tmp_path / "data")]) == EXIT_FAILED
    assert "no model is called m: registered are none" in capsys.readouterr().err


def test_a_bad_key_in_the_file_stops_a_start_and_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("coordinator: {prot: 1}\n")
    data_dir = tmp_path / "data"
    assert run(["up", "--config", str(config), "--data-dir", str(data_dir), "--nodes", "1"]) == EXIT_FAILED
    text = capsys.readouterr().err
    assert "coordinator ended with exit code 2" in text
    assert "unknown setting coordinator.prot" in text
    assert not (data_dir / "cluster.json").exists()
    assert not (data_dir / "run").exists()


def test_flags_beat_the_environment() -> None:
    environ = {"STAGELINE_COORDINATOR": "tcp://e:1", "STAGELINE_GATEWAY": "e:2"}
    named = locate(coordinator="tcp://f:1", gateway="f:2", data_dir=None, environ=environ)
    assert (named.control, named.gateway) == ("tcp://f:1", "f:2")
    told = locate(coordinator=None, gateway=None, data_dir=None, environ=environ)
    assert (told.control, told.gateway) == ("tcp://e:1", "e:2")


def test_with_a_gateway_alone_the_coordinator_is_unknown() -> None:
    found = locate(coordinator=None, gateway="g:1", data_dir=None, environ={})
    with pytest.raises(NoClusterError, match="--coordinator"):
        _ = found.control


def test_the_newest_running_cluster_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    def state(name: str) -> ClusterState:
        return ClusterState(id=name, data_dir=name, boot="", created=0.0, coordinator=f"tcp://{name}:1", gateway="g")

    monkeypatch.setattr("stageline.locate.running", lambda: [state("new"), state("old")])
    monkeypatch.setattr(ClusterState, "alive", property(lambda self: True))
    assert locate(coordinator=None, gateway=None, data_dir=None, environ={}).control == "tcp://new:1"


def test_inputs_are_never_unpickled(tmp_path: Path) -> None:
    evil = tmp_path / "evil.npy"
    np.save(evil, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ConfigError, match="file of plain numbers"):
        read_input(f"x={evil}")


def test_an_archive_is_no_input(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros(1))
    with pytest.raises(ConfigError, match="several arrays"):
        read_input(f"x={tmp_path / 'a.npz'}")


def test_an_input_is_read(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(6, dtype=np.float32).reshape(2, 3))
    name, array = read_input(f"x={tmp_path / 'a.npy'}")
    assert (name, array.dtype, array.shape) == ("x", np.float32, (2, 3))


def test_the_largest_values_come_first() -> None:
    assert top_values(np.array([[1.0, 3.0, 2.0], [9.0, 9.0, 9.0]]), 2) == [(1, 3.0), (2, 2.0)]
    assert top_values(np.zeros((0, 3))) == []
