"""What a plan costs: the meaning of every objective, for a plan given stage by stage. The solver is judged by it.

A stage keeps its node busy for its blocks' seconds, twice `hop_s`, `byte_s` for each byte on the wire, and its hops'
codecs. A hop keeps a link, and every medium that both ends share, busy for bytes / bandwidth. Replicas share the
items in inverse proportion to their costs, so that all are equally busy; a hop between replicas is shared likewise.
Several models add up, each weighed by its `share` of the highest rate.

Weighted objective: a model's latency, plus the seconds that its items wait at each node for the models there of equal
or higher priority, weighed by priority. That a source waits for those above it is PA-MDI's rule (arXiv 2412.12371); its
decision is taken task by task and adds a task's age, ours is a plan's mean, and nothing ages.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from .costs import PLAIN, link_bandwidth, port_bandwidth, replica_shares, share_of, stage_cost, transfer_s, weights
from .feasible import faults, malformed
from .parts import Codec, Model, Port
from .problem import LATENCY, THROUGHPUT, Problem
from .solution import StageAssignment

Stages = Mapping[str, Sequence[StageAssignment]]

_Key = TypeVar("_Key", str, tuple[str, str])


@dataclass(frozen=True)
class StageCost:
    """One stage: `shares` and `cost_s` (seconds per item that it serves) by node; means over the replicas."""

    shares: Mapping[str, float]
    cost_s: Mapping[str, float]
    compute_s: float
    transfer_in_s: float
    hop_in_s: float


@dataclass(frozen=True)
class ModelCost:
    """One model's stages; `out_s`: egress, latency included. `wait_s`: for models of equal or higher priority."""

    stages: tuple[StageCost, ...]
    out_s: float
    latency_s: float
    wait_s: float = 0.0


@dataclass(frozen=True)
class Busy:
    """Seconds per item of the most requested model, by node id, pair of ids (from, to), and medium's name."""

    nodes: dict[str, float] = field(default_factory=dict)
    links: dict[tuple[str, str], float] = field(default_factory=dict)
    ingress: dict[str, float] = field(default_factory=dict)
    egress: dict[str, float] = field(default_factory=dict)
    media: dict[str, float] = field(default_factory=dict)

    def largest(self) -> float:
        """The bottleneck."""
        return max((max(used.values(), default=0.0) for used in vars(self).values()), default=0.0)


@dataclass(frozen=True)
class Evaluation:
    """What a plan reaches. `faults`: why it is none (empty: it is feasible); figures may then be inf.

    `objective_s` is that of the problem's objective, `bottleneck_s` that of throughput.
    """

    objective_s: float
    bottleneck_s: float
    busy: Busy
    models: Mapping[str, ModelCost]
    load_factor: float | None
    faults: tuple[str, ...]


def evaluate(problem: Problem, stages: Stages) -> Evaluation:
    """The figures of a plan; models that it does not place are a fault, and the figures those of the others."""
    if any(malformed(problem, stages)):
        return Evaluation(math.inf, math.inf, Busy(), {}, None, tuple(faults(problem, stages)))
    placed = {model.name: _model_cost(problem, model, stages[model.name]) for model in _placed(problem, stages)}
    busy = _busy(problem, stages, placed)
    costs = {name: _with_wait(problem, name, placed) for name in placed}
    bottleneck = busy.largest()
    return Evaluation(
        objective_s=bottleneck if problem.objective == THROUGHPUT else _delay(problem, costs),
        bottleneck_s=bottleneck,
        busy=busy,
        models=costs,
        load_factor=_load_factor(problem, bottleneck),
        faults=tuple(faults(problem, stages)),
    )


def busiest_of(problem: Problem, model: Model, stages: Sequence[StageAssignment], found: Evaluation) -> float:
    """The bottleneck among what one model of a plan uses, other models' use of it included."""
    cost, busy = found.models[model.name], found.busy
    hops = [(a, b) for a, b, _ in _hops(model, stages, cost)]
    shared = [one.name for one in problem.media if any({a, b} <= set(one.nodes) for a, b in hops)]
    return max(
        *(busy.nodes[node] for stage in cost.stages for node in stage.shares),
        *(busy.ingress[node] for node in cost.stages[0].shares),
        *(busy.egress[node] for node in cost.stages[-1].shares),
        *(busy.links[hop] for hop in hops),
        *(busy.media[name] for name in shared),
    )


def _placed(problem: Problem, stages: Stages) -> list[Model]:
    return [model for model in problem.models if stages.get(model.name)]


def _codec(model: Model, name: str) -> Codec:
    return next((codec for codec in model.codecs if codec.name == name), PLAIN)


def _coded(model: Model, stages: Sequence[StageAssignment]) -> list[Codec]:
    """By hop, from ingress to egress, neither of which is coded."""
    return [PLAIN, *(_codec(model, stage.codec) for stage in stages[1:]), PLAIN]


