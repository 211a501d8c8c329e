"""The cluster under random interleavings: whatever happens in whatever order, some things hold."""

from __future__ import annotations

from collections import deque
from typing import Any

from fleet import MB, FakeAgent, manifest, sha
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from stageline.messages import ExecutorDown, ExecutorUp, Hello, Leaving, Pong, Prepare, Prepared, PrepareFailed
from stageline.messages import ProfileRequest as Question
from stageline.plan import Plan
from stageline_coordinator import events
from stageline_coordinator.cluster import Cluster, Memory, Settings
from stageline_coordinator.detector import PeerState
from stageline_coordinator.network import Network
from stageline_coordinator.placement import build_problem
from stageline_coordinator.planner import Problem, solve

NAMES = ("a", "b", "c", "d")
MODELS = {"one": manifest("one", blocks=3), "two": manifest("two", blocks=2, weights=20 * MB)}


class ClusterMachine(RuleBasedStateMachine):
    """Messages to agents lie in queues until a rule delivers them, so answers come late, out of order or never."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.term = 0
        self.agents: dict[str, FakeAgent] = {}
        self.inbox: dict[str, deque[Any]] = {}
        self.problems: deque[events.Solve] = deque()
        self.known: dict[str, Hello] = {}
        self.figures: dict[Any, Any] = {}
        self.disk: Plan | None = None
        self.models: dict[str, tuple[str, Any]] = {}
        self.published: list[Plan] = []
        self.reported: set[tuple[str, str, Any]] = set()
        self.starts = 0
        self.start()

    def start(self) -> None:
        self.term += 1
        memory = Memory(tuple(self.models.values()), dict(self.figures), self.disk, tuple(self.known.values()))
        self.cluster = Cluster(Settings(self.term, "c", "p", "b", rejoin_s=1.0, drain_s=2.0), memory, self.now)
        self.problems.clear()
        for queue in self.inbox.values():
            queue.clear()

    def handle(self, event: events.Event) -> None:
        for one in self.cluster.handle(event, self.now):
            if isinstance(one, events.Send):
                self.inbox.setdefault(one.peer, deque()).append(one.message)
            elif isinstance(one, events.Solve):
                assert not self.problems, "two problems at a time"
                self.problems.append(one)
            elif isinstance(one, events.PersistPlan):
                self.disk = one.plan
            elif isinstance(one, events.PublishPlan):
                assert self.disk == one.plan
                self.check(one.plan)
            elif isinstance(one, events.PersistNode):
                self.known[one.hello.name] = one.hello

    def check(self, plan: Plan) -> None:
        assert not self.published or plan.epoch > self.published[-1].epoch
        self.published.append(plan)
        for model in plan.models:
            assert bool(model.stages) == (model.status == "serving")
            for stage in model.stages:
                for replica in stage.replicas:
                    assert (replica.node, replica.executor, model.key(stage)) in self.reported

    def say(self, agent: FakeAgent, message: Any) -> None:
        if isinstance(message, Prepared):
            self.reported |= {(agent.name, x, s) for s, x in zip(message.stages, message.executors, strict=True)}
        elif isinstance(message, Hello) and message.node is not None:
            self.reported |= {(agent.name, x.executor, s) for x in message.node.executors for s in x.loaded}
        self.handle(events.Heard(agent.identity, message))

    # --- what may happen ------------------------------------------------------------------------------------

    @rule(name=st.sampled_from(NAMES), memory=st.sampled_from((25, 45, 90)))
    def agent_starts(self, name: str, memory: int) -> None:
        if name in self.agents:
            return
        self.starts += 1
        agent = FakeAgent(name, incarnation=f"i{self.starts}", memory=memory * MB)
        self.agents[name] = agent
        self.inbox[agent.identity] = deque()
        self.say(agent, agent.hello())

    @rule(name=st.sampled_from(NAMES), seen=st.sampled_from(("disconnect", "evict", "not at all")))
    def agent_dies(self, name: str, seen: str) -> None:
        agent = self.agents.pop(name, None)
        if agent is not None and seen != "not at all":
            self.handle(events.PeerChanged(agent.identity, PeerState.SUSPECT, seen == "disconnect"))
            if seen == "evict":
                self.handle(events.PeerChanged(agent.identity, PeerState.EVICTED))

    @rule(name=st.sampled_from(NAMES), back=st.booleans())
    def agent_is_silent(self, name: str, back: bool) -> None:
        peer = self.cluster.members.find(f"agent:{name}")
        if peer is None:
            return
        if peer.liveness == "alive":
            self.handle(events.PeerChanged(peer.identity, PeerState.SUSPECT))
        elif back and name in self.agents:
            self.handle(events.PeerChanged(peer.identity, PeerState.ALIVE))
        else:
            self.handle(events.PeerChanged(peer.identity, PeerState.EVICTED))

    @rule(name=st.sampled_from(NAMES))
    def executor_dies_and_another_starts(self, name: str) -> None:
        agent = self.agents.get(name)
        if agent is not None:
            self.say(agent, ExecutorDown(executor=agent.executor, exit_code=-9, reason="killed"))
            self.starts += 1
            agent.executor, agent.loaded = f"{name}/{agent.incarnation}/x{self.starts}", ()
            self.say(agent, ExecutorUp(executor=agent.info()))

    @rule(name=st.sampled_from(NAMES), count=st.integers(1, 4), fail=st.booleans())
    def agent_works(self, name: str, count: int, fail: bool) -> None:
        agent = self.agents.get(name)
        queue = self.inbox.get(f"agent:{name}")
        while agent is not None and queue and count:
            count -= 1
            self.answer(agent, queue.popleft(), fail)

    @rule()
    def planner_works(self) -> None:
        if self.problems:
            one = self.problems.popleft()
            self.handle(events.Solved(one.problem, solve(Problem.from_json(one.document)).to_json()))

    @rule()
    def planner_dies(self) -> None:
        if self.problems:
            self.handle(events.SolveFailed(self.problems.popleft().problem, "died"))

    @rule(name=st.sampled_from(sorted(MODELS)), there=st.booleans())
    def model_changes(self, name: str, there: bool) -> None:
        if there:
            self.models[name] = (sha(name), MODELS[name])
            self.handle(events.ModelAdded(*self.models[name]))
        elif self.models.pop(name, None):
            self.handle(events.ModelRemoved(name))

    @rule(name=st.sampled_from(NAMES))
    def agent_leaves(self, name: str) -> None:
        if name in self.agents:
            self.say(self.agents[name], Leaving(name=name))

    @rule(behind=st.booleans())
    def gateway_beats(self, behind: bool) -> None:
        self.handle(events.Heard("gateway:g", Hello(role="gateway", name="g", incarnation="i")))
        oldest = self.published[-2].epoch if behind and len(self.published) > 1 else None
        beat = Pong(sequence=1, sent_s=0, incarnation="i", epoch=self.cluster.plan.epoch, oldest_in_flight=oldest)
        self.handle(events.Heard("gateway:g", beat))

    @rule(seconds=st.sampled_from((0.1, 1.0, 5.0, 30.0)))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.handle(events.Tick())

    @precondition(lambda self: self.term < 4)
    @rule()
    def coordinator_restarts(self) -> None:
        self.start()

    @rule()
    def everything_settles(self) -> None:
        """Once the world holds still long enough, the plan is what the world can do."""
        for name in NAMES:
            peer = self.cluster.members.find(f"agent:{name}")
            agent = self.agents.get(name)
            if agent is not None:
                if peer is not None and peer.liveness == "alive" and peer.hello.incarnation != agent.incarnation:
                    self.handle(events.PeerChanged(peer.identity, PeerState.SUSPECT))
                self.say(agent, agent.hello())
            elif peer is not None and peer.liveness == "alive":
                self.handle(events.PeerChanged(peer.identity, PeerState.SUSPECT))
            if agent is None and self.cluster.members.find(f"agent:{name}") is not None:
                self.handle(events.PeerChanged(f"agent:{name}", PeerState.EVICTED))
        for _ in range(200):
            self.now += 1.0
            self.handle(events.Tick())
            self.planner_works()
            for agent in self.agents.values():
                queue = self.inbox[agent.identity]
                while queue:
                    self.answer(agent, queue.popleft(), False)
        self.check_settled()

    def answer(self, agent: FakeAgent, message: Any, fail: bool) -> None:
        if fail and isinstance(message, Prepare):
            stage = message.stages[0]
            self.say(
                agent, PrepareFailed(term=message.term, version=message.version, stage=stage, code="x", message="y")
            )
            return
        if isinstance(message, Question) and message.manifest not in {s for s, _ in self.models.values()}:
            return
        reply = agent.answer(message, {})
        if reply is not None:
            self.say(agent, reply)
        self.figures.update(self.cluster.measuring.book.figures)

    def check_settled(self) -> None:
        plan, members = self.cluster.plan, self.cluster.members
        if self.cluster.resuming:  # nobody has come since the start: what the plan found there says holds
            assert not self.agents
            assert plan == self.disk
            return
        assert [model.name for model in plan.models] == list(self.models)
        for model in plan.models:
            assert model.status in ("serving", "unavailable"), model
            assert model.status == "serving" or model.reason
            for stage in model.stages:
                for replica in stage.replicas:
                    node = members.nodes[replica.node]
                    assert node.state == "alive" and replica.executor == self.agents[replica.node].executor
        staying = [n for n in members.nodes.values() if n.state == "alive"]
        if staying and self.models:
            best = solve(Problem.from_json(self.document(staying)))
            assert bool(best.stages) == any(model.stages for model in plan.models)
        for name, agent in self.agents.items():
            needed = {m.key(s) for m in plan.models for s in m.stages for r in s.replicas if r.node == name}
            assert set(agent.loaded) == needed

    def document(self, nodes: list[Any]) -> dict[str, Any]:
        book = self.cluster.measuring.book
        return build_problem(sorted(nodes, key=lambda n: n.name), self.cluster.models, book, Network())

    @invariant()
    def nothing_is_kept_of_problems_past(self) -> None:
        assert len(self.problems) <= 1


ClusterMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestCluster = ClusterMachine.TestCase
