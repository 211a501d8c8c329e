"""Small random problems of every kind, and all their plans, for tests that compare with the best of them."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import replace

from stageline_coordinator.planner import (
    Block,
    Codec,
    Links,
    Medium,
    Model,
    Node,
    Port,
    Problem,
    Running,
    Shared,
    StageAssignment,
)
from stageline_coordinator.planner.evaluate import evaluate

Plan = tuple[StageAssignment, ...]


def random_model(rng: random.Random, name: str, nodes: int, blocks: int) -> Model:
    """Whole seconds and a few bytes, so that ties are common; now and then a block that a node cannot run."""
    top = rng.choice([1, 3, 9])
    rows = [[float(rng.randint(0, top)) for _ in range(nodes)] for _ in range(blocks)]
    if rng.random() < 0.15:
        rows[rng.randrange(blocks)][rng.randrange(nodes)] = math.inf
    found = tuple(Block(f"b{i}", rng.randint(0, 6), rng.randint(0, 3), tuple(row)) for i, row in enumerate(rows))
    cuts = tuple(rng.choice([0, rng.randint(1, 12), rng.randint(1, 12)]) for _ in range(blocks + 1))
    return Model(name, found, cuts, buffer_bytes=rng.randint(0, 1))


def random_problem(rng: random.Random, nodes: int, blocks: int, models: int = 1) -> Problem:
    """Links, ports, memory and CPU costs of hops; the extensions are left to the tests."""
    ids = [f"n{i}" for i in range(nodes)]
    boxes = tuple(
        Node(
            one, rng.randint(4, 30), rng.randint(0, 2), hop_s=rng.choice([0, 0, 0.5]), byte_s=rng.choice([0, 0, 0.125])
        )
        for one in ids
    )
    rates = [0.0, 1.0, 2.0, 4.0, 8.0, math.inf]
    links = Links(
        tuple(tuple(rng.choice(rates[rng.random() < 0.8 :]) for _ in ids) for _ in ids),
        tuple(tuple(rng.choice([0.0, 0.5, 2.0]) for _ in ids) for _ in ids),
    )
    ports = [
        Port(tuple(rng.choice(rates[rng.random() < 0.8 :]) for _ in ids), tuple(rng.choice([0.0, 0.25]) for _ in ids))
        for _ in range(2)
    ]
    return Problem(
        boxes,
        tuple(random_model(rng, f"m{i}", nodes, blocks) for i in range(models)),
        links if rng.random() < 0.8 else None,
        *(port if rng.random() < 0.7 else None for port in ports),
    )


def with_codecs(rng: random.Random, model: Model) -> Model:
    """Two codecs, of which the second may be too coarse."""
    codecs = (Codec("fp16", 0.5, 0.001, rng.choice([0, 0.125])), Codec("int8", 0.25, 0.01, rng.choice([0, 0.25])))
    return replace(model, codecs=codecs, tolerance=rng.choice([0.001, 0.01]))


def with_shared(rng: random.Random, model: Model) -> Model:
    """Blocks that have some of their weights in common, so that a stage of several takes less than their sum."""
    left = [block.weight_bytes for block in model.blocks]
    found = []
    for _ in range(rng.randint(1, 2)):
        blocks = rng.sample(range(len(left)), rng.randint(min(2, len(left)), len(left)))
        size = min(left[block] for block in blocks)
        left = [rest - size * (block in blocks) for block, rest in enumerate(left)]
        found.append(Shared(tuple(blocks), size))
    return replace(model, shared=tuple(found))


def with_media(rng: random.Random, problem: Problem, count: int) -> Problem:
    """Media of two or more nodes."""
    ids = [node.id for node in problem.nodes]
    media = tuple(
        Medium(f"wifi{i}", tuple(rng.sample(ids, rng.randint(min(2, len(ids)), len(ids)))), rng.choice([1.0, 2.0, 6.0]))
        for i in range(count)
    )
    return replace(problem, media=media)


def with_current(rng: random.Random, problem: Problem) -> Problem:
    """A running plan that was possible, of each model, and a little more memory."""
    current = {}
    for model in problem.models:
        plans = list(all_plans(replace(problem, links=None, ingress=None, egress=None), model))
        plan = rng.choice(plans)
        current[model.name] = tuple(Running(stage.blocks, stage.nodes) for stage in plan)
    nodes = tuple(replace(node, memory_bytes=node.memory_bytes + rng.randint(0, 12)) for node in problem.nodes)
    return replace(problem, nodes=nodes, current=current)


def all_plans(problem: Problem, model: Model) -> Iterator[Plan]:
    """Every way to cut the model, to give its stages to disjoint groups of nodes, and to code its hops."""
    ids, size = [node.id for node in problem.nodes], len(model.blocks)
    groups = [g for r in range(1, model.max_replicas + 1) for g in itertools.combinations(ids, r)]
    names = ["none", *(codec.name for codec in model.allowed_codecs())]
    for stages in range(1, min(size, len(ids)) + 1):
        for cuts in itertools.combinations(range(1, size), stages - 1):
            edges = [0, *cuts, size]
            for chosen in itertools.permutations(groups, stages):
                if sum(map(len, chosen)) > len({node for group in chosen for node in group}):
                    continue
                for codecs in itertools.product(names, repeat=stages - 1):
                    yield tuple(
                        StageAssignment((a, b), group, codec)
                        for a, b, group, codec in zip(edges, edges[1:], chosen, ("none", *codecs), strict=False)
                    )


def all_joint(problem: Problem) -> Iterator[tuple[dict[str, Plan], float]]:
    """Every plan for all models that has no fault, and its objective."""
    each = [list(all_plans(problem, model)) for model in problem.models]
    for plans in itertools.product(*each):
        stages = {model.name: plan for model, plan in zip(problem.models, plans, strict=True)}
        found = evaluate(problem, stages)
        if not found.faults:
            yield stages, found.objective_s


def best_of_all(problem: Problem) -> float:
    """The smallest objective of all plans; inf if there is none."""
    return min((value for _, value in all_joint(problem)), default=math.inf)
