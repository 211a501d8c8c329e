"""Reaching a Docker engine: what is wrong with an address, a certificate or a host is said in one line."""

from __future__ import annotations

import http.server
import io
import json
import os
import socketserver
import ssl
import sys
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from stageline import docking
from stageline.docking import UID, connected, engine_here, packed
from stageline.errors import ClusterError, ConfigError

pytest.importorskip("docker")


class Answers(http.server.BaseHTTPRequestHandler):
    """A Docker engine that knows its version."""

    def do_GET(self) -> None:
        body = json.dumps({"ApiVersion": "1.41", "Version": "fake"}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass

    def address_string(self) -> str:
        return "unix"


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Path]:
    """Its socket."""
    path = tmp_path / "engine.sock"
    with socketserver.ThreadingUnixStreamServer(str(path), Answers) as server:  # type: ignore[arg-type]
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield path
        server.shutdown()
        thread.join()


@contextmanager
def secure_engine(certificates: Any) -> Iterator[int]:
    """An engine that asks for a certificate; its port."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(certificates.ca))
    context.load_cert_chain(certificates.gateway, certificates.gateway_key)
    context.verify_mode = ssl.CERT_REQUIRED
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.handle_error = lambda request, address: None  # type: ignore[method-assign]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def program(folder: Path, text: str) -> None:
    """An `ssh` that does that."""
    folder.mkdir()
    path = folder / "ssh"
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(0o755)


def test_an_engine_is_reached_by_its_socket_or_the_environment(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with connected(f"unix://{engine}") as client:
        assert client.version()["Version"] == "fake"
    monkeypatch.setenv("DOCKER_HOST", f"unix://{engine}")
    with connected() as client:
        assert client.version()["Version"] == "fake"


def test_an_engine_that_is_not_there_is_named(tmp_path: Path) -> None:
    says = r"no Docker engine answers at unix://.*/none.sock \(No such file or directory\): is dockerd running"
    with pytest.raises(ClusterError, match=says), connected(f"unix://{tmp_path}/none.sock"):
        pass


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("tcp://10.0.0.2:2375", "would be reached without encryption"),
        ("tcp://10.0.0.2:x", "is no address"),
        ("http://10.0.0.2", "is no address of a Docker engine"),
        ("box-1", "is no address of a Docker engine"),
        ("ssh://", "names no host"),
        ("ssh://-oProxyCommand=x", "names no host"),
    ],
)
def test_an_address_that_cannot_be_is_refused(url: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says), connected(url):
        pass


def test_this_machines_engine_is_not_anothers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    assert engine_here() == "unix:///var/run/docker.sock"
    monkeypatch.setenv("DOCKER_HOST", "unix:///run/user/1/docker.sock")
    assert engine_here() == "unix:///run/user/1/docker.sock"
    monkeypatch.setenv("DOCKER_HOST", "ssh://box-1")
    with pytest.raises(ConfigError, match="DOCKER_HOST is ssh://box-1: unset it"):
        engine_here()


def test_files_are_packed_for_the_services_user_alone() -> None:
    with tarfile.open(fileobj=io.BytesIO(packed({"keys/nodes/a.pub": b"a", "b": b""}))) as archive:
        members = [(one.name, one.isdir(), one.mode, one.uid, one.gid) for one in archive]
        file = archive.extractfile("keys/nodes/a.pub")
        assert file is not None and file.read() == b"a"
    assert members == [
        ("keys", True, 0o700, UID, UID),
        ("keys/nodes", True, 0o700, UID, UID),
        ("keys/nodes/a.pub", False, 0o600, UID, UID),
        ("b", False, 0o600, UID, UID),
    ]


def test_tls_needs_all_files_and_a_port(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"names no port for TLS"), connected("tcp://10.0.0.2", tmp_path):
        pass
    (tmp_path / "ca.pem").touch()
    with pytest.raises(ConfigError, match=r"lacks cert\.pem"), connected("tcp://10.0.0.2:2376", tmp_path):
        pass


def test_without_the_sdk_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "docker", None)
    with pytest.raises(ConfigError, match=r"pip install 'stageline\[cluster\]'"), connected():
        pass


def test_ssh_forwards_to_the_engine_and_ends_with_the_block(
    engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = tmp_path / "asked"
    program(
        tmp_path / "bin",
        "import json, os, pathlib, signal, sys\n"
        f"pathlib.Path({str(asked)!r}).write_text(json.dumps([os.getpid(), *sys.argv[1:]]))\n"
        "here, there = sys.argv[sys.argv.index('-L') + 1].split(':')\n"
        "os.symlink(there, here)\n"
        "signal.pause()\n",
    )
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    with connected(f"ssh://pi@box-1:2222{engine}") as client:
        assert client.version()["Version"] == "fake"
        pid, *arguments = json.loads(asked.read_text())
        assert arguments[-1] == "pi@box-1" and arguments[arguments.index("-p") + 1] == "2222"
        assert "BatchMode=yes" in arguments
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_what_ssh_says_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "bin", "import sys\nsys.exit('pi@box-1: Permission denied (publickey).')\n")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    says = r"ssh to pi@box-1 failed: .*Permission denied \(publickey\)"
    with pytest.raises(ClusterError, match=says), connected("ssh://pi@box-1"):
        pass
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(ConfigError, match="ssh is not installed"), connected("ssh://pi@box-1"):
        pass


def test_an_ssh_that_never_connects_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docking, "SSH_S", 0.0)
    program(tmp_path / "bin", "import signal\nsignal.pause()\n")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    with pytest.raises(ClusterError, match="ssh to box-1 failed: it said nothing"), connected("ssh://box-1"):
        pass


def test_the_environment_replaces_no_authority_of_a_host(
    certificates: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, file in (("cert", certificates.client), ("key", certificates.client_key)):
        (tmp_path / f"{name}.pem").write_bytes(file.read_bytes())

    def ask(port: int, ours: Path, environment: Path) -> str:
        (tmp_path / "ca.pem").write_bytes(ours.read_bytes())
        for variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
            monkeypatch.setenv(variable, str(environment))
        with connected(f"tcp://127.0.0.1:{port}", tmp_path) as client:
            return str(client.version()["Version"])

    with secure_engine(certificates) as port:
        assert ask(port, certificates.ca, certificates.other) == "fake"
        with pytest.raises(ClusterError, match="CERTIFICATE_VERIFY_FAILED"):
            ask(port, certificates.other, certificates.ca)
