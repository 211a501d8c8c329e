"""`stageline plan show`, `explain` and `problem`: a plan to look at, of the running cluster or of files."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from stageline.admin import AdminClient
from stageline.cli.options import EXIT_FAILED, Seconds, Where, connect, json_option, location_options
from stageline.cli.output import emit_json, emit_table, json_text, note, reporting
from stageline.cli.plans import (
    PLAN_COLUMNS,
    PLAN_RIGHT,
    backend_lines,
    backends_of,
    model_json,
    plan_rows,
    standby_lines,
)
from stageline.coordinators import number_of
from stageline.errors import ConfigError, NotReadyError, PlacementError
from stageline.messages import NodeList
from stageline.plan import Plan

if TYPE_CHECKING:
    from stageline.cli.planfigures import Figures
    from stageline_coordinator.planner import Problem

SLICE_S = 1.0
"""Shortest time over which busy seconds say anything: nodes report ten times a second."""

FILE = click.Path(dir_okay=False, allow_dash=True)


@click.command("problem")
@click.option("--model", "models", multiple=True, help="Only this model; repeat it for several. Default: all.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Write to this file, not to stdout.")
@location_options
@json_option
def write_problem(where: Where, models: tuple[str, ...], output: Path | None, as_json: bool) -> None:
    """Write the running cluster's planning problem as JSON: nodes, links, blocks, and the plan that runs.

    It is what `plan solve` reads, so that other plans can be tried without the cluster. It is always JSON;
    with --output, --json reports what was written.

    \b
    Example:
      stageline plan problem --output problem.json
      stageline plan problem --model resnet50 | stageline plan solve -
    """
    with connect(where()) as admin:
        document = json.loads(admin.problem(models))
    if output is None:
        emit_json(document)
        return
    try:
        output.write_text(json_text(document) + "\n")
    except OSError as error:
        raise ConfigError(f"cannot write {output}: {error.strerror}") from None
    if as_json:
        names = [model["name"] for model in document["models"]]
        emit_json({"file": str(output), "models": names, "nodes": [node["id"] for node in document["nodes"]]})


@click.command("show")
@click.argument("problem", required=False, type=FILE)
@click.argument("solution", required=False, type=FILE)
@click.option("--svg", type=click.Path(path_type=Path, dir_okay=False), help="Write a picture to this file.")
@click.option("--measure", type=Seconds(SLICE_S), metavar="SECONDS",
              help="Watch the cluster for so long, and show how busy its nodes really are.")  # fmt: skip
@location_options
@json_option
def show_plan(
    where: Where, problem: str | None, solution: str | None, svg: Path | None, measure: float | None, as_json: bool
) -> int:
    """Show which blocks run on which node, what each stage and hop takes, and what limits the plan.

    PROBLEM and SOLUTION are files as `plan problem` and `plan solve` write them; - is stdin. Without SOLUTION: the
    best plan for PROBLEM. Without both: the running cluster's plan. Why a plan of files cannot run is said on stderr,
    with exit code 1.

    \b
    Example:
      stageline plan show
      stageline plan show problem.json solution.json --svg plan.svg
    """
    if problem is None:
        with connect(where()) as admin:
            _show_running(_ask(admin, measure), svg, as_json)
        return 0
    if measure is not None:
        raise ConfigError("--measure watches the running cluster: leave PROBLEM out")
    from stageline.cli.plandescribe import of_solution
    from stageline.cli.planfiles import read_problem, read_solution
    from stageline_coordinator.planner import solve

    found = read_problem(problem)
    with reporting("solving", quiet=as_json):
        answer = read_solution(solution) if solution else solve(found)
    if not answer.stages:
        raise PlacementError(f"there is no plan to show: {answer.reason or 'the solution has no stages'}")
    figures = of_solution(_stem(problem), found, answer)
    _draw(svg, figures)
    emit_json(figures.to_json()) if as_json else _print(figures)
    return _violations(figures)


@click.command("explain")
@click.argument("problem", required=False, type=FILE)
@click.argument("solution", required=False, type=FILE)
@click.option("--time-limit", type=Seconds(0.0), default=30.0, show_default=True, metavar="SECONDS",
              help="Solve again with changes for so long.")  # fmt: skip
@location_options
@json_option
def explain_plan(where: Where, problem: str | None, solution: str | None, time_limit: float, as_json: bool) -> int:
    """Say what limits a plan and what would help most: a faster node or link, more memory, one more node.

    The problem is solved again with one change at a time. Without SOLUTION the best plan for PROBLEM is explained,
    without both the running cluster's plan. For a plan of files that cannot run, stderr says why, with exit code 1.

    \b
    Example:
      stageline plan explain
      stageline plan explain problem.json solution.json --time-limit 10
    """
    from stageline.cli.planadvice import Question, advise, of_running
    from stageline.cli.planfiles import read_problem, read_solution
    from stageline.cli.planwords import describe, report

    if problem is not None:
        found = read_problem(problem)
        question = Question(_stem(problem), found, read_solution(solution).stages if solution else None)
    else:
        with connect(where()) as admin:
            running = _ask(admin, None)
        if running.problem is None:
            raise NotReadyError(f"there is no plan to explain: {running.missing}")
        question = Question(_title(running.plan), running.problem, of_running(running.problem))
    with reporting("trying changes", quiet=as_json) as progress:
        answer = advise(question, time_limit, lambda change, part: progress(describe(change), part))
    emit_json(answer.to_json()) if as_json else report(answer)
    if answer.reason and not answer.best.solved:
        raise PlacementError(f"no plan: {answer.reason}")
    violations = _violations(answer.figures)
    return violations if solution else 0


def _violations(figures: Figures) -> int:
    """Say on stderr why the plan cannot run; returns the exit code."""
    for fault in figures.faults:
        note(f"this plan cannot run: {fault}")
    return EXIT_FAILED if figures.faults else 0


@dataclass(frozen=True)
class _Running:
    """What a cluster says of its plan; `problem` None: nothing can be planned yet, and `missing` says why."""

    plan: Plan
    listing: NodeList
    problem: Problem | None
    missing: str = ""
    measured: Mapping[str, float] = field(default_factory=dict)


def _ask(admin: AdminClient, measure: float | None) -> _Running:
    from stageline_coordinator.planner import Problem

    plan, listing = admin.plan(), admin.nodes()
    try:
        problem = Problem.from_json(json.loads(admin.problem()))
    except NotReadyError as error:
        return _Running(plan, listing, None, error.message)
    return _Running(plan, listing, problem, measured=_measured(admin, measure) if measure else {})


def _measured(admin: AdminClient, seconds: float) -> dict[str, float]:
    """The share of the time that each node computed while we waited."""
    with reporting("watching"):
        before = _busy(admin.nodes())
        time.sleep(seconds)
        after = _busy(admin.nodes())
    spent: dict[str, float] = {}
    for (node, executor), busy in after.items():
        spent[node] = spent.get(node, 0.0) + max(0.0, busy - before.get((node, executor), busy))
    return {node: min(1.0, busy / seconds) for node, busy in spent.items()}


def _busy(listing: NodeList) -> dict[tuple[str, str], float]:
    """Seconds computed so far, by node and executor."""
    return {(node.node, one.executor): one.busy_s for node in listing.nodes for one in node.progress}


def _show_running(running: _Running, svg: Path | None, as_json: bool) -> None:
    """Models that are not served are noted beside."""
    plan, figures = running.plan, None
    if running.problem is not None and running.problem.current:
        from stageline.cli.plandescribe import of_running

        figures = of_running(_title(plan), running.problem, _bound_s(plan, running.problem), running.measured)
    if svg is not None and figures is None:
        raise NotReadyError(f"no plan runs that could be drawn: {running.missing or 'see `stageline models list`'}")
    _draw(svg, figures)
    objective, backends = running.listing.objective, backends_of(running.listing.nodes)
    if as_json:
        models = [model_json(model, backends) for model in plan.models]
        about = {"epoch": list(plan.epoch), "objective": objective}
        emit_json({**about, "models": models, "figures": figures and figures.to_json()})
        return
    if figures is None:
        emit_table(_title(plan), PLAN_COLUMNS, plan_rows(plan), right=PLAN_RIGHT)
    else:
        _print(figures)
        _violations(figures)
    if objective != "throughput":
        note(f"plans are for {objective}: `stageline plan set`")
    for line in (*backend_lines(plan, backends), *standby_lines(plan)):
        note(line)
    for model in plan.models:
        if model.status != "serving":
            note(f"{model.name} is {model.status}: {model.reason or 'wait a little'}")


def _stem(path: str) -> str:
    return "stdin" if path == "-" else Path(path).stem


def _title(plan: Plan) -> str:
    return f"Plan {number_of(plan.term)}.{plan.version}"


def _bound_s(plan: Plan, problem: Problem) -> float | None:
    """What was proven for a single model; for several, or another objective, no bound is kept with the plan."""
    served = [model for model in plan.models if model.stages]
    bounds = [model.bound_s for model in served if model.objective == problem.objective]
    return bounds[0] if len(served) == 1 and bounds and bounds[0] > 0 else None


def _draw(svg: Path | None, figures: Figures | None) -> None:
    if svg is None or figures is None:
        return
    from stageline.cli.planpicture import picture

    try:
        svg.write_text(picture(figures), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {svg}: {error.strerror}") from None


def _print(figures: Figures) -> None:
    """Drawn on a terminal; in a pipe tab-separated, with the sentences on stderr."""
    from stageline.cli.plandraw import COLUMNS, drawing, rows, summary

    if sys.stdout.isatty():
        console = Console()
        console.print(drawing(figures, console.width))
        return
    if figures.chains:
        emit_table("", COLUMNS, rows(figures))
    for line in summary(figures):
        note(line)
