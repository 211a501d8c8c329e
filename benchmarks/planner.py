"""The planner beside SEIFER, PipeEdge and others, on seeded problems. `python benchmarks/planner.py --help` says more.

Three settings: SEIFER's own (links only), unequal nodes (compute, memory and links), and plain random problems for
solve seconds and gaps. Every plan passes the independent checker before it counts; the run fails if the planner is
worse than any baseline, finds no plan where one does, or claims an optimum with a gap.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import click

from common import machine, progress, report, say
from planner_figures import of_setting, of_sizes, plots, table
from planner_instances import SEIFER, Case, plain, seifer, unequal
from sittings import Book, fingerprint
from stageline_coordinator import planner as planned
from stageline_coordinator.planner import Problem, Solution
from stageline_coordinator.planner.algorithms import COMPARED, OURS, run
from stageline_coordinator.planner.check import violations

EQUAL = 1e-9  # relative
QUICK_NODES = 15
HERE = Path(__file__).parent
RECORDS = HERE.parent / "build/benchmarks/planner.jsonl"
PLANNER = fingerprint(Path(planned.__file__).parent.rglob("*.py"))
"""Which state of the planner: a record says by which it was made."""


@dataclass
class Record:
    """What every algorithm made of one problem; an objective of None: no plan.

    `solve_s` are seconds of one core, so that what else the machine does counts little. `planner`: which state of it.
    """

    setting: str
    labels: dict[str, Any]
    bound_s: float
    gap: float | None
    status: str
    algorithm: str
    objective_s: dict[str, float | None]
    solve_s: dict[str, float]
    planner: str
    wrong: list[str] = field(default_factory=list)


def cases(trials: int, others: int, most_nodes: int) -> list[Case]:
    """`trials` of SEIFER's setting, `others` of the rest: the first trial of everything, then the second."""
    smaller = (case for case in seifer(others, most_nodes) if case.setting != SEIFER)
    exact = (case for case in seifer(trials, most_nodes) if case.setting == SEIFER)
    found = chain(exact, smaller, unequal(others, most_nodes), plain(others, most_nodes))
    return sorted(found, key=lambda case: int(case.labels["trial"]))


def key(case: Case) -> str:
    """What its record is kept under."""
    return json.dumps([case.setting, case.labels])


def measured(chosen: Sequence[Case], book: Book, jobs: int, minutes: float, tick: Callable[[], None]) -> None:
    """Add what lacks to the book, for so many minutes."""
    until = time.monotonic() + 60 * minutes
    lacking = [case for case in chosen if key(case) not in book.records]
    for _ in range(len(chosen) - len(lacking)):
        tick()
    solve = _Numbered(lacking)
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        for case, record in zip(lacking, pool.imap(solve, range(len(lacking))), strict=True):
            book.add(key(case), asdict(record))
            tick()
            if time.monotonic() >= until:
                return


def whole(chosen: Sequence[Case], book: Book) -> list[Record]:
    """The records of those trials of which there is one for every kind of problem of their setting and size."""
    lacking = {_trial(case) for case in chosen if key(case) not in book.records}
    return [Record(**book.records[key(case)]) for case in chosen if _trial(case) not in lacking]


def _trial(case: Case) -> tuple[str, int, int]:
    return case.setting, case.labels["nodes"], case.labels["trial"]


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
        planner=PLANNER,
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


def _trials(records: Sequence[Record], setting: str) -> dict[int, int]:
    """How many problems of each kind there are, by number of nodes."""
    found = {(r.labels["nodes"], r.labels["trial"]) for r in records if r.setting == setting}
    return dict(sorted(Counter(nodes for nodes, _ in found).items()))


def opened(path: Path, again: Sequence[str]) -> Book:
    """The records so far, less those by algorithms of an earlier planner that are to be run again."""
    book = Book(path, fingerprint([HERE / "planner_instances.py", HERE / "data/cut_tables.json"], COMPARED))
    old = [k for k, r in book.records.items() if r["algorithm"] in again and r["planner"] != PLANNER]
    for one in old:
        del book.records[one]
    return book


def summed(records: Sequence[Record]) -> dict[str, Any]:
    """What is reported."""
    settings = sorted({r.setting for r in records if r.setting != "random"})
    return {
        "machine": machine(),
        "trials": {name: _trials(records, name) for name in (*settings, "random")},
        "states of the planner": len({r.planner for r in records}),
        "settings": {name: of_setting([r for r in records if r.setting == name]) for name in settings},
        "solve seconds and gaps": of_sizes([r for r in records if r.setting == "random"]),
        "wrong": [text for record in records for text in record.wrong],
    }


@click.command()
@click.option("--trials", default=50, show_default=True, help="Problems of each kind in SEIFER's setting.")
@click.option("--others", default=10, show_default=True, help="Problems of each kind in the other settings.")
@click.option("--setting", multiple=True, help="Only problems of this setting; as often as wanted.")
@click.option("--nodes", default=sys.maxsize, help="Only problems of at most so many nodes.")
@click.option("--jobs", default=1, show_default=True, help="Processes that solve problems side by side.")
@click.option("--minutes", default=math.inf, help="End this sitting after so long; 0: only sum up.")
@click.option("--records", type=click.Path(path_type=Path), default=RECORDS, help="The file that sittings add to.")
@click.option("--again", multiple=True, help="Run again what this algorithm of another state of the planner solved.")
@click.option("--quick", is_flag=True, help=f"2 trials, up to {QUICK_NODES} nodes: a minute.")
@click.option("--save", is_flag=True, help="Keep JSON and plots under benchmarks/results/.")
def main(
    trials: int,
    others: int,
    setting: tuple[str, ...],
    nodes: int,
    jobs: int,
    minutes: float,
    records: Path,
    again: tuple[str, ...],
    quick: bool,
    save: bool,
) -> None:
    """Compare plans and solve seconds; a table on standard error, JSON on standard output.

    Trials are kept, and a later sitting runs what lacks. Those that are whole are summed up. Plots need matplotlib
    (`pip install 'stageline[bench]'`) and are left out without it.
    """
    chosen = cases(2, 2, QUICK_NODES) if quick else cases(trials, others, nodes)
    chosen = [case for case in chosen if not setting or case.setting in setting]
    book = opened(records, again)
    with progress("planner", len(chosen)) as tick:
        if minutes > 0:
            measured(chosen, book, jobs, minutes, tick)
    result = summed(whole(chosen, book))
    for name, figures in result["settings"].items():
        table(name, figures)
    if save:
        plots(result)
    report("planner", result, save=save)
    for text in result["wrong"]:
        say(text)
    sys.exit(1 if result["wrong"] else 0)


if __name__ == "__main__":
    main()
