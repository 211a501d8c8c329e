"""What the planner answers: the stages of every model, how good they are, or why there are none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .fields import Field
from .parts import NO_CODEC

VERSION = 1

OPTIMAL, FEASIBLE, INFEASIBLE = "optimal", "feasible", "infeasible"
STATUSES = (OPTIMAL, FEASIBLE, INFEASIBLE)  # from best to worst


@dataclass(frozen=True)
class StageAssignment:
    """Blocks [start, end) on `nodes` (several: replicas, which share the items by their speed).

    `codec`: that of the hop into this stage ("none" for the first stage). `compute_s` and `transfer_in_s`: seconds
    of the blocks, and of the hop into this stage, per item; means over replicas, weighted by their shares.
    """

    blocks: tuple[int, int]
    nodes: tuple[str, ...]
    codec: str = NO_CODEC
    compute_s: float = 0.0
    transfer_in_s: float = 0.0


@dataclass(frozen=True)
class Move:
    """Weights of blocks [start, end) that `node` does not hold and would have to fetch."""

    model: str
    node: str
    blocks: tuple[int, int]
    bytes: int


@dataclass(frozen=True)
class ModelSolution:
    """How one model fared. The figures are None where it is infeasible; `reason` then says what is missing.

    `objective_s`: seconds per request at the model's busiest node, other models' share of that node included.
    `lower_bound_s`: no plan for this model, even alone on the nodes, can be below it.
    `gap`: (objective - lower bound) / objective, in [0, 1]. `latency_s`: one request through all stages.
    """

    status: str
    objective_s: float | None = None
    lower_bound_s: float | None = None
    gap: float | None = None
    latency_s: float | None = None
    algorithm: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Solution:
    """A plan for all models that can be placed, and a proven bound on what any plan for them could reach.

    `objective_s`: for throughput the seconds that the busiest node, link, port or medium spends per item of the most
    requested model, for latency and weighted the seconds of that objective. `status` is infeasible if one model
    cannot be placed, though the others are: look at `models` for each; `proven` then says whether it is certain that no
    plan has all models, or none was found (None for another status). `load_factor`: how many times the stated rates
    the plan can serve. `moves`: what has to be fetched, coming from the running plan. `solve_s` is filled in by the
    caller, who has a clock.
    """

    status: str
    objective_s: float | None = None
    lower_bound_s: float | None = None
    gap: float | None = None
    stages: Mapping[str, tuple[StageAssignment, ...]] = field(default_factory=dict)
    latency_s: float | None = None
    solve_s: float | None = None
    algorithm: str = ""
    reason: str = ""
    models: Mapping[str, ModelSolution] = field(default_factory=dict)
    moves: tuple[Move, ...] = ()
    moved_bytes: int = 0
    load_factor: float | None = None
    proven: bool | None = None
    version: int = VERSION

    @classmethod
    def from_json(cls, document: object) -> Solution:
        """A solution from parsed JSON. Raises `ConfigError` naming the field."""
        root = Field(document, "")
        stages, models = root.key("stages").members(), root.optional("models")
        moves, moved, version, proven = (root.optional(name) for name in ("moves", "moved_bytes", "version", "proven"))
        if version and version.integer() != VERSION:
            raise version.fail(f"this planner reads {VERSION}, not {version.integer()}")
        return cls(
            status=_status(root),
            objective_s=_number(root, "objective_s"),
            lower_bound_s=_number(root, "lower_bound_s"),
            gap=_number(root, "gap"),
            stages={name: tuple(_read_stage(one) for one in item.items()) for name, item in stages},
            latency_s=_number(root, "latency_s"),
            solve_s=_number(root, "solve_s"),
            algorithm=_text(root, "algorithm"),
            reason=_text(root, "reason"),
            models={name: _read_model(one) for name, one in models.members()} if models else {},
            moves=tuple(_read_move(one) for one in moves.items()) if moves else (),
            moved_bytes=moved.integer() if moved else 0,
            load_factor=_number(root, "load_factor"),
            proven=proven.flag() if proven else None,
        )

    def to_json(self) -> dict[str, object]:
        """Values that `json.dumps` takes; `from_json` gives an equal solution back."""
        stages = {
            name: [{**vars(one), "blocks": list(one.blocks), "nodes": list(one.nodes)} for one in assigned]
            for name, assigned in self.stages.items()
        }
        models = {name: vars(one).copy() for name, one in self.models.items()}
        moves = [{**vars(one), "blocks": list(one.blocks)} for one in self.moves]
        return {**vars(self), "stages": stages, "models": models, "moves": moves}


def _read_stage(item: Field) -> StageAssignment:
    return StageAssignment(
        blocks=item.key("blocks").span(),
        nodes=tuple(one.text() for one in item.key("nodes").items()),
        codec=_text(item, "codec") or NO_CODEC,
        compute_s=_number(item, "compute_s") or 0.0,
        transfer_in_s=_number(item, "transfer_in_s") or 0.0,
    )


def _read_move(item: Field) -> Move:
    return Move(
        model=item.key("model").text(),
        node=item.key("node").text(),
        blocks=item.key("blocks").span(),
        bytes=item.key("bytes").integer(),
    )


def _read_model(item: Field) -> ModelSolution:
    return ModelSolution(
        status=_status(item),
        objective_s=_number(item, "objective_s"),
        lower_bound_s=_number(item, "lower_bound_s"),
        gap=_number(item, "gap"),
        latency_s=_number(item, "latency_s"),
        algorithm=_text(item, "algorithm"),
        reason=_text(item, "reason"),
    )


def _status(item: Field) -> str:
    status = item.key("status")
    if status.text() not in STATUSES:
        raise status.fail(f"must be one of {', '.join(STATUSES)}")
    return status.text()


def _number(item: Field, name: str) -> float | None:
    found = item.optional(name)
    return found.number() if found else None


def _text(item: Field, name: str) -> str:
    found = item.optional(name)
    return found.text() if found else ""
