"""The HTTP port: health, readiness with its reason, metrics."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from prometheus_client import CollectorRegistry, Counter

from stageline.curve import write_secret
from stageline.errors import ConfigError
from stageline.http import StatusServer


class Switch:
    ready = False

    def __call__(self) -> tuple[bool, dict[str, object]]:
        return self.ready, {"reason": "" if self.ready else "no plan yet"}


@pytest.fixture
def served() -> Iterator[tuple[str, Switch]]:
    registry = CollectorRegistry()
    Counter("stageline_things", "Things.", registry=registry).inc(3)
    switch = Switch()
    server = StatusServer("127.0.0.1", 0, switch, registry)
    yield server.address, switch
    server.close()


def get(url: str, authorization: str = "") -> tuple[int, str]:
    try:
        request = Request(url, headers={"Authorization": authorization} if authorization else {})
        with urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_healthz_says_alive_even_when_not_ready(served: tuple[str, Switch]) -> None:
    assert get(served[0] + "/healthz") == (200, '{"status": "ok"}\n')


def test_readyz_follows_the_service(served: tuple[str, Switch]) -> None:
    status, body = get(served[0] + "/readyz")
    assert (status, json.loads(body)) == (503, {"ready": False, "reason": "no plan yet"})
    served[1].ready = True
    status, body = get(served[0] + "/readyz")
    assert (status, json.loads(body)["ready"]) == (200, True)


def test_metrics_are_prometheus_text(served: tuple[str, Switch]) -> None:
    status, body = get(served[0] + "/metrics")
    assert status == 200
    assert "stageline_things_total 3.0" in body.splitlines()


def test_other_paths_are_not_found(served: tuple[str, Switch]) -> None:
    assert get(served[0] + "/etc")[0] == 404


def test_a_taken_port_names_the_flag(served: tuple[str, Switch]) -> None:
    port = int(served[0].rsplit(":", 1)[1])
    with pytest.raises(ConfigError, match="--http-port"):
        StatusServer("127.0.0.1", port, Switch(), CollectorRegistry())


def test_beyond_loopback_is_refused() -> None:
    with pytest.raises(ConfigError, match="refusing to listen"):
        StatusServer("0.0.0.0", 0, Switch(), CollectorRegistry())


def test_beyond_loopback_it_asks_for_the_token_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_secret(tmp_path / "token", "secret\n")
    server = StatusServer("0.0.0.0", 0, Switch(), CollectorRegistry(), tmp_path / "token")
    url = f"http://127.0.0.1:{server.address.rpartition(':')[2]}"
    try:
        assert get(f"{url}/metrics")[0] == 200, "who asks from this machine needs none"
        monkeypatch.setattr("stageline.http.is_loopback", lambda host: False)  # as if asked from elsewhere
        assert get(f"{url}/healthz")[0] == 200
        for text in ("", "Bearer wrong", "secret", "Bearer"):
            assert get(f"{url}/metrics", text)[0] == 401
        assert get(f"{url}/metrics", "Bearer secret")[0] == 200
    finally:
        server.close()
