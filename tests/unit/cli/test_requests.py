"""`infer` and `bench` against a client that writes down what it is asked."""

from __future__ import annotations

import json
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

import numpy as np
import pytest
from msgspec.structs import replace

from stageline.cli import run
from stageline.cli.options import EXIT_FAILED, EXIT_NO_CLUSTER, EXIT_USAGE
from stageline.client import InferResult, Tls
from stageline.curve import write_secret
from stageline.errors import ConnectionLostError, FailedError, ModelNotFoundError
from stageline.plan import DimRange, Signature, ValueSpec
from stageline.protocol import ModelInfo

SIGNATURE = Signature(
    inputs=(ValueSpec(name="x", dtype="float32", dims=("batch", 4)),),
    outputs=(ValueSpec(name="y", dtype="float32", dims=("batch", 2)),),
    dims={"batch": DimRange(minimum=1, maximum=8, nominal=2)},
)
ANSWER = InferResult({"y": np.ones((1, 2), np.float32)}, batch=2, attempts=3, timings=None, request_id=1)
SHORT = ("--duration", "0.05", "--warmup", "0")


class FakeClient:
    """Answers at once; `asked` holds the model, inputs and options of every request of the test."""

    asked: ClassVar[list[tuple[str, dict[str, Any], dict[str, Any]]]]
    error: ClassVar[Exception | None]
    info: ClassVar[ModelInfo]
    addresses: ClassVar[tuple[str, ...]]
    options: ClassVar[dict[str, Any]]

    def __init__(self, addresses: tuple[str, ...], **options: Any) -> None:
        type(self).addresses = addresses
        type(self).options = options

    def __enter__(self) -> FakeClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def describe(self, model: str) -> dict[str, ModelInfo]:
        if model != self.info.name:
            raise ModelNotFoundError(f"no model is called {model}: there are {self.info.name}")
        return {model: self.info}

    def infer(self, model: str, inputs: dict[str, Any], **options: Any) -> InferResult:
        return self.submit(model, inputs, **options).result()

    def submit(self, model: str, inputs: dict[str, Any], **options: Any) -> Future[InferResult]:
        self.asked.append((model, inputs, options))
        future: Future[InferResult] = Future()
        if self.error is None:
            future.set_result(ANSWER)
        else:
            future.set_exception(self.error)
        return future


@pytest.fixture(autouse=True)
def client(monkeypatch: pytest.MonkeyPatch) -> type[FakeClient]:
    FakeClient.asked, FakeClient.error = [], None
    FakeClient.info = ModelInfo(name="net", status="serving", signature=SIGNATURE)
    monkeypatch.setattr("stageline.client.Client", FakeClient)
    monkeypatch.setenv("STAGELINE_GATEWAY", "127.0.0.1:1")
    return FakeClient


@pytest.fixture
def x(tmp_path: Path) -> str:
    np.save(tmp_path / "x.npy", np.zeros((1, 4), np.float32))
    return f"x={tmp_path / 'x.npy'}"


def test_a_gateway_that_is_not_met_before_the_deadline_is_told_as_that(
    x: str, client: type[FakeClient], capsys: pytest.CaptureFixture[str]
) -> None:
    client.error = ConnectionLostError("the gateway at 127.0.0.1:1 did not greet")
    assert run(["infer", "net", "--input", x, "--deadline-ms", "0.001"]) == EXIT_FAILED
    assert "the deadline of 0.001 ms passed: the gateway at 127.0.0.1:1 did not greet" in capsys.readouterr().err
    assert run(["infer", "net", "--input", x, "--deadline-ms", "100000"]) == EXIT_NO_CLUSTER
    assert "deadline" not in capsys.readouterr().err, "there was time left"


def test_deadline_and_priority_go_with_the_request(x: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["infer", "net", "--input", x, "--deadline-ms", "250", "--priority", "-3", "--json"]) == 0
    (model, inputs, options) = FakeClient.asked[0]
    assert (model, inputs["x"].shape) == ("net", (1, 4))
    assert options["priority"] == -3
    assert 0 < options["deadline_s"] <= 0.25, "what connecting took is over"
    assert FakeClient.options["connect_timeout_s"] == 0.25 / len(FakeClient.addresses)
    assert json.loads(capsys.readouterr().out)["attempts"] == 3


def test_one_output_goes_to_a_npy_file_and_all_to_a_npz_file(x: str, tmp_path: Path) -> None:
    ask = ["infer", "net", "--input", x, "--output"]
    assert run([*ask, str(tmp_path / "y.npy")]) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy", allow_pickle=False), ANSWER.outputs["y"])
    assert run([*ask, str(tmp_path / "y.npz")]) == 0
    with np.load(tmp_path / "y.npz", allow_pickle=False) as saved:
        np.testing.assert_array_equal(saved["y"], ANSWER.outputs["y"])


