"""Docker for the tests: a base image that is pulled from nowhere, and a site made of compose.yaml."""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import waiting

ROOT = Path(__file__).parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stageline" / "docker"
BASE_VARIABLE = "STAGELINE_TEST_BASE"
SUITE = "bookworm"
PORTS = ("COORDINATOR_PORT", "PLAN_PORT", "BLOB_PORT", "JOIN_PORT", "COORDINATOR_HTTP_PORT")
PORTS += ("GATEWAY_PORT", "GATEWAY_HTTP_PORT", "STAGE_HTTP_PORT")
LISTEN = "0A"
"""In /proc/net/tcp."""

BUILD_S, UP_S, WAIT_S = 1500, 300, 300


def missing() -> str:
    """Why the tests cannot run here; empty when they can."""
    if shutil.which("docker") is None:
        return "docker is not installed"
    if subprocess.run(["docker", "info"], capture_output=True, timeout=60).returncode:
        return "no Docker engine answers: start dockerd"
    if not _compose():
        return "neither docker compose nor docker-compose is installed"
    if BASE_VARIABLE not in os.environ and (os.geteuid() or not shutil.which("debootstrap")):
        return f"making a base image takes root and debootstrap; or name one with Python in {BASE_VARIABLE}"
    return ""


def run(*command: str, timeout_s: float = 120, check: bool = True, **more: Any) -> str:
    """A command's stdout; its stderr is in the error when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, cwd=ROOT, **more)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done.stdout


def logs(container: str) -> list[str]:
    """What a container wrote on stderr, where services log, line by line."""
    command = ["docker", "logs", container]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stderr.splitlines()


eventually = partial(waiting.eventually, timeout_s=WAIT_S, pause_s=0.2)


def listening(container: str) -> set[str]:
    """The addresses at which the processes of a container with the host's network listen for TCP, without ports."""
    pids = run("docker", "top", container, "-o", "pid").split()[1:]
    theirs, found = set[str](), set[str]()
    for file in (one for pid in pids for one in Path(f"/proc/{pid}/fd").iterdir()):
        with suppress(FileNotFoundError):  # closed meanwhile
            theirs.add(str(file.readlink()))
    for table in ("tcp", "tcp6"):
        rows = [line.split() for line in Path("/proc/net", table).read_text().splitlines()[1:]]
        for local, state, inode in ((row[1], row[3], row[9]) for row in rows):
            if state == LISTEN and f"socket:[{inode}]" in theirs:
                words = bytes.fromhex(local.split(":")[0])  # in the machine's order, four bytes each
                raw = b"".join(words[i : i + 4][::-1] for i in range(0, len(words), 4))
                found.add(str(ipaddress.ip_address(raw)))
    return found


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Site:
    """compose.yaml as a project of its own: images built from the tree, services up, the digits imported."""

    def __init__(self) -> None:
        self.project = f"stageline-test-{uuid.uuid4().hex[:8]}"
        ports = dict(zip((f"STAGELINE_{name}" for name in PORTS), map(str, free_ports(len(PORTS))), strict=True))
        self.images = {name: f"{self.project}-{name}" for name in ("control", "stage", "base")}
        base = os.environ.get(BASE_VARIABLE) or self.images["base"]
        names = {f"STAGELINE_{name.upper()}_IMAGE": self.images[name] for name in ("control", "stage")}
        self._environ = {**os.environ, **ports, **names, "STAGELINE_BASE": base}

    def __enter__(self) -> Site:
        try:
            if BASE_VARIABLE not in os.environ:
                run("docker", "import", str(base_archive()), self.images["base"], timeout_s=300)
                wheelhouse()
            self.compose("build", "coordinator", "stage", timeout_s=BUILD_S)
            self.compose("up", "-d", "--no-build", timeout_s=UP_S)
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        left = self._remove()
        if kind is None and left:
            raise AssertionError(f"left behind: {left}")

    @property
    def coordinator(self) -> str:
        """The address of its control port."""
        return f"tcp://127.0.0.1:{self._environ['STAGELINE_COORDINATOR_PORT']}"

    def admin_keys(self, folder: Path) -> Path:
        """A copy of the administrator's keys, in that folder."""
        run("docker", "cp", f"{self.container('digits')}:/etc/stageline/keys", str(folder))
        return folder / "keys"

    def compose(self, *arguments: str, timeout_s: float = 120, check: bool = True, **more: Any) -> str:
        """`docker compose` on this project."""
        command = (*_compose(), "-p", self.project, "-f", str(ROOT / "compose" / "compose.yaml"), *arguments)
        return run(*command, timeout_s=timeout_s, check=check, env=self._environ, **more)

    @contextmanager
    def joined(self, name: str, token: str) -> Iterator[str]:
        """A second worker by join.yaml, within the block; gives the address of its HTTP port."""
        (port,) = free_ports(1)
        more = {"STAGELINE_NODE": name, "STAGELINE_JOIN_TOKEN": token, "STAGELINE_STAGE_HTTP_PORT": str(port)}
        environ = {**self._environ, **more, "STAGELINE_COORDINATOR": self.coordinator}
        command = (*_compose(), "-p", f"{self.project}-{name}", "-f", str(ROOT / "compose" / "join.yaml"))
        try:
            run(*command, "up", "-d", "--no-build", timeout_s=UP_S, env=environ)
            yield f"http://127.0.0.1:{port}"
        finally:
            run(*command, "down", "--volumes", env=environ)

    def execute(self, service: str, *command: str, **more: Any) -> str:
        """A command in a service's container."""
        return self.compose("exec", "-T", service, *command, **more)

    def container(self, service: str) -> str:
        """The id of a service's container, running or not."""
        found = self._labelled("ps", "-a", "-q", "--filter", f"label=com.docker.compose.service={service}")
        assert len(found) == 1, f"{service} has {len(found)} containers"
        return found[0]

    def inspect(self, service: str) -> dict[str, Any]:
        """What Docker knows of a service's container."""
        found: dict[str, Any] = json.loads(run("docker", "inspect", self.container(service)))[0]
        return found

    def _labelled(self, *command: str) -> list[str]:
        label = f"label=com.docker.compose.project={self.project}"
        return run("docker", *command, "--filter", label).split()

    def _remove(self) -> list[str]:
        """Remove everything; returns what is still there."""
        self.compose("down", "--volumes", "--remove-orphans", timeout_s=UP_S, check=False)
        run("docker", "rmi", "--force", *self.images.values(), check=False)
        run("docker", "image", "prune", "--force", "--filter", "label=stageline=build", timeout_s=300, check=False)
        left = [name for name in self.images.values() if run("docker", "images", "-q", name).strip()]
        kinds = (("ps", "-a", "-q"), ("volume", "ls", "-q"), ("network", "ls", "-q"))
        return left + [one for kind in kinds for one in self._labelled(*kind)]


