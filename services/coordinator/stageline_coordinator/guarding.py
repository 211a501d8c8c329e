"""Standbys of the plan in force: chosen, loaded in the background, published once they are ready. Pure.

Level-triggered like everything here: nothing is done while a plan is being prepared, or runs on standbys because it has
lost a replica. A node is asked for one stage at a time, by a `Prepare` of its own, which any other replaces; so the
most that a new plan waits for is that one stage. A plan that needs a standby's memory gets it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import msgspec

from stageline.messages import Prepare, Prepared, PrepareFailed
from stageline.plan import ModelPlan, Plan, PlanStage, Replica, StageKey

from .assemble import intact, slots_of
from .draining import Hosts, hosts_of
from .events import Instruction, Note, Send
from .figures import FigureBook, Models
from .members import Members
from .peers import Node
from .placement import Placement, Slot, slot_bytes
from .planning import Planning
from .standbys import Question, Standbys, choose, spots

RETRY_S, LONGEST_S = 10.0, 600.0
"""A node that failed to load a standby is not asked for it again for so long, doubled each time."""


@dataclass(frozen=True)
class _Asked:
    """The `Prepare` that a node has not answered."""

    version: int
    stage: StageKey
    life: str


@dataclass(frozen=True)
class _Barred:
    until: float
    times: int


class Guard:
    """`deaths` at once are made up for, as far as there is memory (0: none)."""

    def __init__(self, term: int, deaths: int, members: Members, planning: Planning, book: FigureBook) -> None:
        self._term, self._deaths = term, deaths
        self._members, self._planning, self._book = members, planning, book
        self._asked: dict[str, _Asked] = {}
        self._barred: dict[tuple[str, StageKey], _Barred] = {}
        self._chosen: tuple[object, Standbys] = (None, Standbys())
        self._settled = False
        self.wanted: Hosts = {}
        """Stages that nodes have loaded for it, or will have."""

    @property
    def asked(self) -> dict[str, int]:
        """Versions of the `Prepare`s that nodes have not answered."""
        return {name: one.version for name, one in self._asked.items()}

    # --- news -----------------------------------------------------------------------------------------------

    def prepared(self, node: Node, message: Prepared) -> bool:
        """Take an answer in; False when it is not one to a question of ours."""
        asked = self._asked.get(node.name)
        if asked is None or message.version != asked.version or message.term != self._term:
            return False
        del self._asked[node.name]
        self._barred.pop((node.name, asked.stage), None)
        for stage, executor in zip(message.stages, message.executors):  # noqa: B905 - a peer's lists may differ
            if executor in node.executors:
                node.add_loaded(executor, (stage,))
        return True

    def failed(self, node: Node, message: PrepareFailed, now: float) -> Iterator[Instruction]:
        """A node could not load a standby: another may, or the same one later. Plans may use it as before."""
        asked = self._asked.get(node.name)
        if asked is None or (message.term, message.version) != (self._term, asked.version):
            return
        del self._asked[node.name]
        before = self._barred.get((node.name, asked.stage))
        times = before.times + 1 if before else 1
        until = now + min(LONGEST_S, RETRY_S * 2.0 ** (times - 1))
        self._barred[node.name, asked.stage] = _Barred(until, times)
        yield Note("standby failed", {"node": node.name, "stage": str(asked.stage), "reason": message.message})

    def rejoined(self, name: str) -> None:
        """A node said hello again: what it was asked may be lost."""
        self._asked.pop(name, None)

    def superseded(self) -> None:
        """A plan is prepared: what was asked for is forgotten by those who were asked."""
        self._asked.clear()

    # --- what should be -------------------------------------------------------------------------------------

    def furnish(self, plan: Plan, models: Models, now: float) -> tuple[ModelPlan, ...]:
        """The plan's models with the standbys that are ready; as they are while one of them has lost a replica."""
        served = {model.name: model for model in plan.models if model.stages}
        for name, model in served.items():
            if name not in models or model.manifest != models[name][0] or not intact(model, self._members.nodes):
                self._settled = False
                return plan.models
        self._settled = True
        placement = {name: slots_of(model) for name, model in served.items()}
        found = self._choose(placement, models, now)
        self.wanted = _hosts(found, placement, models)
        return tuple(self._furnished(model, found) for model in plan.models)

    def load(self, plan: Plan, next_version: Callable[[], int]) -> Iterator[Instruction]:
        """Have nodes load what they lack, a stage at a time."""
        serving = hosts_of(plan.models)
        for name, stages in sorted(self.wanted.items()) if self._settled else ():
            node = self._members.nodes.get(name)
            if node is None or node.liveness != "alive" or not node.present or not node.executors:
                continue
            asked, missing = self._asked.get(name), sorted(stages - node.loaded())
            if not missing or (asked is not None and asked.life == _life(node)):
                continue
            asked = self._asked[name] = _Asked(next_version(), missing[0], _life(node))
            node.prepares()
            kept = (serving.get(name, frozenset()) | stages) & node.loaded()
            yield Note("loading a standby", {"node": name, "stage": str(asked.stage)})
            stages_now = (*sorted(kept), asked.stage)
            yield Send(node.address, Prepare(term=self._term, version=asked.version, stages=stages_now))

    def in_the_way(self, plan: Plan, coming: Placement, models: Models) -> Hosts:
        """Standbys that must go so that `coming` can be loaded beside what serves. What serves for the dead stays."""
        new = _by_node(coming)
        found: dict[str, frozenset[StageKey]] = {}
        for name, slots in new.items():
            node, sizes = self._members.nodes[name], dict[StageKey, int]()
            for model, slot in (*slots, *self._serving(plan, models, name)):
                sha, manifest = models[model]
                sizes[slot.key(sha)] = slot_bytes(manifest, slot, self._book)
            idle = {stage: size for stage, size in self._idle(plan, models, name).items() if stage not in sizes}
            room = node.info.memory_bytes - node.info.base_bytes - sum(sizes.values())
            gone = set[StageKey]()
            while idle and sum(idle.values()) > room:
                largest = max(idle, key=lambda stage: (idle[stage], stage))
                gone.add(largest)
                del idle[largest]
            if gone:
                found[name] = frozenset(gone)
        self.wanted = {name: stages - found.get(name, frozenset()) for name, stages in self.wanted.items()}
        return found

    def _serving(self, plan: Plan, models: Models, node: str) -> Iterator[tuple[str, Slot]]:
        """Stages of the node that requests may be on."""
        for model, stage in _stages(plan, models):
            lost = not any(self._runs(replica, model, stage) for replica in stage.replicas)
            for replica in (*stage.replicas, *(stage.standbys if lost else ())):
                if replica.node == node:
                    yield model.name, Slot(stage.start, stage.end, (node,), stage.codec)

    def _idle(self, plan: Plan, models: Models, node: str) -> dict[StageKey, int]:
        """Standbys on the node that no requests are on, with what they are charged."""
        serving = {slot.key(models[name][0]) for name, slot in self._serving(plan, models, node)}
        found: dict[StageKey, int] = {}
        for model, stage in _stages(plan, models):
            key = model.key(stage)
            if key in self.wanted.get(node, ()) and key not in serving:
                found[key] = slot_bytes(models[model.name][1], Slot(stage.start, stage.end, (node,)), self._book)
        return found

    def _runs(self, replica: Replica, model: ModelPlan, stage: PlanStage) -> bool:
        node = self._members.nodes.get(replica.node)
        return node is not None and node.runs(replica.executor, model.key(stage))

    # --- the choice -----------------------------------------------------------------------------------------

    def _choose(self, placement: Placement, models: Models, now: float) -> Standbys:
        """The same as long as nothing that it depends on has changed."""
        if not self._deaths or not placement:
            return Standbys()
        nodes = [node for _, node in sorted(self._members.nodes.items()) if node.present and node.executors]
        barred = frozenset(pair for pair, one in self._barred.items() if now < one.until)
        keys = {slot.key(models[name][0]) for name, slots in placement.items() for slot in slots}
        barred |= {(n.name, key) for n in nodes for key in keys - n.loaded() if not n.takes(key.manifest)}
        about = tuple(
            (node.name, _life(node), node.info.memory_bytes, node.slowdown, node.usable(now)) for node in nodes
        )
        shas = tuple(models[name][0] for name in placement)
        inputs = (tuple(placement.items()), shas, about, barred, self._planning.wanted(placement))
        if self._chosen[0] != inputs:
            self._chosen = (inputs, choose(self._question(placement, models, nodes, barred, now), self._deaths))
        return self._chosen[1]

    def _question(
        self,
        placement: Placement,
        models: Models,
        nodes: list[Node],
        barred: frozenset[tuple[str, StageKey]],
        now: float,
    ) -> Question:
        served = {name: models[name] for name in placement}
        here = {(model, n): (served[model], placement[model][n]) for model, n in spots(placement)}
        sizes = {spot: slot_bytes(manifest, slot, self._book) for spot, ((_, manifest), slot) in here.items()}
        keys = {spot: slot.key(sha) for spot, ((sha, _), slot) in here.items()}
        free = {n.name: n.info.memory_bytes - n.info.base_bytes for n in nodes if n.usable(now)}
        for spot, (_, slot) in here.items():
            for name in slot.nodes:
                if name in free:
                    free[name] -= sizes[spot]
        return Question(
            problem=self._planning.bare_problem(nodes, served),
            placement=placement,
            sizes=sizes,
            free=free,
            loaded=frozenset((n.name, spot) for n in nodes for spot, key in keys.items() if key in n.loaded()),
            barred=frozenset((name, spot) for name, key in barred for spot, other in keys.items() if key == other),
            hosts={n.name: n.info.host for n in nodes},
            unwanted={spot: self._planning.barred(spot[0], key, free) for spot, key in keys.items()},
        )

    def _furnished(self, model: ModelPlan, found: Standbys) -> ModelPlan:
        stages = []
        for number, stage in enumerate(model.stages):
            spot = (model.name, number)
            names, key = found.nodes.get(spot, ()), model.key(stage)
            ready = tuple(replica for name in names if (replica := self._replica(name, key)) is not None)
            coming = [name for name in names if name not in {replica.node for replica in ready}]
            reasons = [f"it is being loaded on {name}" for name in coming]
            reasons += [found.short[spot]] if spot in found.short else []
            stages.append(msgspec.structs.replace(stage, standbys=ready, exposed="; ".join(reasons)))
        return msgspec.structs.replace(model, stages=tuple(stages))

    def _replica(self, name: str, key: StageKey) -> Replica | None:
        node = self._members.nodes.get(name)
        for executor in node.executors.values() if node is not None and node.present else ():
            if key in executor.loaded:
                return Replica(node=name, executor=executor.executor, endpoint=executor.endpoint)
        return None


