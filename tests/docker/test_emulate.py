"""`stageline emulate` with four nodes: limits hold, a lost node costs no answer, and nothing stays behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from engine import WAIT_S, Site, eventually, run

from stageline.emulation.rates import check_tools
from stageline.errors import ConfigError

pytestmark = [pytest.mark.docker, pytest.mark.root, pytest.mark.timeout(2400)]

COMMAND = (sys.executable, "-c", "from stageline.cli import main; main()", "emulate")
LABEL = "stageline.emulation"
CPUS, MBPS, SLOWER_MBPS, DELAY_MS = 0.3, 100, 40, 20
LOST = "n-1"
SITE = f"""\
nodes:
  - {{name: n, count: 3, cpus: {CPUS}, memory_mib: 640, up_mbps: {MBPS}, down_mbps: {MBPS}}}
  - {{name: far, cpus: {CPUS}, memory_mib: 640, delay_ms: {DELAY_MS}}}
model: {{source: "chain:make", name: chain}}
workload: {{concurrency: 8, warmup_s: 2, duration_s: 12}}
events:
  - {{at_s: 3, link: n-0, up_mbps: {SLOWER_MBPS}, down_mbps: {SLOWER_MBPS}}}
  - {{at_s: 5, lose: {LOST}}}
"""


def environment(site: Site) -> dict[str, str]:
    here = str(Path(__file__).parent)
    images = {f"STAGELINE_{name.upper()}_IMAGE": site.images[name] for name in ("control", "stage")}
    return {**os.environ, **images, "PYTHONPATH": here, "OMP_NUM_THREADS": "1"}


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    path = tmp_path / "site.yaml"
    path.write_text(SITE)
    return path


@pytest.fixture(autouse=True)
def _tidy(site: Site) -> Iterator[None]:
    """Whatever a test does, its containers, networks and volumes are gone afterwards."""
    try:
        check_tools()
    except ConfigError as error:
        pytest.skip(str(error))
    volumes = set(run("docker", "volume", "ls", "-q").split())
    yield
    eventually("all of it is removed", lambda: not left())
    assert set(run("docker", "volume", "ls", "-q").split()) <= volumes


def left() -> list[str]:
    """Ids of what emulations have here."""
    kinds = (("ps", "-a", "-q"), ("network", "ls", "-q"))
    return [one for kind in kinds for one in run("docker", *kind, "--filter", f"label={LABEL}").split()]


def used(phase: dict[str, Any]) -> set[str]:
    return {node for stage in phase["plan"] for node in stage["nodes"]}


def test_four_nodes_one_of_which_is_lost(site: Site, cluster: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = run(*COMMAND, str(cluster), "--out", str(out), "--json", timeout_s=400, env=environment(site))
    report = json.loads((out / "report.json").read_text())
    assert json.loads(said) == report

    first, slowed, after = report["phases"]
    assert used(first) == used(slowed) == {"n-0", LOST, "n-2", "far"}
    assert LOST not in used(after) and used(after)
    assert [event["what"] for event in report["events"]] == [slowed["after"], f"lose {LOST}"]
    assert all(phase["answered"] and phase["predicted_rps"] for phase in report["phases"])
    assert first["p50_ms"] >= DELAY_MS
    figures = report["figures"]
    assert figures["answered"] == figures["requests"] and not figures["failed"]

    for node in report["utilisation"]:
        assert 0 < node["cpu"] < 1.2, "a quota is kept"
        parts = [node[way] for way in ("up", "down")]
        assert parts == [None, None] if node["node"] == "far" else all(0 < part < 1.1 for part in parts), "and rates"
    for name in ("timeline.svg", "utilisation.svg", "plan.svg"):
        ElementTree.fromstring((out / name).read_text())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_nothing_stays_behind(site: Site, cluster: Path, number: signal.Signals, code: int) -> None:
    with subprocess.Popen([*COMMAND, str(cluster)], env=environment(site), stderr=subprocess.PIPE) as process:
        try:
            eventually("something is there", lambda: len(left()) > 2 or process.poll() is not None)
            process.send_signal(number)
            assert process.wait(WAIT_S) == code, process.stderr and process.stderr.read().decode()
        finally:
            process.kill()
    eventually("all of it is removed", lambda: not left())


def test_leftovers_of_a_dead_process_go(site: Site) -> None:
    labels = ("--label", f"{LABEL}=dead", "--label", f"{LABEL}.owner=another-boot:1:1")
    name = f"stageline-test-{uuid.uuid4().hex[:8]}"
    run("docker", "create", "--name", name, *labels, site.images["control"])
    assert run(*COMMAND, "--clean").strip() == f"removed {name}"
    assert run(*COMMAND, "--clean").strip() == "nothing was left over"
