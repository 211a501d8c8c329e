"""The planner beside SEIFER, PipeEdge and others, on seeded problems. `python benchmarks/planner.py --help` says more.

Three settings: SEIFER's own (links only), unequal nodes (compute, memory and links), and plain random problems for
solve seconds and gaps. Every plan passes the independent checker before it counts; the run fails if the planner is
worse than any baseline, finds no plan where one does, or claims an optimum with a gap.
"""

from __future__ import annotations

import math
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import click

from common import machine, progress, report, say
from planner_figures import of_setting, of_sizes, plots, table
from planner_instances import SEIFER, Case, plain, seifer, unequal
from stageline_coordinator.planner import Problem, Solution
from stageline_coordinator.planner.algorithms import COMPARED, OURS, run
from stageline_coordinator.planner.check import violations

EQUAL = 1e-9  # relative
QUICK_NODES = 15


@dataclass
class Record:
    """What every algorithm made of one problem; an objective of None: no plan.

    `solve_s` are seconds of one core, so that what else the machine does counts little.
    """

    setting: str
    labels: dict[str, Any]
    bound_s: float
    gap: float | None
    status: str
    algorithm: str
    objective_s: dict[str, float | None]
    solve_s: dict[str, float]
    wrong: list[str] = field(default_factory=list)


def cases(trials: int, others: int, most_nodes: int) -> list[Case]:
    """`trials` of SEIFER's setting, then of the rest `others`: the first trial of everything, then the second."""
    smaller = (case for case in seifer(others, most_nodes) if case.setting != SEIFER)
    exact = (case for case in seifer(trials, most_nodes) if case.setting == SEIFER)
    found = chain(exact, smaller, unequal(others, most_nodes), plain(others, most_nodes))
    return sorted(found, key=_round)


def _round(case: Case) -> tuple[bool, int]:
    return case.setting != SEIFER, int(case.labels["trial"])


def measured(chosen: Sequence[Case], jobs: int, minutes: float, tick: Callable[[], None]) -> list[Record]:
    """What was made of the problems; after so many minutes only of the rounds that are whole by then."""
    until, records = time.monotonic() + 60 * minutes, list[Record]()
    solve = _Numbered(chosen)
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        for record in pool.imap(solve, range(len(chosen))):
            records.append(record)
            tick()
            if time.monotonic() >= until:
                break
    if len(records) == len(chosen):
        return records
    started = _round(chosen[len(records)])
    return [record for case, record in zip(chosen, records, strict=False) if _round(case) < started]


class _Numbered:
    """Measures the problem of that number; what makes problems cannot be sent, so forks have it from before."""

    _chosen: Sequence[Case] = ()

    def __init__(self, chosen: Sequence[Case]) -> None:
        type(self)._chosen = chosen

    def __call__(self, number: int) -> Record:
        return measure(self._chosen[number])


def measure(case: Case) -> Record:
    """Solve with every algorithm (the random setting: the planner alone), check every plan."""
    problem = case.make()
    found: dict[str, Solution] = {}
    for name in COMPARED if case.setting != "random" else (OURS,):
        started = time.process_time()
        solution = run(problem, name)
        found[name] = replace(solution, solve_s=time.process_time() - started)
    ours = found[OURS]
    return Record(
        setting=case.setting,
        labels=case.labels,
        bound_s=ours.lower_bound_s or 0.0,
        gap=ours.gap,
        status=ours.status,
        algorithm=ours.algorithm,
        objective_s={name: one.objective_s for name, one in found.items()},
        solve_s={name: one.solve_s or 0.0 for name, one in found.items()},
        wrong=[f"{case.setting} {case.labels}: {text}" for text in _wrong(problem, found)],
    )


def _wrong(problem: Problem, found: dict[str, Solution]) -> Iterator[str]:
    """What must not be."""
    ours = found[OURS]
    document = problem.to_json()
    for name, solution in found.items():
        for violation in violations(document, solution.to_json()):
            yield f"{name} does not pass the check: {violation}"
        if solution.objective_s is None or name == OURS:
            continue
        if ours.objective_s is None:
            yield f"{name} has a plan, the planner none ({ours.reason})"
        elif ours.objective_s > solution.objective_s * (1 + EQUAL):
            yield f"{name} is better: {solution.objective_s:.9g} s, the planner {ours.objective_s:.9g} s"
    if ours.status == "optimal" and ours.gap != 0:
        yield f"optimal with a gap of {ours.gap}"


def _trials(records: Sequence[Record], setting: str) -> int:
    """How many problems of each kind there are."""
    return len({record.labels["trial"] for record in records if record.setting == setting})


@click.command()
@click.option(
    "--trials", default=50, show_default=True, help="Problems of each kind in SEIFER's setting, which come first."
)
@click.option("--others", default=10, show_default=True, help="Problems of each kind in the other settings.")
@click.option("--jobs", default=1, show_default=True, help="Processes that solve problems side by side.")
@click.option("--minutes", default=math.inf, help="Stop after so long, with the trials that are whole by then.")
@click.option("--quick", is_flag=True, help=f"2 trials, up to {QUICK_NODES} nodes: a minute.")
@click.option("--save", is_flag=True, help="Keep JSON and plots under benchmarks/results/.")
def main(trials: int, others: int, jobs: int, minutes: float, quick: bool, save: bool) -> None:
    """Compare plans and solve seconds; a table on standard error, JSON on standard output.

    Plots need matplotlib (`pip install 'stageline[bench]'`) and are left out without it.
    """
    trials, others = (2, 2) if quick else (trials, others)
    chosen = cases(trials, others, QUICK_NODES if quick else sys.maxsize)
    with progress("planner", len(chosen)) as tick:
        records = measured(chosen, jobs, minutes, tick)
    settings = sorted({r.setting for r in records if r.setting != "random"})
    wrong = [text for record in records for text in record.wrong]
    result: dict[str, Any] = {
        "machine": machine(),
        "trials": {name: _trials(records, name) for name in (*settings, "random")},
        "settings": {name: of_setting([r for r in records if r.setting == name]) for name in settings},
        "solve seconds and gaps": of_sizes([r for r in records if r.setting == "random"]),
        "wrong": wrong,
    }
    for name, figures in result["settings"].items():
        table(name, figures)
    if save:
        plots(result)
    report("planner", result, save=save)
    for text in wrong:
        say(text)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
