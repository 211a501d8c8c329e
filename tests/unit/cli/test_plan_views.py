"""What people see of a plan: on the terminal, as a picture, in words, as JSON; from files, without a cluster."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar
from xml.etree import ElementTree as Xml

import msgspec
import pytest
from rich.console import Console

from stageline.cli import planviews, run
from stageline.cli.options import EXIT_FAILED, EXIT_USAGE
from stageline.cli.plandescribe import Claim, describe_plan, of_running
from stageline.cli.plandraw import drawing, names
from stageline.cli.planfigures import Figures
from stageline.cli.planpicture import WIDTH, picture
from stageline.cli.plans import backend_lines
from stageline.errors import NotReadyError
from stageline.messages import Backing, NodeList, NodeRow, Progress
from stageline.plan import Endpoint, ModelPlan, Plan, PlanStage, Replica, Signature, StageKey
from stageline_coordinator.planner import Problem
from stageline_coordinator.planner.solution import StageAssignment

EXAMPLE = Path(__file__).parents[3] / "examples/plan/six-boxes.json"

MB = 1_000_000
HOSTILE = 'n<0>&"\x1b[31m'
NODES = (HOSTILE, "n1", "n2")
SVG = "{http://www.w3.org/2000/svg}"


def document(replicas: int = 1, **more: Any) -> dict[str, Any]:
    """Four blocks of 1 s on three nodes, cuts of 1 MB on links of 1 MB/s."""
    rates = [[1 * MB] * 3] * 3
    return {
        "version": 1,
        "nodes": [{"id": name, "memory_bytes": 100 * MB, "base_bytes": 10 * MB} for name in NODES],
        "links": {"bandwidth_bytes_per_s": rates, "latency_s": [[0.5] * 3] * 3},
        "models": [
            {
                "name": "net",
                "blocks": [
                    {"name": f"b{i}", "weight_bytes": 20 * MB, "workspace_bytes": 0, "seconds": [1.0, 1.0, 1.0]}
                    for i in range(4)
                ],
                "cuts_bytes": [0, MB, MB, MB, 0],
                "max_replicas": replicas,
                "tolerance": 0.1,
                "codecs": [{"name": "fp16", "ratio": 0.5}],
            }
        ],
        **more,
    }


def stages(*placed: tuple[int, int, tuple[str, ...]], codec: str = "none") -> dict[str, list[StageAssignment]]:
    return {
        "net": [
            StageAssignment((start, end), nodes, codec if i else "none") for i, (start, end, nodes) in enumerate(placed)
        ]
    }


def figures(*placed: tuple[int, int, tuple[str, ...]], bound_s: float | None = None, **more: Any) -> Figures:
    codec = more.pop("codec", "none")
    return describe_plan("a plan", Problem.from_json(document(**more)), stages(*placed, codec=codec), Claim(bound_s))


def drawn(found: Figures, width: int = 110) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(drawing(found, width))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


CHAIN = ((0, 1, (HOSTILE,)), (1, 4, ("n1",)))


@pytest.fixture
def problem(tmp_path: Path) -> str:
    path = tmp_path / "problem.json"
    path.write_text(json.dumps(document()))
    return str(path)


@pytest.fixture
def solution(tmp_path: Path) -> str:
    path = tmp_path / "solution.json"
    placed = [{"blocks": [0, 1], "nodes": [HOSTILE]}, {"blocks": [1, 4], "nodes": ["n1"], "codec": "fp16"}]
    path.write_text(json.dumps({"status": "feasible", "lower_bound_s": 1.5, "stages": {"net": placed}}))
    return str(path)


def test_figures_say_what_is_busy_and_what_limits() -> None:
    found = figures(*CHAIN, bound_s=1.5, codec="fp16")
    assert (found.objective_s, found.per_s, found.gap, found.proven) == (3.0, 1 / 3, 0.5, False)
    assert [limit.name for limit in found.limits] == ["node n1", f"node {HOSTILE}", f"link {HOSTILE} → n1"]
    (chain,) = found.chains
    assert [stage.limits for stage in chain.stages] == [False, True]
    assert (chain.stages[1].hop_in.wire_bytes, chain.stages[1].hop_in.busy_s) == (MB / 2, 0.5)
    assert [host.held_bytes for stage in chain.stages for host in stage.hosts] == [30 * MB, 70 * MB]
    assert (chain.latency_s, chain.on_way_s) == (5.0, 1.0)
    assert (found.unused, found.faults) == (("n2",), ())
    assert figures(*CHAIN, bound_s=3.0).proven


def test_equals_limit_together_and_replicas_share() -> None:
    found = figures((0, 2, (HOSTILE,)), (2, 4, ("n1",)))
    assert [stage.limits for stage in found.chains[0].stages] == [True, True]
    shared = figures((0, 1, (HOSTILE,)), (1, 4, ("n1", "n2")), replicas=2)
    assert [(host.share, host.busy_s) for host in shared.chains[0].stages[1].hosts] == [(0.5, 1.5)] * 2


def test_a_hop_or_a_medium_may_be_what_limits() -> None:
    slow = {"bandwidth_bytes_per_s": [[MB / 10] * 3] * 3, "latency_s": [[0.0] * 3] * 3}
    hop = figures(*CHAIN, links=slow).chains[0].stages[1]
    assert (hop.hop_in.limits, hop.limits) == (True, False)
    media = [{"name": "wifi", "nodes": [HOSTILE, "n1"], "bandwidth_bytes_per_s": MB / 10}]
    shared = figures(*CHAIN, media=media)
    assert shared.chains[0].stages[1].hop_in.limits
    assert shared.limits[0].name == "medium wifi"


def test_the_terminal_shows_every_node_hop_and_the_bottleneck() -> None:
    text = drawn(figures(*CHAIN, bound_s=1.5, codec="fp16"))
    lines = text.splitlines()
    assert "\x1b" not in text
    node = next(line for line in lines if "1 n1" in line)
    assert "1-4 b1…b3" in node
    assert "3000 ms" in node
    assert "66.8/95.4 MiB" in node
    assert node.endswith("◄ bottleneck")
    assert any("488.3 KiB as fp16" in line and "500.0 ms" in line for line in lines)
    assert sum(line.strip() == "gateway" for line in lines) == 2
    joined = " ".join(text.split())
    assert "Predicted: 0.333 requests/s; a request alone takes 5000 ms." in joined
    assert "Bottleneck: node n1, busy 3000 ms per request: it runs blocks 1-4 of net." in joined
    assert "no plan is below 1500 ms, so that a better one saves 50 % at most." in joined
    assert "Not used: n2." in joined


@pytest.mark.parametrize("width", [60, 80, 140])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    assert max(len(line.rstrip()) for line in drawn(figures(*CHAIN), width).splitlines()) <= width


def test_long_names_keep_the_ends_that_tell_them_apart() -> None:
    stage = figures(*CHAIN).chains[0].stages[1]
    long = replace(stage, first_block="model.encoder.layers.1.output", last_block="model.encoder.layers.12.output")
    assert names(stage, 5) == "b1…b3"
    assert names(long) == "model.encoder.layers.1.output…model.encoder.layers.12.output"
    assert names(long, 21) == "….1.output→…12.output"
    assert names(replace(long, last_block=long.first_block), 8) == "….output"


def test_what_was_measured_is_told_beside(tmp_path: Path) -> None:
    current = {"net": [{"blocks": [0, 1], "nodes": [HOSTILE]}, {"blocks": [1, 4], "nodes": ["n1", "n2"]}]}
    problem = Problem.from_json(document(replicas=2, current=current))
    found = of_running("t", problem, None, {"n1": 0.926, HOSTILE: 0.3})
    assert "93 % busy" in drawn(found)
    words = {element.text for element in Xml.fromstring(picture(found)).iter(f"{SVG}text")}
    assert {"takes 50 %, was 93 % busy", "takes 50 % of the requests", "was 30 % busy"} <= words


def test_the_picture_is_xml_that_names_every_node_and_the_bottleneck() -> None:
    text = picture(figures((0, 1, (HOSTILE,)), (1, 2, ("n1",)), (2, 4, ("n2",)), bound_s=2.0))
    root = Xml.fromstring(text)
    words = [element.text or "" for element in root.iter(f"{SVG}text")]
    assert {'n<0>&"\N{REPLACEMENT CHARACTER}[31m', "n1", "n2"} <= set(words)
    assert "bottleneck: node n2" in words
    assert "proven: no plan is better" in words
    assert "<0>" not in text
    assert root.findtext(f"{SVG}title") == "a plan"
    inside(root)


def test_a_picture_of_many_stages_goes_on_below() -> None:
    nodes = [f"node-{i}" for i in range(9)]
    made = document()
    made.pop("links")
    made["nodes"] = [{"id": name, "memory_bytes": 100 * MB} for name in nodes]
    block = made["models"][0]["blocks"][0]
    made["models"][0]["blocks"] = [{**block, "name": f"b{i}", "seconds": [1.0] * 9} for i in range(9)]
    made["models"][0]["cuts_bytes"] = [MB] * 10
    placed = {"net": [StageAssignment((i, i + 1), (name,)) for i, name in enumerate(nodes)]}
    root = Xml.fromstring(picture(describe_plan("t", Problem.from_json(made), placed, Claim())))
    assert set(nodes) <= {element.text for element in root.iter(f"{SVG}text")}
    assert len({element.get("y") for element in root.iter(f"{SVG}rect") if element.get("width") == "180"}) == 3
    inside(root)


def inside(root: Xml.Element) -> None:
    """Nothing is drawn beyond the edges."""
    height = float(root.get("height", 0))
    for element in root.iter(f"{SVG}rect"):
        x, y, width, tall = (float(element.get(name, -1)) for name in ("x", "y", "width", "height"))
        assert 0 <= x <= x + width <= WIDTH
        assert 0 <= y <= y + tall <= height


def test_show_from_files(problem: str, solution: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "show", problem, solution, "--svg", str(tmp_path / "plan.svg")]) == 0
    header, first, second = (line.split("\t") for line in capsys.readouterr().out.splitlines())
    assert header[:4] == ["model", "stage", "blocks", "node"]
    assert first[1:3] == ["0", "0-1 b0"]
    assert second[-1] == "* bottleneck"
    Xml.parse(tmp_path / "plan.svg")
    assert run(["plan", "show", problem, solution, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["requests_per_s"] == 1 / 3
    assert found["chains"][0]["stages"][1]["hosts"][0]["node"] == "n1"
    assert found["limits"][0]["name"] == "node n1"


def test_without_a_solution_the_best_plan_is_meant(problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "show", problem, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["objective_s"] == pytest.approx(2.0)


def test_the_example_has_a_plan_that_is_proven_best(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "show", str(EXAMPLE), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["gap"], found["faults"], found["limits"][0]["name"]) == (0.0, [], "node desk")


@pytest.mark.parametrize("how", [[], ["--json"]], ids=["text", "json"])
@pytest.mark.parametrize(
    ("placed", "more", "wanted"),
    [
        ([(0, 4, ["n1", "n2"])], {}, ["model 'net': stage 0: has 2 nodes; 1 to 1 are allowed"]),
        ([(0, 3, ["n1"])], {}, ["model 'net': the stages are not its blocks in order"]),
        ([(0, 4, ["n9"])], {}, ["model 'net': stage 0: no node 'n9'"]),
        ([(0, 4, ["n1"])], {"other": []}, ["model 'other': not in the problem"]),
        ([(0, 4, ["n1"])], {"memory": 50 * MB}, ["n1 has 50000000 bytes and would need 90000000"]),
    ],
    ids=["many", "uncovered", "unknown-node", "unknown-model", "memory"],
)
def test_a_plan_that_cannot_run_says_why_and_fails(
    placed: list[Any], more: dict[str, Any], wanted: list[str], how: list[str], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    made = document()
    for node in made["nodes"]:
        node["memory_bytes"] = 100 * MB
    made["nodes"][1]["memory_bytes"] = more.get("memory", 100 * MB)
    named = {"net": [{"blocks": [start, end], "nodes": nodes} for start, end, nodes in placed]}
    if "other" in more:
        named["other"] = named["net"]
    problem, bad = tmp_path / "problem.json", tmp_path / "bad.json"
    problem.write_text(json.dumps(made))
    bad.write_text(json.dumps({"status": "feasible", "lower_bound_s": 1.5, "stages": named}))
    for command in ("show", "explain"):
        assert run(["plan", command, str(problem), str(bad), *how]) == EXIT_FAILED
        said = capsys.readouterr()
        faults = [line for line in said.err.splitlines() if line.startswith("this plan cannot run: ")]
        assert len(faults) == len(wanted) and all(map(str.__contains__, faults, wanted)), said.err
        assert "Predicted" not in said.out + said.err and "Proven" not in said.out + said.err
        if how:
            found = json.loads(said.out)
            figures = found if command == "show" else found["plan"]
            assert (figures["requests_per_s"], figures["gap"], len(figures["faults"])) == (None, None, len(wanted))
        elif command == "explain":
            assert "This plan cannot run, but there is one that can" in said.out


def test_in_a_pipe_the_sentences_are_on_stderr(problem: str, solution: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "show", problem, solution]) == 0
    said = capsys.readouterr()
    assert "Bottleneck: node n1, busy 3000 ms per request: it runs blocks 1-4 of net." in said.err
    assert "Bottleneck: " not in said.out


def test_explain_says_what_limits_and_what_helps(
    problem: str, solution: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["plan", "explain", problem, solution]) == 0
    text = capsys.readouterr().out
    assert "The bottleneck is node n1, busy for 3000 ms of every request: it runs blocks 1-4 of net." in text
    assert "Planning anew gains 50 %" in text
    assert "With twice the memory on every node: nothing gained." in text
    assert "change\tgain\tthen the bottleneck is" in text
    assert run(["plan", "explain", problem, solution, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["feasible"], found["best_objective_s"]) == (True, pytest.approx(2.0))
    gains = [one["gain"] for one in found["changes"]]
    assert gains == sorted(gains, reverse=True)
    assert found["untried"] == 0


def test_nodes_that_gain_the_same_are_told_as_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = document()
    made["nodes"][1]["memory_bytes"] += 1
    path = tmp_path / "unequal.json"
    path.write_text(json.dumps(made))
    assert run(["plan", "explain", str(path), "--json"]) == 0
    (lost,) = json.loads(capsys.readouterr().out)["without"]
    assert len({*lost["names"], *lost["alike"]}) > 1


def test_explain_stops_in_time_and_says_so(problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "explain", problem, "--time-limit", "0"]) == 0
    assert "more changes were not tried for lack of time: see --time-limit" in capsys.readouterr().err


def test_explain_says_what_would_make_a_plan_possible(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = document()
    for node in made["nodes"]:
        node["memory_bytes"] = 30 * MB
    path = tmp_path / "tight.json"
    path.write_text(json.dumps(made))
    assert run(["plan", "show", str(path)]) == EXIT_FAILED
    assert "there is no plan to show: " in capsys.readouterr().err
    assert run(["plan", "explain", str(path)]) == EXIT_FAILED
    text = capsys.readouterr().out
    assert "There is no plan: " in text
    assert "With every node twice as fast: still no plan." in text
    assert "makes it possible" in text


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["show", "none.json"], "none.json"),
        (["show", "broken.json"], "broken.json is not JSON"),
        (["show", "empty.json"], "empty.json: version: missing"),
        (["show", "problem.json", "empty.json"], "empty.json: "),
        (["explain", "empty.json"], "empty.json: version: missing"),
        (["show", "problem.json", "--measure", "2"], "--measure watches the running cluster"),
        (["show", "problem.json", "--svg", "none/plan.svg"], "cannot write none/plan.svg"),
    ],
)
def test_what_is_wrong_is_one_line(
    arguments: list[str], wanted: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("broken.json").write_text("{")
    Path("empty.json").write_text("{}")
    assert run(["plan", *arguments]) == EXIT_USAGE
    (line,) = capsys.readouterr().err.splitlines()
    assert wanted in line


class FakeAdmin:
    """A coordinator whose node n1 computes half of the time."""

    answer: ClassVar[str | Exception]

    def __init__(self) -> None:
        self._asked = 0

    def __enter__(self) -> FakeAdmin:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def plan(self) -> Plan:
        hosts = tuple(Replica(node=f"n{i}", executor=f"e{i}", endpoint=Endpoint(tcp="t")) for i in (1, 2))
        stage = PlanStage(start=0, end=4, replicas=hosts)
        served = ModelPlan(
            name="net", manifest="m", signature=Signature(inputs=(), outputs=()), status="serving",
            stages=(stage,), bound_s=1.5,
        )  # fmt: skip
        return Plan(term=2, version=7, models=(served, ModelPlan(
            name="new", manifest="n", signature=Signature(inputs=(), outputs=()), status="loading", reason="soon",
        )))  # fmt: skip

    def problem(self, models: tuple[str, ...] = ()) -> str:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def nodes(self) -> NodeList:
        self._asked += 1
        backing = Backing(stage=StageKey(manifest="m", start=0, end=4), backend="openvino", precision="bf16")
        progress = Progress(executor="e1", busy_s=self._asked / 2, backends=(backing,))
        row = NodeRow(node="n1", state="alive", incarnation="i", progress=(progress,))
        return NodeList(id=1, nodes=(row,))


@pytest.fixture
def admin(monkeypatch: pytest.MonkeyPatch) -> type[FakeAdmin]:
    current = {"net": [{"blocks": [0, 1], "nodes": [HOSTILE]}, {"blocks": [1, 4], "nodes": ["n1"]}]}
    FakeAdmin.answer = json.dumps(document(current=current))
    monkeypatch.setattr(planviews, "connect", lambda location: FakeAdmin())
    monkeypatch.setattr(planviews.Where, "__call__", lambda self: None)
    monkeypatch.setattr(planviews.time, "sleep", lambda seconds: None)
    return FakeAdmin


def test_the_running_plan_is_shown_with_what_was_measured(
    admin: type[FakeAdmin], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["plan", "show", "--json", "--measure", "1"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["epoch"], [model["name"] for model in found["models"]]) == ([2, 7], ["net", "new"])
    assert (found["figures"]["bound_s"], found["figures"]["gap"]) == (1.5, 0.5)
    measured = [host["measured"] for stage in found["figures"]["chains"][0]["stages"] for host in stage["hosts"]]
    assert measured == [None, 0.5]
    assert run(["plan"]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("model\tstage\tblocks\tnode")
    assert shown.err.endswith("\nnew is loading: soon\n")


def test_what_runs_a_stage_is_shown_by_worker(admin: type[FakeAdmin], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "show", "--json"]) == 0
    (stage,) = json.loads(capsys.readouterr().out)["models"][0]["stages"]
    assert stage["backends"] == [
        {"backend": "openvino", "precision": "bf16"},
        {"backend": "eager", "precision": "f32"},
    ]
    assert run(["plan", "show"]) == 0
    assert "\nnet 0-4 is run by openvino bf16 on n1, eager f32 on n2\n" in capsys.readouterr().err
    assert backend_lines(FakeAdmin().plan(), {}) == ["all stages are run by eager f32"]


def test_the_running_plan_is_explained(admin: type[FakeAdmin], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "explain", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["plan"]["objective_s"] == 3.0
    assert found["gain_of_planning_anew"] == pytest.approx(0.5)


def test_where_nothing_can_be_planned_yet_the_models_say_why(
    admin: type[FakeAdmin], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    admin.answer = NotReadyError("no worker is usable")
    assert run(["plan", "show"]) == 0
    assert "new is loading: soon" in capsys.readouterr().err
    for words in (["plan", "show", "--svg", str(tmp_path / "a.svg")], ["plan", "explain"], ["plan", "problem"]):
        assert run(words) == EXIT_FAILED
        assert "no worker is usable" in capsys.readouterr().err


def test_the_problem_is_written(admin: type[FakeAdmin], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["plan", "problem"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(str(admin.answer))
    path = tmp_path / "p.json"
    assert run(["plan", "problem", "--output", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"file": str(path), "models": ["net"], "nodes": list(NODES)}
    assert Problem.from_json(json.loads(path.read_text())).current


def guarded_plan() -> Plan:
    """Two stages; one has a standby, the other says why it has none."""
    on, standby = (Replica(node=n, executor=f"{n}/0", endpoint=Endpoint(tcp="tcp://127.0.0.1:1")) for n in ("n1", "n2"))
    first = PlanStage(start=0, end=1, replicas=(on,), standbys=(standby,))
    second = PlanStage(start=1, end=4, replicas=(on,), exposed="it takes 60 MB")
    model = ModelPlan(name="net", manifest="ab" * 32, signature=Signature((), ()), status="serving")
    return Plan(term=1, version=2, models=(msgspec.structs.replace(model, stages=(first, second)),))


def test_standbys_are_shown_and_why_there_are_none(
    admin: type[FakeAdmin], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(admin, "plan", lambda self: guarded_plan())
    assert run(["plan", "show"]) == 0
    shown = capsys.readouterr()
    assert "standby for net 0-1: n2\nno standby for net 1-4: it takes 60 MB\n" in shown.err
    assert run(["plan", "show", "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)["models"][0]["stages"]
    assert (first["standbys"], first["exposed"]) == (["n2"], "")
    assert (second["standbys"], second["exposed"]) == ([], "it takes 60 MB")
