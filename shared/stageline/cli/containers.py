"""`models add` in a container: the flags, and the choice between that and this process."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stageline.blobs import BlobStore
from stageline.catalogue import Report
from stageline.cli.output import note
from stageline.errors import ClusterError, ConfigError
from stageline.manifest import ModelManifest
from stageline.modelsource import default_name

if TYPE_CHECKING:
    from stageline.importjob.engine import Engine

IMAGE_VARIABLE, IMAGE = "STAGELINE_STAGE_IMAGE", "stageline-stage"
UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def read_size(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """Bytes as Docker writes them, such as 512m or 8g; raises `click.BadParameter` for anything else."""
    if value is None:
        return None
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)([kmgt]?)b?", value.strip().lower())
    if found is None or not (size := int(float(found[1]) * UNITS[found[2]])):
        raise click.BadParameter(f"{value!r} is no size: want one like 512m or 8g")
    return size


@dataclass(frozen=True)
class Containers:
    """What the flags say. `wanted`: also where it could be done in this process."""

    wanted: bool = False
    image: str = IMAGE
    docker: str = ""
    tls: Path | None = None
    memory_bytes: int | None = None
    include: tuple[Path, ...] = ()

    @contextmanager
    def reached(self, missing: str) -> Iterator[Engine]:
        """The Docker engine. `missing`: the package for want of which it is asked for; empty if it is wanted.

        Raises `ConfigError` or `ClusterError`, which say what else would do.
        """
        from stageline.importjob.engine import Engine

        other = f"; without Docker, importing needs {missing} here: pip install 'stageline[import]'" if missing else ""
        with ExitStack() as stack:
            try:
                found = stack.enter_context(Engine.reached(self.docker, self.tls))
            except (ConfigError, ClusterError) as error:
                raise type(error)(f"{error.message}{other}") from None
            yield found


def container_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--in-container` and what goes with it, given to the command as `containers`."""

    @functools.wraps(command)
    def wrapped(
        in_container: bool, image: str | None, docker: str | None, docker_tls: Path | None, memory: int | None,
        include: tuple[Path, ...], **rest: Any,
    ) -> Any:  # fmt: skip
        wanted = in_container or any(one is not None for one in (image, docker, docker_tls, memory)) or bool(include)
        usual = image or os.environ.get(IMAGE_VARIABLE) or IMAGE
        return command(containers=Containers(wanted, usual, docker or "", docker_tls, memory, include), **rest)

    path = click.Path(path_type=Path)
    wrapped = click.option("--include", type=path, multiple=True, metavar="PATH",
                           help="In a container: file or folder that a factory's module needs beside itself; repeat "
                           "it.")(wrapped)  # fmt: skip
    wrapped = click.option("--memory", callback=read_size, metavar="SIZE", help="In a container: its memory, such as "
                           "8g [default: three quarters of the machine's].")(wrapped)  # fmt: skip
    wrapped = click.option("--docker-tls", type=click.Path(path_type=Path, file_okay=False),
                           help="Directory with ca.pem, cert.pem and key.pem, for tcp://.")(wrapped)  # fmt: skip
    wrapped = click.option("--docker", metavar="URL", help="In a container of this Docker engine: unix:///PATH, "
                           "ssh://USER@HOST, tcp://HOST:2376 [default: DOCKER_HOST, or this machine's "
                           "engine].")(wrapped)  # fmt: skip
    wrapped = click.option("--image", help=f"In a container of this stage image [default: {IMAGE_VARIABLE}, or "
                           f"{IMAGE}].")(wrapped)  # fmt: skip
    return click.option("--in-container", is_flag=True, help="Import in a container also where torch is installed: "
                        "the model's code sees no keys, files or network.")(wrapped)  # fmt: skip


def import_in(
    engine: Engine, containers: Containers, source: str, *, name: str | None, random_weights: int | None,
    task: str | None, store: BlobStore, progress: Report,
) -> ModelManifest:  # fmt: skip
    """In a container of that engine. Raises as `stageline.importjob.run.import_in_container`, and `files.parcel`."""
    from stageline.importjob.files import parcel
    from stageline.importjob.run import Order, import_in_container
    from stageline.importjob.words import Request

    sent = parcel(source, containers.include)
    request = Request(sent.source, name or default_name(source), random_weights, task)
    memory_bytes = containers.memory_bytes or engine.memory_bytes * 3 // 4
    for left in engine.collect():
        note(f"removed {left}, which an import had left over")
    return import_in_container(engine, Order(sent, request, containers.image, memory_bytes), store, progress, note)
