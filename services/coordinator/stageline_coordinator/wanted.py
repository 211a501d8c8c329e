"""What users want of plans, as far as it can be heeded now, and whether a placement heeds it. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stageline.nodewishes import OPEN, NodeWishes, is_selector, selects
from stageline.plan import StageKey
from stageline.wishes import NONE, Wishes
from stageline.wording import listed

if TYPE_CHECKING:
    from .draining import Hosts
    from .placement import Placement, Slot

THROUGHPUT, LATENCY, WEIGHTED = "throughput", "latency", "weighted"

SHOWN = 8
"""Workers that a reason names."""


@dataclass(frozen=True)
class Barred:
    """Workers that users keep off a model, or off a stage of it: forbidden to it, or cordoned and without it."""

    model: str
    forbidden: tuple[str, ...] = ()
    cordoned: tuple[str, ...] = ()

    def covers(self, nodes: Iterable[str]) -> bool:
        """Whether that is all of these."""
        return set(nodes) <= {*self.forbidden, *self.cordoned}

    def among(self, nodes: Collection[str]) -> Barred:
        """Of these workers alone."""
        forbidden, cordoned = (tuple(n for n in some if n in nodes) for some in (self.forbidden, self.cordoned))
        return Barred(self.model, forbidden, cordoned)

    def why(self, everybody: str = "") -> str:
        """What was said of which workers and how to take it back, "" if nothing; `everybody`: what to call them all."""
        parts = []
        if self.forbidden:
            names = listed(self.forbidden, SHOWN)
            where = f"{everybody} ({names})" if everybody and not self.cordoned else names
            unset = f"`stageline models set {self.model} --unset forbid` takes that back"
            parts.append(f"model {self.model} is forbidden on {where}: {unset}")
        if self.cordoned:
            be = "is" if len(self.cordoned) == 1 else "are"
            parts.append(f"{listed(self.cordoned, SHOWN)} {be} cordoned: `stageline nodes uncordon` takes that back")
        return "; ".join(parts)


@dataclass
class Wanted:
    """`objective` and `max_replicas` of the cluster; `models` by name, of which `Wishes` override them.

    A source or required node that is not here is planned without until it is; one that is forbidden is so always.
    `nodes` says what is wanted of workers, `held` what each of those that are cordoned has loaded and may keep.
    """

    objective: str = THROUGHPUT
    max_replicas: int = 1
    models: dict[str, Wishes] = field(default_factory=dict)
    nodes: dict[str, NodeWishes] = field(default_factory=dict)
    held: dict[str, frozenset[StageKey]] = field(default_factory=dict)

    def of(self, model: str) -> Wishes:
        """What was said about that model."""
        return self.models.get(model, NONE)

    def node(self, name: str) -> NodeWishes:
        """What was said about that worker."""
        return self.nodes.get(name, OPEN)

    @property
    def cordoned(self) -> list[str]:
        """Workers that get nothing new."""
        return [name for name, one in self.nodes.items() if one.duty == "cordoned"]

    def confine(self, hosts: Hosts) -> None:
        """Cordoned workers keep what they serve or stand by for now, as `hosts` says, and get nothing more."""
        self.held = {name: hosts.get(name, frozenset()) for name in self.cordoned}

    def may_take(self, node: str, sha: str, start: int, end: int) -> bool:
        """Whether blocks [start, end) of that manifest may be on the worker, as far as it is not cordoned."""
        held = self.held.get(node)
        return held is None or any(key.manifest == sha and key.start <= start and end <= key.end for key in held)

    def key(self, models: Iterable[str]) -> object:
        """Equal as long as the same is wanted for these."""
        said = tuple(self.of(name) for name in models)
        labels = {name: one.labels for name, one in self.nodes.items()} if any(one.selectors for one in said) else {}
        return self.objective, said, labels, self.held

    def forbidden(self, model: str, here: Iterable[str]) -> list[str]:
        """Those of the workers `here` that must not host anything of it."""
        return self._meant(self.of(model).forbidden, here)

    def barred(self, model: str, key: StageKey, here: Iterable[str]) -> Barred:
        """Those of the workers `here` that users keep off these blocks of it."""
        nodes = list(here)
        forbidden = self.forbidden(model, nodes)
        left = [node for node in nodes if node not in forbidden]
        blocks = range(key.start, key.end)
        cordoned = [n for n in left if not all(self.may_take(n, key.manifest, b, b + 1) for b in blocks)]
        return Barred(model, tuple(forbidden), tuple(cordoned))

    def required(self, model: str, here: Iterable[str]) -> list[str]:
        """Those that must host a part of it; where labels say both, they must not."""
        wishes = self.of(model)
        found = self._meant(wishes.required, here)
        return [node for node in found if not self._any_selects(wishes.forbidden, node)]

    def _meant(self, said: Sequence[str], here: Iterable[str]) -> list[str]:
        if not any(map(is_selector, said)):
            names = set(here)
            return [node for node in said if node in names]
        return [node for node in here if self._any_selects(said, node)]

    def _any_selects(self, said: Sequence[str], node: str) -> bool:
        return any(selects(one, node, self.node(node).labels) for one in said)

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
        if required := self.required(model, here):
            found["required"] = required
        return found

    def heeded(self, model: str, slots: Sequence[Slot], here: Collection[str]) -> bool:
        """Whether these stages are what is wanted of the model alone."""
        wishes, used = self.of(model), {node for slot in slots for node in slot.nodes}
        pinned = wishes.source not in here or not slots or slots[0].nodes == (wishes.source,)
        many = any(len(slot.nodes) > self._replicas(wishes) for slot in slots)
        complete = used.issuperset(self.required(model, here))
        return pinned and not many and complete and not self.forbidden(model, used)

    def all_heeded(self, placement: Placement, here: Collection[str]) -> bool:
        """Whether it is, of every model."""
        return all(self.heeded(name, slots, here) for name, slots in placement.items())

    def _replicas(self, wishes: Wishes) -> int:
        return self.max_replicas if wishes.max_replicas is None else wishes.max_replicas


def known(models: Iterable[str], found: Mapping[str, Wishes]) -> dict[str, Wishes]:
    """Those that were said about one of `models`."""
    names = set(models)
    return {name: wishes for name, wishes in found.items() if name in names}
