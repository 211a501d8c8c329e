"""The command line without a cluster: help, one-line errors, exit codes, precedence of addresses."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import click
import numpy as np
import pytest

from stageline.cli import cli, output, run
from stageline.cli.infer import read_input, top_values
from stageline.cli.options import EXIT_CODES, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_NO_CLUSTER, EXIT_USAGE
from stageline.embedded import ClusterSpec, start
from stageline.embedded.settings import given_settings, worker_settings
from stageline.embedded.state import ClusterState
from stageline.errors import ConfigError, NoClusterError, NotReadyError
from stageline.locate import locate

README = Path(__file__).parents[3] / "README.md"


def commands(group: click.Group, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for name, command in group.commands.items():
        found += commands(command, (*prefix, name)) if isinstance(command, click.Group) else [(*prefix, name)]
    return found


def groups(group: click.Group, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = [prefix]
    for name, command in group.commands.items():
        found += groups(command, (*prefix, name)) if isinstance(command, click.Group) else []
    return found


@pytest.mark.parametrize("words", commands(cli) + groups(cli), ids=" ".join)
def test_every_command_helps_with_an_example(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*words, "--help"]) == 0
    text = capsys.readouterr().out
    assert "Example:" in text
    _, _, example = text.partition("Example:")
    assert f"stageline {' '.join(words)}".strip() in example


PLAIN = {("completion",)}
"""Commands that print text made for something else."""


@pytest.mark.parametrize("words", sorted(set(commands(cli)) - PLAIN), ids=" ".join)
def test_what_lists_or_reports_has_json(words: tuple[str, ...]) -> None:
    command: click.Command = cli
    for word in words:
        assert isinstance(command, click.Group)
        command = command.commands[word]
    assert "--json" in {name for parameter in command.params for name in parameter.opts}


def test_readme_and_help_tell_the_same_exit_codes() -> None:
    documented = dict(re.findall(r"^\| (\d+) \| (.+) \|$", README.read_text(), re.MULTILINE))
    assert documented.keys() == {str(code) for code in (0, EXIT_FAILED, EXIT_USAGE, EXIT_NO_CLUSTER, EXIT_INTERRUPTED)}
    assert documented.keys() == set(re.findall(r"^  (\d+) ", EXIT_CODES, re.MULTILINE))


def test_the_exit_codes_are_documented(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    text = capsys.readouterr().out
    for code in ("0 ", "1 ", "2 ", "3 ", "130 "):
        assert f"\n    {code}" in text


CONFIGS = {
    "section.yaml": "workers: {}",
    "key.yaml": "gateway: {max_bath: 4}",
    "value.yaml": "stage: {threads: many}",
    "broken.yaml": "stage: {",
}


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
        (["up", "--ready-timeout", "nan"], EXIT_USAGE, "--ready-timeout must be positive"),
        (["up", "--ready-timeout", "inf"], EXIT_USAGE, "--ready-timeout must be positive"),
        (["models", "add", "m:f", "--timeout", "nan"], EXIT_USAGE, "--timeout must be positive"),
        (["status", "--coordinator", "tcp://\x1b[31m"], EXIT_USAGE, "\N{REPLACEMENT CHARACTER}[31m"),
        (["models", "add", "m:f", "--timeout", "-1"], EXIT_USAGE, "--timeout must be positive"),
        (["nonsense"], EXIT_USAGE, "No such command 'nonsense'"),
        (["status", "--coordinator", "nonsense"], EXIT_USAGE, "must look like tcp://127.0.0.1:7700"),
        (["demo", "--json", "none/figures.json"], EXIT_FAILED, "none is no directory"),
        (["logs"], EXIT_NO_CLUSTER, "there are no logs"),
        (["models", "show"], EXIT_USAGE, "Missing argument 'NAME'"),
        (["infer", "m", "--input", "x=x.npy", "--deadline-ms", "0"], EXIT_USAGE, "--deadline-ms must be positive"),
        (["infer", "m", "--input", "x=x.npy", "--priority", "9999999999"], EXIT_USAGE, "is not in the range"),
        (["infer", "m", "--input", "x=x.npy"], EXIT_NO_CLUSTER, "no running cluster"),
        (["infer", "m", "--input", "x=x.npy", "--gateway", "127.0.0.1:9"], EXIT_NO_CLUSTER, "Connection refused"),
        (["infer", "m", "--input", "x=x.npy", "--gateway", "here"], EXIT_USAGE, "looks like 127.0.0.1:7710"),
        (["bench", "m"], EXIT_NO_CLUSTER, "no running cluster"),
        (["bench", "m", "--gateway", "127.0.0.1:9"], EXIT_NO_CLUSTER, "Connection refused"),
        (["bench"], EXIT_USAGE, "Missing argument 'MODEL'"),
        (["up", "--config", "none.yaml"], EXIT_USAGE, "cannot read the config file none.yaml"),
        (["up", "--config", "section.yaml"], EXIT_USAGE, "unknown section workers; want coordinator, gateway or stage"),
        (
            ["up", "--config", "key.yaml"],
            EXIT_USAGE,
            "unknown setting gateway.max_bath; known: advertise_host",
        ),
        (["up", "--config", "value.yaml"], EXIT_USAGE, "threads in value.yaml: Expected `int`"),
        (["up", "--config", "broken.yaml"], EXIT_USAGE, "broken.yaml is not valid YAML"),
    ],
)
def test_an_error_is_one_line_that_says_what_to_do(
    arguments: list[str], code: int, wanted: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.zeros((1, 2), np.float32))
    for name, text in CONFIGS.items():
        Path(name).write_text(text)
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
    assert run(["models", "remove", "m", "--data-dir", str(tmp_path / "data")]) == EXIT_FAILED
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("no cluster runs: working on "), "a note, which explains the error"
    assert second == "stageline: no model 'm' is registered: see `stageline models list`"


def test_a_bad_setting_is_found_before_anything_starts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("STAGELINE_MAX_BATCH", "many")
    assert run(["up", "--data-dir", str(tmp_path / "data")]) == EXIT_USAGE
    assert "STAGELINE_MAX_BATCH: Expected `int`" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("name", ["port", "http_port", "data_port"])
def test_a_port_in_the_environment_is_not_one_for_all_services(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(f"STAGELINE_{name.upper()}", "7000")
    assert run(["up", "--data-dir", str(tmp_path / "data")]) == EXIT_USAGE
    assert f"STAGELINE_{name.upper()} is one port for several services" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_what_several_workers_read_in_one_section_is_told_apart(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(f"stage: {{http_port: 9000, threads: 2, cache_dir: {tmp_path}/c}}\ngateway: {{port: 9100}}")
    environ = {"STAGELINE_THREADS": "3", "STAGELINE_BLOB_PORT": "9200"}
    found = given_settings(file, 2, environ)
    assert found["gateway"] == {"port": 9100}
    assert found["coordinator"] == {"blob_port": 9200}
    assert found["stage"]["threads"] == 3, "the environment beats the file"
    own = [worker_settings(found["stage"], number, f"stage-{number}", tmp_path / "n") for number in range(2)]
    assert own == [{"http_port": 9000 + n, "cache_dir": tmp_path / f"c/stage-{n}"} for n in range(2)]
    assert worker_settings({}, 0, "stage-0", tmp_path / "n") == {"cache_dir": tmp_path / "n/stage-0/cache"}
    file.write_text("stage: {data_address: 'tcp://127.0.0.1:9300'}")
    with pytest.raises(ConfigError, match="data_address is one address for 2 workers"):
        given_settings(file, 2, {})


def test_the_data_dir_of_the_environment_is_meant(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("STAGELINE_DATA_DIR", str(tmp_path / "mine"))
    assert run(["models", "list"]) == 0
    assert f"working on {tmp_path}/mine itself" in capsys.readouterr().err
    assert run(["models", "list", "--data-dir", str(tmp_path / "other")]) == 0
    assert f"working on {tmp_path}/other itself" in capsys.readouterr().err


def test_names_from_files_are_text_whatever_they_hold(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither control characters nor what rich takes for markup."""
    odd = "\x1b[2J[/red]\x07\t"
    plain = "\ufffd[2J[/red]\ufffd\ufffd"
    output.emit_table("", ("name",), [(odd,)])
    output.note(odd)
    told = capsys.readouterr()
    assert (told.out, told.err) == (f"name\n{plain}\n", f"{plain}\n")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    output.emit_table("[/a title]", ("name",), [(odd,)])
    told = capsys.readouterr()
    assert plain in told.out
    assert "[/a title]" in told.out


