"""How does throughput grow with the number of boxes? ResNet-50 and MiniLM on containers of `stageline emulate`.

The rows are in `emulated_rows.py`. A mixed cluster is compared with the even split and the split by memory, which are
evaluated on the very problem that was measured.

Needs Docker, root, and the images of `make images`. A sitting may take some of the rows; with --save they add up:
each is kept when it is done, and not measured again. Nothing else may run on the machine meanwhile.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import click

from common import keep, kept_rows, machine, progress, report, say, significant
from emulated_rows import CPUS, PRESET, Row, emulation, rows
from stageline.cli.emulating import Result, emulate
from stageline.emulation.record import SLICE_S
from stageline.emulation.site import Images
from stageline.errors import PlacementError, StagelineError
from stageline_coordinator.planner import Problem
from stageline_coordinator.planner.algorithms import run

BASELINES = ("even", "memory")
DEFER = 1.53
"""Times one node that DEFER's paper reports of ResNet-50 on 8."""

FIRST_MINUTES = 3.0
"""How long the first row is taken to last."""


def measure(row: Row, images: Images, seconds: float, warm_s: float) -> dict[str, Any]:
    """Emulate it; a cluster that cannot hold the model is a result as well."""
    about = {**row.defined(seconds, warm_s), "date": time.strftime("%Y-%m-%d"), "load_before": os.getloadavg()[0]}
    try:
        result = emulate(emulation(row, seconds, warm_s), images, Told(row.name))
    except PlacementError as error:
        return {**about, "refused": error.message}
    (phase,) = result.report["phases"]
    figures = result.report["figures"]
    kept = ("throughput_rps", "predicted_rps", "measured/predicted", "p50_ms", "p99_ms", "failed", "plan")
    return {
        **about,
        **{name: phase[name] for name in kept},
        "requests": figures["requests"],
        "parts_rps": parts(result.report["timeline"]),
        "profiled_rps": result.report["profiled_rps"],
        "bound_rps": _bound(result),
        "used_cpus": [node["used_cpus"] for node in result.report["utilisation"]],
        "load_average": result.report["machine"]["load_average"],
        **(against(result, phase["throughput_rps"]) if row.kind == "mixed" else {}),
    }


def _bound(result: Result) -> float | None:
    plan = result.plan
    return significant(1 / plan.bound_s, 4) if plan is not None and plan.bound_s else None


def parts(timeline: Sequence[Mapping[str, Any]], count: int = 3) -> list[float]:
    """Answers per second in equal parts of the measurement: whether it was steady."""
    answered = [one["answered"] for one in timeline if one["at_s"] >= 0]
    size = len(answered) // count
    return [significant(sum(answered[i * size : (i + 1) * size]) / (size * SLICE_S), 3) for i in range(count) if size]


def against(result: Result, throughput: float) -> dict[str, Any]:
    """What other splits would reach on these nodes by the same evaluation; None where they do not fit."""
    problem = Problem.from_json(json.loads(result.problem))
    reached: dict[str, Any] = {}
    for name in BASELINES:
        found = run(problem, name)
        reached[name] = significant(1 / found.objective_s, 4) if found.stages and found.objective_s else None
    ratios = {name: significant(throughput / rps, 3) for name, rps in reached.items() if rps}
    return {"baseline_rps": reached, "measured/baseline": ratios}


