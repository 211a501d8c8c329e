"""Small random chains with everything that binds, and the best of all their plans by plain enumeration."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from stageline_coordinator.planner.chain import ChainPlan, solve_chain
from stageline_coordinator.planner.hops import Network
from stageline_coordinator.planner.instance import Instance, build
from stageline_coordinator.planner.parts import Block, Links, Model, Node, Port

TICKS = 1_000_000  # per second; every value of a small chain is a whole number of them
Rank = tuple[int, int, int]


@dataclass(frozen=True)
class Chain:
    """One question to the chain solver."""

    model: Model
    nodes: tuple[Node, ...]
    free: tuple[int, ...]
    load: tuple[float, ...]
    links: Links | None
    ingress: Port | None
    egress: Port | None

    def solve(self, **more: object) -> ChainPlan | None:
        ports = {"links": self.links, "ingress": self.ingress, "egress": self.egress}
        return solve_chain(self.model, self.nodes, self.free, self.load, **ports, **more)  # type: ignore[arg-type]

    def instance(self) -> Instance:
        network = Network(self.links, self.ingress, self.egress)
        return build(self.model, self.nodes, self.free, self.load, network=network)


def random_chain(rng: random.Random, most_nodes: int = 4, most_blocks: int = 4) -> Chain:
    """Of few kinds of nodes, so that some are interchangeable; few values, so that ties are common."""
    count, size = rng.randint(1, most_nodes), rng.randint(1, most_blocks)
    kinds = rng.randint(1, count)
    kind = [rng.randrange(kinds) for _ in range(count)]
    top = rng.choice([1, 3, 20])
    column = [[rng.randint(0, top) / 10 for _ in range(kinds)] for _ in range(size)]
    if rng.random() < 0.15:
        column[rng.randrange(size)][rng.randrange(kinds)] = math.inf
    blocks = tuple(
        Block(f"b{i}", rng.randint(0, 9), rng.randint(0, 4), tuple(row[k] for k in kind))
        for i, row in enumerate(column)
    )
    ids = [f"n{i}" for i in range(count)]
    cuts = tuple(rng.choice([0, 1, 2, 3, 5, 8]) for _ in range(size + 1))
    source = rng.choice(ids) if rng.random() < 0.15 else None
    room = [rng.randint(2, 50) for _ in range(kinds)]
    sends = [(rng.choice([0, 0, 0.1]), rng.choice([0, 0, 0, 0.05])) for _ in range(kinds)]
    nodes = tuple(
        Node(
            ids[i],
            room[k] + 5,
            rng.randint(0, 2),
            excluded=rng.random() < 0.05,
            required=rng.random() < 0.1,
            hop_s=sends[k][0],
            byte_s=sends[k][1],
        )
        for i, k in enumerate(kind)
    )
    model = Model("m", blocks, cuts, buffer_bytes=rng.randint(0, 2), source=source)
    free = tuple(node.memory_bytes - rng.choice([0, 0, 0, 5]) for node in nodes)
    load = tuple(rng.choice([0.0, 0.0, 0.0, 0.3]) for _ in nodes)
    links = _links(rng, kind, kinds) if rng.random() < 0.9 else None
    ports = [_port(rng, kind, kinds) if rng.random() < 0.5 else None for _ in range(2)]
    return Chain(model, nodes, free, load, links, ports[0], ports[1])


def best_plan(chain: Chain) -> Rank | None:
    """(bottleneck in ticks, stages, Σ compute in ticks) of the best of all cut sets times all orders of nodes."""
    found = [rank(chain, runs) for runs in every_plan(chain)]
    return min((one for one in found if one is not None), default=None)


def every_plan(chain: Chain) -> list[tuple[tuple[int, int, int], ...]]:
    size, plans = len(chain.model.blocks), []
    for stages in range(1, min(size, len(chain.nodes)) + 1):
        for cuts in itertools.combinations(range(1, size), stages - 1):
            edges = [0, *cuts, size]
            for order in itertools.permutations(range(len(chain.nodes)), stages):
                plans.append(tuple(zip(edges, edges[1:], order, strict=False)))
    return plans


def rank(chain: Chain, runs: Sequence[tuple[int, int, int]]) -> Rank | None:
    """Of one plan; None if it may not run."""
    model, used = chain.model, [node for _, _, node in runs]
    if any(node.required and i not in used for i, node in enumerate(chain.nodes)):
        return None
    if model.source not in (None, chain.nodes[used[0]].id):
        return None
    worst = compute = 0.0
    for start, end, i in runs:
        node, part = chain.nodes[i], model.blocks[start:end]
        need = node.base_bytes + model.buffer_bytes + sum(b.weight_bytes for b in part)
        need += max(b.workspace_bytes for b in part)
        spent = sum(b.seconds[i] for b in part)
        if node.excluded or need > chain.free[i] or math.isinf(spent):
            return None
        sending = 2 * node.hop_s + node.byte_s * (model.cuts_bytes[start] + model.cuts_bytes[end])
        worst = max(worst, chain.load[i] + spent + sending)
        compute += spent
    for size, rate in _crossings(chain, runs):
        if rate == 0:
            return None
        worst = max(worst, size / rate)
    return round(worst * TICKS), len(runs), round(compute * TICKS)


def _crossings(chain: Chain, runs: Sequence[tuple[int, int, int]]) -> list[tuple[int, float]]:
    cuts = chain.model.cuts_bytes
    found = [(cuts[0], chain.ingress.bandwidth_bytes_per_s[runs[0][2]])] if chain.ingress else []
    found += [(cuts[-1], chain.egress.bandwidth_bytes_per_s[runs[-1][2]])] if chain.egress else []
    for (_, cut, a), (_, _, b) in itertools.pairwise(runs):
        found += [(cuts[cut], chain.links.bandwidth_bytes_per_s[a][b])] if chain.links else []
    return found


def _rate(rng: random.Random) -> float:
    return rng.choice([0.0, 1.0, 4.0, 10.0, 10.0, 20.0, math.inf])


def _links(rng: random.Random, kind: Sequence[int], kinds: int) -> Links:
    """Asymmetric; often the same between nodes of the same kinds."""
    between = [[_rate(rng) for _ in range(kinds)] for _ in range(kinds)]
    noise = rng.choice([0, 0, 0.3])
    rates = tuple(
        tuple(0.0 if i == j else _rate(rng) if rng.random() < noise else between[a][b] for j, b in enumerate(kind))
        for i, a in enumerate(kind)
    )
    return Links(rates, tuple((0.0,) * len(kind) for _ in kind))


def _port(rng: random.Random, kind: Sequence[int], kinds: int) -> Port:
    rates = [_rate(rng) for _ in range(kinds)]
    return Port(tuple(rates[k] for k in kind), (0.0,) * len(kind))