def test_a_service_that_cannot_start_stops_the_start_and_says_why(tmp_path: Path) -> None:
    spec = ClusterSpec(data_dir=tmp_path / "data", nodes=1, settings={"coordinator": {"http_port": 70000}})
    with pytest.raises(
        NotReadyError, match=r"coordinator ended with exit code 2 .*http_port must be between 0 and 65535"
    ):
        start(spec)
    assert not (tmp_path / "data/cluster.json").exists()
    assert not (tmp_path / "data/run").exists()


def test_flags_beat_the_environment() -> None:
    environ = {"STAGELINE_COORDINATOR": "tcp://e:1", "STAGELINE_GATEWAY": "e:2,e:3"}
    named = locate(coordinator="tcp://f:1", gateways=["f:2"], data_dir=None, environ=environ)
    assert (named.control, named.gateways) == ("tcp://f:1", ("f:2",))
    told = locate(coordinator=None, gateways=(), data_dir=None, environ=environ)
    assert (told.control, told.gateways) == ("tcp://e:1", ("e:2", "e:3"))


def test_with_a_gateway_alone_the_coordinator_is_unknown() -> None:
    found = locate(coordinator=None, gateways=["g:1"], data_dir=None, environ={})
    with pytest.raises(NoClusterError, match="--coordinator"):
        _ = found.control


def test_the_newest_running_cluster_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    def state(name: str) -> ClusterState:
        return ClusterState(id=name, data_dir=name, boot="", created=0.0, coordinator=f"tcp://{name}:1", gateway="g")

    monkeypatch.setattr("stageline.locate.running", lambda: [state("new"), state("old")])
    monkeypatch.setattr(ClusterState, "alive", property(lambda self: True))
    assert locate(coordinator=None, gateways=(), data_dir=None, environ={}).control == "tcp://new:1"


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


def test_an_input_is_read_from_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    data = io.BytesIO()
    np.save(data, np.arange(3))
    data.seek(0)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(data))
    name, array = read_input("x=-")
    assert (name, array.tolist()) == ("x", [0, 1, 2])


def test_the_largest_values_come_first() -> None:
    assert top_values(np.array([[1.0, 3.0, 2.0], [9.0, 9.0, 9.0]]), 2) == [(1, 3.0), (2, 2.0)]
    assert top_values(np.zeros((0, 3))) == []
