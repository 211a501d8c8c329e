"""The plan that is in force: its numbers, its predecessors that still drain, and what nodes keep loaded. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from stageline.messages import Farewell, Retire
from stageline.plan import Digest, ModelPlan, NodeView, Plan, StageKey, StalledLink

from .draining import Drain, Hosts, covers, hosts_of
from .events import Instruction, PersistPlan, PublishDigest, PublishPlan, Send
from .members import Members
from .peers import Node
from .preparing import Preparation


class Published:
    """`plan` is the one in force; after a restart that of the last term, until `resume`."""

    def __init__(self, term: int, restored: Plan | None, drain_s: float) -> None:
        self.plan = restored or Plan(term=term, version=0)
        self._term = term
        self._version = 0
        self._sequence = 0
        self._announced: tuple[int, tuple[NodeView, ...], tuple[StalledLink, ...]] | None = None
        self._drain = Drain(drain_s)

    def next_version(self) -> int:
        """A number that no plan or preparation of this term had before."""
        self._version += 1
        return self._version

    def commit(
        self, models: tuple[ModelPlan, ...], members: Members, now: float, version: int = 0
    ) -> Iterator[Instruction]:
        """Put these models in force, under `version` where that is still the newest."""
        current = self.plan.version if self.plan.term == self._term else 0
        number = version if version > current else self.next_version()
        old, self.plan = self.plan, Plan(term=self._term, version=number, models=models, nodes=members.views())
        if not covers(hosts_of(models), hosts_of(old.models)):
            self._drain.supersede(old.models, self.plan.epoch, now)
        yield PersistPlan(self.plan)
        yield PublishPlan(self.plan)
        yield from self.announce(members)

    def announce(self, members: Members) -> Iterator[Instruction]:
        """A digest, if nodes, the plan or stalled links have changed since the last one."""
        if self._announced != (self.plan.version, members.views(), members.stalled):
            yield PublishDigest(self.digest(members))

    def digest(self, members: Members) -> Digest:
        """The next digest."""
        views = members.views()
        self._sequence += 1
        self._announced = (self.plan.version, views, members.stalled)
        return Digest(
            term=self._term,
            version=self.plan.version,
            sequence=self._sequence,
            nodes=views,
            stalled=members.stalled,
        )

    @property
    def draining(self) -> bool:
        """Whether requests may still be on earlier plans."""
        return self._drain.pending

    def retire(
        self,
        members: Members,
        preparation: Preparation | None,
        standbys: Hosts,
        asked: Mapping[str, int],
        now: float,
    ) -> Iterator[Instruction]:
        """Let nodes unload what no plan needs any more, and those go that want to and that nothing needs.

        `standbys` are kept as well; `asked`: the version under which a node is loading one.
        """
        self._drain.settle(members.gateways.values(), now)
        committed = hosts_of(self.plan.models)
        settled = preparation is None and not self._drain.pending
        for node in members.nodes.values():
            if node.liveness != "alive":
                continue
            keep = self._keep(node.name, committed, preparation)
            keep |= standbys.get(node.name, frozenset()) if not (node.leaving or node.drained) else frozenset()
            if node.executors and (node.loaded() - keep or (settled and keep != node.kept)):
                node.keep_loaded(keep)
                latest = preparation.version if preparation else self._version
                number = asked.get(node.name, latest)  # never ahead of what the node works on
                yield Send(node.address, Retire(term=self._term, version=number, keep=tuple(sorted(keep))))
            if self._may_go(node, keep):
                node.farewell = True
                yield Send(node.address, Farewell())

    def drop(self, node: Node, stages: Iterable[StageKey], version: int) -> Instruction:
        """Have a node unload what it holds in vain, before it prepares plan `version`."""
        keep = node.loaded() - set(stages)
        node.keep_loaded(keep)
        return Send(node.address, Retire(term=self._term, version=version, keep=tuple(sorted(keep))))

    def _keep(self, node: str, committed: Hosts, preparation: Preparation | None) -> frozenset[StageKey]:
        coming = preparation.stages.get(node, ()) if preparation else ()
        return committed.get(node, frozenset()) | self._drain.keep(node) | frozenset(coming)

    @staticmethod
    def _may_go(node: Node, keep: frozenset[StageKey]) -> bool:
        return node.leaving and not node.farewell and not keep
