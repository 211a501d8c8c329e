"""`stageline plan solve`, `compare` and `check`: the planner on problem files, without a cluster."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from stageline.cli.options import EXIT_FAILED, Seconds, json_option
from stageline.cli.output import emit_json, emit_table, note, reporting, shown
from stageline.errors import ConfigError, PlacementError

if TYPE_CHECKING:
    from stageline_coordinator.planner import Problem, Solution

OBJECTIVES = ("throughput", "latency", "weighted")
INFEASIBILITY = {
    "proven": "there is no plan: the check proves it",
    "open": "that there is no plan was not proven: the check found none for what is left out, within its means",
    "claimed": "that there is no plan is said to be proven: the check, within its means, found none either",
}
STAGE_COLUMNS = ("model", "stage", "blocks", "nodes", "codec", "compute ms", "transfer in ms")
COMPARE_COLUMNS = ("algorithm", "status", "objective ms", "of the bound", "latency ms", "solve s")


def _complete_algorithm(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    from stageline_coordinator.planner.algorithms import NAMES

    return [name for name in NAMES if name.startswith(incomplete)]


@dataclass(frozen=True)
class Task:
    """A problem and how it is to be solved; `limit_s` None: until the planner is done."""

    problem: Problem
    seed: int
    limit_s: float | None

    def solve(self, algorithm: str) -> Solution:
        """That algorithm's plan, timed."""
        from stageline_coordinator.planner.algorithms import run

        started = time.perf_counter()
        end = math.inf if self.limit_s is None else started + self.limit_s
        over = None if self.limit_s is None else lambda: time.perf_counter() > end
        solution = run(self.problem, algorithm, seed=self.seed, out_of_time=over)
        return replace(solution, solve_s=time.perf_counter() - started)


def task_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """PROBLEM and how it is to be solved, given to the command as `task`, which reads the file when called."""

    @functools.wraps(command)
    def wrapped(problem: str, objective: str | None, seed: int, time_limit: float | None, **rest: Any) -> Any:
        return command(task=lambda: Task(_read(problem, objective), seed, time_limit), **rest)

    wrapped = click.option("--seed", type=int, default=0, show_default=True,
                           help="For the baselines that throw dice.")(wrapped)  # fmt: skip
    wrapped = click.option("--time-limit", type=Seconds(0.0), metavar="SECONDS",
                           help="End the planner's search then, with the best plan found so far.")(wrapped)  # fmt: skip
    wrapped = click.option("--objective", type=click.Choice(OBJECTIVES),
                           help="What to minimise, in place of what the problem says.")(wrapped)  # fmt: skip
    return click.argument("problem", type=click.Path(dir_okay=False, allow_dash=True))(wrapped)


@click.command("solve")
@task_options
@click.option("--algorithm", default="auto", show_default=True, metavar="NAME", shell_complete=_complete_algorithm,
              help="auto (or exact): the planner; or a baseline, see `stageline plan compare`.")  # fmt: skip
@json_option
def solve_plan(task: Callable[[], Task], algorithm: str, as_json: bool) -> None:
    """Solve the planning problem in a file; - is stdin. No cluster is needed.

    With --json it prints the solution as `plan check` and `plan show` read it. If there is no plan, it says what
    is missing and ends with exit code 1.

    \b
    Example:
      stageline plan solve problem.json
      stageline plan solve - --objective latency --json < problem.json > solution.json
    """
    from stageline_coordinator.planner.algorithms import check_name

    check_name(algorithm)
    solution = task().solve(algorithm)
    if as_json:
        emit_json(solution.to_json())
    elif solution.stages:
        _print_solution(solution)
    if solution.status == "infeasible":
        raise PlacementError(f"no plan: {solution.reason}{'' if solution.proven else ' (not proven)'}")


@click.command("compare")
@task_options
@json_option
def compare_plans(task: Callable[[], Task], as_json: bool) -> None:
    """Solve a problem with every algorithm: the planner, and what others do, as baselines.

    Every plan passes the independent check before it counts. "of the bound" is the objective over the bound that
    the planner proves.

    \b
    Example:
      stageline plan compare problem.json
    """
    from stageline_coordinator.planner.algorithms import COMPARED, OURS

    given = task()
    found: dict[str, Solution] = {}
    with reporting("comparing", quiet=as_json) as report:
        for number, name in enumerate(COMPARED):
            report(name, number / len(COMPARED))
            found[name] = _checked(given.problem, given.solve(name))
    bound = found[OURS].lower_bound_s or 0.0
    if as_json:
        results = {name: _comparison(one, bound) for name, one in found.items()}
        emit_json({"objective": given.problem.objective, "lower_bound_s": bound, "algorithms": results})
    else:
        rows = [_comparison_row(name, _comparison(one, bound)) for name, one in found.items()]
        title = f"{given.problem.objective}, bound {_ms(bound)} ms"
        emit_table(title, COMPARE_COLUMNS, rows, right=COMPARE_COLUMNS[2:])
    if found[OURS].status == "infeasible":
        raise PlacementError(f"no plan: {found[OURS].reason}")