def test_an_output_of_another_kind_is_refused(x: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["infer", "net", "--input", x, "--output", str(tmp_path / "y.txt")]) == EXIT_USAGE
    assert "--output y.txt must end in .npy or .npz" in capsys.readouterr().err
    assert FakeClient.asked == [] and not (tmp_path / "y.txt").exists()


def test_several_outputs_in_a_npy_file_are_refused_before_anything_is_computed(
    x: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = tuple(ValueSpec(name=name, dtype="float32", dims=("batch", 2)) for name in ("a", "b"))
    FakeClient.info = ModelInfo(name="net", status="serving", signature=replace(SIGNATURE, outputs=outputs))
    assert run(["infer", "net", "--input", x, "--output", str(tmp_path / "y.npy")]) == EXIT_USAGE
    assert "--output y.npy holds one array, the model gives a, b: name a .npz file" in capsys.readouterr().err
    assert FakeClient.asked == []


def test_a_directory_that_is_not_there_is_refused_before_anything_is_computed(
    x: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["infer", "net", "--input", x, "--output", str(tmp_path / "none/y.npz")]) == EXIT_USAGE
    assert "none is no directory: choose another --output" in capsys.readouterr().err
    assert FakeClient.asked == []


def test_an_input_that_is_given_twice_is_refused(x: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["infer", "net", "--input", x, "--input", x]) == EXIT_USAGE
    assert "--input x is given twice" in capsys.readouterr().err
    assert FakeClient.asked == []


def test_numbers_that_json_has_not_are_strings(
    x: str, client: type[FakeClient], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    worst = np.array([[np.inf, 1, -np.inf, np.nan]], np.float32)
    monkeypatch.setattr(f"{__name__}.ANSWER", InferResult({"y": worst}, 1, 1, timings=None, request_id=1))
    assert run(["infer", "net", "--input", x, "--json"]) == 0

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    (output,) = json.loads(capsys.readouterr().out, parse_constant=refuse)["outputs"]
    values = [one["value"] for one in output["top"]]
    assert values == ["Infinity", 1, "-Infinity", "NaN"]


def test_without_them_the_gateway_decides(x: str) -> None:
    assert run(["infer", "net", "--input", x, "--gateway", "127.0.0.1:2"]) == 0
    assert FakeClient.asked[0][2] == {"priority": 0, "deadline_s": None}
    assert FakeClient.addresses == ("127.0.0.1:2",)


@pytest.mark.parametrize("command", ["infer", "bench"])
def test_several_gateways_stand_in_for_each_other(command: str, x: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [command, "net", *(["--input", x] if command == "infer" else SHORT)]
    assert run([*words, "--gateway", "one:1, two:2", "--gateway", "tcp://three:3"]) == 0
    assert FakeClient.addresses == ("one:1", "two:2", "tcp://three:3")
    monkeypatch.setenv("STAGELINE_GATEWAY", "four:4,five:5")
    assert run(words) == 0
    assert FakeClient.addresses == ("four:4", "five:5")


@pytest.mark.parametrize("command", ["infer", "bench"])
def test_tokens_and_authorities_go_to_the_client(
    command: str, x: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [command, "net", *(["--input", x] if command == "infer" else SHORT)]
    assert run(words) == 0
    assert (FakeClient.options["token"], FakeClient.options["tls"]) == (None, None), "as the environment says"
    write_secret(tmp_path / "token", "slc_x\n")
    monkeypatch.setenv("STAGELINE_CERT_FILE", "own")
    assert run([*words, "--token-file", str(tmp_path / "token"), "--ca-file", "ca"]) == 0
    assert FakeClient.options["token"] == "slc_x"
    assert FakeClient.options["tls"] == Tls(Path("ca"), "own", None)
    for flag, value in (("--tls", True), ("--no-tls", False)):
        assert run([*words, flag]) == 0
        assert FakeClient.options["tls"] is value
    (tmp_path / "token").chmod(0o644)
    assert run([*words, "--token-file", str(tmp_path / "token")]) == EXIT_USAGE
    told = capsys.readouterr().err
    assert "may be read by others" in told and "slc_x" not in told


def test_a_closed_loop_reports_everything(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--concurrency", "3", "--batch", "2", "--deadline-ms", "250", "--priority", "7", "--json"]
    assert run(["bench", "net", *SHORT, *arguments]) == 0
    told = capsys.readouterr()
    figures = json.loads(told.out)
    assert told.err == "", "no progress when piped"
    assert (figures["model"], figures["loop"], figures["concurrency"], figures["batch"]) == ("net", "closed", 3, 2)
    assert "rate_rps" not in figures
    assert figures["requests"] == figures["answered"] == len(FakeClient.asked) > 0
    assert (figures["failed"], figures["unanswered"], figures["errors"]) == (0, 0, {})
    assert figures["retries"] == 2 * figures["answered"]
    assert figures["throughput_items"] == pytest.approx(2 * figures["throughput_rps"], abs=0.01)
    assert set(figures["latency_ms"]) == {"mean", "p50", "p90", "p99", "max"}
    assert {"cpu", "cores", "memory_bytes", "python", "stageline"} <= set(figures["machine"])
    assert figures["nodes"] == []
    assert {inputs["x"].shape for _, inputs, _ in FakeClient.asked} == {(2, 4)}
    assert FakeClient.asked[0][2] == {"priority": 7, "deadline_s": 0.25}


def test_an_open_loop_is_written_to_a_file_beside_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "figures.json"
    arguments = ["--rate", "400", "--arrivals", "constant", "--json", str(file)]
    assert run(["bench", "net", *SHORT, *arguments]) == 0
    figures = json.loads(file.read_text())
    assert (figures["loop"], figures["rate_rps"], figures["arrivals"]) == ("open", 400.0, "constant")
    assert figures["requests"] == figures["answered"] == len(FakeClient.asked) == 20
    table = dict(line.split("\t") for line in capsys.readouterr().out.splitlines())
    assert table["requests"] == "20"
    assert {"p50 ms", "p90 ms", "p99 ms", "max ms", "requests/s"} <= set(table)


def test_nothing_answered_is_a_failure_that_names_its_errors(capsys: pytest.CaptureFixture[str]) -> None:
    FakeClient.error = FailedError("it broke")
    assert run(["bench", "net", *SHORT]) == EXIT_FAILED
    told = capsys.readouterr()
    assert "error failed\t8: it broke" in told.out and "p99 ms\t-" in told.out
    assert "none of 8 requests was answered: 8 × it broke" in told.err


@pytest.mark.parametrize(
    ("arguments", "code", "wanted"),
    [
        (["none"], EXIT_FAILED, "no model is called none: there are net"),
        (["net", "--batch", "9"], EXIT_USAGE, "--batch must be between 1 and 8"),
        (["net", "--batch", "0"], EXIT_USAGE, "--batch must be at least 1"),
        (["net", "--concurrency", "0"], EXIT_USAGE, "--concurrency must be at least 1"),
        (["net", "--rate", "0"], EXIT_USAGE, "--rate must be positive"),
        (["net", "--rate", "nan"], EXIT_USAGE, "--rate must be positive"),
        (["net", "--rate", "1e9"], EXIT_USAGE, "--rate must be at most 100000, got 1e+09"),
        (
            ["net", "--rate", "90000", "--duration", "999"],
            EXIT_USAGE,
            "are 9e+07 requests, of which a run can remember",
        ),
        (["net", "--concurrency", "999999999"], EXIT_USAGE, "--concurrency must be at most 100000"),
        (["net", "--duration", "1e300"], EXIT_USAGE, "--warmup and --duration together must be at most 86400"),
        (["net", "--duration", "nan"], EXIT_USAGE, "--duration must be positive"),
        (["net", "--warmup", "nan"], EXIT_USAGE, "--warmup must not be negative"),
        (["net", "--deadline-ms", "nan"], EXIT_USAGE, "--deadline-ms must be positive"),
        (["net", "--batch", "99999999999"], EXIT_USAGE, "--batch must be between 1 and 8"),
        (["net", "--duration", "inf"], EXIT_USAGE, "--duration must be positive"),
        (["net", "--warmup", "-1"], EXIT_USAGE, "--warmup must not be negative"),
        (["net", "--seed", "-1"], EXIT_USAGE, "--seed must not be negative"),
        (["net", "--deadline-ms", "0"], EXIT_USAGE, "--deadline-ms must be positive"),
        (["net", "--arrivals", "constant"], EXIT_USAGE, "--arrivals constant says how requests come with --rate"),
        (["net", "--json", "."], EXIT_USAGE, "choose another file for --json"),
        (["net", "--json", "none/f.json"], EXIT_USAGE, "choose another file for --json"),
        (["--json", "net"], EXIT_USAGE, "Missing argument 'MODEL'"),
    ],
)
def test_what_is_wrong_with_a_bench_is_one_line(
    arguments: list[str], code: int, wanted: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert run(["bench", *arguments]) == code
    text = capsys.readouterr().err
    assert len(text.splitlines()) == 1
    assert wanted in text
    assert FakeClient.asked == []


def test_a_model_that_is_not_served_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    FakeClient.info = ModelInfo(name="net", status="unavailable", signature=SIGNATURE, reason="no node has the memory")
    assert run(["bench", "net"]) == EXIT_FAILED
    assert capsys.readouterr().err == (
        "stageline: net is unavailable: no node has the memory; see `stageline models list`\n"
    )
