"""`stageline demo`: two networks, three workers, one of them killed, every answer checked."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import click

from stageline.catalogue import Report
from stageline.cli.importing import cache_home
from stageline.cli.options import EXIT_FAILED
from stageline.cli.output import emit_table, json_text, reporting
from stageline.cli.plans import PLAN_COLUMNS, PLAN_RIGHT, plan_rows
from stageline.errors import StoreError
from stageline.lifecycle import interruptible
from stageline.plan import Plan

NEEDED = ("requests", "answered", "wrong", "lost", "retried", "accuracy", "throughput_rps", "p50_ms", "p99_ms")


@click.command()
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures to FILE.")
@click.option("--keep", is_flag=True, help="Leave the cluster running and its files in place.")
def demo(json_file: Path | None, keep: bool) -> int:
    """Show that a split network answers rightly, also when a worker dies.

    Trains a small network on handwritten digits, imports it and a ResNet-50 of random weights, splits both over three
    workers, checks every answer against the unsplit models, kills a worker under load, and prints what it measured.
    Fails if any answer was wrong or lost.

    \b
    Example:
      stageline demo --json figures.json
    """
    from stageline.demo.scenario import run

    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise StoreError(f"{json_file.parent} is no directory: choose another file for --json")
    with interruptible():
        figures = run(Screen(), cache_home(), keep=keep)
    if json_file is not None:
        json_file.write_text(json_text(figures) + "\n")
    _print(figures)
    return EXIT_FAILED if figures["wrong"] or figures["lost"] or figures["recovery_s"] < 0 else 0


class Screen:
    """Tells the story on stdout, progress on stderr."""

    def step(self, number: int, text: str) -> None:
        """A step begins."""
        click.secho(f"[{number}/5] {text}", bold=True)

    def say(self, text: str) -> None:
        """A fact."""
        click.echo(f"      {text}")

    def plan(self, title: str, plan: Plan) -> None:
        """A placement."""
        emit_table(f"{title} {plan.term}.{plan.version}", PLAN_COLUMNS, plan_rows(plan), right=PLAN_RIGHT)

    def progress(self, text: str) -> AbstractContextManager[Report]:
        """A bar on a terminal."""
        return reporting(text)


def _print(figures: dict[str, Any]) -> None:
    machine, fault = figures["machine"], figures["fault"]
    rows: list[tuple[str, Any]] = [(name.replace("_", " "), figures[name]) for name in NEEDED]
    rows += [(f"{model} p50 / p99 ms", f"{f['p50_ms']} / {f['p99_ms']}") for model, f in figures["models"].items()]
    rows.append(("recovery s", f"{figures['recovery_s']} ({figures['killed_node']} killed)"))
    rows.append(("p99 ms in the killed phase", fault["p99_ms"]))
    rows += [
        (f"utilisation {u['model']} stage {u['stage']}", f"{100 * u['utilisation']:.1f} % ({u['node']})")
        for u in figures["utilisation"]
    ]
    rows.append(("bit-equal answers", f"{figures['bit_equal']} ({figures['alone']} computed alone: all must be)"))
    tolerance = figures["tolerance"]
    rows.append(("largest deviation", f"{figures['excess']:.3f} of rtol {tolerance['rtol']}, atol {tolerance['atol']}"))
    rows.append(("machine", f"{machine['cpu']}, {machine['cores']} cores; torch {machine['torch']}"))
    emit_table("Result", ("figure", "value"), rows)
    for error in figures["errors"]:
        click.echo(f"      lost: {error}")
    click.echo("all answers were right" if not figures["wrong"] and not figures["lost"] else "THE DEMO FAILED")
