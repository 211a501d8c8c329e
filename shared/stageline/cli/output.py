"""What commands print: JSON for scripts, rich on a terminal, plain tab-separated lines in a pipe."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from stageline.catalogue import Report


def emit_json(value: Any) -> None:
    """Print indented JSON."""
    click.echo(json_text(value))


def json_text(value: Any, indent: int | None = 2) -> str:
    """The value as JSON. Numbers that JSON has not become the strings "NaN", "Infinity" and "-Infinity"."""
    return json.dumps(_with_finite_numbers(value), indent=indent, allow_nan=False)


def _with_finite_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _with_finite_numbers(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_with_finite_numbers(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def emit_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], right: Sequence[str] = ()) -> None:
    """Print a table; `right` names the columns to align right. In a pipe: a header and tab-separated lines."""
    cells = [[shown(str(cell)) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for row in (columns, *cells):
            click.echo("\t".join(row))
        return
    table = Table(title=Text(title) if title else None, title_justify="left")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in cells:
        table.add_row(*map(Text, row))
    Console().print(table)


def note(text: str) -> None:
    """One line for people, on stderr, so that stdout stays clean for scripts."""
    click.echo(shown(text), err=True)


def shown(text: str) -> str:
    """The text without what terminals and XML would not take as text: names come from files and from others."""
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)


@contextmanager
def reporting(text: str, *, quiet: bool = False) -> Iterator[Report]:
    """A progress bar on stderr while the block runs; nothing when stderr is no terminal, or `quiet`."""
    if quiet or not sys.stderr.isatty():
        yield lambda step, fraction: None
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(text, total=1.0)

        def report(step: str, fraction: float) -> None:
            progress.update(task, description=shown(f"{text}: {step}" if step else text), completed=fraction)

        yield report


def size(count: int) -> str:
    """Bytes for people, in powers of 1024."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return ""


def quantity(count: float) -> str:
    """A large number for people, in powers of 1000."""
    for unit in ("", " k", " M", " G"):
        if abs(count) < 1000:
            return f"{count:.3g}{unit}"
        count /= 1000
    return f"{count:.3g} T"
