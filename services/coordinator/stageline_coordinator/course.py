"""The course of the cluster: from what is to what should be. Pure; times are seconds on one monotonic clock.

`reconcile` compares the two and says what to do: resume a plan after a restart, finish or drop a preparation, have
blocks measured, ask the planner, move to a better plan, say which models are not served and why, let old stages go.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from stageline.messages import Prepared, PrepareFailed
from stageline.plan import Digest, ModelPlan, Plan, StageKey

from . import assemble
from .events import Instruction, Note, Send, Solved, SolveFailed
from .figures import Models
from .guarding import Guard, coverage, without
from .measuring import Measuring
from .members import Members
from .peers import Node
from .placement import Answer, Placement, can_plan
from .planning import Planning
from .preparing import ANSWER_S, Preparation
from .published import Published
from .rejoining import Rejoining


class Course:
    """`members`, `models` and `measuring` are its owner's, who changes them; `rejoining` is the wait at a start."""

    def __init__(
        self,
        term: int,
        members: Members,
        models: Models,
        measuring: Measuring,
        planning: Planning,
        published: Published,
        guard: Guard,
        rejoining: Rejoining,
    ) -> None:
        self._term = term
        self._members = members
        self._models = models
        self._measuring = measuring
        self._published = published
        self._planning = planning
        self._guard = guard
        self._preparation: Preparation | None = None
        self._failed: Preparation | None = None
        self._rejoining = rejoining

    @property
    def plan(self) -> Plan:
        """The plan in force."""
        return self._published.plan

    @property
    def resuming(self) -> bool:
        """Whether the workers of a plan from before the restart are still waited for."""
        return self._rejoining.waits

    def shown(self, now: float) -> Plan:
        """The plan in force for people: while it waits for its workers in vain, no model is served."""
        if not self._rejoining.deserted(now):
            return self.plan
        models = (self._idle(name, [], None, now) for name in self._models)
        return msgspec.structs.replace(self.plan, models=tuple(models))

    def digest(self) -> Digest:
        """The next digest."""
        return self._published.digest(self._members)

    # --- news -----------------------------------------------------------------------------------------------

    def prepared(self, node: Node, message: Prepared) -> Iterator[Instruction]:
        """A node has loaded what some PREPARE named."""
        preparation = self._preparation
        if preparation and message.term == self._term and preparation.answered(node, message):
            return
        if self._guard.prepared(node, message):
            return
        # too late, but loaded it is: known, it will be retired again
        for stage, executor in zip(message.stages, message.executors):  # noqa: B905 - a peer's lists may differ
            if executor in node.executors:
                node.add_loaded(executor, (stage,))
        yield Note("late answer", {"node": node.name, "version": message.version})

    def prepare_failed(self, node: Node, message: PrepareFailed, now: float) -> Iterator[Instruction]:
        """A node could not load a stage: plan without it for that model for a while; the others start over at once."""
        for asked in (self._preparation, self._failed) if message.term == self._term else ():
            model = asked.failed(node, message, now) if asked is not None else None
            if asked is None or model is None:
                continue
            fields = {"node": node.name, "model": model, "stage": str(message.stage), "reason": message.message}
            yield Note("prepare failed", fields)
            if asked is self._preparation:
                self._preparation, self._failed = None, asked
                yield Note("preparation dropped", {"version": asked.version})
        yield from self._guard.failed(node, message, now)

    def repeat(self, node: Node) -> Iterator[Instruction]:
        """A node said hello again: it may have missed what it was to prepare."""
        preparation = self._preparation
        self._guard.rejoined(node.name)
        if preparation and node.name in preparation.waiting:
            yield Send(node.address, preparation.message(self._term, node.name))

    def solved(self, event: Solved, now: float) -> Iterator[Instruction]:
        """The planner answered."""
        nodes = self._members.usable(now)
        yield from self._planning.solved(event, self.plan, nodes, self._models, now)

    def solve_failed(self, event: SolveFailed, now: float) -> Iterator[Instruction]:
        """The planner could not answer."""
        yield from self._planning.failed(event.problem, event.reason, now)

    # --- what is, and what should be ------------------------------------------------------------------------

    def reconcile(self, now: float) -> Iterator[Instruction]:
        """What to do now."""
        if self._rejoining.waits:
            if not self._rejoining.over(self.plan, self._members, now):
                return
            models = tuple(model for model in self.plan.models if model.name in self._models)
            yield from self._published.commit(models, self._members, now)
        yield from self._published.announce(self._members)
        self._planning.confine(self.plan)
        yield from self._check_preparation(now)
        self._planning.confine(self.plan)
        nodes = self._members.usable(now)
        yield from self._measuring.requests(nodes, self._members, self._models, now)
        yield from self._plan(nodes, now)
        yield from self._furnish(now)
        yield from self.retire(now)
        if self._preparation is None and not self._published.draining:
            yield from self._guard.load(self.plan, self._published.next_version)

    def _check_preparation(self, now: float) -> Iterator[Instruction]:
        preparation = self._preparation
        if preparation is None:
            return
        for name in preparation.waiting if now >= preparation.until else ():
            node = self._members.nodes.get(name)
            if node:
                node.exclude(now, f"it did not load its stages within {ANSWER_S:g} s")
        allowed = all(self._planning.may_take(name, stages) for name, stages in preparation.stages.items())
        if not allowed or not preparation.valid(self._members.nodes, self._models, now):
            yield Note("preparation dropped", {"version": preparation.version})
            self._preparation = None
        elif not preparation.waiting:
            self._preparation = None
            yield from self._commit(preparation, now)

    def _plan(self, nodes: list[Node], now: float) -> Iterator[Instruction]:
        if self._planning.current(nodes, self._models) is None:
            yield from self._planning.ask(self.plan, nodes, self._models, now)
        decided = self._planning.current(nodes, self._models) is not None
        target = self._planning.target(self.plan, self._models, self._members.nodes) if decided else None
        answer = self._planning.current(nodes, self._models)
        models = tuple(self._entry(name, nodes, answer, now) for name in self._models)
        if models != self.plan.models:
            yield from self._published.commit(models, self._members, now)
        if answer is not None:
            yield from self._aim(target, answer, nodes, now)
            if self._preparation is None:  # what is tried again must not hold up what is not
                self._members.retry(now)

    def _aim(self, target: Placement | None, answer: Answer, nodes: list[Node], now: float) -> Iterator[Instruction]:
        """Start, keep or abandon a preparation."""
        if target is None:
            self._preparation = None
            return
        if self._preparation is not None and self._preparation.target == target:
            return
        here = {node.name: node for node in nodes}
        begun = Preparation.begin(self._published.next_version(), target, answer, self._models, here, now)
        self._preparation = begun
        yield from self._make_room(begun, now)
        yield Note("preparing", {"version": begun.version, "nodes": sorted(begun.stages)})
        for name in begun.stages:
            here[name].prepares()
            yield Send(here[name].address, begun.message(self._term, name))

    def _make_room(self, begun: Preparation, now: float) -> Iterator[Instruction]:
        """Standbys never take memory that a plan needs."""
        self._guard.superseded()
        gone = self._guard.in_the_way(self.plan, begun.target, self._models)
        models = without(self.plan.models, gone)
        if models != self.plan.models:
            yield from self._published.commit(models, self._members, now)
        for name, stages in gone.items():
            yield Note("standbys dropped", {"node": name, "stages": sorted(map(str, stages))})
            yield self._published.drop(self._members.nodes[name], stages, begun.version)

    def _furnish(self, now: float) -> Iterator[Instruction]:
        """Have the plan name the standbys that are ready."""
        if self._preparation is not None:
            return
        models = self._guard.furnish(self.plan, self._models, now)
        if models != self.plan.models:
            yield Note("standbys", coverage(models))
            yield from self._published.commit(models, self._members, now)

    def _commit(self, done: Preparation, now: float) -> Iterator[Instruction]:
        for name in done.stages:
            self._members.nodes[name].failures = 0
            self._members.nodes[name].load_failures.loaded(done.stages[name])
        usable, here = self._members.usable(now), self._members.nodes
        answer = self._planning.current(usable, self._models)
        ready = {name: assemble.serving(name, done, self._models, here, self._measuring.book) for name in done.target}
        models = tuple(ready.get(name) or self._entry(name, usable, answer, now) for name in self._models)
        yield Note("committed", {"models": sorted(ready), "version": done.version})
        yield from self._published.commit(models, self._members, now, done.version)

    def _entry(self, name: str, nodes: list[Node], answer: Answer | None, now: float) -> ModelPlan:
        """The plan's entry for a model that is not just being committed."""
        old = self.plan.model(name)
        if old is not None and old.stages and not self._condemned(old, nodes, answer):
            return old
        undecided = answer is None and old is not None and old.status == "unavailable"
        if old is not None and undecided and old.manifest == self._models[name][0]:
            return old
        return self._idle(name, nodes, answer, now)

    def _idle(self, name: str, nodes: list[Node], answer: Answer | None, now: float) -> ModelPlan:
        left_out = self._members.left_out(now)
        sha, manifest = self._models[name]
        whole = StageKey(manifest=sha, start=0, end=len(manifest.blocks))
        barred = self._planning.barred(name, whole, [node.name for node in nodes])
        status, reason = assemble.why_not(name, self._models, nodes, left_out, self._measuring.book, answer, barred)
        return assemble.idle(name, self._models, status, reason)

    def _condemned(self, old: ModelPlan, nodes: list[Node], answer: Answer | None) -> bool:
        """Whether a model that was served is so no longer, and will not be soon."""
        sha, manifest = self._models[old.name]
        runs = assemble.serves(old, self._members.nodes)
        heeded = self._planning.heeds(old, [node.name for node in nodes])
        if (runs and heeded and old.manifest == sha) or answer is None or old.name in answer.placement:
            return False
        return not runs or not heeded or can_plan(sha, manifest, nodes, self._measuring.book)

    def retire(self, now: float) -> Iterable[Instruction]:
        """The part of it that depends on what gateways have left behind."""
        if self.resuming:
            return ()
        guard = self._guard
        return self._published.retire(self._members, self._preparation, guard.wanted, guard.asked, now)
