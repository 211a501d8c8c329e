"""The planner's problem as it stands now, for people who want to look at it or solve it themselves. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stageline.errors import ModelNotFoundError, NotReadyError

from .cluster import Cluster
from .loadfailures import described
from .placement import can_plan, measured


def problem_now(cluster: Cluster, names: Sequence[str], now: float) -> dict[str, Any]:
    """What the planner would be asked for these models; none named: all whose blocks are measured.

    Raises `ModelNotFoundError` for a name that is not registered, `NotReadyError` where nothing can be planned yet.
    """
    unknown = [name for name in names if name not in cluster.models]
    if unknown:
        known = ", ".join(cluster.models) or "none"
        raise ModelNotFoundError(f"no model {unknown[0][:80]!r} is registered; there are: {known}")
    nodes = cluster.members.usable(now)
    if not nodes:
        raise NotReadyError("no worker is usable, so there is nothing to plan for: see `stageline nodes list`")
    book = cluster.measuring.book
    wanted = {name: entry for name, entry in cluster.models.items() if not names or name in names}
    models = {name: entry for name, entry in wanted.items() if can_plan(*entry, nodes, book)}
    unmeasured = [name for name in wanted if not measured(wanted[name][1], nodes, book)]
    failed = [name for name in wanted if name not in models and name not in unmeasured]
    if not wanted:
        raise NotReadyError("no model is registered, so there is nothing to plan: add one with `stageline models add`")
    if failed and (names or not (models or unmeasured)):
        raise NotReadyError(described(failed[0], wanted[failed[0]][0], nodes))
    if not models or (names and unmeasured):
        raise NotReadyError(f"the blocks of {unmeasured[0]} are still being measured: see `stageline models list`")
    return cluster.planning.problem(cluster.plan, nodes, models)
