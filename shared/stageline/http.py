"""The HTTP port of every service: /healthz, /readyz and /metrics, served by threads beside the main loop.

/healthz is 200 while the main loop turns, whatever it waits for: a service that is not needs a restart.
"""

from __future__ import annotations

import hmac
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from socketserver import ThreadingMixIn
from threading import Thread
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

from stageline.addresses import check_loopback, is_loopback
from stageline.curve import read_secret
from stageline.errors import ConfigError

Readiness = Callable[[], tuple[bool, dict[str, Any]]]
"""Whether the service can really serve now, and why (not)."""


STUCK_S = 10.0
"""A main loop that has not turned for so long is stuck."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    timeout = 10

    def log_message(self, format: str, *args: Any) -> None:
        """Access logs are the proxy's business."""


class StatusServer:
    """Serves until `close`.

    Beyond loopback it needs a file with the token that others must bear; who asks from this machine needs none, and
    /healthz, which tells nothing, is for everybody. Raises `ConfigError` without such a file, or when the port is
    taken.
    """

    def __init__(
        self, host: str, port: int, ready: Readiness, registry: CollectorRegistry, token_file: Path | None = None
    ) -> None:
        self._token = read_secret(token_file).strip().encode() if token_file is not None else b""
        if not self._token:
            check_loopback(f"{host}:{port}")
        self._ready = ready
        self._turned = time.monotonic()
        self._metrics = make_wsgi_app(registry)
        try:
            self._server = make_server(host, port, self._app, _Server, _Quiet)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {host}:{port} ({error.strerror}): choose another --http-port"
            ) from None
        self.address = f"http://{host}:{self._server.server_port}"
        self._thread = Thread(target=self._server.serve_forever, args=(0.2,), name="http", daemon=True)
        self._thread.start()

    def turned(self) -> None:
        """The main loop has come round once more; it says so at least once a second."""
        self._turned = time.monotonic()

    def close(self) -> None:
        """Stop serving and free the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _app(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "/")
        if path != "/healthz" and not self._allowed(environ):
            return _answer(start, "401 Unauthorized", {"error": "send the token: Authorization: Bearer TOKEN"})
        if path == "/metrics":
            return self._metrics(environ, start)  # type: ignore[no-any-return]
        if path == "/healthz":
            return self._health(start)
        if path == "/readyz":
            ready, detail = self._ready()
            return _answer(start, "200 OK" if ready else "503 Service Unavailable", {"ready": ready, **detail})
        return _answer(start, "404 Not Found", {"error": "try /healthz, /readyz or /metrics"})

    def _health(self, start: Callable[..., Any]) -> Iterable[bytes]:
        still_s = time.monotonic() - self._turned
        if still_s <= STUCK_S:
            return _answer(start, "200 OK", {"status": "ok"})
        reason = f"the main loop has not turned for {still_s:.0f} s: restart the service"
        return _answer(start, "503 Service Unavailable", {"status": "stuck", "reason": reason})

    def _allowed(self, environ: dict[str, Any]) -> bool:
        if not self._token or is_loopback(environ.get("REMOTE_ADDR", "")):
            return True
        scheme, _, token = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(token.strip().encode(), self._token)


def _answer(start: Callable[..., Any], status: str, body: dict[str, Any]) -> Iterable[bytes]:
    data = json.dumps(body).encode() + b"\n"
    start(status, [("Content-Type", "application/json"), ("Content-Length", str(len(data)))])
    return [data]