def _model_cost(problem: Problem, model: Model, stages: Sequence[StageAssignment]) -> ModelCost:
    index, codecs = problem.node_index(), _coded(model, stages)
    found: list[StageCost] = []
    for i, stage in enumerate(stages):
        nodes = [index[node] for node in stage.nodes]
        costs = [stage_cost(problem, model, stage.blocks, node, (codecs[i], codecs[i + 1])) for node in nodes]
        shares = dict(zip(stage.nodes, replica_shares(costs), strict=True))
        size = codecs[i].ratio * model.cuts_bytes[stage.blocks[0]]
        parts = _between(problem, index, found[-1].shares, shares) if i else _to_gateway(problem.ingress, index, shares)
        hop = _hop_s(parts, size)
        compute = _mean(shares.values(), [model.stage_seconds(*stage.blocks, node) for node in nodes])
        found.append(StageCost(shares, dict(zip(stage.nodes, costs, strict=True)), compute, hop[0], sum(hop)))
    out = math.fsum(_hop_s(_to_gateway(problem.egress, index, found[-1].shares), model.cuts_bytes[-1]))
    latency = math.fsum(stage.hop_in_s + _mean(stage.shares.values(), stage.cost_s.values()) for stage in found) + out
    return ModelCost(tuple(found), out, latency)


def _hop_s(hop: Sequence[tuple[float, float, float]], size: float) -> tuple[float, float]:
    """Mean seconds of transfer and of latency over (share, bandwidth, latency) of its parts."""
    return (
        math.fsum(_times(share, transfer_s(size, bandwidth)) for share, bandwidth, _ in hop),
        math.fsum(_times(share, latency) for share, _, latency in hop),
    )


def _between(
    problem: Problem, index: Mapping[str, int], origin: Mapping[str, float], to: Mapping[str, float]
) -> list[tuple[float, float, float]]:
    return [
        (a_share * b_share, link_bandwidth(problem, index[a], index[b]), _latency(problem, index[a], index[b]))
        for a, a_share in origin.items()
        for b, b_share in to.items()
    ]


def _to_gateway(
    port: Port | None, index: Mapping[str, int], shares: Mapping[str, float]
) -> list[tuple[float, float, float]]:
    return [
        (share, port_bandwidth(port, index[n]), port.latency_s[index[n]] if port else 0.0)
        for n, share in shares.items()
    ]


def _latency(problem: Problem, a: int, b: int) -> float:
    return 0.0 if problem.links is None or a == b else problem.links.latency_s[a][b]


def _busy(problem: Problem, stages: Stages, placed: Mapping[str, ModelCost]) -> Busy:
    busy, index = Busy(), problem.node_index()
    for model in _placed(problem, stages):
        share, cost = share_of(problem, model), placed[model.name]
        for stage in cost.stages:
            for node, part in stage.shares.items():
                _add(busy.nodes, node, share * _times(part, stage.cost_s[node]))
        _add_port(busy.ingress, problem.ingress, index, cost.stages[0].shares, share, model.cuts_bytes[0])
        _add_port(busy.egress, problem.egress, index, cost.stages[-1].shares, share, model.cuts_bytes[-1])
        for a, b, size in _hops(model, stages[model.name], cost):
            _add(busy.links, (a, b), share * transfer_s(size, link_bandwidth(problem, index[a], index[b])))
            for medium in problem.media:
                if a != b and a in medium.nodes and b in medium.nodes:
                    _add(busy.media, medium.name, share * transfer_s(size, medium.bandwidth_bytes_per_s))
    return busy


def _add_port(
    used: dict[str, float],
    port: Port | None,
    index: Mapping[str, int],
    shares: Mapping[str, float],
    share: float,
    size: int,
) -> None:
    for node, part in shares.items():
        _add(used, node, share * _times(part, transfer_s(size, port_bandwidth(port, index[node]))))


def _hops(model: Model, stages: Sequence[StageAssignment], cost: ModelCost) -> Iterator[tuple[str, str, float]]:
    """Pairs of nodes between stages, and the mean bytes of an item on the wire between them."""
    codecs = _coded(model, stages)
    for i in range(1, len(stages)):
        size = codecs[i].ratio * model.cuts_bytes[stages[i].blocks[0]]
        for a, a_share in cost.stages[i - 1].shares.items():
            for b, b_share in cost.stages[i].shares.items():
                yield a, b, a_share * b_share * size


def _add(used: dict[_Key, float], key: _Key, seconds: float) -> None:
    used[key] = used.get(key, 0.0) + seconds


def _times(share: float, seconds: float) -> float:
    return share * seconds if share else 0.0  # a replica without a share may be one that cannot be reached


def _mean(shares: Iterable[float], seconds: Iterable[float]) -> float:
    return math.fsum(_times(share, one) for share, one in zip(shares, seconds, strict=True))


def _with_wait(problem: Problem, name: str, placed: Mapping[str, ModelCost]) -> ModelCost:
    models = {model.name: model for model in problem.models}
    wait = math.fsum(
        share * share_of(problem, models[other]) * _times(theirs.shares[node], theirs.cost_s[node])
        for stage in placed[name].stages
        for node, share in stage.shares.items()
        for other, cost in placed.items()
        if other != name and models[other].priority >= models[name].priority
        for theirs in cost.stages
        if node in theirs.shares
    )
    return replace(placed[name], wait_s=wait)


def _delay(problem: Problem, costs: Mapping[str, ModelCost]) -> float:
    if problem.objective == LATENCY:
        return math.fsum(cost.latency_s for cost in costs.values())
    counted = weights(problem)
    return math.fsum(counted[name] * (cost.latency_s + cost.wait_s) for name, cost in costs.items())


def _load_factor(problem: Problem, bottleneck: float) -> float | None:
    rates = [model.rate_per_s for model in problem.models]
    known = [rate for rate in rates if rate is not None]
    return 1 / (bottleneck * max(known)) if known and len(known) == len(rates) and bottleneck > 0 else None
