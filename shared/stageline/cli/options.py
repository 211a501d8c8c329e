"""What the commands share: how errors become one line and an exit code, and how a cluster is named."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import click

from stageline.admin import AdminClient
from stageline.cli.output import shown
from stageline.config import default_data_dir
from stageline.curve import read_secret
from stageline.embedded.ended import explaining
from stageline.errors import CancelledError, ConfigError, ConnectionLostError, NoClusterError, StagelineError
from stageline.locate import COORDINATOR_VARIABLE, GATEWAY_VARIABLE, Location, locate

DATA_DIR_VARIABLE = "STAGELINE_DATA_DIR"
KEYS_VARIABLE = "STAGELINE_KEYS_DIR"

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NO_CLUSTER = 3
EXIT_INTERRUPTED = 130

EXIT_CODES = """\b
Exit codes:
  0    done
  1    it failed: the message says what and what to do
  2    a flag, setting or argument is wrong
  3    no cluster was found, or it does not answer
  130  interrupted
"""

F = TypeVar("F", bound=Callable[..., Any])


def exit_code(error: StagelineError) -> int:
    """The exit code of a command that ends with `error`."""
    if isinstance(error, ConfigError):
        return EXIT_USAGE
    if isinstance(error, CancelledError):
        return EXIT_INTERRUPTED
    if isinstance(error, (NoClusterError, ConnectionLostError)):
        return EXIT_NO_CLUSTER
    return EXIT_FAILED


def one_line(text: str) -> str:
    """The message without line breaks and what a terminal would not take as text."""
    return shown(" ".join(text.split()))


def json_option(command: F) -> F:
    """`--json`."""
    return click.option(
        "--json",
        "as_json",
        is_flag=True,
        help='Print JSON, for scripts; numbers that it has not are "NaN", "Infinity", "-Infinity".',
    )(command)


def data_dir_option(text: str) -> Callable[[F], F]:
    """`--data-dir`."""
    return click.option("--data-dir", type=click.Path(path_type=Path, file_okay=False), help=text)


def chosen_data_dir(flag: Path | None) -> Path:
    """The data directory that is meant: as the flag says, or the environment, or the usual one."""
    return flag or Path(os.environ.get(DATA_DIR_VARIABLE) or default_data_dir()).expanduser()


class Seconds(click.FloatRange):
    """As its parent, but NaN, which is in no range and compares with nothing, is refused."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = float(super().convert(value, param, ctx))
        if math.isnan(found):
            self.fail(f"{value} is not a number of seconds", param, ctx)
        return found


@dataclass(frozen=True)
class Where:
    """The cluster that the flags of a command name; call it to find that cluster."""

    coordinator: str | None = None
    gateways: tuple[str, ...] = ()
    data_dir: Path | None = None
    keys: Path | None = None

    def __call__(self) -> Location:
        """Raises `NoClusterError` when there is none."""
        found = locate(coordinator=self.coordinator, gateways=self.gateways, data_dir=self.data_dir, environ=os.environ)
        keys = self.keys or (Path(os.environ[KEYS_VARIABLE]) if os.environ.get(KEYS_VARIABLE) else None)
        return replace(found, keys=keys.expanduser()) if keys is not None else found

    @property
    def by_address(self) -> bool:
        """Whether an address was given, so that no data directory on this machine can be meant."""
        given = (self.coordinator, *self.gateways, *map(os.environ.get, (COORDINATOR_VARIABLE, GATEWAY_VARIABLE)))
        return self.data_dir is None and any(given)


def location_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--coordinator`, `--gateway` and `--data-dir`, given to the command as `where`."""

    @functools.wraps(command)
    def wrapped(
        coordinator: str | None, gateways: tuple[str, ...], data_dir: Path | None, keys_dir: Path | None, **rest: Any
    ) -> Any:
        return command(where=Where(coordinator, gateways, data_dir, keys_dir), **rest)

    wrapped = click.option("--keys-dir", type=click.Path(path_type=Path, file_okay=False),
                           help="Directory with an administrator's keys, see `stageline keys`.")(wrapped)  # fmt: skip

    wrapped = click.option("--gateway", "gateways", multiple=True, metavar="HOST:PORT",
                           help="Client address of a gateway; repeat it, or separate several by commas: they stand in "
                           "for each other.")(wrapped)  # fmt: skip
    wrapped = click.option("--coordinator", help="Control address of the coordinator, tcp://HOST:PORT.")(wrapped)
    return data_dir_option("The embedded cluster that runs on this directory.")(wrapped)


@contextmanager
def connect(location: Location, timeout_s: float = 10.0) -> Iterator[AdminClient]:
    """A connection to the cluster's coordinator. Raises `NoClusterError`, also when it has ended meanwhile."""
    with (
        explaining(location.state, "coordinator"),
        AdminClient(location.control, timeout_s=timeout_s, keys=location.keys) as admin,
    ):
        yield admin


def client_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """How a command shows a gateway who it is, given to it as `secured`: `token` and `tls` of a `Client`."""

    @functools.wraps(command)
    def wrapped(
        token_file: Path | None, ca_file: Path | None, cert_file: Path | None, key_file: Path | None, tls: bool | None,
        **rest: Any,
    ) -> Any:  # fmt: skip
        token = None if token_file is None else read_secret(token_file).strip()
        return command(secured={"token": token, "tls": _tls(ca_file, cert_file, key_file, tls)}, **rest)

    file = click.Path(path_type=Path, dir_okay=False)
    wrapped = click.option("--tls/--no-tls", default=None, help="Speak TLS with the gateway, or never.")(wrapped)
    wrapped = click.option("--key-file", type=file, help="Its key (PEM).")(wrapped)
    wrapped = click.option("--cert-file", type=file, help="Our certificate (PEM), for gateways that ask.")(wrapped)
    wrapped = click.option("--ca-file", type=file, help="Authorities (PEM) to believe gateways by; TLS is spoken then "
                           "[default: STAGELINE_CA_FILE].")(wrapped)  # fmt: skip
    return click.option("--token-file", type=file, help="File with the token that the gateway asks for "
                        "[default: STAGELINE_TOKEN_FILE, or STAGELINE_TOKEN].")(wrapped)  # fmt: skip


def _tls(ca_file: Path | None, cert_file: Path | None, key_file: Path | None, switch: bool | None) -> Any:
    if switch is False or not (ca_file or cert_file):
        return switch
    from stageline.client.security import files_in
    from stageline.tls import Tls

    usual = files_in(os.environ)
    return Tls(ca_file or usual.ca_file, cert_file or usual.cert_file, key_file or usual.key_file)
