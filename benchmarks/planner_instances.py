"""Planning problems for `planner.py`: SEIFER's setting, unequal nodes, and plain random ones. All from seeds."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stageline_coordinator.planner import Block, Links, Model, Node, Problem

MB = 1_000_000
MEBIBIT = 2**20 / 8  # bytes: SEIFER counts transfers and bandwidths in units of 2^20 bits
TABLES = json.loads((Path(__file__).parent / "data/cut_tables.json").read_text())["models"]
SEIFER = "SEIFER"
GPT2 = "GPT-2"
MODELS = (*TABLES, GPT2)
SEIFER_NODES = (5, 10, 15, 20, 50)
SEIFER_CAPACITIES_MB = (64, 128, 256, 512)
SMALL_CAPACITIES_MB = (16, 32)
"""Not SEIFER's: from 128 MB on all but GPT-2, whose tables these nodes cannot hold, fit one node whole."""

SEIFER_TOKENS = 64
"""Of GPT-2 in SEIFER's setting: with more of them its head, as SEIFER counts, takes more than 64 MB."""

UNEQUAL_NODES = (5, 10, 15, 20, 50)
BANDWIDTHS = (1, 8, 50)
GFLOPS, MEMORY_MB = (2.0, 20.0), (64, 256)
TYPES = 3


@dataclass(frozen=True)
class Case:
    """A problem, the `setting` that it belongs to, and what it is called within it."""

    setting: str
    labels: dict[str, Any]
    make: Callable[[], Problem]


def seifer(trials: int, most_nodes: int) -> Iterator[Case]:
    """Equal capacities, links by distance, no compute and no gateway: what crosses the links is all that counts."""
    for capacity in (*SMALL_CAPACITIES_MB, *SEIFER_CAPACITIES_MB):
        published = capacity in SEIFER_CAPACITIES_MB
        setting = SEIFER if published else f"{SEIFER}, smaller capacities"
        for name in MODELS if published else TABLES:
            for nodes in (n for n in SEIFER_NODES if n <= most_nodes):
                for trial in range(trials):
                    labels = {"model": name, "nodes": nodes, "capacity_mb": capacity, "trial": trial}
                    yield Case(setting, labels, _bind(_seifer_problem, name, nodes, capacity, trial))


def unequal(trials: int, most_nodes: int) -> Iterator[Case]:
    """2 to 20 GFLOP/s, 64 to 256 MB, SEIFER's links, the same 8 and 50 times faster; the gateway's links are free."""
    for name in MODELS:
        for factor in BANDWIDTHS:
            for nodes in (n for n in UNEQUAL_NODES if n <= most_nodes):
                for trial in range(trials):
                    labels = {"model": name, "nodes": nodes, "bandwidth": f"x{factor}", "trial": trial}
                    yield Case("unequal nodes", labels, _bind(_unequal_problem, name, nodes, factor, trial))


def plain(trials: int, most_nodes: int) -> Iterator[Case]:
    """Random blocks on random nodes and links, arbitrary or in 3 types: solve seconds against nodes and blocks."""
    sizes = [(n, b, 0) for b in (25, 50, 100) for n in (4, 8, 12, 16, 20, 50)] + [(20, 100, TYPES)]
    for nodes, blocks, types in sizes:
        for trial in range(trials if nodes <= most_nodes else 0):
            kind = f"{types} types" if types else "arbitrary"
            labels = {"nodes": nodes, "blocks": blocks, "kind": kind, "trial": trial}
            yield Case("random", labels, _bind(plain_problem, nodes, blocks, types, trial))


def _bind(make: Callable[..., Problem], *arguments: Any) -> Callable[[], Problem]:
    return lambda: make(random.Random(repr(arguments)), *arguments)


def _seifer_problem(rng: random.Random, name: str, nodes: int, capacity_mb: int, trial: int) -> Problem:
    """SEIFER's sums as published: a cut is 8 bytes per element and consumer over 1.44, memory as `_published_bytes`."""
    table = gpt2(tokens=SEIFER_TOKENS) if name == GPT2 else TABLES[name]
    blocks = tuple(Block(b["name"], _published_bytes(b), 0, (0.0,) * nodes) for b in table["blocks"])
    cuts = [table["input_elements"], *(max(1, b["fan_out"]) * b["out_elements"] for b in table["blocks"])]
    model = Model(name, blocks, tuple(round(elements * 8 / 1.44) for elements in cuts))
    boxes = tuple(Node(f"n{i}", capacity_mb * MB) for i in range(nodes))
    return Problem(boxes, (model,), _by_distance(rng, nodes, 1.0))


