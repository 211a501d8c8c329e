"""How a client shows who it is, and makes sure of who answers: a token, and TLS.

What is not given comes from the environment: ``STAGELINE_TOKEN`` or the file ``STAGELINE_TOKEN_FILE``;
``STAGELINE_TLS`` (``on``, ``off``), ``STAGELINE_CA_FILE``, ``STAGELINE_CERT_FILE``, ``STAGELINE_KEY_FILE``.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from pathlib import Path

from stageline.addresses import is_loopback
from stageline.client.core import parse_address
from stageline.curve import read_secret
from stageline.errors import ConfigError
from stageline.tls import SCHEME, Tls, TlsOption

TOKEN, TOKEN_FILE = "STAGELINE_TOKEN", "STAGELINE_TOKEN_FILE"
TLS, CA_FILE, CERT_FILE, KEY_FILE = "STAGELINE_TLS", "STAGELINE_CA_FILE", "STAGELINE_CERT_FILE", "STAGELINE_KEY_FILE"
SWITCH = {"on": True, "off": False}


class Security:
    """Of one client. `token` None and `tls` None: what the environment says; "" and False: none.

    TLS is spoken if `tls`, the environment or the address (``tls://``) says so. Raises `ConfigError` for files that
    are missing or none.
    """

    def __init__(
        self, token: str | None = None, tls: TlsOption = None, environ: Mapping[str, str] = os.environ
    ) -> None:
        self.token = _token(environ) if token is None else token.strip()
        self._wanted = _switch(environ) if tls is None else tls
        self._files = files_in(environ)
        self._context: ssl.SSLContext | None = None
        if isinstance(self._wanted, ssl.SSLContext):
            self._context = self._wanted
        elif isinstance(self._wanted, Tls):
            self._files = self._wanted
        elif self._wanted is None and self._files.ca_file is not None:
            self._wanted = True

    def __repr__(self) -> str:
        return f"Security(token={'given' if self.token else 'none'})"

    def context(self, address: str) -> ssl.SSLContext | None:
        """What TLS is spoken with at the address, None for plain TCP.

        Raises `ConfigError` if the token would pass a network in the clear.
        """
        scheme = address.startswith(SCHEME)
        if self._wanted is False and scheme:
            raise ConfigError(f"{address} speaks TLS, which is switched off here: allow it, or name another gateway")
        if scheme or self._wanted not in (None, False):
            if self._context is None:
                self._context = self._files.context()
            return self._context
        host = parse_address(address)[0]
        if self.token and self._wanted is None and not is_loopback(host):
            raise ConfigError(
                f"refusing to send the token to {host} in the clear: speak TLS (--ca-file, --tls, STAGELINE_CA_FILE, "
                "tls=), or say that the network is safe (--no-tls, STAGELINE_TLS=off, tls=False)"
            )
        return None

    def server_name(self, address: str) -> str:
        """The name that the certificate of a gateway must bear."""
        return self._files.server_name or parse_address(address)[0]


def files_in(environ: Mapping[str, str]) -> Tls:
    """The files that the environment names."""
    ca, cert, key = (environ.get(name) or None for name in (CA_FILE, CERT_FILE, KEY_FILE))
    return Tls(ca, cert, key)


def _token(environ: Mapping[str, str]) -> str:
    if environ.get(TOKEN):
        return environ[TOKEN].strip()
    return read_secret(Path(environ[TOKEN_FILE]).expanduser()).strip() if environ.get(TOKEN_FILE) else ""


def _switch(environ: Mapping[str, str]) -> bool | None:
    said = environ.get(TLS)
    if said and said not in SWITCH:
        raise ConfigError(f"{TLS} must be on or off, got {said!r}")
    return SWITCH[said] if said else None
