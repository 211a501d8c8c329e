"""What users want of plans: of the whole cluster an objective, of a model its weight, load and nodes. Pure.

The names and limits are those of the planner's problem (docs/planner.md), where `forbidden` and `required` are nodes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec

from stageline.errors import ConfigError
from stageline.nodewishes import check_selector, is_selector
from stageline.wire import Part

OBJECTIVES = ("throughput", "latency", "weighted")
FIELDS = ("priority", "rate_per_s", "max_replicas", "source", "forbidden", "required")
PRIORITY, RATE, REPLICAS = (1e-9, 1e9), (1e-9, 1e12), (1, 10**9)
MOST_NODES, LONGEST_NAME = 1000, 200


class Wishes(Part, frozen=True):
    """What one model's plan is to heed; None and () stand for what nothing was said about.

    `priority`: larger counts more; `rate_per_s`: expected requests; `source`: the node that hosts the first stage,
    alone; `forbidden` nodes host nothing of the model, `required` ones a stage of it. Of these two each entry may be
    a label, ``key=value`` or ``key!=value``: it stands for all the nodes that it selects.
    """

    priority: float | None = None
    rate_per_s: float | None = None
    max_replicas: int | None = None
    source: str | None = None
    forbidden: tuple[str, ...] = ()
    required: tuple[str, ...] = ()

    @property
    def nodes(self) -> tuple[str, ...]:
        """All that are named, each once; labels name none."""
        named = ([self.source] if self.source else []) + [*self.forbidden, *self.required]
        return tuple(dict.fromkeys(one for one in named if not is_selector(one)))

    @property
    def selectors(self) -> tuple[str, ...]:
        """The labels among them."""
        return tuple(one for one in (*self.forbidden, *self.required) if is_selector(one))

    def to_json(self) -> dict[str, object]:
        """What was said, without the rest."""
        said: dict[str, object] = msgspec.to_builtins(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in said.items()}


NONE = Wishes()


def merge(old: Wishes, new: Wishes, unset: Iterable[str] = ()) -> Wishes:
    """`old` with what `new` says, without the fields in `unset`. Raises `ConfigError` for what cannot be."""
    gone = set(unset)
    unknown = sorted(gone - set(FIELDS))
    if unknown:
        raise ConfigError(f"{unknown[0][:80]!r} cannot be unset: there are {', '.join(FIELDS)}")
    said = {name: value for name in FIELDS if (value := getattr(new, name)) not in (None, ())}
    both = sorted(gone & set(said))
    if both:
        raise ConfigError(f"{both[0]} cannot be set and unset at once")
    kept = {name: getattr(old, name) for name in FIELDS if name not in gone}
    found = Wishes(**{**kept, **said})
    check(found)
    return found


def check(wishes: Wishes) -> None:
    """Raises `ConfigError` naming the first field that the planner could not do anything with."""
    if wishes.priority != 0:  # which may be: it yields to all others
        _within("priority", wishes.priority, PRIORITY, "0 or ")
    _within("rate_per_s", wishes.rate_per_s, RATE)
    _within("max_replicas", wishes.max_replicas, REPLICAS)
    if wishes.source == "":
        raise ConfigError("source: must be the name of a worker")
    if wishes.source and is_selector(wishes.source):
        raise ConfigError(f"source: must be one worker's name, not the label {wishes.source[:80]}")
    for name in ("forbidden", "required"):
        nodes = getattr(wishes, name)
        if len(nodes) > MOST_NODES or len(set(nodes)) < len(nodes):
            raise ConfigError(f"{name}: must be different workers, at most {MOST_NODES}")
    for node in wishes.nodes:
        if not 0 < len(node) <= LONGEST_NAME:
            raise ConfigError(f"the name of a worker has 1 to {LONGEST_NAME} characters, not {len(node)}")
    for label in wishes.selectors:
        check_selector(label)
    for node in wishes.forbidden:
        other = "source" if node == wishes.source else "required" if node in wishes.required else ""
        if other:
            raise ConfigError(f"forbidden: {node} is {other}, too: unset one of the two")


def check_objective(objective: str) -> None:
    """Raises `ConfigError` unless it is one of `OBJECTIVES`."""
    if objective not in OBJECTIVES:
        raise ConfigError(f"objective: must be one of {', '.join(OBJECTIVES)}, not {objective[:80]!r}")


def _within(name: str, value: float | None, limits: tuple[float, float], also: str = "") -> None:
    if value is None:
        return
    least, most = limits
    if not math.isfinite(value) or not least <= value <= most:
        raise ConfigError(f"{name}: must be {also}between {least:g} and {most:g}, not {value:g}")
