"""One PREPARE under way: who has to load what, who has answered. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from stageline.errors import PlacementError
from stageline.messages import Prepare, Prepared, PrepareFailed
from stageline.plan import StageKey

from .figures import Models
from .peers import Node
from .placement import Answer, Placement

ANSWER_S = 60.0
"""How long a node may take to load its stages before it counts as failed."""


@dataclass
class Preparation:
    """`target` is complete once `waiting` is empty; `executors` says which executor has a node's stage."""

    version: int
    target: Placement
    answer: Answer
    shas: Mapping[str, str]
    stages: Mapping[str, tuple[StageKey, ...]]
    incarnations: Mapping[str, str]
    until: float
    waiting: set[str]
    executors: dict[tuple[str, StageKey], str] = field(default_factory=dict)

    @classmethod
    def begin(
        cls, version: int, target: Placement, answer: Answer, models: Models, nodes: Mapping[str, Node], now: float
    ) -> Preparation:
        """Everyone has yet to answer."""
        stages: dict[str, tuple[StageKey, ...]] = {}
        for name, slots in target.items():
            for slot in slots:
                for node in slot.nodes:
                    stages[node] = (*stages.get(node, ()), slot.key(models[name][0]))
        return cls(
            version=version,
            target=target,
            answer=answer,
            shas={name: models[name][0] for name in target},
            stages=stages,
            incarnations={node: nodes[node].hello.incarnation for node in stages},
            until=now + ANSWER_S,
            waiting=set(stages),
        )

    def message(self, term: int, node: str) -> Prepare:
        return Prepare(term=term, version=self.version, stages=self.stages[node])

    def answered(self, node: Node, message: Prepared) -> bool:
        """Take an answer in; False when it is not one to this question, or names an executor that is not there."""
        pairs = dict(zip(message.stages, message.executors))  # noqa: B905 - lengths are compared below
        complete = set(self.stages.get(node.name, ())) <= set(pairs)
        if (
            message.version != self.version
            or node.name not in self.waiting
            or len(message.stages) != len(message.executors)
            or not complete
            or not set(pairs.values()) <= set(node.executors)
        ):
            return False
        for stage, executor in pairs.items():
            node.add_loaded(executor, (stage,))
            self.executors[node.name, stage] = executor
        self.waiting.discard(node.name)
        return True

    def failed(self, node: Node, message: PrepareFailed, now: float) -> str | None:
        """Plan without the node for a while: for the stage's model, or for all where it is no one stage that failed.

        Returns the model's name, empty where the node is to blame, and None when it is no answer to this question.
        """
        if message.version != self.version or node.name not in self.waiting:
            return None
        self.waiting.discard(node.name)
        stage = message.stage
        if message.code == PlacementError.code or stage not in self.stages[node.name]:
            node.exclude(now, f"it could not load its stages: {message.message}")
            return ""
        node.drop_loaded(stage)
        node.load_failures.add(stage, message.code, message.message, node.loaded(), now)
        return next(name for name, sha in self.shas.items() if sha == stage.manifest)

    def valid(self, nodes: Mapping[str, Node], models: Models, now: float) -> bool:
        """Whether every node is the one that was asked, can still serve, and has what it said it has."""
        if any(models.get(name, ("",))[0] != sha for name, sha in self.shas.items()):
            return False
        for name, incarnation in self.incarnations.items():
            node = nodes.get(name)
            if node is None or node.hello.incarnation != incarnation or not node.usable(now):
                return False
        return all(nodes[name].runs(executor, stage) for (name, stage), executor in self.executors.items())
