"""The shared `main` of the services: flags made from the config's fields, one line for an error, exit codes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import click

from stageline.config import ServiceConfig, default_of, load
from stageline.errors import ConfigError, StagelineError
from stageline.lifecycle import EXIT_USAGE

C = TypeVar("C", bound=ServiceConfig)

EXIT_FAILED = 1


def service_command(kind: type[C], run: Callable[[C], None], name: str, text: str) -> click.Command:
    """A click command that loads a `kind` and calls `run` with it."""

    def callback(config: Path | None, **flags: Any) -> None:
        try:
            run(load(kind, flags=flags, environ=os.environ, file=config))
        except ConfigError as error:
            click.echo(f"{name}: {error}", err=True)
            raise SystemExit(EXIT_USAGE) from None
        except StagelineError as error:
            click.echo(f"{name}: {error}", err=True)
            raise SystemExit(EXIT_FAILED) from None

    options: list[click.Parameter] = [
        click.Option(["--config"], type=click.Path(path_type=Path), help="YAML file with a section per service")
    ]
    for setting in fields(kind):
        if setting.metadata.get("secret"):
            continue
        flag = "--" + setting.name.replace("_", "-")
        default = default_of(setting)
        shown = "" if default is None else f" [default: {default}]"
        options.append(click.Option([flag, setting.name], default=None, help=setting.metadata["help"] + shown))
    return click.Command(name, callback=callback, params=options, help=text)


def announce(path: Path | None, addresses: Mapping[str, Any]) -> None:
    """Write the ready file (atomically): {"pid": …, **addresses}."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps({"pid": os.getpid(), **addresses}))
    temporary.replace(path)
