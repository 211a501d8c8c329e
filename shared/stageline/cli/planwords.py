"""What limits a plan and what would help, in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import click

from stageline.cli.output import emit_table, note, shown, size
from stageline.cli.planadvice import Answer
from stageline.cli.plandraw import milliseconds, proof
from stageline.cli.planfigures import Figures
from stageline.wording import listed
from stageline_coordinator.planner import changes
from stageline_coordinator.planner.changes import Change
from stageline_coordinator.planner.problem import THROUGHPUT
from stageline_coordinator.planner.sensitivity import NOTHING, Gain, helps

GAIN_COLUMNS = ("change", "gain", "then the bottleneck is")
LOSS_COLUMNS = ("node", "gain", "then the bottleneck is")
SHOWN_ALIKE = 3


def report(answer: Answer) -> None:
    """Print it: sentences, then tables."""
    for line in sentences(answer):
        click.echo(shown(line))
    if answer.gains:
        emit_table("What would help", GAIN_COLUMNS, gain_rows(answer.gains), right=("gain",))
    if answer.losses:
        emit_table("What a loss would cost", LOSS_COLUMNS, gain_rows(answer.losses), right=("gain",))
    if answer.cut:
        were = "problem was" if answer.cut == 1 else "problems were"
        note(f"{answer.cut} {were} solved only in part for lack of time: gains may be larger: see --time-limit")
    if answer.untried:
        were = "change was" if answer.untried == 1 else "changes were"
        note(f"{answer.untried} more {were} not tried for lack of time: see --time-limit")


def sentences(answer: Answer) -> Iterator[str]:
    """What limits the plan, whether there is a better one, and what kind of change would help at all."""
    if answer.reason:
        yield f"There is no plan: {answer.reason}."
    if answer.figures.faults and answer.best.solved:
        yield "This plan cannot run, but there is one that can: what follows is about that."
    elif answer.figures.chains:
        yield from limits(answer.figures)
    if answer.better > NOTHING:
        yield f"Planning anew gains {100 * answer.better:.3g} %, without any change; what follows is beside that."
    yield from kinds(answer)


def limits(figures: Figures) -> Iterator[str]:
    """What limits the plan, in sentences."""
    for chain in figures.chains:
        computing = chain.latency_s - chain.on_way_s
        yield (
            f"A request for {chain.name} alone takes {milliseconds(chain.latency_s)}: "
            f"{milliseconds(computing)} on nodes, {milliseconds(chain.on_way_s)} on the way."
        )
    if figures.limits:
        top, *others = figures.limits
        yield f"The bottleneck is {top.name}, busy for {milliseconds(top.busy_s)} of every request: {top.why}."
        if top.indivisible:
            yield f"That is one block, {top.indivisible}, which no other cut makes smaller."
        if others:
            yield f"Next is {others[0].name}, with {milliseconds(others[0].busy_s)}: {others[0].why}."
    if figures.gap is not None:
        yield proof(figures)


def kinds(answer: Answer) -> Iterator[str]:
    """What a change of everything of one kind would do, in sentences."""
    better = "more requests per second" if answer.problem.objective == THROUGHPUT else "less time"
    for one in answer.general:
        if helps(one, answer.best):
            found = f"{percent(one)} {better}" if answer.best.solved else "there would be a plan"
        else:
            found = "nothing gained" if answer.best.solved else "still no plan"
        yield f"With {describe(one.change)}: {found}."


def gain_rows(gains: Sequence[Gain]) -> list[list[str]]:
    """The change, what it gains, and what then limits."""
    rows = []
    for one in gains:
        top = one.outcome.bottleneck if one.outcome.solved else None
        then = f"{top}, {milliseconds(top.seconds)}" if top else "" if one.outcome.solved else "no plan is left"
        rows.append([describe(one.change, one.needs_bytes), percent(one), then])
    return rows


def percent(one: Gain) -> str:
    """With its sign; where there was no plan before, that there is one now."""
    if one.gain is None:
        return "makes it possible" if one.outcome.solved else ""
    return f"{100 * one.gain:+.3g} %"


def describe(change: Change, needs_bytes: int = 0) -> str:
    """The change, in words that follow "with"."""
    first = change.names[0] if change.names else ""
    of = f"{first}{_or_one_like(change)}"
    more = f"{size(needs_bytes)} more memory" if needs_bytes else "twice the memory"
    return {
        changes.FASTER: f"{of} twice as fast" if first else "every node twice as fast",
        changes.MEMORY: f"{more} on {of if first else 'every node'}",
        changes.NETWORK: f"all links of {of} twice as fast" if first else "every link twice as fast",
        changes.WIRE: f"the link {' ↔ '.join(change.names)} twice as fast",
        changes.GATEWAY: "the gateway's links twice as fast",
        changes.MEDIUM: f"{of} twice as fast",
        changes.ADDED: f"one more node like {of}",
        changes.DROPPED: f"{of} lost",
    }[change.kind]


def _or_one_like(change: Change) -> str:
    if not change.alike:
        return ""
    names = listed(change.alike, SHOWN_ALIKE)
    return f" (or one of {names})" if len(change.alike) > 1 else f" (or {names})"
