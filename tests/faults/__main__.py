"""Fault runs from the shell, from the repository's root: ``PYTHONPATH=tests python -m faults --help``."""

from __future__ import annotations

import json
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import click

from . import book
from .means import lacking
from .runner import Report
from .scenarios import BY_NAME, SCENARIOS, Scenario
from .sitting import sit
from .soak import soak
from .table import line, replaced, table


def _possible(scenarios: Sequence[Scenario]) -> list[Scenario]:
    reasons = {scenario.name: lacking(scenario.event) for scenario in scenarios}
    for name, reason in reasons.items():
        if reason:
            click.echo(f"skipped: {name}: {reason}")
    return [scenario for scenario in scenarios if not reasons[scenario.name]]


@click.group(help="Hurt clusters and see what becomes of their requests.")
def main() -> None:
    """SIGTERM ends a run as Ctrl-C does: with nothing left behind."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))


@main.command(help="Random scenarios in random order for a while. Example: make chaos SEED=7 MINUTES=10")
@click.option("--seed", default=0, show_default=True)
@click.option("--minutes", default=10.0, show_default=True)
@click.option("--scenario", "names", multiple=True, type=click.Choice(sorted(BY_NAME)), help="only these")
def chaos(seed: int, minutes: float, names: Sequence[str]) -> None:
    choose = random.Random(seed)
    pool = _possible([BY_NAME[name] for name in names] or SCENARIOS)
    until = time.monotonic() + 60 * minutes
    reports: list[Report] = []

    def done(report: Report) -> None:
        reports.append(report)
        click.echo(line(report))

    while time.monotonic() < until:
        kind = choose.choice(sorted({scenario.rig for scenario in pool}))
        here = [scenario for scenario in pool if scenario.rig == kind]
        sit([(choose.choice(here), choose.randrange(1 << 32)) for _ in range(20)], done, until)
    _end(reports)


@main.command(name="table", help="Seeded runs of every scenario, as far as they lack, and docs/reliability.md's table.")
@click.option("--runs", default=20, show_default=True, help="so many of each scenario, earlier sittings' included")
@click.option("--seed", default=1, show_default=True, help="of the first run of each; the others follow")
@click.option("--minutes", default=float("inf"), help="stop then; the next call goes on")
@click.option("--scenario", "names", multiple=True, type=click.Choice(sorted(BY_NAME)), help="only these")
@click.option("--anew", multiple=True, type=click.Choice(sorted(BY_NAME)), help="forget this one's runs first")
@click.option("--book", "file", default=book.DEFAULT, show_default=True, type=click.Path(path_type=Path), help="runs")
@click.option("--write", type=click.Path(path_type=Path, exists=True), help="this file's table, too")
def make_table(
    runs: int, seed: int, minutes: float, names: Sequence[str], anew: Sequence[str], file: Path, write: Path | None
) -> None:
    until = time.monotonic() + 60 * minutes
    kept = book.Book(file, SCENARIOS)
    if kept.dropped:
        click.echo(f"dropped: {kept.dropped} runs of scenarios that are defined otherwise now")
    kept.forget(anew)
    pool = _possible([BY_NAME[name] for name in names] or SCENARIOS)

    def done(report: Report) -> None:
        kept.add(report)
        click.echo(line(report))
        if write is not None:
            write.write_text(replaced(write.read_text(), table(kept.reports())))

    sit([one for one in kept.lacking(runs, seed) if one[0] in pool], done, until)
    if write is not None:
        write.write_text(replaced(write.read_text(), table(kept.reports())))
    _end(kept.reports())


@main.command(name="soak", help="Full processors and cables for a while, in which nobody may be suspected of anything.")
@click.option("--seed", default=1, show_default=True)
@click.option("--minutes", default=10.0, show_default=True)
@click.option("--json", "figures", type=click.Path(path_type=Path), help="write the report there, too")
def make_soak(seed: int, minutes: float, figures: Path | None) -> None:
    with tempfile.TemporaryDirectory(prefix="stageline-soak-") as folder:
        report = soak(Path(folder), minutes, seed)
    text = json.dumps(report, indent=1)
    click.echo(text)
    if figures is not None:
        figures.write_text(text + "\n")
    sys.exit(bool(report["failures"]))


def _end(reports: Sequence[Report]) -> None:
    click.echo("\n" + table(reports))
    failed = [report for report in reports if report.failures]
    for report in failed:
        click.echo(f"FAILED {line(report)}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main(prog_name="python -m faults")
