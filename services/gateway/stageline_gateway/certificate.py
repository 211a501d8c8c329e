"""The gateway's certificate, which is read again when its files change."""

from __future__ import annotations

import ssl
from pathlib import Path

from stageline import logs
from stageline.errors import ConfigError
from stageline.tls import server_context
from stageline.watching import Watch


class Certificate:
    """The files that a gateway speaks TLS with; new ones count from the next connection on, damaged ones do not.

    `context` is that of the client port, `http` that of HTTP, which asks for no certificate of clients.
    """

    def __init__(self, cert: Path, key: Path | None, client_ca: Path | None, log: logs.Logger) -> None:
        self._own, self._client_ca = (cert, key or cert), client_ca
        self._log = log.bind(part="tls")
        self._watch = Watch(*self._own, *([client_ca] if client_ca is not None else []))
        self.context, self.http = self._read()

    def look(self) -> None:
        """Read the files again if they have changed."""
        if not self._watch.changed():
            return
        try:
            self.context, self.http = self._read()
        except ConfigError as error:
            self._log.error("the certificate stays as it was", reason=str(error))
            return
        self._log.info("certificate read")

    def _read(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        return server_context(*self._own, self._client_ca), server_context(*self._own)
