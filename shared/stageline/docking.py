"""What all that use Docker's SDK share: reaching an engine by its address, TLS or SSH; errors of one line that name it.

Over SSH the connection is the system's own `ssh`, with the user's keys, agent and `known_hosts`, which forwards a Unix
socket to the engine's: the SDK's way would need another SSH library, and would read none of that.
"""

from __future__ import annotations

import io
import os
import socket
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from stageline.errors import ClusterError, ConfigError

HERE = "this machine"
"""How errors call its engine."""

SOCKET = "/var/run/docker.sock"
UID = 10001
"""Of the user that services are in our images."""

LOG_LINES = 20
"""Of a container that has ended: among them is why."""

TIMEOUT_S = 120
"""Of a request to an engine; making or loading something may take so long."""

SSH_S = 20.0
LOOK_S = 0.02
PLAIN_PORT = 2375
CERTIFICATES = ("ca.pem", "cert.pem", "key.pem")


@contextmanager
def one_line(engine: str) -> Iterator[None]:
    """What the engine refuses, or an engine that is gone, as a `ClusterError` that names it; also a decorator."""
    import requests
    import urllib3
    from docker.errors import DockerException

    try:
        yield
    except (DockerException, requests.RequestException, urllib3.exceptions.HTTPError) as error:
        text = getattr(error, "explanation", None) or error
        raise ClusterError(f"Docker at {engine}: {' '.join(str(text).split())}") from None


@contextmanager
def connected(url: str = "", tls: Path | None = None) -> Iterator[Any]:
    """A `docker.DockerClient` of the engine at `url`: ``unix:///PATH``, ``tcp://HOST:PORT``, ``ssh://USER@HOST``, or
    as the environment says (`DOCKER_HOST`), else this machine's. `tls`: the directory with ca.pem, cert.pem, key.pem.

    Raises `ConfigError` without the SDK, for an address that is none, or TCP without TLS; `ClusterError` when no engine
    answers there.
    """
    sdk = _sdk()
    named = url or os.environ.get("DOCKER_HOST", "") or f"unix://{SOCKET}"
    with ExitStack() as stack:
        options = _options(sdk, named, tls or _usual_certificates(url))
        if named.startswith("ssh://"):
            options["base_url"] = stack.enter_context(_forwarded(named))
        elif named.startswith("unix://"):
            _knock(named)
        try:
            with one_line(named):
                client = sdk.DockerClient(timeout=TIMEOUT_S, **options)
                stack.callback(client.close)
                client.version()
        except ClusterError as error:
            why = error.message.removeprefix(f"Docker at {named}: ")
            raise ClusterError(f"no Docker engine answers at {named} ({why}): is dockerd running there?") from None
        yield client


def _knock(url: str) -> None:
    """Raise `ClusterError` where nobody answers: the SDK says it at length, and leaves the socket open."""
    with socket.socket(socket.AF_UNIX) as knocking:
        try:
            knocking.connect(url.removeprefix("unix://"))
        except OSError as error:
            does = "is dockerd running there?"
            if isinstance(error, PermissionError):
                does = "join the group docker, or be root"
            raise ClusterError(f"no Docker engine answers at {url} ({error.strerror or error}): {does}") from None


def engine_here() -> str:
    """The address of this machine's engine. Raises `ConfigError` where `DOCKER_HOST` names another's."""
    named = os.environ.get("DOCKER_HOST", "")
    if named and not named.startswith("unix://"):
        raise ConfigError(f"this takes the Docker engine of this machine, and DOCKER_HOST is {named}: unset it")
    return named or f"unix://{SOCKET}"


def confined() -> dict[str, Any]:
    """What a container of ours is not allowed, as the SDK calls it: it can change nothing but its volumes and /tmp."""
    return {
        "tmpfs": {"/tmp": "", "/run/stageline": f"uid={UID},gid={UID},mode=0755"},
        "read_only": True,
        "init": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
    }


def last_line(said: bytes, silent: str) -> str:
    """The last line of a log that is not blank; `silent` where there is none."""
    lines = said.decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), silent)


def packed(files: Mapping[str, bytes]) -> bytes:
    """A tar archive of these for the services' user alone, their folders included."""
    into = io.BytesIO()
    with tarfile.open(fileobj=into, mode="w") as archive:
        folders = {str(folder) for name in files for folder in PurePosixPath(name).parents} - {"."}
        for name in [*sorted(folders), *files]:
            entry = tarfile.TarInfo(name)
            entry.uid = entry.gid = UID
            entry.type, entry.mode = (tarfile.DIRTYPE, 0o700) if name in folders else (tarfile.REGTYPE, 0o600)
            entry.size = len(files.get(name, b""))
            archive.addfile(entry, io.BytesIO(files.get(name, b"")))
    return into.getvalue()


