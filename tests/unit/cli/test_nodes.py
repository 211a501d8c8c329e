"""`nodes cordon`, `drain`, `label` and `show` without a cluster, and how workers are shown."""

from __future__ import annotations

import pytest

from stageline.cli import run
from stageline.cli.inspect import unguarded
from stageline.cli.nodeduty import served, state_of
from stageline.cli.nodes import _details, node_json
from stageline.cli.options import EXIT_NO_CLUSTER, EXIT_USAGE
from stageline.errors import ConfigError
from stageline.messages import Backing, ExecutorInfo, LinkRow, NodeProfile, NodeRow, Progress
from stageline.nodewishes import read_labels, selects
from stageline.plan import Endpoint, ModelPlan, Plan, PlanStage, Replica, Signature, StageKey

AT = Endpoint(tcp="tcp://127.0.0.1:1")


@pytest.mark.parametrize("word", ["zone", "-", "", "=x=", "a=1 a=2"])
def test_what_is_no_label_is_a_usage_error(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = run(["nodes", "label", "box-1", *word.split(" ")])
    shown = capsys.readouterr()
    assert code in (EXIT_USAGE, EXIT_NO_CLUSTER) and len(shown.err.strip().splitlines()) == 1
    assert code == EXIT_USAGE or word == "=x="  # whose key the coordinator refuses


def test_labels_are_set_and_taken_off() -> None:
    assert read_labels(("a=1", "b=", "c-", "d=x=y")) == ({"a": "1", "b": "", "d": "x=y"}, ("c",))
    with pytest.raises(ConfigError, match="each once"):
        read_labels(("a=1", "a=2"))


def test_a_selector_means_those_with_the_label_or_all_others() -> None:
    labels = {"zone": "attic"}
    assert selects("zone=attic", "n", labels) and not selects("zone=cellar", "n", labels)
    assert not selects("zone!=attic", "n", labels) and selects("zone!=attic", "n", {})
    assert selects("n", "n", labels) and not selects("m", "n", labels)


@pytest.mark.parametrize("command", ["cordon", "uncordon", "drain", "show"])
def test_they_need_a_cluster_and_say_how(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["nodes", command, "box-1"]) == EXIT_NO_CLUSTER
    assert run(["nodes", command]) == EXIT_USAGE
    capsys.readouterr()
    assert run(["nodes", command, "--help"]) == 0
    assert f"stageline nodes {command} box-3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("state", "duty", "loaded", "said"),
    [
        ("alive", "open", True, "alive"),
        ("alive", "cordoned", True, "alive, cordoned"),
        ("draining", "drained", True, "draining"),
        ("draining", "drained", False, "drained"),
        ("draining", "open", False, "draining"),
        ("gone", "drained", False, "gone, drained"),
    ],
)
def test_states_say_what_is_wanted(state: str, duty: str, loaded: bool, said: str) -> None:
    key = StageKey(manifest="ab" * 32, start=0, end=1)
    executor = ExecutorInfo(executor="n/1", pid=2, endpoint=AT, loaded=(key,) * loaded)
    row = NodeRow(node="n", state=state, incarnation="i", executors=(executor,), duty=duty)
    assert state_of(row) == said


def test_what_a_worker_serves_is_read_from_the_plan() -> None:
    a, b = (Replica(node=name, executor=name, endpoint=AT) for name in "ab")
    stages = (PlanStage(start=0, end=2, replicas=(a,), standbys=(b,)), PlanStage(start=2, end=3, replicas=(b,)))
    model = ModelPlan(name="m", manifest="ab" * 32, signature=Signature((), ()), status="serving", stages=stages)
    plan = Plan(term=1, version=1, models=(model,))
    assert [(one["start"], one["end"], one["standby"]) for one in served(plan, "b")] == [(0, 2, True), (2, 3, False)]
    assert served(plan, "c") == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "or give --all"),
        (["box-1", "--all"], "or give --all"),
        (["--all", "--coordinator-key"], "or give --all"),
        (["box-1", "--overlap", "soon"], "--overlap must look like"),
    ],
)
def test_keys_rotate_says_what_it_needs(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["keys", "rotate", *arguments]) == EXIT_USAGE
    shown = capsys.readouterr().err
    assert expected in shown and len(shown.strip().splitlines()) == 1


def test_links_are_shown_with_their_error() -> None:
    links = (LinkRow("agent:b", 2.5e6, 0.001, 0.034), LinkRow("agent:c", 1e6, 0.01, 1.0, 0.0, 9e6), LinkRow("g", 0, 0))
    row = NodeRow(node="n", state="alive", incarnation="i", profile=NodeProfile(links=links))
    assert [text for what, text in _details(row, []) if what == "link"] == [
        "to agent:b: 2.50 MB/s ± 3.4 %, 1.00 ms",
        "to agent:c: 1.00 MB/s ± 100 %, 10.00 ms (profiled 9.00 MB/s: noticed by traffic)",
        "to g: 0.00 MB/s, 0.00 ms",
    ]


@pytest.mark.parametrize(
    ("lacking", "stages", "said"), [(1, 1, "1 of 1 stage has no"), (1, 3, "1 of 3 stages have no"), (2, 2, "2 of 2 st")]
)
def test_stages_without_a_standby_are_counted(lacking: int, stages: int, said: str) -> None:
    assert unguarded(lacking, stages).startswith(said)


def test_what_runs_a_stage_is_said_with_its_times_or_the_reason() -> None:
    key = StageKey(manifest="ab" * 32, start=0, end=4)
    fast = Backing(stage=key, backend="openvino", eager_s=0.077, seconds=0.0331)
    lost = Backing(stage=key, backend="eager", reason="openvino: out of tolerance")
    row = NodeRow(node="n", state="alive", incarnation="i", progress=(Progress(executor="e", backends=(fast, lost)),))
    shown = [text for what, text in _details(row, []) if what == "backend"]
    assert shown == [
        f"openvino f32 runs {key}, 33.1 ms where torch takes 77.0",
        f"eager f32 runs {key} (openvino: out of tolerance)",
    ]
    (progress,) = node_json(row)["progress"]
    assert [(one["stage"], one["backend"]) for one in progress["backends"]] == [
        (str(key), "openvino"),
        (str(key), "eager"),
    ]
