"""Which plan is current, who lives, and which path a batch takes: one live replica per stage with enough credit.

A stage's standbys are used as long as none of the plan's own replicas can be: that are suspected or gone, as the
coordinator says, cut off from us, or left alone for not answering, which this gateway finds out by itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import Enum
from functools import partial
from math import ceil
from typing import NamedTuple

from stageline.data import Hop
from stageline.plan import (
    Crash,
    Digest,
    Endpoint,
    Epoch,
    ModelPlan,
    NodeState,
    NodeView,
    Plan,
    PlanStage,
    Replica,
    StageKey,
    StalledLink,
)
from stageline_gateway.batching import Path
from stageline_gateway.stalled import StalledLinks


class Applied(Enum):
    """What became of a plan or digest."""

    STALE = "stale"
    CHANGED = "changed"
    BEHIND = "behind"
    """The digest speaks of a plan that we have not got: fetch it."""


class PlanView:
    """The newest plan, and the nodes as the newest digest of its term shows them."""

    def __init__(self) -> None:
        self.plan: Plan | None = None
        self._sequence: tuple[int, int] = (0, -1)
        self._digest: Digest | None = None
        self._states: dict[str, NodeState] = {}
        self._running: set[tuple[str, str]] = set()
        self.stalled: tuple[StalledLink, ...] = ()
        self.cut_off: set[tuple[str, str]] = set()
        """Executors (node, executor) that this gateway's own connections do not reach."""
        self.crashes: tuple[tuple[str, Crash], ...] = ()
        """Each node's last."""

    @property
    def epoch(self) -> Epoch:
        """Of the plan; (0, 0) before the first."""
        return self.plan.epoch if self.plan else (0, 0)

    def apply_plan(self, plan: Plan) -> Applied:
        """Take the plan if it is newer. A digest of the same plan that came first knows the nodes better."""
        if self.plan is not None and plan.epoch <= self.plan.epoch:
            return Applied.STALE
        self.plan = plan
        digest = self._digest
        known = digest is not None and digest.term == plan.term and digest.version >= plan.version
        self._see(digest.nodes if digest is not None and known else plan.nodes)
        return Applied.CHANGED

    def apply_digest(self, digest: Digest) -> Applied:
        """Take the nodes if the digest is newer and of our plan's term.

        A restarted coordinator does not know its nodes at once: until it has published a plan in its new term, the
        nodes are believed to be as they were.
        """
        if (digest.term, digest.sequence) <= self._sequence:
            return Applied.STALE
        self._sequence = (digest.term, digest.sequence)
        self._digest = digest
        behind = (digest.term, digest.version) > self.epoch
        if digest.term == self.epoch[0]:
            self._see(digest.nodes)
            self.stalled = digest.stalled
            return Applied.BEHIND if behind else Applied.CHANGED
        return Applied.BEHIND if behind and digest.version > 0 else Applied.STALE

    def _see(self, nodes: tuple[NodeView, ...]) -> None:
        self._states = {view.node: view.state for view in nodes}
        self._running = {(view.node, executor) for view in nodes for executor in view.executors}
        self.crashes = tuple((view.node, view.crash) for view in nodes if view.crash is not None)

    def model(self, name: str) -> ModelPlan | None:
        """The current plan of a model."""
        return self.plan.model(name) if self.plan else None

    def names(self) -> list[str]:
        """All models, sorted."""
        return sorted(m.name for m in self.plan.models) if self.plan else []

    def alive(self, replica: Replica) -> bool:
        """Whether it may still answer what it was sent: suspects may, the gone do not."""
        state = self._states.get(replica.node, "gone")
        return state != "gone" and (replica.node, replica.executor) in self._running

    def usable(self, stage: PlanStage) -> list[Replica]:
        """Replicas that new work may go to; those on draining nodes only if there is no other.

        Those that we do not reach only if nobody else has the stage: they may be reached again by then.
        """
        own, spare = self._at_work(stage.replicas), self.spare(stage)
        reached = [r for r in own if _who(r) not in self.cut_off]
        return reached or ([] if spare else own)

    def spare(self, stage: PlanStage) -> list[Replica]:
        """Standbys that could take the stage's work."""
        return self._at_work([r for r in stage.standbys if _who(r) not in self.cut_off])

    def _at_work(self, replicas: Sequence[Replica]) -> list[Replica]:
        there = [r for r in replicas if self.alive(r)]
        by_state = {s: [r for r in there if self._states[r.node] == s] for s in ("alive", "draining")}
        return by_state["alive"] or by_state["draining"]

    def doubtful(self, replica: Replica) -> bool:
        """Whether it may be dead, as far as others or we can tell."""
        return self._states.get(replica.node) == "suspect" or _who(replica) in self.cut_off

    def certain(self, model: ModelPlan) -> bool:
        """Whether there is a path for `model` without anybody who may be dead."""
        return bool(model.stages) and all(
            any(not self.doubtful(r) for r in (*self.usable(stage), *self.spare(stage))) for stage in model.stages
        )

    def obstacle(self, model: ModelPlan) -> str:
        """Why nothing can be dispatched for `model` now; empty if it can."""
        if model.status != "serving" or not model.stages:
            return model.reason or f"the model is {model.status}"
        for i, stage in enumerate(model.stages):
            if not self.usable(stage) and not self.spare(stage):
                nodes = ", ".join(sorted({r.node for r in stage.replicas})) or "none"
                return f"no live worker for stage {i + 1} of {len(model.stages)} (planned on {nodes})"
        return ""