def without(models: Iterable[ModelPlan], gone: Hosts) -> tuple[ModelPlan, ...]:
    """The plan's models when these standbys are no more."""
    return tuple(
        msgspec.structs.replace(model, stages=tuple(_without(model, stage, gone) for stage in model.stages))
        for model in models
    )


def _without(model: ModelPlan, stage: PlanStage, gone: Hosts) -> PlanStage:
    left = tuple(r for r in stage.standbys if model.key(stage) not in gone.get(r.node, ()))
    if left == stage.standbys:
        return stage
    return msgspec.structs.replace(stage, standbys=left, exposed="a plan that is being prepared needs the memory")


def coverage(models: Iterable[ModelPlan]) -> dict[str, list[str]]:
    """For the log: stages with their standbys, and those that have too few with the reason."""
    stages = [(f"{model.name} {s.start}-{s.end}", s) for model in models for s in model.stages]
    return {
        "ready": [f"{name}: {', '.join(r.node for r in s.standbys)}" for name, s in stages if s.standbys],
        "exposed": [f"{name}: {s.exposed}" for name, s in stages if s.exposed],
    }


def _hosts(found: Standbys, placement: Placement, models: Models) -> Hosts:
    hosts: dict[str, frozenset[StageKey]] = {}
    for (name, number), nodes in found.nodes.items():
        for node in nodes:
            key = placement[name][number].key(models[name][0])
            hosts[node] = hosts.get(node, frozenset()) | {key}
    return hosts


def _by_node(placement: Placement) -> Mapping[str, list[tuple[str, Slot]]]:
    found: dict[str, list[tuple[str, Slot]]] = {}
    for name, slots in placement.items():
        for slot in slots:
            for node in slot.nodes:
                found.setdefault(node, []).append((name, slot))
    return found


def _stages(plan: Plan, models: Models) -> Iterator[tuple[ModelPlan, PlanStage]]:
    """Those of models that are still the same."""
    for model in plan.models:
        if model.name in models and model.manifest == models[model.name][0]:
            for stage in model.stages:
                yield model, stage


def _life(node: Node) -> str:
    """Changes when what was asked of the node may have been lost with a process."""
    return f"{node.hello.incarnation}/{','.join(node.executors)}"
