"""The HTTP port: health, readiness with its reason, metrics."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import pytest
from prometheus_client import CollectorRegistry, Counter

from stageline.curve import write_secret
from stageline.errors import AuthenticationError, ConfigError, ForbiddenError, RejectedError, StagelineError
from stageline.health import check
from stageline.http import Guard, StatusServer
from stageline.tls import server_context


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
    server = StatusServer("0.0.0.0", 0, Switch(), CollectorRegistry(), Guard(tmp_path / "token"))
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


REFUSALS: dict[str, StagelineError] = {
    "unknown": AuthenticationError("unknown"),
    "poor": ForbiddenError("poor"),
    "hasty": RejectedError("hasty", retry_after_s=1.2),
}


def test_tokens_may_be_judged_by_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    def allow(token: str) -> None:
        if token in REFUSALS:
            raise REFUSALS[token]

    server = StatusServer("0.0.0.0", 0, Switch(), CollectorRegistry(), Guard(allow=allow))
    monkeypatch.setattr("stageline.http.is_loopback", lambda host: False)
    url = f"http://127.0.0.1:{server.address.rpartition(':')[2]}/metrics"
    try:
        codes = {token: get(url, f"Bearer {token}")[0] for token in ("", "good", *REFUSALS)}
        assert codes == {"": 401, "good": 200, "unknown": 401, "poor": 403, "hasty": 429}
        with pytest.raises(HTTPError) as caught:
            urlopen(Request(url, headers={"Authorization": "Bearer hasty"}), timeout=10)
        with caught.value as error:
            assert (error.headers["Retry-After"], json.loads(error.read())) == ("2", {"error": "hasty"})
    finally:
        server.close()


def test_it_speaks_tls_where_it_has_a_certificate(certificates: Any, tmp_path: Path) -> None:
    context = server_context(certificates.gateway, certificates.gateway_key)
    server = StatusServer("127.0.0.1", 0, Switch(), CollectorRegistry(), tls=lambda: context)
    try:
        assert server.address.startswith("https://127.0.0.1:")
        trusted = ssl.create_default_context(cafile=str(certificates.ca))
        with urlopen(f"{server.address}/healthz", timeout=10, context=trusted) as answer:
            assert answer.status == 200
        with pytest.raises((OSError, HTTPException)):
            get(server.address.replace("https", "http") + "/healthz")
        with pytest.raises(URLError, match="certificate verify failed"):
            get(server.address + "/healthz")
        (tmp_path / "ready.json").write_text(json.dumps({"http": server.address}))
        assert check(tmp_path / "ready.json") == "", "stageline-health asks its own machine"
    finally:
        server.close()
