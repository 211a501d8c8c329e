"""What to plan for, and whether a new solution is worth moving to. Pure.

Level-triggered: `inputs` says what a solution depends on; one is asked for whenever the last answer was for
other inputs, and an answer that came too late is simply asked for anew. The planner answers soon and then better: a
first answer is waited for and acted upon; a later one replaces it where that is worth moving for.

The planner knows the running plan: it keeps it unless another is clearly better, and of plans that are as good it takes
the one that moves least. What is new is loaded beside what runs, so both have to fit. Where that leaves no room for a
model, it is asked again as if nothing ran: what runs then makes way. A running model that a worker just failed to load
a new stage of stays as it is until that may be tried again: the planner is asked about the others, in the memory left.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from stageline.errors import PlacementError
from stageline.plan import ModelPlan, Plan, StageKey

from .assemble import intact, running_stages, slots_of
from .bottleneck import objective_s
from .draining import hosts_of
from .events import Instruction, Note, Solve, Solved
from .figures import Models
from .measuring import Measuring
from .members import Members
from .peers import Node
from .placement import Answer, Placement, build_problem, can_plan, read_answer, slot_bytes, stay_put
from .wanted import Barred, Wanted

WORTH_MOVING = 0.9
"""A running plan is left only for one whose objective is at most this fraction of its own."""

MOVING_COSTS = 1.02
"""So much worse an objective may become to spare moving weights."""

RETRY_S = 1.0


def _coming_from(plan: Plan, models: Models, nodes: Sequence[Node]) -> dict[str, Any]:
    """What a problem says of the plan that runs, and when to leave it; nothing where none runs."""
    running = running_stages(plan, models, nodes)
    replan = {"threshold": round(1 - WORTH_MOVING, 9), "tolerance": round(MOVING_COSTS - 1, 9)}
    return {"current": running, "replan": replan} if running else {}


def _with(answer: Answer, frozen: Mapping[str, ModelPlan]) -> Answer:
    """The answer with these models where they are."""
    return replace(
        answer,
        placement={**answer.placement, **{name: slots_of(model) for name, model in frozen.items()}},
        bottleneck_s={**answer.bottleneck_s, **{name: model.bottleneck_s for name, model in frozen.items()}},
        bound_s={**answer.bound_s, **{name: model.bound_s for name, model in frozen.items()}},
    )


def _barred(swapped: Placement, planned: Placement, models: Models, nodes: Mapping[str, Node]) -> bool:
    """Whether a model that is not where it was planned would be on a node that just failed to load it."""
    return any(
        not nodes[node].takes(models[name][0])
        for name, slots in swapped.items()
        for slot in (slots if slots != planned[name] else ())
        for node in slot.nodes
    )


class Planning:
    """`answer` is the last one; `current` tells whether it is for the cluster as it is."""

    def __init__(self, measuring: Measuring, members: Members, wanted: Wanted) -> None:
        self._book, self._links, self._members = measuring.book, measuring.links, members
        self._wanted = wanted
        self._plan: Plan | None = None
        self._answer: Answer | None = None
        self._target: Placement = {}
        self._here: frozenset[str] = frozenset()
        self._number = 0
        self._outstanding: object = None
        self._answered = False
        self._retry_at = 0.0
        self._compared: tuple[object, bool] = (None, False)
        self._beside, self._objective = False, self._wanted.objective

    def current(self, nodes: Sequence[Node], models: Models) -> Answer | None:
        """The answer for exactly these nodes and models, if there is one."""
        answer = self._answer
        return answer if answer is not None and answer.inputs == self._inputs(nodes, models) else None

    def ask(self, plan: Plan, nodes: Sequence[Node], models: Models, now: float) -> Iterator[Instruction]:
        """Have the planner solve for these, coming from `plan`, unless it is at work."""
        yield from self._ask(plan, nodes, models, now, beside=True)

    def _ask(
        self, plan: Plan, nodes: Sequence[Node], models: Models, now: float, *, beside: bool
    ) -> Iterator[Instruction]:
        inputs = self._inputs(nodes, models)
        frozen = self._frozen(nodes, models)
        asked = {name: entry for name, entry in models.items() if name not in frozen}
        plannable = {name: entry for name, entry in asked.items() if can_plan(*entry, nodes, self._book)}
        if not plannable:
            self._accept(_with(Answer(inputs), frozen), models, nodes)
            return
        unanswered = self._outstanding is not None and not self._answered
        if unanswered or self._outstanding == inputs or now < self._retry_at:
            return
        self._number += 1
        self._outstanding, self._answered = inputs, False
        problem = self.problem(plan, nodes, plannable, beside=beside)
        self._charge(problem, frozen, models)
        self._beside, self._objective = "current" in problem, str(problem["objective"])
        yield Solve(self._number, problem)

    def solved(
        self, event: Solved, plan: Plan, nodes: Sequence[Node], models: Models, now: float
    ) -> Iterator[Instruction]:
        """Take an answer in, if it is to the question that is open and still the right one."""
        if event.problem != self._number or self._outstanding is None:
            return
        inputs, self._answered = self._outstanding, True
        if event.final:
            self._outstanding = None
        if inputs != self._inputs(nodes, models):
            return
        try:
            answer = replace(read_answer(event.solution, inputs, models), objective=self._objective)
        except PlacementError as error:
            self._retry_at = now + RETRY_S
            yield Note("answer refused", {"reason": error.message})
            return
        answer = _with(answer, self._frozen(nodes, models))
        known = self.current(nodes, models)
        if known is None and answer.reasons and self._beside:
            self._outstanding = None
            yield from self._ask(plan, nodes, models, now, beside=False)
            return
        if known is None or self._improves(answer, known, models, {node.name: node for node in nodes}):
            self._accept(answer, models, nodes)
        else:
            self._answer = replace(known, bound_s=answer.bound_s)

    def failed(self, number: int, reason: str, now: float) -> Iterator[Instruction]:
        """The planner died or refused the problem: ask again in a while."""
        if number == self._number and self._outstanding is not None:
            self._outstanding, self._retry_at = None, now + RETRY_S
            yield Note("planning failed", {"reason": reason})

    def target(self, plan: Plan, models: Models, nodes: Mapping[str, Node]) -> Placement | None:
        """Where to move from `plan`, given a current answer; None: stay."""
        answer = self._answer
        if answer is None:
            return None
        served = {model.name: model for model in plan.models if model.stages}
        kept = {model.name for model in self._sound(plan, models, nodes, self._here)}
        placed = set(answer.placement)
        if placed <= kept:
            running = {name: slots_of(served[name]) for name in kept}
            better = placed == kept and self._better(answer, running, models, nodes)
            return self._target if better else None
        if kept == set(served) and kept - placed:
            self._hold_back(answer, kept)
            return None
        return self._target

    def _sound(
        self, plan: Plan, models: Models, nodes: Mapping[str, Node], here: Collection[str]
    ) -> Iterator[ModelPlan]:
        """Served models that are the same still, whole, and as users want them."""
        for model in plan.models:
            same = model.name in models and model.manifest == models[model.name][0]
            if model.stages and same and intact(model, nodes) and self.heeds(model, here):
                yield model

    def _frozen(self, nodes: Sequence[Node], models: Models) -> dict[str, ModelPlan]:
        """Of these, those that one of `nodes` just failed to load, and that run on `nodes` alone."""
        if self._plan is None or not any(node.load_failures.now for node in nodes):
            return {}
        here = {node.name: node for node in nodes}
        return {
            model.name: model
            for model in self._sound(self._plan, models, here, list(here))
            if not all(node.takes(model.manifest) for node in nodes)
        }

    def _charge(self, problem: dict[str, Any], frozen: Mapping[str, ModelPlan], models: Models) -> None:
        """Have the problem's nodes lack the memory that these take."""
        taken: dict[str, int] = {}
        for name, model in frozen.items():
            for slot in slots_of(model):
                for node in slot.nodes:
                    taken[node] = taken.get(node, 0) + slot_bytes(models[name][1], slot, self._book)
        for box in problem["nodes"]:
            box["base_bytes"] += taken.get(box["id"], 0)

    def confine(self, plan: Plan) -> None:
        """Note what runs, and what of it cordoned nodes may keep."""
        self._plan = plan
        if self._wanted.cordoned or self._wanted.held:
            self._wanted.confine(hosts_of(plan.models))

    def may_take(self, node: str, stages: Iterable[StageKey]) -> bool:
        """Whether the node may be given these: one that is cordoned gets nothing new."""
        return all(self._wanted.may_take(node, key.manifest, key.start, key.end) for key in stages)

    def wanted(self, models: Iterable[str]) -> object:
        """Equal as long as users want the same of these."""
        return self._wanted.key(models)

    def barred(self, model: str, key: StageKey, here: Iterable[str]) -> Barred:
        """Those of the workers `here` that users keep off these blocks of it."""
        return self._wanted.barred(model, key, here)

    def heeds(self, model: ModelPlan, here: Collection[str]) -> bool:
        """Whether a model is served as users want it to be, as far as that is possible with the nodes `here`."""
        return self._wanted.heeded(model.name, slots_of(model), here)

    def _improves(self, answer: Answer, known: Answer, models: Models, nodes: Mapping[str, Node]) -> bool:
        """Whether a later answer to the same question is worth starting over for."""
        if set(answer.placement) != set(known.placement):
            return len(answer.placement) > len(known.placement)
        new_s, old_s = (self._objective_s(one.placement, models, nodes) for one in (answer, known))
        return new_s <= WORTH_MOVING * old_s

    def _better(self, answer: Answer, running: Placement, models: Models, nodes: Mapping[str, Node]) -> bool:
        question = (answer.inputs, answer.placement, running)
        if self._compared[0] != question:
            old_s, new_s = (self._objective_s(one, models, nodes) for one in (running, answer.placement))
            self._compared = (question, new_s < old_s and new_s <= WORTH_MOVING * old_s)
        return self._compared[1]

    def _objective_s(self, placement: Placement, models: Models, nodes: Mapping[str, Node]) -> float:
        used = sorted({name for slots in placement.values() for slot in slots for name in slot.nodes})
        boxes, placed = [nodes[name] for name in used], {name: models[name] for name in placement}
        heeded = self._wanted.all_heeded(placement, self._here)
        return objective_s(self.bare_problem(boxes, placed), placement) if heeded else math.inf

    def problem(self, plan: Plan, nodes: Sequence[Node], models: Models, *, beside: bool = True) -> dict[str, Any]:
        """What the planner is asked for models that `can_plan`, coming from `plan`; else as if nothing ran."""
        network = self._links.view(nodes, self._members)
        bare = build_problem(nodes, models, self._book, network, self._wanted, running=False)
        return bare | _coming_from(plan, models, nodes) if beside else bare

    def bare_problem(self, nodes: Sequence[Node], models: Models) -> dict[str, Any]:
        """To judge how these are placed, whether or not a node just failed to load more of them."""
        network = self._links.view(nodes, self._members)
        return build_problem(nodes, models, self._book, network, self._wanted)

    def _hold_back(self, answer: Answer, kept: set[str]) -> None:
        """Newcomers that would displace what runs well stay out, and say so."""
        lost = ", ".join(sorted(kept - set(answer.placement)))
        why = f"serving it would displace {lost}: add a worker or memory"
        reasons = {**answer.reasons, **{name: why for name in answer.placement if name not in kept}}
        placement = {name: slots for name, slots in answer.placement.items() if name in kept}
        self._answer = replace(answer, placement=placement, reasons=reasons)

    def _accept(self, answer: Answer, models: Models, nodes: Sequence[Node]) -> None:
        self._answer, self._compared = answer, (None, False)
        here = {node.name: node for node in nodes}
        self._here = frozenset(here)
        self._target = answer.placement
        swapped = stay_put(answer.placement, models, here, self._book)
        if swapped != answer.placement:  # nodes of equal speed may still have links that differ
            planned_s, swapped_s = (self._objective_s(one, models, here) for one in (answer.placement, swapped))
            as_good = math.isfinite(swapped_s) and swapped_s <= MOVING_COSTS * planned_s
            as_good = as_good and not _barred(swapped, answer.placement, models, here)
            self._target = swapped if as_good else answer.placement

    def _inputs(self, nodes: Sequence[Node], models: Models) -> object:
        offers = tuple(
            (n.name, n.info.memory_bytes, n.info.base_bytes, n.info.hop_s, n.info.byte_s, n.info.fingerprint)
            for n in nodes
        )
        speeds = tuple((n.slowdown, n.upkeep, n.load_failures.now) for n in nodes)
        fingerprints = sorted({node.info.fingerprint for node in nodes})
        known = tuple(
            (name, sha, tuple(f for f in fingerprints if self._book.complete(manifest, f)))
            for name, (sha, manifest) in models.items()
        )
        frozen = tuple((name, slots_of(model)) for name, model in self._frozen(nodes, models).items())
        return (offers, speeds, frozen, known, self._links.view(nodes, self._members), self._wanted.key(models))
