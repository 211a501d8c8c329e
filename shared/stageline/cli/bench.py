"""`stageline bench`: how fast a model is served, in a closed or an open loop."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from stageline.bench.pacing import pacer
from stageline.bench.report import Settings, as_json, complaint, rows
from stageline.bench.schedule import Window
from stageline.cli.completion import complete_model
from stageline.cli.infer import PRIORITY, check_deadline, gateway_addresses
from stageline.cli.options import Where, client_options, connect, location_options
from stageline.cli.output import emit_json, emit_table, json_text, note, reporting
from stageline.embedded.ended import explaining
from stageline.errors import ConfigError, FailedError, NoClusterError, StoreError, UnavailableError

STDOUT = "-"
POISSON = "poisson"
CALLERS = 8
UNDER_WAY = 256
MAX_CALLERS = 100_000
MAX_RATE_RPS = 100_000
"""More than this process could send, by far: what it does not send only takes memory."""
MAX_SECONDS = 86_400
MAX_REQUESTS = 10_000_000
"""Each is remembered, in 16 bytes, whether it could be sent or not."""


@click.command()
@click.argument("model", shell_complete=complete_model)
@click.option("--concurrency", type=int, help=f"Callers, each asking when it has its answer [default: {CALLERS}]. "
              f"With --rate: requests under way at most [default: {UNDER_WAY}].")  # fmt: skip
@click.option("--rate", type=float, help="Open loop: so many requests per second, whatever the answers do.")
@click.option("--arrivals", type=click.Choice([POISSON, "constant"]),
              help=f"How requests come with --rate [default: {POISSON}].")  # fmt: skip
@click.option("--duration", type=float, default=10.0, show_default=True, help="Seconds to measure.")
@click.option("--warmup", type=float, default=1.0, show_default=True, help="Seconds before that which do not count.")
@click.option("--batch", type=int, default=1, show_default=True, help="Items in each request.")
@click.option("--priority", type=PRIORITY, default=0, show_default=True, help="Lower numbers are served first.")
@click.option("--deadline-ms", type=float, help="Deadline of each request [default: the gateway's].")
@click.option("--seed", type=int, default=0, show_default=True, help="Of inputs and arrivals.")
@click.option("--json", "json_to", is_flag=False, flag_value=STDOUT, metavar="[FILE]",
              help="Print JSON, or write it to FILE beside the table; put it after MODEL. Numbers that JSON has not "
              'are "NaN", "Infinity", "-Infinity".')  # fmt: skip
@location_options
@client_options
def bench(
    model: str, concurrency: int | None, rate: float | None, arrivals: str | None, duration: float, warmup: float,
    batch: int, priority: int, deadline_ms: float | None, seed: int, json_to: str | None, where: Where,
    secured: dict[str, Any],
) -> None:  # fmt: skip
    """Measure throughput and latency of MODEL, with inputs made from its signature.

    Without --rate the loop is closed: --concurrency callers, each of whom asks again when it is answered. It
    finds the throughput. With --rate it is open: requests come at times fixed beforehand and their latency counts
    from then, also when they could only be sent later, so that a stall shows in the percentiles as users
    would feel it. Nothing is tried again by the client; retries are the gateway's own. 10 seconds after the end
    the rest counts as unanswered, with its age then. The exit code is 1 when nothing was answered.

    \b
    Example:
      stageline bench resnet50 --concurrency 16 --duration 30
      stageline bench resnet50 --rate 20 --json figures.json
    """
    if concurrency is None:
        concurrency = CALLERS if rate is None else UNDER_WAY
    if arrivals is not None and rate is None:
        raise ConfigError(f"--arrivals {arrivals} says how requests come with --rate: give that, too, or leave it out")
    settings = Settings(
        model, concurrency, rate, arrivals or POISSON, duration, warmup, batch, seed, priority, deadline_ms
    )
    check(settings)
    target = _target(json_to)
    run = measure(settings, where, quiet=json_to == STDOUT, secured=secured)
    if json_to is not None:
        _write(target, run.described)
    if json_to != STDOUT:
        emit_table(f"{model}: {settings.duration_s:g} s", ("figure", "value"), run.rows)
    if run.complaint:
        raise FailedError(run.complaint)


def check(settings: Settings) -> None:
    """Raises `ConfigError` naming the flag that is wrong."""
    for flag, value in (("--concurrency", settings.concurrency), ("--batch", settings.batch)):
        if value < 1:
            raise ConfigError(f"{flag} must be at least 1, got {value}")
    for flag, number in (("--rate", settings.rate_rps), ("--duration", settings.duration_s)):
        if number is not None and not 0 < number < float("inf"):
            raise ConfigError(f"{flag} must be positive, got {number:g}")
    if not 0 <= settings.warmup_s < float("inf"):
        raise ConfigError(f"--warmup must not be negative, got {settings.warmup_s:g}")
    if settings.seed < 0:
        raise ConfigError(f"--seed must not be negative, got {settings.seed}")
    check_deadline(settings.deadline_ms)
    _check_amount(settings)


def _check_amount(settings: Settings) -> None:
    """Raises `ConfigError` for what could not be measured, or for which there is no memory."""
    seconds = settings.warmup_s + settings.duration_s
    most = (
        ("--concurrency", settings.concurrency, MAX_CALLERS),
        ("--rate", settings.rate_rps or 0, MAX_RATE_RPS),
        ("--warmup and --duration together", seconds, MAX_SECONDS),
    )
    for flag, value, limit in most:
        if value > limit:
            raise ConfigError(f"{flag} must be at most {limit}, got {value:g}")
    requests = (settings.rate_rps or 0) * seconds
    if requests > MAX_REQUESTS:
        raise ConfigError(
            f"--rate {settings.rate_rps:g} for {seconds:g} s are {requests:.3g} requests, of which a run can remember "
            f"{MAX_REQUESTS}: lower --rate or --duration"
        )


@dataclass(frozen=True)
class Run:
    """What was measured: for scripts, for people, and why there is nothing to see (else empty)."""

    described: dict[str, Any]
    rows: Sequence[tuple[str, str]]
    complaint: str


def measure(settings: Settings, where: Where, *, quiet: bool, secured: Mapping[str, Any]) -> Run:
    """Run it against the cluster that is meant; `secured` is for its clients."""
    from stageline.bench.drive import Driver
    from stageline.bench.inputs import make_pool
    from stageline.bench.machine import machine
    from stageline.bench.recorder import Recorder
    from stageline.client import Client

    window = Window(settings.warmup_s, settings.duration_s)
    recorder = Recorder(window)
    location = where()
    with (
        explaining(location.state, "gateway"),
        Client(gateway_addresses(location), name="bench", retry=None, **secured) as client,
    ):
        info = client.describe(settings.model)[settings.model]
        if info.status != "serving":
            why = f": {info.reason}" if info.reason else ""
            raise UnavailableError(f"{info.name} is {info.status}{why}; see `stageline models list`")
        inputs = make_pool(info.signature, settings.batch, settings.seed)
        deadline_s = None if settings.deadline_ms is None else settings.deadline_ms / 1000
        ask = functools.partial(client.submit, settings.model, priority=settings.priority, deadline_s=deadline_s)
        before = machine()
        with reporting(f"measuring {settings.model}", quiet=quiet) as report:
            Driver(ask, inputs, pacer(settings, window), recorder, window.end_s, report).run()
    figures = recorder.figures()
    described = {**as_json(settings, figures), "machine": before, "nodes": _nodes(where)}
    return Run(described, rows(settings, figures), complaint(settings, figures))


def _nodes(where: Where) -> list[dict[str, str]]:
    """What the workers run on, if a coordinator can be asked."""
    location = where()
    if not location.coordinator:
        return []
    try:
        with connect(location) as admin:
            return [{"node": n.node, "device": n.device, "cpu": n.cpu} for n in admin.nodes().nodes]
    except NoClusterError as error:
        note(f"stageline: without the workers' hardware: {error}")
        return []


def _target(json_to: str | None) -> Path | None:
    """The file to write, before anything is measured for it. Raises `ConfigError`."""
    if json_to is None or json_to == STDOUT:
        return None
    path = Path(json_to)
    known = path if path.exists() else path.absolute().parent
    if path.is_dir() or not path.absolute().parent.is_dir() or not os.access(known, os.W_OK):
        raise ConfigError(f"cannot write {path}: choose another file for --json")
    return path


def _write(path: Path | None, described: dict[str, Any]) -> None:
    if path is None:
        emit_json(described)
        return
    try:
        path.write_text(json_text(described) + "\n")
    except OSError as error:
        raise StoreError(f"cannot write {path} ({error.strerror}): choose another file for --json") from None
