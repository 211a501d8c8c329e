"""`stageline deploy` end to end: boxes that are all this machine's engine, two images, and one that is broken."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine import Site, free_ports, run

from stageline.cli import run as stageline

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]

FILE = """
site: {name}
images: {{control: {control}, stage: {stage}}}
wait_s: 90
coordinator: {{port: {ports[0]}, plan_port: {ports[1]}, blob_port: {ports[2]}, join_port: {ports[3]}, http_port: 0}}
gateway: {{port: {ports[4]}, http_port: 0}}
stage: {{http_port: 0}}
boxes:
  hub: {{address: 127.0.0.1, runs: [coordinator, gateway]}}
  one: {{address: 127.0.0.1, runs: [stage]}}
"""


class Deployed:
    """A file and the command, with what is there in Docker's own words."""

    def __init__(self, folder: Path, images: dict[str, str]) -> None:
        self.name, self.file = f"{images['base']}-deploy", folder / "site.yaml"
        self._names = {"name": self.name, "control": images["control"], "ports": free_ports(5)}
        self.write(images["stage"])

    def write(self, stage: str, more: str = "") -> None:
        """The file, with that image for workers."""
        self.file.write_text(FILE.format(**self._names, stage=stage) + more)

    def __call__(self, *command: str) -> int:
        return stageline(["deploy", *command])

    def containers(self) -> dict[str, str]:
        """The image of each by name; those that run."""
        rows = run("docker", "ps", "--filter", f"label=stageline.site={self.name}", "--format", "{{.Names}} {{.ID}}")
        found = dict(row.split() for row in rows.splitlines())
        return {name: run("docker", "inspect", "-f", "{{.Image}}", one).strip() for name, one in found.items()}

    def left(self) -> str:
        """Containers, running or not, and volumes."""
        label = f"label=stageline.site={self.name}"
        return run("docker", "ps", "-aq", "--filter", label) + run("docker", "volume", "ls", "-q", "--filter", label)


@pytest.fixture
def deployed(site: Site, tmp_path: Path) -> Iterator[Deployed]:
    found = Deployed(tmp_path, site.images)
    yield found
    assert found("down", str(found.file), "--volumes") == 0
    assert found.left() == ""


def derived(site: Site, name: str, change: str) -> str:
    """The workers' image with a change to how it starts: made in a moment, as nothing is built."""
    image = f"{site.images['stage']}-{name}"
    container = run("docker", "create", site.images["stage"]).strip()
    run("docker", "commit", "--change", change, container, image)
    run("docker", "rm", container)
    site.images[name] = image  # goes with the others
    return image


def test_a_site_is_deployed_changed_rolled_back_and_removed(
    site: Site, deployed: Deployed, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(deployed.file)
    assert deployed(file, "--plan") == 0 and deployed.left() == ""
    assert deployed(file) == 0
    first = deployed.containers()
    worker = f"{deployed.name}-stage-one"
    assert sorted(first) == [f"{deployed.name}-coordinator-hub", f"{deployed.name}-gateway-hub", worker]
    capsys.readouterr()
    assert deployed(file) == 0
    assert "nothing to change" in capsys.readouterr().err

    newer = derived(site, "newer", "LABEL version=2")
    deployed.write(newer)
    assert deployed(file) == 0
    second = deployed.containers()
    assert {name: image for name, image in second.items() if first[name] == image} == {
        name: image for name, image in first.items() if name != worker
    }

    deployed.write(derived(site, "broken", 'ENTRYPOINT ["false"]'))
    assert deployed(file) == 1
    said = capsys.readouterr().err
    assert "box one: the stage did not come up: it ended with exit code 1" in said and "runs again" in said
    assert deployed.containers() == second

    deployed.write(newer)
    assert deployed("status", file, "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert {(row["service"], row["state"], row["joined"], row["note"]) for row in rows} == {
        (role, "running", "yes", "") for role in ("coordinator", "gateway", "stage")
    }
    assert deployed("logs", file, "one-stage", "--tail", "50") == 0
    assert "joined" in capsys.readouterr().out
    assert deployed("down", file) == 0
    assert deployed.containers() == {}