SHUN_S = 2.0
SHUN_LONGEST_S = 30.0
"""How long a replica that did not answer is left alone; doubled each time that it does not answer again."""


class Blame(NamedTuple):
    """A replica did not answer so many times in a row, and is left alone `until` then."""

    times: int
    until: float


class Router:
    """Picks paths and keeps the credits: batches and bytes in flight for each replica of each stage.

    `window` batches (0: two per stage) and `window_bytes` are the allowance of one path. A stage that has fewer
    replicas than the widest is on several paths, so its replicas get as many times more. One batch always fits.
    """

    def __init__(self, view: PlanView, window: int, window_bytes: int, gateway: str = "") -> None:
        self._view = view
        self.stalled = StalledLinks(gateway)
        self._window = window
        self._window_bytes = window_bytes
        self._batches: Counter[tuple[StageKey, str, str]] = Counter()
        self._bytes: Counter[tuple[StageKey, str, str]] = Counter()
        self._load: Counter[tuple[str, str]] = Counter()
        self._blamed: dict[tuple[str, str], Blame] = {}

    def find(self, model: ModelPlan, nbytes: int, now: float) -> Path | None:
        """The least loaded path with credit for a batch of `nbytes`, or None."""
        if self._view.obstacle(model):
            return None
        live = [self._candidates(stage) for stage in model.stages]
        widest = max(width for _, width in live)
        choices: list[list[Replica]] = []
        for stage, (replicas, width) in zip(model.stages, live, strict=True):
            share = ceil(widest / width)
            able = replicas if self.stalled else self._preferred(replicas, now)
            fitting = [r for r in able if self._fits(model, stage, r, nbytes, share)]
            if not fitting:
                return None
            choices.append(fitting)
        if self.stalled:
            ranked = [
                sorted(fitting, key=partial(self._precedence, stage))
                for stage, fitting in zip(model.stages, choices, strict=True)
            ]
            return self.stalled.choose(ranked, now)
        return tuple(min(fitting, key=self._rank) for fitting in choices)

    def take(self, model: ModelPlan, path: Path, nbytes: int) -> None:
        """A batch goes out on `path`."""
        for stage, replica in zip(model.stages, path, strict=True):
            credit = (model.key(stage), *_who(replica))
            self._batches[credit] += 1
            self._bytes[credit] += nbytes
            self._load[_who(replica)] += 1

    def release(self, model: ModelPlan, path: Path, nbytes: int) -> None:
        """The batch came back, or is given up."""
        for stage, replica in zip(model.stages, path, strict=True):
            credit = (model.key(stage), *_who(replica))
            _less(self._batches, credit, 1)
            _less(self._bytes, credit, nbytes)
            _less(self._load, _who(replica), 1)

    def ahead(self, path: Path) -> int:
        """Batches in flight at the busiest replica of `path`."""
        return max(self._load[_who(r)] for r in path)

    def blame(self, path: Path, now: float) -> None:
        """A batch was late or failed here: use others, and try again with a single batch after a while.

        That is how a gateway finds a worker dead without a coordinator that could say so.
        """
        for replica in path:
            old = self._blamed.get(_who(replica))
            if old is None or now >= old.until:
                times = 1 if old is None else old.times + 1
                pause = min(SHUN_LONGEST_S, SHUN_S * 2.0 ** (times - 1))
                self._blamed[_who(replica)] = Blame(times, now + pause)

    def trust(self, path: Path) -> None:
        """A batch came back."""
        self.stalled.trust(path)
        for replica in path:
            self._blamed.pop(_who(replica), None)

    @property
    def held(self) -> tuple[int, int]:
        """Credits in use: batches and bytes, summed over stages. Both are 0 when nothing is in flight."""
        return self._batches.total(), self._bytes.total()

    def _candidates(self, stage: PlanStage) -> tuple[list[Replica], int]:
        """Who may get the stage's work, and how many share it: the plan's own, or beside them the standbys.

        Of those who are left alone one gets a batch now and then, so that they are used again once they answer. While
        links are stalled, standbys may be what leads around them.
        """
        own, spare = self._view.usable(stage), self._view.spare(stage)
        trusted = any(_who(r) not in self._blamed for r in own)
        if not spare or (trusted and not self.stalled):
            return own, len(own)
        return own + spare, len(own if trusted else spare)

    def _preferred(self, replicas: list[Replica], now: float) -> list[Replica]:
        trusted = [r for r in replicas if _who(r) not in self._blamed]
        if not trusted:
            return replicas
        due = [r for r in replicas if r not in trusted and now >= self._blamed[_who(r)].until]
        return [r for r in due if not self._load[_who(r)]] or trusted

    def _precedence(self, stage: PlanStage, replica: Replica) -> tuple[int, bool, tuple[int, int, str, str]]:
        """By blame; then the plan's own before standbys."""
        rank = self._rank(replica)
        return rank[0], replica not in stage.replicas, rank

    def _rank(self, replica: Replica) -> tuple[int, int, str, str]:
        blame = self._blamed.get(_who(replica))
        return (blame.times if blame else 0, self._load[_who(replica)], replica.node, replica.executor)

    def _fits(self, model: ModelPlan, stage: PlanStage, replica: Replica, nbytes: int, share: int) -> bool:
        credit = (model.key(stage), *_who(replica))
        window = (self._window or 2 * len(model.stages)) * share
        if self._batches[credit] == 0:
            return True
        return self._batches[credit] < window and self._bytes[credit] + nbytes <= self._window_bytes * share


