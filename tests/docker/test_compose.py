"""compose.yaml end to end, on images built without a network: an answer, a worker's death, another answer."""

from __future__ import annotations

import json
import os
import signal
from urllib.request import urlopen

import pytest
from engine import ROOT, Site, eventually, listening, logs

pytestmark = [pytest.mark.docker, pytest.mark.timeout(2400)]

SERVICES = ("coordinator", "gateway", "stage")


def guess(site: Site, digit: int) -> int:
    """What the served network takes the example image of `digit` for."""
    with (ROOT / "examples" / "digits" / f"{digit}.npy").open("rb") as image:
        said = site.execute(
            "gateway", "stageline", "infer", "digits", "--json", "--input", "pixel_values=-", stdin=image
        )
    (logits,) = json.loads(said)["outputs"]
    assert logits["shape"] == [1, 10]
    return int(logits["top"][0]["index"])


def test_a_site_answers_and_outlives_its_worker(site: Site) -> None:
    job = eventually("the import ends", lambda: (s := site.inspect("digits")["State"])["Status"] == "exited" and s)
    assert job["ExitCode"] == 0, logs(site.container("digits"))
    assert [guess(site, digit) for digit in (3, 7)] == [3, 7]

    before = site.inspect("stage")
    os.kill(before["State"]["Pid"], signal.SIGKILL)
    restarted = eventually("Docker restarts the worker", lambda: site.inspect("stage")["RestartCount"] > 0)
    assert restarted
    assert [guess(site, digit) for digit in (3, 7)] == [3, 7]
    assert site.inspect("stage")["State"]["Pid"] != before["State"]["Pid"]


def test_the_gateway_asks_for_the_token_that_was_made_at_the_first_start(site: Site) -> None:
    say = 'STAGELINE_TOKEN_FILE= STAGELINE_TOKEN="$0" stageline infer digits --input pixel_values=- 2>&1; echo $?'
    with (ROOT / "examples" / "digits" / "3.npy").open("rb") as image:
        refused = site.execute("gateway", "sh", "-c", say, "", stdin=image).splitlines()
    assert refused[-1] == "1" and "asks for a token" in refused[0]
    made = site.compose("run", "--rm", "-T", "keys", "stageline", "tokens", "create", "--name", "other").strip()
    with (ROOT / "examples" / "digits" / "3.npy").open("rb") as image:
        assert site.execute("gateway", "sh", "-c", say, made, stdin=image).splitlines()[-1] == "0"


def test_another_worker_joins_with_a_token(site: Site) -> None:
    token = site.compose("run", "--rm", "-T", "cli", "nodes", "token", "--expires", "10m").strip()
    with site.joined("box-2", token) as address:
        eventually("the worker has joined", lambda: ready(address))
        nodes = json.loads(site.compose("run", "--rm", "-T", "cli", "nodes", "list", "--json"))
        assert {node["node"]: node["state"] for node in nodes} == {"box": "alive", "box-2": "alive"}


def ready(address: str) -> bool:
    """Whether a worker says that it can serve."""
    try:
        with urlopen(f"{address}/readyz", timeout=10) as answer:
            return bool(answer.status == 200)
    except OSError:  # not there yet, or 503
        return False


def test_services_are_healthy_and_can_change_nothing(site: Site) -> None:
    for service in SERVICES:
        eventually(f"{service} is healthy", lambda s=service: site.inspect(s)["State"]["Health"]["Status"] == "healthy")
        about = site.inspect(service)
        assert about["HostConfig"]["ReadonlyRootfs"] and about["HostConfig"]["CapDrop"] == ["ALL"]
        assert site.execute(service, "id", "-u").strip() == "10001"
        refused = site.execute(service, "sh", "-c", "touch /opt/stageline/x 2>&1 || true")
        assert "Read-only file system" in refused
    found = site.execute("gateway", "python", "-c", "import importlib.util as u; print(u.find_spec('torch'))")
    assert found.strip() == "None"


def test_nothing_listens_beyond_loopback(site: Site) -> None:
    found = {service: listening(site.container(service)) for service in SERVICES}
    assert found == {service: {"127.0.0.1"} for service in SERVICES}


def test_a_stuck_service_is_unhealthy(site: Site) -> None:
    pid = int(json.loads(site.execute("gateway", "cat", "/run/stageline/ready.json"))["pid"])
    site.execute("gateway", "sh", "-c", f"kill -STOP {pid}")
    try:
        said = site.execute("gateway", "sh", "-c", "stageline-health || true")
        assert "does not answer" in said
    finally:
        site.execute("gateway", "sh", "-c", f"kill -CONT {pid}")
    assert site.execute("gateway", "stageline-health").strip() == "ok"


def test_sigterm_drains_and_logs_are_json(site: Site) -> None:
    site.compose("stop", timeout_s=120)
    for service in SERVICES:
        state = site.inspect(service)["State"]
        assert (state["Status"], state["ExitCode"]) == ("exited", 0), service
        events = [json.loads(line)["event"] for line in logs(site.container(service))]
        assert events[-1] in ("coordinator stops", "stopped", "left"), events[-3:]
