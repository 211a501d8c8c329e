"""How soon the coordinator has a usable plan after a death. `python benchmarks/planner_replan.py --help` says more.

The coordinator's own child process is asked, over its pipes: first for a plan for 13 nodes, then, with that plan
running, for one without a node that served. Counted is everything from the problem in Python values to the first answer
in Python values: writing, reading, checking, planning, and the answer's way back; in wall seconds, and in CPU seconds
of both processes. Every first answer passes the independent checker before it counts.
"""

from __future__ import annotations

import random
import select
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from common import machine, progress, report, say, significant
from planner_instances import plain_problem
from stageline_coordinator.events import Solved
from stageline_coordinator.planner import Codec, Medium, Problem, Running, Solution
from stageline_coordinator.planner.check import violations
from stageline_coordinator.planner_process import PlannerProcess

NODES, BLOCKS, BAR_S = 13, 100, 0.2
CODECS = (Codec("fp16", 0.5, 1e-3, 2e-10), Codec("int8", 0.26, 5e-3, 3e-10))


def chain(trial: int, **more: Any) -> Problem:
    """One model; `more`: other keys of it."""
    problem = plain_problem(random.Random(trial), NODES, BLOCKS, 0, trial)
    return replace(problem, models=tuple(replace(model, **more) for model in problem.models))