def hops(model: ModelPlan, path: Path, sender_host: str) -> tuple[Hop, ...]:
    """The source route; each address is the one that its sender reaches the executor at."""
    route: list[Hop] = []
    host = sender_host
    for stage, replica in zip(model.stages, path, strict=True):
        address, checked = replica.endpoint.address_from(host), replica.endpoint.checked_from(host)
        route.append(Hop(model.key(stage), address, replica.node, replica.executor, stage.codec, checked))
        host = replica.endpoint.host
    return tuple(route)


def reply_address(path: Path, reply: Endpoint) -> str:
    """Where the last executor of `path` sends the outcome."""
    return reply.address_from(path[-1].endpoint.host)


def addresses(plan: Plan, sender_host: str) -> dict[str, tuple[str, str]]:
    """Every executor (node, executor) that the plan names, by the address at which we reach it."""
    stages = [stage for model in plan.models for stage in model.stages]
    return {one.endpoint.address_from(sender_host): _who(one) for stage in stages for one in _hosts(stage)}


def entrances(plan: Plan, sender_host: str) -> set[str]:
    """The addresses of the executors that have some model's first stage."""
    firsts = [model.stages[0] for model in plan.models if model.stages]
    return {one.endpoint.address_from(sender_host) for stage in firsts for one in _hosts(stage)}


def _hosts(stage: PlanStage) -> tuple[Replica, ...]:
    return (*stage.replicas, *stage.standbys)


def _who(replica: Replica) -> tuple[str, str]:
    return (replica.node, replica.executor)


def _less(counter: Counter[tuple[StageKey, str, str]] | Counter[tuple[str, str]], key: object, by: int) -> None:
    table: Counter[object] = counter  # type: ignore[assignment]
    table[key] -= by
    if table[key] <= 0:
        del table[key]
