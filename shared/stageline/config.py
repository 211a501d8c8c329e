"""Settings of the services: frozen dataclasses, built and checked once.

One precedence everywhere: flag, then environment variable (``STAGELINE_`` + the name in capitals), then the service's
section of the YAML file (``--config`` or ``STAGELINE_CONFIG``), then the default. Services never read the
environment themselves; only their `main` does, through `load`.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from math import isfinite
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, get_type_hints

import msgspec

from stageline.addresses import check_loopback, is_loopback
from stageline.checksum import Checksum
from stageline.coordinators import read_addresses
from stageline.errors import ConfigError
from stageline.sockets import Transport
from stageline.yaml_file import read_yaml

DEFAULT_COORDINATOR = "tcp://127.0.0.1:7700"
DEFAULT_MAX_BATCH = 8
"""Items of a batch that memory is planned for."""
NOT_ZERO = frozenset(
    {"max_batch", "max_attempts", "max_in_flight", "max_in_flight_bytes", "max_request_bytes", "threads"}
    | {"start_timeout_s", "ping_ms", "suspect_ms", "evict_ms", "window_bytes", "default_deadline_ms", "max_replicas"}
    | {"blob_keep_s"}
)
LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["auto", "json", "console"]


def default_data_dir() -> Path:
    """Where state lives unless told otherwise (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local/share") / "stageline"


def _setting(default: Any, text: str) -> Any:
    if callable(default):
        return field(default_factory=default, metadata={"help": text})
    return field(default=default, metadata={"help": text})


def _secret(text: str) -> Any:
    """A setting of the environment or the file alone: everybody may see a process's flags."""
    return field(default="", repr=False, metadata={"help": text, "secret": True})


def _check_number(name: str, value: float) -> None:
    if not isfinite(value):
        raise ConfigError(f"{name} must be a finite number, got {value}")
    if value < 0:
        raise ConfigError(f"{name} must not be negative, got {value}")
    if value == 0 and name in NOT_ZERO:
        raise ConfigError(f"{name} must be above 0")


def _check_address(name: str, address: str, *, anywhere: bool) -> None:
    """Raise `ConfigError` unless it is empty, or a TCP address: of this machine alone, unless it may be anywhere."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    if address and not (address.startswith("tcp://") and host and port.isdigit() and 0 < int(port) <= 65535):
        raise ConfigError(f"{name} must look like tcp://127.0.0.1:7720, got {address!r}")
    if address and not anywhere:
        check_loopback(address)


@dataclass(frozen=True)
class ServiceConfig:
    """What every service has."""

    section: ClassVar[str] = ""

    host: str = _setting("127.0.0.1", "address to listen on; beyond loopback only with keys")
    keys_dir: Path | None = _setting(None, "directory with the keys of this service, see `stageline keys`")
    http_port: int = _setting(0, "port of /healthz, /readyz and /metrics (0: any free one)")
    http_host: str = _setting("127.0.0.1", "address of that port; beyond loopback only with tokens")
    http_token_file: Path | None = _setting(None, "file with the bearer token that /metrics and /readyz ask for")
    log_level: LogLevel = _setting("info", "debug, info, warning or error")
    log_format: LogFormat = _setting("auto", "json, console, or auto: console on a terminal")
    ready_file: Path | None = _setting(None, "written with pid and addresses (JSON) once the service is up")

    def __post_init__(self) -> None:
        if self.keys_dir is None:
            check_loopback(f"{self.host}:0")
        for name in ("http_port", "port", "plan_port", "blob_port", "join_port", "data_port"):
            if not 0 <= getattr(self, name, 0) <= 65535:
                raise ConfigError(f"{name} must be between 0 and 65535, got {getattr(self, name)}")
        for name, kind in get_type_hints(type(self)).items():
            if kind in (int, float):
                _check_number(name, getattr(self, name))
        read_addresses(getattr(self, "coordinator", DEFAULT_COORDINATOR))
        for name in ("standby_of", "control_address", "data_address"):
            _check_address(name, getattr(self, name, ""), anywhere=self.keys_dir is not None)
        tokens = self.http_token_file or getattr(self, "tokens_file", None)
        if tokens is None and not is_loopback(self.http_host):
            raise ConfigError(f"refusing to show metrics on {self.http_host} to everybody: set http_token_file")


@dataclass(frozen=True)
class CoordinatorConfig(ServiceConfig):
    """Settings of the coordinator."""

    section: ClassVar[str] = "coordinator"

    data_dir: Path = _setting(default_data_dir, "directory of the database and the blobs")
    port: int = _setting(7700, "control port (0: the one of the last run, or any free one)")
    plan_port: int = _setting(7701, "port of plan broadcasts (0: likewise)")
    blob_port: int = _setting(7702, "port of tensors and graphs (0: likewise)")
    join_port: int = _setting(7703, "port at which workers and gateways join with a token (0: likewise)")
    http_port: int = _setting(7780, "port of /healthz, /readyz and /metrics (0: any free one)")
    ping_ms: int = _setting(100, "milliseconds between heartbeats")
    suspect_ms: int = _setting(300, "silence in milliseconds after which a worker gets no new work")
    evict_ms: int = _setting(800, "silence in milliseconds after which a worker is planned around")
    rejoin_ms: int = _setting(3000, "milliseconds that a new leader waits for workers, from the first peer that comes")
    drain_s: float = _setting(10.0, "seconds that an old plan may take to drain")
    blob_keep_s: float = _setting(3600.0, "seconds that blobs which no model names are kept after their last use")
    standby_of: str = _setting("", "control address of the coordinator to stand by for (empty: lead)")
    control_address: str = _setting("", "tcp://HOST:PORT by which the other coordinator reaches this one, if another")
    max_replicas: int = _setting(1, "workers that may share a stage, at most; 1 finds and proves plans soonest")
    standbys: int = _setting(1, "deaths at once that stages loaded on other workers make up for (0: none)")


@dataclass(frozen=True)
class GatewayConfig(ServiceConfig):
    """Settings of a gateway."""

    section: ClassVar[str] = "gateway"

    name: str = _setting(lambda: f"gateway-{socket.gethostname()}", "name, unique in the cluster")
    coordinator: str = _setting(
        DEFAULT_COORDINATOR, "control address of the coordinator (several: separated by commas)"
    )
    join_token: str = _secret("token with which to join, as `stageline nodes token` prints it")
    join_token_file: Path | None = _setting(None, "file with that token")
    transport: Transport = _setting("auto", "auto: Unix sockets to peers on the same machine; tcp: never")
    port: int = _setting(7710, "port of the native client protocol (0: any free one)")
    client_host: str = _setting("127.0.0.1", "address to listen on for clients; beyond loopback with TLS and tokens")
    tokens_file: Path | None = _setting(None, "file with the tokens that clients need, see `stageline tokens`")
    tls_cert: Path | None = _setting(None, "certificate (PEM, with its chain) shown to clients and by HTTP")
    tls_key: Path | None = _setting(None, "its key (default: in the file of tls_cert)")
    tls_client_ca: Path | None = _setting(None, "authorities (PEM), of one of which clients need a certificate")
    insecure: bool = _setting(False, "serve clients beyond loopback without tokens or TLS, for networks that are safe")
    data_port: int = _setting(0, "port of activations (0: any free one)")
    advertise_host: str = _setting("", "host by which others reach this one (empty: found out)")
    data_address: str = _setting("", "tcp://HOST:PORT by which others reach that port (empty: as it listens)")
    checksum: Checksum = _setting("auto", "of activations that come here; auto: of those that may come from elsewhere")
    http_port: int = _setting(7781, "port of /healthz, /readyz and /metrics (0: any free one)")
    max_in_flight: int = _setting(4096, "requests accepted and unanswered, at most")
    max_in_flight_bytes: int = _setting(1 << 30, "bytes of accepted and unanswered requests, at most")
    max_request_bytes: int = _setting(256 << 20, "bytes of one request, at most")
    max_batch: int = _setting(DEFAULT_MAX_BATCH, "items that may share a batch; memory is planned for 8")
    batch_delay_ms: float = _setting(2.0, "milliseconds that the first request of a batch may wait for company")
    window: int = _setting(0, "batches in flight per path (0: two per stage)")
    window_bytes: int = _setting(64 << 20, "bytes in flight per path, at most (one batch always fits)")
    default_deadline_ms: int = _setting(60_000, "deadline of a request that names none")
    max_attempts: int = _setting(8, "dispatches of a request before it fails")
    drain_s: float = _setting(10.0, "seconds that requests in flight may take after SIGTERM")
    hold_s: float = _setting(5.0, "seconds after the start that requests wait for the first plan, before refusals")
    answer_keep_s: float = _setting(60.0, "seconds that an answer is kept for a retry with its idempotency key")
    answer_keep_bytes: int = _setting(32 << 20, "bytes of answers (and their requests) kept for retries, at most")
    journal: Path | None = _setting(
        None, "directory where accepted requests with an idempotency key outlive the gateway"
    )
    receive_bytes: int = _setting(512 << 20, "bytes of requests being received, at most (one always fits)")
    client_timeout_s: float = _setting(30.0, "seconds that a client may stall while it sends or reads a frame")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("tls_key", "tls_client_ca"):
            if getattr(self, name) is not None and self.tls_cert is None:
                raise ConfigError(f"{name} is of no use without tls_cert: set that, too")
        if not self.insecure and not is_loopback(self.client_host):
            self._check_clients()

    def _check_clients(self) -> None:
        """Raise `ConfigError` unless it is known who asks, and nobody else hears it."""
        if self.tokens_file is None and self.tls_client_ca is None:
            missing = "tokens_file" if self.tls_cert is not None else "tokens_file and tls_cert"
            raise ConfigError(
                f"refusing to serve clients on {self.client_host}: whoever reaches that could use the cluster; set "
                f"{missing}, or insecure to allow it, or client_host 127.0.0.1"
            )
        if self.tls_cert is None:
            raise ConfigError(
                f"refusing to serve clients on {self.client_host} without TLS: everybody on the way could read their "
                "tokens; set tls_cert, or insecure to allow it, or client_host 127.0.0.1"
            )


@dataclass(frozen=True)
class StageConfig(ServiceConfig):
    """Settings of a stage worker."""

    section: ClassVar[str] = "stage"

    name: str = _setting(socket.gethostname, "name, unique in the cluster")
    coordinator: str = _setting(
        DEFAULT_COORDINATOR, "control address of the coordinator (several: separated by commas)"
    )
    join_token: str = _secret("token with which to join, as `stageline nodes token` prints it")
    join_token_file: Path | None = _setting(None, "file with that token")
    transport: Transport = _setting("auto", "auto: Unix sockets to peers on the same machine; tcp: never")
    http_port: int = _setting(7790, "port of /healthz, /readyz and /metrics (0: any free one)")
    data_port: int = _setting(0, "port of activations (0: any free one)")
    advertise_host: str = _setting("", "host by which others reach this one (empty: found out)")
    data_address: str = _setting("", "tcp://HOST:PORT by which others reach that port (empty: as it listens)")
    checksum: Checksum = _setting("auto", "of activations that come here; auto: of those that may come from elsewhere")
    cache_dir: Path = _setting(lambda: default_data_dir() / "cache", "directory of cached tensors and graphs")
    cache_max_bytes: int = _setting(20 << 30, "bytes that the cache may hold; fewer where the disk fills up")
    cache_keep_s: float = _setting(86400.0, "seconds that the cache keeps what no stage here uses")
    device: str = _setting("auto", "auto, cpu or cuda:N")
    threads: int = _setting(1, "threads that a stage computes with")
    backend: str = _setting("eager", "what runs stages: eager (torch), openvino, or auto: what is fastest here")
    backend_retry: bool = _setting(False, "compile again what a backend failed at before")
    memory_bytes: int = _setting(0, "memory to offer for weights and activations (0: what the machine has)")
    drain_s: float = _setting(15.0, "seconds to wait for work in flight after SIGTERM")
    start_timeout_s: float = _setting(60.0, "seconds that an executor may take to import torch")


SECTIONS: dict[str, type[ServiceConfig]] = {
    kind.section: kind for kind in (CoordinatorConfig, GatewayConfig, StageConfig)
}
"""What each section of a configuration file is read as."""

C = TypeVar("C", bound=ServiceConfig)


def load(kind: type[C], *, flags: Mapping[str, Any], environ: Mapping[str, str], file: Path | None = None) -> C:
    """Build a config. `flags` holds only what was given; values may be strings.

    Raises `ConfigError` that names the setting, where it came from and what is wrong with it.
    """
    merged = _given(kind, environ, file)
    for name, value in flags.items():
        if value is not None:
            merged[name] = (value, f"--{name.replace('_', '-')}")
    hints = get_type_hints(kind)
    return kind(**{name: _convert(value, hints[name], origin) for name, (value, origin) in merged.items()})


def given(kind: type[ServiceConfig], *, environ: Mapping[str, str], file: Path | None = None) -> dict[str, Any]:
    """The settings that the environment or the file names, converted: what is not left at its default.

    Raises `ConfigError` as `load` does.
    """
    config = load(kind, flags={}, environ=environ, file=file)
    return {name: getattr(config, name) for name in _given(kind, environ, file)}


def config_file(environ: Mapping[str, str], flag: Path | None = None) -> Path | None:
    """The file with settings: as the flag names it, or else the environment."""
    return flag or (Path(environ["STAGELINE_CONFIG"]) if environ.get("STAGELINE_CONFIG") else None)


def _given(kind: type[ServiceConfig], environ: Mapping[str, str], file: Path | None) -> dict[str, tuple[Any, str]]:
    """Each setting that is named somewhere, with where it came from."""
    path = config_file(environ, file)
    merged: dict[str, tuple[Any, str]] = {}
    for name, value in _read_file(path).get(kind.section, {}).items() if path else ():
        merged[name] = (value, f"{name} in {path}")
    for name in (f.name for f in fields(kind)):
        variable = f"STAGELINE_{name.upper()}"
        if environ.get(variable):
            merged[name] = (environ[variable], variable)
    return merged


def default_of(setting: Any) -> Any:
    """The default of a dataclass field, or None where it is computed."""
    return None if setting.default is MISSING else setting.default


def _convert(value: Any, kind: Any, origin: str) -> Any:
    try:
        if kind is Path or kind == (Path | None):
            return Path(value if isinstance(value, Path) else msgspec.convert(value, str)).expanduser()
        return msgspec.convert(value, kind, strict=False)
    except (msgspec.ValidationError, RuntimeError) as error:  # RuntimeError: "~name" of nobody
        raise ConfigError(f"{origin}: {error}") from None


def _read_file(path: Path) -> dict[str, dict[str, Any]]:
    """All sections, each checked: a slip in one is found by whichever service reads the file first."""
    content = read_yaml(path) or {}
    if not isinstance(content, dict) or not set(content) <= set(SECTIONS):
        odd = (
            ", ".join(map(str, sorted(set(content) - set(SECTIONS), key=str))) if isinstance(content, dict) else content
        )
        raise ConfigError(f"{path}: unknown section {odd}; want coordinator, gateway or stage")
    return {section: _checked(path, section, settings or {}) for section, settings in content.items()}


def _checked(path: Path, section: str, settings: Any) -> dict[str, Any]:
    if not isinstance(settings, dict):
        raise ConfigError(f"{path}: section {section} must map settings to values")
    known = {f.name for f in fields(SECTIONS[section])}
    unknown = sorted(str(name) for name in settings if name not in known)
    if unknown:
        raise ConfigError(f"{path}: unknown setting {section}.{unknown[0]}; known: {', '.join(sorted(known))}")
    return settings