def _compose() -> tuple[str, ...]:
    if subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0:
        return ("docker", "compose")
    return ("docker-compose",) if shutil.which("docker-compose") else ()


def base_archive() -> Path:
    """A minimal Debian with Python, as a tar archive: made once, kept outside the tree."""
    archive = CACHE / f"{SUITE}.tar"
    if not archive.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
            system, packed = Path(scratch) / "system", Path(scratch) / "system.tar"
            run("debootstrap", "--variant=minbase", "--include=python3", SUITE, str(system), timeout_s=900)
            spare = ("--exclude=./var/cache/apt/archives/*.deb", "--exclude=./var/lib/apt/lists/*")
            run("tar", "-C", str(system), *spare, "-cf", str(packed), ".", timeout_s=300)
            packed.replace(archive)
    return archive


def wheelhouse() -> None:
    """compose/wheelhouse filled, so that the build reaches nothing; the wheels are kept outside the tree too."""
    kept, inside = CACHE / "wheelhouse", ROOT / "compose" / "wheelhouse"
    command = (sys.executable, "compose/wheelhouse.py", "--python", "3.11")
    run(*command, "--folder", str(kept), timeout_s=900)
    for wheel in inside.glob("*.whl"):
        wheel.unlink()
    for wheel in kept.glob("*.whl"):
        shutil.copy2(wheel, inside)