def _sdk() -> Any:
    try:
        import docker
    except ModuleNotFoundError:
        raise ConfigError("this needs Docker's SDK: pip install 'stageline[cluster]'") from None
    return docker


def _usual_certificates(url: str) -> Path | None:
    """As the `docker` command finds them, for the engine that the environment names."""
    found = os.environ.get("DOCKER_CERT_PATH", "")
    return Path(found) if found and not url and os.environ.get("DOCKER_TLS_VERIFY") else None


def _options(sdk: Any, url: str, tls: Path | None) -> dict[str, Any]:
    scheme, port = _scheme_and_port(url)
    if scheme not in ("unix", "tcp", "ssh"):
        raise ConfigError(f"{url!r} is no address of a Docker engine: want unix:///PATH, tcp://HOST:2376 or ssh://HOST")
    if scheme != "tcp":
        return {"base_url": url}
    if tls is None:
        raise ConfigError(
            f"{url} would be reached without encryption, and who reaches it is root there: use ssh://, or name the "
            f"directory with {', '.join(CERTIFICATES)} as tls"
        )
    if port is None or port == PLAIN_PORT:
        raise ConfigError(f"{url} names no port for TLS: it is usually 2376")
    missing = [name for name in CERTIFICATES if not (tls / name).is_file()]
    if missing:
        raise ConfigError(f"{tls} lacks {missing[0]}: the directory must hold {', '.join(CERTIFICATES)}")
    ca, cert, key = (str(tls / name) for name in CERTIFICATES)
    with one_line(url):
        return {"base_url": url, "tls": _certified(sdk, url, (cert, key), ca)}


def _certified(sdk: Any, url: str, pair: tuple[str, str], ca: str) -> Any:
    """TLS with `ca` as the only authority.

    requests would take `REQUESTS_CA_BUNDLE` or `CURL_CA_BUNDLE` in its place, for the SDK's first question already: so
    its session believes nothing of the environment but the proxies.
    """
    from requests.utils import get_environ_proxies

    class Certified(sdk.tls.TLSConfig):  # type: ignore[misc]
        def configure_client(self, client: Any) -> None:
            super().configure_client(client)
            client.trust_env = False
            client.proxies.update(get_environ_proxies(url.replace("tcp://", "https://", 1)))

    return Certified(client_cert=pair, ca_cert=ca, verify=True)


def _scheme_and_port(url: str) -> tuple[str, int | None]:
    try:
        found = urlsplit(url)
        return found.scheme, found.port
    except ValueError:
        raise ConfigError(f"{url!r} is no address of a Docker engine") from None


@contextmanager
def _forwarded(url: str) -> Iterator[str]:
    """A socket here that leads to the engine of the host in ``ssh://[USER@]HOST[:PORT]``."""
    found = urlsplit(url)
    if not found.hostname or found.hostname.startswith("-") or (found.username or "").startswith("-"):
        raise ConfigError(f"{url!r} names no host: want ssh://USER@HOST")
    where = f"{found.username}@{found.hostname}" if found.username else found.hostname
    with tempfile.TemporaryDirectory(prefix="stageline-ssh-") as folder:
        local = Path(folder) / "docker.sock"
        command = ["ssh", "-nNT", "-o", "BatchMode=yes", "-o", "ExitOnForwardFailure=yes", "-o", "ConnectTimeout=10"]
        command += ["-o", "ServerAliveInterval=15", *(["-p", str(found.port)] if found.port else [])]
        command += ["-L", f"{local}:{found.path or SOCKET}", "--", where]
        with Path(folder, "said").open("w+b") as said, _child(command, said) as ssh:
            deadline = time.monotonic() + SSH_S
            while not local.exists():
                if ssh.poll() is not None or time.monotonic() > deadline:
                    said.seek(0)
                    last = last_line(said.read(), "it said nothing")
                    raise ClusterError(f"ssh to {where} failed: {last} (try `ssh {where} docker info`)")
                time.sleep(LOOK_S)
            yield f"unix://{local}"


@contextmanager
def _child(command: list[str], said: Any) -> Iterator[subprocess.Popen[bytes]]:
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said)
    except FileNotFoundError:
        raise ConfigError(f"{command[0]} is not installed: ssh:// addresses need it") from None
    try:
        yield child
    finally:
        child.terminate()
        child.wait()
