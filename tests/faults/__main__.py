"""Fault runs from the shell, from the repository's root: ``PYTHONPATH=tests python -m faults --help``."""

from __future__ import annotations

import json
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click

from .damage import lacking, small_disk
from .model import Judge
from .rig import Rig
from .runner import Report, run
from .scenarios import BY_NAME, SCENARIOS, Scenario
from .table import line, replaced, table

RUNS_PER_RIG = 60
"""A cluster is replaced after so many runs."""


@contextmanager
def _rig(kind: str, seed: int) -> Iterator[Rig]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stageline-faults-")))
        state = stack.enter_context(small_disk(folder / "disk")) / "state" if kind == "direct" else None
        yield stack.enter_context(Rig(folder / "rig", proxied=kind == "proxied", state=state, seed=seed))


def _possible(scenarios: Sequence[Scenario]) -> list[Scenario]:
    for scenario in scenarios:
        if reason := lacking(scenario.event):
            click.echo(f"skipped: {scenario.name}: {reason}")
    return [scenario for scenario in scenarios if not lacking(scenario.event)]


def _run_all(kind: str, plan: Sequence[tuple[Scenario, int]], until: float = float("inf")) -> list[Report]:
    """Run these on clusters of that kind, a line each."""
    reports: list[Report] = []
    for start in range(0, len(plan), RUNS_PER_RIG):
        part = plan[start : start + RUNS_PER_RIG]
        if part and time.monotonic() < until:
            with _rig(kind, part[0][1]) as rig:
                judge = Judge(part[0][1])
                for scenario, seed in part:
                    if time.monotonic() < until:
                        reports.append(run(rig, scenario, judge, seed))
                        click.echo(line(reports[-1]))
    return reports


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
    while time.monotonic() < until:
        kind = choose.choice(sorted({scenario.rig for scenario in pool}))
        here = [scenario for scenario in pool if scenario.rig == kind]
        plan = [(choose.choice(here), choose.randrange(1 << 32)) for _ in range(20)]
        reports += _run_all(kind, plan, until)
    _end(reports)


@main.command(name="table", help="Seeded runs of every scenario, and the table of docs/reliability.md.")
@click.option("--runs", default=20, show_default=True)
@click.option("--seed", default=1, show_default=True)
@click.option("--write", type=click.Path(path_type=Path, exists=True), help="this file's table")
@click.option("--json", "figures", type=click.Path(path_type=Path), help="write every run there")
def make_table(runs: int, seed: int, write: Path | None, figures: Path | None) -> None:
    reports: list[Report] = []
    pool = _possible(SCENARIOS)
    for kind in ("direct", "proxied"):
        here = [scenario for scenario in pool if scenario.rig == kind]
        reports += _run_all(kind, [(scenario, seed + i) for i in range(runs) for scenario in here])
    if write is not None:
        write.write_text(replaced(write.read_text(), table(reports)))
    if figures is not None:
        figures.write_text(json.dumps([report.row() for report in reports], indent=1) + "\n")
    _end(reports)


def _end(reports: Sequence[Report]) -> None:
    click.echo("\n" + table(reports))
    failed = [report for report in reports if report.failures]
    for report in failed:
        click.echo(f"FAILED {line(report)}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main(prog_name="python -m faults")