def several(trial: int, **more: Any) -> Problem:
    """Three models of a third of the size, with rates and priorities."""
    models = []
    for k, (priority, rate) in enumerate(((1.0, 2.0), (2.0, 1.0), (0.5, 1.0))):
        model = chain(3 * trial + k).models[0]
        blocks = tuple(replace(block, weight_bytes=block.weight_bytes // 3) for block in model.blocks)
        models.append(replace(model, name=f"m{k}", blocks=blocks, priority=priority, rate_per_s=rate, **more))
    return replace(chain(3 * trial), models=tuple(models))


def wifi(trial: int) -> Problem:
    """Half of the nodes share a channel."""
    problem = chain(trial)
    inside = tuple(node.id for node in problem.nodes[: NODES // 2])
    return replace(problem, media=(Medium("wifi", inside, 2e7),))


KINDS: Mapping[str, Callable[[int], Problem]] = {
    "throughput": chain,
    "latency": lambda trial: replace(chain(trial), objective="latency"),
    "two codecs": lambda trial: chain(trial, tolerance=0.01, codecs=CODECS),
    "2 replicas": lambda trial: chain(trial, max_replicas=2),
    "two codecs, 2 replicas": lambda trial: chain(trial, tolerance=0.01, codecs=CODECS, max_replicas=2),
    "shared medium": wifi,
    "3 models": several,
    "3 models, weighted": lambda trial: replace(several(trial), objective="weighted"),
    "3 models, two codecs": lambda trial: several(trial, tolerance=0.01, codecs=CODECS),
}


@dataclass(frozen=True)
class Record:
    """One death: seconds to the first answer, its objective over the last one's, and what is wrong with it."""

    wall_s: float
    cpu_s: float
    over_last: float
    wrong: tuple[str, ...]


class Child:
    """The coordinator's planner, asked one problem after the other."""

    def __init__(self) -> None:
        self._planner, self._number = PlannerProcess(), 0

    def ask(self, problem: Problem, limit_s: float) -> Iterator[tuple[Mapping[str, Any], bool]]:
        """The answers as they come, and whether one is the last."""
        self._number += 1
        document = {**problem.to_json(), "time_limit_s": limit_s}
        self._planner.solve(self._number, document, time.monotonic())
        while True:
            reading, writing = self._planner.readable, self._planner.writable
            select.select([reading], [writing] if writing is not None else [], [])
            self._planner.write()
            for answer in self._planner.read():
                if not isinstance(answer, Solved):
                    raise RuntimeError(answer.reason)
                yield answer.solution, answer.final
                if answer.final:
                    return

    def cpu_s(self) -> float:
        """Of the child so far."""
        path = Path(f"/proc/{self._planner.pid}/schedstat")
        return int(path.read_text().split()[0]) / 1e9

    def close(self) -> None:
        self._planner.close()


def death(problem: Problem, solution: Solution) -> Problem:
    """The problem without the node of the middle stage, coming from that solution."""
    nodes = [node for stages in solution.stages.values() for stage in stages for node in stage.nodes]
    gone = nodes[len(nodes) // 2]
    at = problem.node_index()[gone]

    def cut(row: tuple[Any, ...]) -> tuple[Any, ...]:
        return row[:at] + row[at + 1 :]

    assert problem.links is not None
    rate, latency = (tuple(map(cut, cut(matrix))) for matrix in vars(problem.links).values())
    return replace(
        problem,
        nodes=cut(problem.nodes),
        models=tuple(
            replace(model, blocks=tuple(replace(block, seconds=cut(block.seconds)) for block in model.blocks))
            for model in problem.models
        ),
        links=replace(problem.links, bandwidth_bytes_per_s=rate, latency_s=latency),
        media=tuple(replace(one, nodes=tuple(node for node in one.nodes if node != gone)) for one in problem.media),
        current={
            name: tuple(Running(s.blocks, tuple(n for n in s.nodes if n != gone), s.codec) for s in stages)
            for name, stages in solution.stages.items()
        },
    )


def measure(child: Child, problem: Problem, limit_s: float) -> Record:
    """A plan for all nodes, then the first and the last without one of them."""
    *_, (before, _) = child.ask(problem, limit_s)
    left = death(problem, Solution.from_json(_bare(before)))
    cpu, own, wall = child.cpu_s(), time.process_time(), time.monotonic()
    answers = child.ask(left, limit_s)
    first, _ = next(answers)
    wall, cpu, own = time.monotonic() - wall, child.cpu_s() - cpu, time.process_time() - own
    *_, (last, _) = answers
    wrong = tuple(str(one) for one in violations(left.to_json(), _bare(first)))
    over = first["objective_s"] / last["objective_s"] if first["objective_s"] else float("inf")
    return Record(wall, cpu + own, over, wrong)


def _bare(answer: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in answer.items() if key not in ("id", "final")}


def figures(records: list[Record]) -> dict[str, Any]:
    """Medians and worst."""
    named = {"cpu_s": [r.cpu_s for r in records], "wall_s": [r.wall_s for r in records]}
    named["objective over the last answer's"] = [r.over_last for r in records]
    return {
        name: {"median": significant(statistics.median(values), 3), "worst": significant(max(values), 3)}
        for name, values in named.items()
    }


@click.command()
@click.option("--trials", default=10, show_default=True, help="Deaths of each kind.")
@click.option("--limit", default=3.0, show_default=True, help="Seconds for each plan, of which the last is taken.")
@click.option("--save", is_flag=True, help="Keep JSON under benchmarks/results/.")
def main(trials: int, limit: float, save: bool) -> None:
    """Seconds to the first plan after a death, by kind of problem; JSON on standard output."""
    records: dict[str, list[Record]] = {name: [] for name in KINDS}
    child = Child()
    with progress("deaths", trials * len(KINDS)) as tick:
        for trial in range(trials):
            for name, make in KINDS.items():
                records[name].append(measure(child, make(trial), limit))
                tick()
    child.close()
    result = {
        "machine": machine(),
        "nodes left": NODES - 1,
        "blocks": BLOCKS,
        "trials": trials,
        "first answer": {name: figures(rows) for name, rows in records.items()},
    }
    report("planner-replan", result, save=save)
    wrong = [f"{name}: {text}" for name, rows in records.items() for row in rows for text in row.wrong]
    for text in wrong:
        say(text)
    slow = [name for name, rows in records.items() if max(row.cpu_s for row in rows) > BAR_S]
    if slow:
        say(f"more than {BAR_S:g} CPU seconds: {', '.join(slow)}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
