"""What users want of plans, as far as it can be heeded now, and whether a placement heeds it. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stageline.wishes import NONE, Wishes

if TYPE_CHECKING:
    from .placement import Placement, Slot

THROUGHPUT, LATENCY, WEIGHTED = "throughput", "latency", "weighted"


@dataclass
class Wanted:
    """`objective` and `max_replicas` of the cluster; `models` by name, of which `Wishes` override them.

    A source or required node that is not here is planned without until it is; one that is forbidden is so always.
    """

    objective: str = THROUGHPUT
    max_replicas: int = 1
    models: dict[str, Wishes] = field(default_factory=dict)

    def of(self, model: str) -> Wishes:
        """What was said about that model."""
        return self.models.get(model, NONE)

    def key(self, models: Iterable[str]) -> object:
        """Equal as long as the same is wanted for these."""
        return self.objective, tuple(self.of(name) for name in models)

    def objective_for(self, models: Collection[str]) -> str:
        """As the planner knows it: the latency of several models is their weighted mean."""
        return WEIGHTED if self.objective == LATENCY and len(models) > 1 else self.objective

    def model_keys(self, model: str, here: Collection[str]) -> dict[str, Any]:
        """The keys of a problem's model that say so."""
        wishes = self.of(model)
        found: dict[str, Any] = {"max_replicas": self._replicas(wishes)}
        if wishes.priority is not None:
            found["priority"] = wishes.priority
        if wishes.rate_per_s is not None:
            found["rate_per_s"] = wishes.rate_per_s
        if wishes.source in here:
            found["source"] = wishes.source
        if required := [node for node in wishes.required if node in here]:
            found["required"] = required
        return found

    def heeded(self, model: str, slots: Sequence[Slot], here: Collection[str]) -> bool:
        """Whether these stages are what is wanted of the model alone."""
        wishes, used = self.of(model), {node for slot in slots for node in slot.nodes}
        pinned = wishes.source not in here or not slots or slots[0].nodes == (wishes.source,)
        many = any(len(slot.nodes) > self._replicas(wishes) for slot in slots)
        complete = frozenset(wishes.required) & frozenset(here) <= used
        return pinned and not many and complete and used.isdisjoint(wishes.forbidden)

    def all_heeded(self, placement: Placement, here: Collection[str]) -> bool:
        """Whether it is, of every model."""
        return all(self.heeded(name, slots, here) for name, slots in placement.items())

    def _replicas(self, wishes: Wishes) -> int:
        return self.max_replicas if wishes.max_replicas is None else wishes.max_replicas


def known(models: Iterable[str], found: Mapping[str, Wishes]) -> dict[str, Wishes]:
    """Those that were said about one of `models`."""
    names = set(models)
    return {name: wishes for name, wishes in found.items() if name in names}
