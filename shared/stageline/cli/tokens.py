"""`stageline tokens`: who may use a gateway's client port."""

from __future__ import annotations

import os
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import click

from stageline.cli.jointokens import seconds_of
from stageline.cli.options import json_option
from stageline.cli.output import emit_json, emit_table, note
from stageline.clienttokens import ClientToken, Limits, Scope, create_token, read_tokens, revoke_tokens
from stageline.curve import write_secret
from stageline.errors import ConfigError

FILE_VARIABLE = "STAGELINE_TOKENS_FILE"
COLUMNS = ("id", "name", "scopes", "requests/s", "in flight", "created", "expires")

file_option = click.option(
    "--file",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    help=f"The gateway's tokens_file [default: {FILE_VARIABLE}].",
)


@click.group()
def tokens() -> None:
    """Make and revoke the tokens that clients of a gateway need.

    They are kept, hashed, in a file that the gateway has as its tokens_file. A gateway that runs takes in changes
    within a second.

    \b
    Example:
      stageline tokens create --file tokens.json --name camera --rate 20 --in-flight 8 > camera.token
      stageline-gateway --tokens-file tokens.json
      STAGELINE_TOKEN_FILE=camera.token stageline infer digits --input pixel_values=image.npy
    """


@tokens.command("create")
@file_option
@click.option("--name", default="", help="A name, for lists, logs and metrics.")
@click.option("--scope", "scopes", type=click.Choice(["infer", "admin"]), multiple=True, default=("infer",),
              show_default=True, help="infer: requests; admin: /metrics and /readyz. Repeatable.")  # fmt: skip
@click.option("--rate", type=click.FloatRange(0, 1e6), default=0.0, help="Requests per second, at most.")
@click.option("--in-flight", type=click.IntRange(0, 1 << 31), default=0, help="Unanswered requests, at most.")
@click.option("--expires", metavar="TIME", help="How long it may be used: 30m, 12h, 7d [default: until revoked].")
@click.option("--to", type=click.Path(path_type=Path, dir_okay=False),
              help="Write the token to this new file, not to stdout; nothing is made if it is there.")  # fmt: skip
@json_option
def create(
    path: Path | None, name: str, scopes: tuple[Scope, ...], rate: float, in_flight: int, expires: str | None,
    to: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Make a token and print it: only its hash is kept, so this is the only time that it is seen.

    The limits hold for all connections with the token together, at each gateway that has the file.

    \b
    Example:
      stageline tokens create --file tokens.json --name camera --rate 20 --expires 90d
      stageline tokens create --file tokens.json --name prometheus --scope admin --to prometheus.token
    """
    if to is not None and to.exists():
        _say(as_json, {"made": None, "to": str(to)}, f"{to} is there: nothing made")
        return
    now = time.time()
    until = now + seconds_of(expires) if expires is not None else 0.0
    _check_unused(_file(path), name)
    made, token = create_token(_file(path), name, Limits(scopes, rate, in_flight), now=now, expires=until)
    if to is not None:
        _keep(to, token, _file(path), made)
        _say(as_json, {"made": _described(made), "to": str(to)}, f"made {made.id}, written to {to}")
        return
    if as_json:
        emit_json({"made": _described(made), "token": token})
        return
    click.echo(token)
    note(f"made {made.id}: give it to the client as STAGELINE_TOKEN, or in a file as STAGELINE_TOKEN_FILE")


@tokens.command("list")
@file_option
@json_option
def list_(path: Path | None, as_json: bool) -> None:
    """List the tokens: who may do what, and how much. The tokens themselves are not known any more.

    \b
    Example:
      stageline tokens list --file tokens.json
    """
    known = read_tokens(_file(path))
    if as_json:
        emit_json([_described(token) for token in known])
        return
    now = time.time()
    rows = [
        (
            token.id,
            token.name,
            ", ".join(token.scopes),
            f"{token.rate:g}" if token.rate else "any",
            token.in_flight or "any",
            _time(token.created),
            "expired" if token.expired(now) else _time(token.expires) or "never",
        )
        for token in known
    ]
    emit_table("", COLUMNS, rows)


@tokens.command("revoke")
@click.argument("which")
@file_option
@json_option
def revoke(which: str, path: Path | None, as_json: bool) -> None:
    """Take back the token of that id, or all of that name. Connections that use it are closed within a second.

    \b
    Example:
      stageline tokens revoke camera --file tokens.json
    """
    gone = revoke_tokens(_file(path), which)
    ids = [token.id for token in gone]
    _say(as_json, {"revoked": ids}, f"revoked {', '.join(ids)}")


def _check_unused(path: Path, name: str) -> None:
    """Raises `ConfigError` for the name of another token: lists, logs and metrics would not tell them apart."""
    if name and path.exists() and any(token.name == name for token in read_tokens(path)):
        raise ConfigError(
            f"{path} has a token called {name[:80]} already: revoke it first (`stageline tokens revoke`), or choose "
            "another name"
        )


def _keep(to: Path, token: str, path: Path, made: ClientToken) -> None:
    """Write the token, or take it back: nobody would have it."""
    try:
        write_secret(to, token + "\n")
    except ConfigError:
        revoke_tokens(path, made.id)
        raise


def _file(path: Path | None) -> Path:
    if path is not None:
        return path
    if not os.environ.get(FILE_VARIABLE):
        raise ConfigError(f"which file of tokens? Name the gateway's tokens_file with --file, or in {FILE_VARIABLE}")
    return Path(os.environ[FILE_VARIABLE]).expanduser()


def _described(token: ClientToken) -> dict[str, Any]:
    """Everything but the hash; None where there is no limit."""
    return {
        "id": token.id,
        "name": token.name,
        "scopes": list(token.scopes),
        "rate": token.rate or None,
        "in_flight": token.in_flight or None,
        "created": token.created,
        "expires": token.expires or None,
    }


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M UTC") if seconds else ""


def _say(as_json: bool, value: dict[str, Any], text: str) -> None:
    emit_json(value) if as_json else click.echo(text)