def _published_bytes(block: dict[str, Any]) -> int:
    """4 bytes per element of the output, and 1 per parameter."""
    return int(4 * block["out_elements"] + block["weight_bytes"] // 4)


def _unequal_problem(rng: random.Random, name: str, nodes: int, factor: float, trial: int) -> Problem:
    speeds = [rng.uniform(*GFLOPS) * 1e9 for _ in range(nodes)]
    boxes = tuple(Node(f"n{i}", rng.randint(*MEMORY_MB) * MB) for i in range(nodes))
    table = gpt2() if name == GPT2 else TABLES[name]
    blocks = tuple(
        Block(b["name"], b["weight_bytes"], b["max_activation_bytes"], tuple(b["flops"] / s for s in speeds))
        for b in table["blocks"]
    )
    cuts = (4 * table["input_elements"], *(4 * b["out_elements"] for b in table["blocks"]))
    return Problem(boxes, (Model(name, blocks, cuts),), _by_distance(rng, nodes, factor))


def _by_distance(rng: random.Random, nodes: int, factor: float) -> Links:
    """Nodes anywhere in [1, 150]² metres; log2(1 + 283230 / d²) Mbit/s at distance d, times `factor`."""
    places = [(rng.uniform(1, 150), rng.uniform(1, 150)) for _ in range(nodes)]

    def rate(a: tuple[float, float], b: tuple[float, float]) -> float:
        squared = (a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2
        return factor * MEBIBIT * math.log2(1 + 283230 / squared) if squared else math.inf

    return _links([[rate(a, b) for b in places] for a in places])


def _links(bandwidth: Sequence[Sequence[float]]) -> Links:
    return Links(tuple(map(tuple, bandwidth)), ((0.0,) * len(bandwidth),) * len(bandwidth))


def gpt2(layers: int = 12, width: int = 768, vocabulary: int = 50257, tokens: int = 128) -> dict[str, Any]:
    """GPT-2 (117M) on `tokens` tokens in the form of the cut tables: embedding, attention and MLP of 12 layers, head.

    Weights in float32; the head shares the embedding's but holds them itself. A multiplication and addition count 2.
    What crosses a cut goes to the next norm, and past it to the addition behind (`fan_out`).
    """
    stream, heads = tokens * width, 12

    def block(
        name: str, parameters: int, flops: int, widest: int, out: int = stream, fan_out: int = 2
    ) -> dict[str, Any]:
        return {
            "name": name,
            "weight_bytes": 4 * parameters,
            "max_activation_bytes": 4 * widest,
            "out_elements": out,
            "fan_out": fan_out,
            "flops": flops,
        }

    norm = 2 * width
    projections = 4 * width * width
    blocks = [block("embedding", (vocabulary + 1024) * width, 0, stream)]
    for layer in range(layers):
        scores = 4 * tokens * tokens * width
        attention = projections + 4 * width + norm
        widest = 3 * stream + heads * tokens * tokens
        blocks.append(block(f"attention.{layer}", attention, 2 * tokens * projections + scores, widest))
        blocks.append(
            block(f"mlp.{layer}", 2 * projections + 5 * width + norm, 4 * tokens * projections, 5 * stream)
        )  # fmt: skip
    logits = tokens * vocabulary
    blocks[-1]["fan_out"] = 1
    blocks.append(block("head", vocabulary * width + norm, 2 * logits * width, logits + stream, logits, 0))
    return {"input_elements": 2 * tokens, "blocks": blocks}


def plain_problem(rng: random.Random, nodes: int, blocks: int, types: int, trial: int) -> Problem:
    """Blocks of uneven cost and size; nodes that differ tenfold in speed and hold a third to all of the model."""
    kinds = [_kind(rng) for _ in range(types or nodes)]
    members = [rng.randrange(types) if types else i for i in range(nodes)]
    work = [rng.lognormvariate(0, 0.7) for _ in range(blocks)]
    weights = [rng.randint(1, 8) * MB for _ in range(blocks)]
    boxes = tuple(Node(f"n{i}", round(sum(weights) * kinds[kind][1])) for i, kind in enumerate(members))
    chain = tuple(
        Block(f"b{b}", weights[b], rng.randint(0, 2 * MB), _seconds(rng, work[b], kinds, members))
        for b in range(blocks)
    )
    cuts = tuple(round(rng.lognormvariate(math.log(2e5), 1.0)) for _ in range(blocks + 1))
    between = [[rng.lognormvariate(math.log(5e6), 1.0) for _ in kinds] for _ in kinds]
    links = [[between[min(a, b)][max(a, b)] for b in members] for a in members]
    return Problem(boxes, (Model("random", chain, cuts),), _links(links))


def _kind(rng: random.Random) -> tuple[float, float]:
    """Work per second, and which part of the model it holds."""
    return rng.uniform(20, 200), rng.uniform(0.3, 1.0)


def _seconds(
    rng: random.Random, work: float, kinds: Sequence[tuple[float, float]], members: Sequence[int]
) -> tuple[float, ...]:
    """Of one block: nodes of a kind take the same, and no kind is equally good at everything."""
    each = [work / speed * rng.uniform(0.8, 1.25) for speed, _ in kinds]
    return tuple(each[kind] for kind in members)
