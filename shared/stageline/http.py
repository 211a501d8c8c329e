"""The HTTP port of every service: /healthz, /readyz and /metrics, served by threads beside the main loop.

/healthz is 200 while the main loop turns, whatever it waits for: a service that is not needs a restart.
"""

from __future__ import annotations

import hmac
import json
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from math import ceil
from pathlib import Path
from socketserver import ThreadingMixIn
from threading import Thread
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

from stageline.addresses import check_loopback, is_loopback
from stageline.curve import read_secret
from stageline.errors import AuthenticationError, ConfigError, ForbiddenError, StagelineError

Readiness = Callable[[], tuple[bool, dict[str, Any]]]
"""Whether the service can really serve now, and why (not)."""


STUCK_S = 10.0
"""A main loop that has not turned for so long is stuck."""


Allow = Callable[[str], None]
"""Raises what a request with that token is to be refused with."""


class Guard:
    """Who beyond this machine sees more than /healthz: whoever bears the token of a file, or one that `allow` lets in.

    Without either nobody does. Raises `ConfigError` for a file that is missing, or that others may read.
    """

    def __init__(self, token_file: Path | None = None, allow: Allow | None = None) -> None:
        self._token = read_secret(token_file).strip().encode() if token_file is not None else b""
        self._allow = allow

    @property
    def closed(self) -> bool:
        """Whether there is no token that would open it."""
        return not self._token and self._allow is None

    def check(self, authorization: str) -> None:
        """Raises what a request with that header is to be refused with."""
        scheme, _, token = authorization.partition(" ")
        token = token.strip() if scheme.lower() == "bearer" else ""
        if self._token and hmac.compare_digest(token.encode(), self._token):
            return
        if self._allow is None or not token:
            raise AuthenticationError("send the token: Authorization: Bearer TOKEN")
        self._allow(token)


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    tls: Callable[[], ssl.SSLContext] | None = None

    def get_request(self) -> tuple[socket.socket, Any]:
        """With TLS the handshake is left to the thread of the connection, at its first read."""
        connection, peer = super().get_request()
        if self.tls is not None:
            connection = self.tls().wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, peer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that breaks, or speaks no TLS, is its client's business."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Quiet(WSGIRequestHandler):
    timeout = 10

    def log_message(self, format: str, *args: Any) -> None:
        """Access logs are the proxy's business."""


class StatusServer:
    """Serves until `close`, over TLS if `tls` gives a context for each connection.

    Beyond loopback it needs a guard that is not closed; who asks from this machine needs no token, and /healthz, which
    tells nothing, is for everybody. Raises `ConfigError` without such a guard, or when the port is taken.
    """

    def __init__(
        self,
        host: str,
        port: int,
        ready: Readiness,
        registry: CollectorRegistry,
        guard: Guard | None = None,
        tls: Callable[[], ssl.SSLContext] | None = None,
    ) -> None:
        self._guard = guard or Guard()
        if self._guard.closed:
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
        self._server.tls = tls
        self.address = f"http{'s' if tls is not None else ''}://{host}:{self._server.server_port}"
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
        if path != "/healthz" and not self._guard.closed and not is_loopback(environ.get("REMOTE_ADDR", "")):
            try:
                self._guard.check(environ.get("HTTP_AUTHORIZATION", ""))
            except StagelineError as error:
                return _refuse(start, error)
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


def _refuse(start: Callable[..., Any], error: StagelineError) -> Iterable[bytes]:
    if isinstance(error, AuthenticationError):
        return _answer(start, "401 Unauthorized", {"error": error.message}, [("WWW-Authenticate", "Bearer")])
    if isinstance(error, ForbiddenError):
        return _answer(start, "403 Forbidden", {"error": error.message})
    after = [("Retry-After", str(ceil(error.retry_after_s or 1.0)))]
    return _answer(start, "429 Too Many Requests", {"error": error.message}, after)


def _answer(
    start: Callable[..., Any], status: str, body: dict[str, Any], more: Sequence[tuple[str, str]] = ()
) -> Iterable[bytes]:
    data = json.dumps(body).encode() + b"\n"
    start(status, [("Content-Type", "application/json"), ("Content-Length", str(len(data))), *more])
    return [data]