@click.command("check")
@click.argument("problem", type=click.Path(dir_okay=False, allow_dash=True))
@click.argument("solution", type=click.Path(dir_okay=False, allow_dash=True))
@click.option("--objective", type=click.Choice(OBJECTIVES),
              help="What it was solved for, where that is not what the problem says.")  # fmt: skip
@json_option
def check_plan(problem: str, solution: str, objective: str | None, as_json: bool) -> int:
    """Check a solution against its problem: feasibility, every figure, bound and gap, all recomputed.

    The check shares no code with the planner. It lists each violation with the field that is wrong, and ends with
    exit code 1 if there is any. One of the files may be -, stdin.

    \b
    Example:
      stageline plan check problem.json solution.json
    """
    from stageline.cli.planfiles import read_json
    from stageline_coordinator.planner import Problem
    from stageline_coordinator.planner.check import check

    if problem == solution == "-":
        raise ConfigError("only one of PROBLEM and SOLUTION can be stdin")
    asked, given = read_json(problem), read_json(solution)
    if objective and isinstance(asked, dict):
        asked["objective"] = objective
    with _naming(problem):
        Problem.from_json(asked)
    with _naming(solution):
        report = check(asked, given)
    if as_json:
        emit_json({"ok": report.ok, **vars(report)})
    else:
        for violation in report.violations:
            click.echo(shown(violation))
        rows = [(name, "" if value is None else f"{value:.9g}") for name, value in (
            ("objective s", report.objective_s), ("bound of the check s", report.lower_bound_s), ("gap", report.gap),
            *((f"latency of {name} s", seconds) for name, seconds in report.latency_s.items()),
        )]  # fmt: skip
        emit_table("", ("recomputed", "value"), [*rows, ("bottleneck", report.bottleneck)], right=("value",))
    if not report.ok:
        many = len(report.violations)
        note(f"stageline: {many} violation{'s' * (many > 1)}; the first: {report.violations[0]}")
        return EXIT_FAILED
    if not as_json and report.infeasibility:
        claimed = report.infeasibility == "open" and report.claims_proof
        note(INFEASIBILITY["claimed" if claimed else report.infeasibility])
    return 0


def _read(path: str, objective: str | None) -> Problem:
    from stageline.cli.planfiles import read_problem

    problem = read_problem(path)
    return replace(problem, objective=objective) if objective else problem


def _checked(problem: Problem, solution: Solution) -> Solution:
    """Raises `PlacementError` for a plan of ours that the independent check refutes."""
    from stageline_coordinator.planner.check import violations

    wrong = violations(problem.to_json(), solution.to_json())
    if wrong:
        raise PlacementError(f"the plan of {solution.algorithm} does not pass the check: {wrong[0]}")
    return solution


def _comparison(solution: Solution, bound: float) -> dict[str, Any]:
    objective = solution.objective_s
    return {
        "status": solution.status,
        "objective_s": objective,
        "of_bound": objective / bound if objective is not None and bound > 0 else None,
        "latency_s": solution.latency_s,
        "solve_s": solution.solve_s,
        "reason": solution.reason,
    }


def _comparison_row(name: str, row: dict[str, Any]) -> list[str]:
    of_bound = "" if row["of_bound"] is None else f"{row['of_bound']:.3f}"
    return [name, row["status"], _ms(row["objective_s"]), of_bound, _ms(row["latency_s"]), f"{row['solve_s']:.3f}"]


def _print_solution(solution: Solution) -> None:
    rows = [
        [model, str(number), f"{stage.blocks[0]}-{stage.blocks[1]}", " ".join(stage.nodes), stage.codec,
         _ms(stage.compute_s), _ms(stage.transfer_in_s)]
        for model, stages in solution.stages.items()
        for number, stage in enumerate(stages)
    ]  # fmt: skip
    emit_table("", STAGE_COLUMNS, rows, right=("stage", "compute ms", "transfer in ms"))
    gap = "" if solution.gap is None else f", bound {_ms(solution.lower_bound_s)} ms, gap {100 * solution.gap:.2f} %"
    note(f"{solution.status}: objective {_ms(solution.objective_s)} ms{gap}, latency {_ms(solution.latency_s)} ms")
    note(f"by {solution.algorithm} in {solution.solve_s or 0.0:.3f} s")
    if solution.reason and solution.status != "infeasible":
        note(solution.reason)
    for move in solution.moves:
        note(f"{move.node} fetches blocks {move.blocks[0]}-{move.blocks[1]} of {move.model}: {move.bytes} bytes")


def _ms(seconds: float | None) -> str:
    return "" if seconds is None or math.isinf(seconds) else f"{1000 * seconds:.3f}"


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """Errors name the file."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{'stdin' if path == '-' else path}: {error.message}") from None
