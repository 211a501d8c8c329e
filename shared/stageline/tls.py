"""TLS of the client port and of HTTP: what a gateway shows, and whom a client believes. Version 1.2 or newer."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Union

from stageline.errors import AuthenticationError, ConfigError

SCHEME = "tls://"
"""Before a gateway's address: it speaks TLS."""


@dataclass(frozen=True)
class Tls:
    """How a client makes sure of a gateway: by the authorities in `ca_file` (PEM; None: the system's).

    `cert_file` and `key_file` are for gateways that ask for a client's certificate. `server_name` is the name that the
    gateway's certificate must bear, where that is not the host of its address.
    """

    ca_file: Path | str | None = None
    cert_file: Path | str | None = None
    key_file: Path | str | None = None
    server_name: str = ""

    def context(self) -> ssl.SSLContext:
        """Raises `ConfigError` for files that are missing or none."""
        try:
            context = ssl.create_default_context(cafile=None if self.ca_file is None else str(self.ca_file))
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot use {self.ca_file} as certificate authority: {reason_of(error)}") from None
        if self.cert_file is not None:
            _load(context, Path(self.cert_file), Path(self.key_file or self.cert_file))
        return context


TlsOption = Union[None, bool, Tls, ssl.SSLContext]


def server_context(cert: Path, key: Path, client_ca: Path | None = None) -> ssl.SSLContext:
    """What a gateway speaks TLS with; with `client_ca`, only to clients that have a certificate of those authorities.

    Raises `ConfigError` for files that are missing or none, or a key that everybody may read.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load(context, cert, key)
    if client_ca is not None:
        try:
            context.load_verify_locations(client_ca)
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot use {client_ca} as authority of clients: {reason_of(error)}") from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def distrust(address: str, error: ssl.SSLError) -> AuthenticationError:
    """What a client ends with if `error` kept it from speaking TLS with that gateway."""
    reason = error.reason or ""
    if isinstance(error, ssl.SSLCertVerificationError):
        text = f"the gateway at {address} does not prove who it is ({error.verify_message}): check the authority "
        return AuthenticationError(text + "(--ca-file, STAGELINE_CA_FILE, Tls) and the name in the address")
    if "ALERT" in reason:
        text = f"the gateway at {address} does not take this client's certificate ({reason_of(error)}): give one "
        return AuthenticationError(text + "that it trusts (--cert-file and --key-file, Tls)")
    return AuthenticationError(f"no TLS with {address} ({reason_of(error)}): does that gateway speak TLS?")


def _load(context: ssl.SSLContext, cert: Path, key: Path) -> None:
    try:
        if key.stat().st_mode & 0o007:
            raise ConfigError(f"{key} may be read by everybody: chmod o-rwx it")
        context.load_cert_chain(cert, key, password=_no_password)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot use the certificate {cert} with the key {key}: {reason_of(error)}") from None


def _no_password() -> str:
    raise ValueError("the key has a password: keep it without one, readable by its owner alone")


def reason_of(error: Exception) -> str:
    """OpenSSL's reason in words, as far as it gives one."""
    if isinstance(error, ssl.SSLError):
        return (error.reason or error.strerror or str(error)).replace("_", " ").lower()
    return (error.strerror or "" if isinstance(error, OSError) else str(error)) or str(error)
