"""Administration: listings, registering models, forgetting workers. Answers whoever asks, known peer or not."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

from stageline.errors import ClusterError, ModelNotFoundError, StagelineError
from stageline.messages import (
    Done,
    ErrorReply,
    GetPlan,
    GetProblem,
    ListModels,
    ListNodes,
    ModelList,
    NodeList,
    PlanReply,
    ProblemReply,
    PutModel,
    RemoveModel,
    RemoveNode,
    SetNode,
    SetObjective,
    SetWishes,
    StandbyRow,
)
from stageline.nodewishes import OPEN, merge_node
from stageline.wire import Message
from stageline.wishes import check_objective, merge

from .cluster import Cluster
from .events import ModelAdded, ModelRemoved, NodeRemoved, NodeSet, ObjectiveSet, WishesSet
from .registry import check_model
from .rows import gateway_rows, model_rows, node_rows
from .snapshot import problem_now
from .store import Store

REQUESTS = (
    GetPlan, ListModels, ListNodes, GetProblem, PutModel, RemoveModel, RemoveNode, SetNode, SetWishes, SetObjective,
)  # fmt: skip
Change = ModelAdded | ModelRemoved | NodeRemoved | NodeSet | WishesSet | ObjectiveSet


class AdminRequests:
    """`answer` gives the reply and, for what changes the cluster, the event to handle before it is sent."""

    def __init__(self, cluster: Cluster, store: Store, standby: Callable[[], StandbyRow | None] = lambda: None) -> None:
        self._cluster = cluster
        self._store = store
        self._standby = standby

    def answer(self, request: Any, now: float) -> tuple[Message, Change | None]:
        """What is refused is answered with `ErrorReply`."""
        try:
            if isinstance(request, PutModel):
                return Done(id=request.id), self._put(request)
            if isinstance(request, RemoveModel):
                return Done(id=request.id), self._remove(request)
            if isinstance(request, RemoveNode):
                return Done(id=request.id), self._remove_node(request.name)
            if isinstance(request, SetNode):
                return Done(id=request.id), self._set_node(request)
            if isinstance(request, SetWishes):
                return Done(id=request.id), self._wish(request)
            if isinstance(request, SetObjective):
                return Done(id=request.id), self._aim(request.objective)
            return self._list(request, now), None
        except StagelineError as error:
            return ErrorReply(id=request.id, code=error.code, message=error.message), None

    def _list(self, request: Any, now: float) -> Message:
        cluster = self._cluster
        if isinstance(request, GetPlan):
            return PlanReply(id=request.id, plan=cluster.shown(now))
        if isinstance(request, ListModels):
            return ModelList(id=request.id, models=model_rows(cluster, now))
        if isinstance(request, GetProblem):
            document = problem_now(cluster, request.models, now)
            return ProblemReply(id=request.id, problem=json.dumps(document, allow_nan=False))
        return NodeList(
            id=request.id,
            nodes=node_rows(cluster),
            gateways=gateway_rows(cluster),
            term=cluster.settings.term,
            pid=os.getpid(),
            cluster=cluster.settings.cluster,
            standby=self._standby(),
            objective=cluster.wanted.objective,
        )

    def _put(self, request: PutModel) -> ModelAdded:
        manifest = check_model(self._store.blobs, request.manifest)
        self._store.put_model(manifest.name, request.manifest)
        return ModelAdded(request.manifest, manifest)

    def _remove(self, request: RemoveModel) -> ModelRemoved:
        self._registered(request.name)
        self._store.remove_model(request.name)
        return ModelRemoved(request.name)

    def _registered(self, name: str) -> None:
        if name not in self._cluster.models:
            known = ", ".join(self._cluster.models) or "none"
            raise ModelNotFoundError(f"no model {name[:80]!r} is registered; there are: {known}")

    def _wish(self, request: SetWishes) -> WishesSet:
        self._registered(request.model)
        wishes = merge(self._cluster.wanted.of(request.model), request.wishes, request.unset)
        self._store.put_wishes(request.model, wishes)
        return WishesSet(request.model, wishes)

    def _aim(self, objective: str) -> ObjectiveSet:
        check_objective(objective)
        self._store.put_objective(objective)
        return ObjectiveSet(objective)

    def _set_node(self, request: SetNode) -> NodeSet:
        self._known(request.name)
        old = self._cluster.wanted.node(request.name)
        wishes = merge_node(old, request.duty, request.labels, request.unset)
        self._store.put_node_wishes(request.name, wishes)
        return NodeSet(request.name, wishes)

    def _remove_node(self, name: str) -> NodeRemoved:
        self._known(name)
        node = self._cluster.members.nodes.get(name)
        if node is not None and node.liveness != "gone":
            raise ClusterError(f"worker {name!r} is {node.state}: stop it first (its pid is {node.hello.pid})")
        self._store.put_node_wishes(name, OPEN)
        return NodeRemoved(name)

    def _known(self, name: str) -> None:
        """One that is or was here, or of which something is wanted."""
        names = {*self._cluster.members.nodes, *self._cluster.wanted.nodes}
        if name not in names:
            known = ", ".join(sorted(names)) or "none"
            raise ClusterError(f"no worker is called {name[:80]!r}; there are: {known}")
