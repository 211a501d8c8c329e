"""`stageline nodes token`: what a worker or gateway needs to join."""

from __future__ import annotations

import re

import click

from stageline.cli.options import Where, connect, json_option, location_options
from stageline.cli.output import emit_json, note
from stageline.errors import ConfigError

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def seconds_of(text: str, option: str = "--expires") -> float:
    """``90s``, ``30m``, ``12h`` or ``7d`` in seconds. Raises `ConfigError` for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if found is None or float(found[1]) == 0:
        raise ConfigError(f"{option} must look like 30m, 12h or 7d, got {text!r}")
    return float(found[1]) * UNITS[found[2]]


@click.command("token")
@click.option("--uses", type=click.IntRange(1), default=1, show_default=True, help="How many may join with it.")
@click.option("--multi", is_flag=True, help="Any number may.")
@click.option("--expires", default="1d", show_default=True, help="How long it may be used: 30m, 12h, 7d.")
@location_options
@json_option
def token(uses: int, multi: bool, expires: str, where: Where, as_json: bool) -> None:
    """Print a token with which workers and gateways join: whoever has it is let in, so pass it on with care.

    \b
    Example:
      stageline nodes token --expires 1h > token
      STAGELINE_JOIN_TOKEN=$(cat token) stageline-stage --coordinator tcp://10.0.0.1:7700 --name box-2
    """
    expires_s = seconds_of(expires)
    with connect(where()) as admin:
        made = admin.make_token(0 if multi else uses, expires_s)
    if as_json:
        emit_json({"token": made, "uses": None if multi else uses, "expires_s": expires_s})
        return
    click.echo(made)
    many = (
        "any number of workers and gateways" if multi else "one worker or gateway" if uses == 1 else f"{uses} of them"
    )
    note(f"for {many}, within {expires}: give it to them as STAGELINE_JOIN_TOKEN, or in a file as join_token_file")
