"""Administration on the control channel: each request carries an `id`, its reply the same."""

from __future__ import annotations

import msgspec

from stageline.messages.parts import GatewayRow, ModelRow, NodeRow
from stageline.nodewishes import Duty
from stageline.plan import Plan
from stageline.wire import Message, Part
from stageline.wishes import Wishes


class GetPlan(Message, frozen=True):
    """Ask for the current plan; answered with `PlanReply`."""

    id: int


class PlanReply(Message, frozen=True):
    """The current plan."""

    id: int
    plan: Plan


class ListModels(Message, frozen=True):
    """Answered with `ModelList`."""

    id: int


class ModelList(Message, frozen=True):
    """All registered models."""

    id: int
    models: tuple[ModelRow, ...]


class ListNodes(Message, frozen=True):
    """Answered with `NodeList`."""

    id: int


class StandbyRow(Part, frozen=True):
    """The other coordinator, for listings: `state` is alive, suspect or gone; `behind`: changes that it lacks."""

    address: str
    state: str
    behind: int = 0


class NodeList(Message, frozen=True):
    """All nodes and gateways that are or were here, and the objective of plans."""

    id: int
    nodes: tuple[NodeRow, ...]
    gateways: tuple[GatewayRow, ...] = ()
    term: int = 0
    pid: int = 0
    cluster: str = ""
    standby: StandbyRow | None = None
    objective: str = "throughput"


class PutModel(Message, frozen=True):
    """Register the model whose manifest blob (and every blob it names) was uploaded before."""

    id: int
    manifest: str


class RemoveModel(Message, frozen=True):
    """Retire a model and forget it."""

    id: int
    name: str


class RemoveNode(Message, frozen=True):
    """Forget a worker that is gone; it may come back."""

    id: int
    name: str


class SetNode(Message, frozen=True):
    """Have plans treat a worker like that (None: as before), and give it these labels, without those in `unset`."""

    id: int
    name: str
    duty: Duty | None = None
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    unset: tuple[str, ...] = ()


class SetWishes(Message, frozen=True):
    """Heed what `wishes` says in the model's plans, and no longer what it said of the fields in `unset`."""

    id: int
    model: str
    wishes: Wishes = Wishes()
    unset: tuple[str, ...] = ()


class SetObjective(Message, frozen=True):
    """Make plans best in this from now on: "throughput", "latency" or "weighted"."""

    id: int
    objective: str


class GetProblem(Message, frozen=True):
    """Ask what the planner is asked now, for these models (none: all); answered with `ProblemReply`."""

    id: int
    models: tuple[str, ...] = ()


class ProblemReply(Message, frozen=True):
    """The planner's problem as JSON, which names the version of its schema itself."""

    id: int
    problem: str


class Done(Message, frozen=True):
    """The request was carried out and is on disk."""

    id: int


class ErrorReply(Message, frozen=True):
    """The request was refused or failed."""

    id: int
    code: str
    message: str


class MakeToken(Message, frozen=True):
    """Make a token with which `uses` workers and gateways may join (0: any number), for `expires_s` seconds."""

    id: int
    uses: int
    expires_s: float


class TokenMade(Message, frozen=True):
    """The token; it is kept nowhere but here."""

    id: int
    token: str


class RotateKey(Message, frozen=True):
    """Have a worker or gateway change its key; the old one is let in for `overlap_s` more seconds."""

    id: int
    name: str
    overlap_s: float


class RotateCoordinator(Message, frozen=True):
    """Announce a new key of the coordinator's own, and take it in `overlap_s` seconds; answered with `NextKeyIs`."""

    id: int
    overlap_s: float


class NextKeyIs(Message, frozen=True):
    """The public half of the key that the coordinator will have."""

    id: int
    public: bytes


class RevokeKey(Message, frozen=True):
    """Let the worker or gateway `name` in no more, whatever key it has now."""

    id: int
    name: str
