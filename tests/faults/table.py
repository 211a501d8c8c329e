"""Many runs as one line each of a table in Markdown. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from .runner import Report

NONE = "\N{EN DASH}"
BEGIN, END = "<!-- runs: begin -->", "<!-- runs: end -->"
COUNTS = ("accepted", "answered", "refused", "expired", "wrong", "lost", "duplicated", "repeated")
HEAD = ("scenario", "runs", "failed", "missed", "in flight, at least", *COUNTS, "detection ms", "recovery ms")


def line(report: Report) -> str:
    """One run on one line."""
    counts = ", ".join(f"{getattr(report.tally, name)} {name}" for name in COUNTS if getattr(report.tally, name))
    told = "".join(f"\n    {failure}" for failure in report.failures)
    times = f"detection {_ms(report.detection_ms)} ms, recovery {_ms(report.recovery_ms)} ms"
    missed = f", after {report.misses} strikes that hit nothing" if report.misses else ""
    return f"{report.scenario} (seed {report.seed}): {report.in_flight} in flight{missed}; {counts}; {times}{told}"


def table(reports: Sequence[Report]) -> str:
    """Counts are sums over the runs, misses over those that counted; times are median / 95th percentile / largest."""
    names = dict.fromkeys(report.scenario for report in reports)
    rows = [_row(name, [report for report in reports if report.scenario == name]) for name in names]
    rule = ["---", *("---:" for _ in HEAD[1:])]
    return "\n".join("| " + " | ".join(row) + " |" for row in (HEAD, rule, *rows))


def replaced(text: str, new: str) -> str:
    """`text` with what lies between the marks replaced. Raises `ValueError` without them."""
    head, rest = text.split(BEGIN)
    return f"{head}{BEGIN}\n{new}\n{END}{rest.split(END)[1]}"


def _row(name: str, runs: Sequence[Report]) -> list[str]:
    counts = [str(sum(getattr(run.tally, count) for run in runs)) for count in COUNTS]
    failed, least = sum(bool(run.failures) for run in runs), min(run.in_flight for run in runs)
    known = [run.misses for run in runs if run.misses is not None]
    missed = str(sum(known)) if known else NONE
    times = [_summary(run.detection_ms for run in runs), _summary(run.recovery_ms for run in runs)]
    return [name, str(len(runs)), str(failed), missed, str(least), *counts, *times]


def _summary(times: Iterable[float | None]) -> str:
    known = sorted(time for time in times if time is not None)
    if not known:
        return NONE
    return " / ".join(_ms(known[max(0, math.ceil(share * len(known)) - 1)]) for share in (0.5, 0.95, 1.0))


def _ms(time: float | None) -> str:
    return NONE if time is None else f"{time:.0f}"