def result(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """All that is reported; growth is against one such box that holds the whole model."""
    order = {row.name: number for number, row in enumerate(rows())}
    ordered = sorted(found, key=lambda one: order.get(one["row"], len(order)))
    grown = growth(ordered)
    defer = {"times": grown["equal/resnet50/8"]["times"], "paper": DEFER} if "equal/resnet50/8" in grown else {}
    return {"machine": machine(), "cpus": CPUS, "growth": grown, "defer": defer, "rows": ordered}


def growth(found: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """By kind and model: throughput over that of one box (the mean of before and after), and over the bars' measure.

    `efficiency`: over so many boxes; `of_bound`: over what the planner proves that no plan exceeds.
    """
    by_name = {one["row"]: one for one in found if one.get("throughput_rps")}
    grown: dict[str, dict[str, float]] = {}
    for name, row in by_name.items():
        kind, model, count, *again = name.split("/")
        bases = [by_name[one] for one in (f"equal/{model}/1", f"equal/{model}/1/again") if one in by_name]
        if again or not bases or kind not in ("equal", "below-half", PRESET):
            continue
        times = row["throughput_rps"] / statistics.fmean(one["throughput_rps"] for one in bases)
        grown[name] = {"times": significant(times, 3), "efficiency": significant(times / int(count), 3)}
        if row.get("bound_rps"):
            grown[name]["of_bound"] = significant(row["throughput_rps"] / row["bound_rps"], 3)
    return grown


class Told:
    """A line for every step of a row, and for every tenth of a long one."""

    def __init__(self, name: str) -> None:
        self._name, self._last, self._begun = name, "", time.monotonic()

    def __call__(self, text: str, part: float) -> None:
        """As `stageline.catalogue.Report`."""
        step = f"{text.partition(':')[0] if part else text} {10 * round(10 * part)} %"
        if step != self._last:
            self._last = step
            say(f"  {self._name}, {time.monotonic() - self._begun:.0f} s: {text} {100 * part:.0f} %")


class OverdueError(Exception):
    """A row took longer than it may."""


@contextmanager
def at_most(minutes: float) -> Iterator[None]:
    """Raise `OverdueError` in the block when its time is up; the block clears away as after any error."""

    def up(number: int, frame: object) -> None:
        raise OverdueError(f"not done within {minutes:g} minutes")

    before = signal.signal(signal.SIGALRM, up)
    signal.setitimer(signal.ITIMER_REAL, 60 * minutes)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def sitting(
    chosen: Sequence[Row], one: Callable[[Row], dict[str, Any]], minutes: float, row_minutes: float
) -> Iterator[dict[str, Any]]:
    """Measure rows while there is time for one more, as long as the longest so far; those that fail are named."""
    begun, longest = time.monotonic(), 60 * FIRST_MINUTES
    for number, row in enumerate(chosen):
        started = time.monotonic()
        if minutes and started - begun + longest > 60 * minutes:
            say(f"{len(chosen) - number} rows are left for another sitting, from {row.name} on")
            return
        try:
            with at_most(row_minutes):
                found = one(row)
        except (StagelineError, OverdueError) as error:
            say(f"{row.name} failed, and stays to be measured: {error}")
            continue
        took = time.monotonic() - started
        longest = max(longest, took) if number else took
        say(f"{row.name}, {took:.0f} s: {found.get('refused') or found['throughput_rps']}")
        yield found


def pending(chosen: Sequence[Row], kept: Sequence[Mapping[str, Any]], seconds: float, warm_s: float) -> list[Row]:
    """Those of which nothing is kept under the same definition."""
    there = {one["row"]: one for one in kept}
    return [row for row in chosen if not row.defined(seconds, warm_s).items() <= there.get(row.name, {}).items()]


@click.command()
@click.option("--only", multiple=True, help="Rows of that name or below it: equal/resnet50/4, mixed; all by default.")
@click.option("--seconds", default=45.0, show_default=True, help="How long each is measured; one box twice as long.")
@click.option("--warm", default=20.0, show_default=True, help="Seconds of traffic before that.")
@click.option("--minutes", default=0.0, help="Begin no row that would not be done in so many; 0: all rows.")
@click.option("--row-minutes", default=9.0, show_default=True, help="Give up a row after so many.")
@click.option("--control-image", envvar="STAGELINE_CONTROL_IMAGE", default="stageline-control", show_default=True)
@click.option("--stage-image", envvar="STAGELINE_STAGE_IMAGE", default="stageline-stage", show_default=True)
@click.option("--save", is_flag=True, help="Keep each row at once, and measure none that earlier sittings have kept.")
def main(
    only: tuple[str, ...],
    seconds: float,
    warm: float,
    minutes: float,
    row_minutes: float,
    control_image: str,
    stage_image: str,
    save: bool,
) -> None:
    """Emulate clusters of several sizes, the most important first; the result is JSON on standard output."""
    chosen = [row for row in rows() if not only or any(f"{row.name}/".startswith(f"{name}/") for name in only)]
    if not chosen:
        raise click.UsageError(f"--only names no row: there are {', '.join(row.name for row in rows())}")
    found = kept_rows("emulated") if save else []
    left, images = pending(chosen, found, seconds, warm), Images(control_image, stage_image)
    with progress("emulated", len(left)) as tick:
        for one in sitting(left, lambda row: measure(row, images, seconds, warm), minutes, row_minutes):
            found = [*(other for other in found if other["row"] != one["row"]), one]
            if save:
                keep("emulated", result(found))
            tick()
    report("emulated", result(found), save=save)


if __name__ == "__main__":
    main()
