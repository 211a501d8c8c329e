"""What a plan costs, recomputed term by term as docs/planner.md states it, for the checker.

Nothing here is shared with the solver or with `evaluate`: two readings of one text that must agree.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from .check_reading import Case, Chain, Stage, names


@dataclass
class Costs:
    """Seconds per item of the most requested model, by node, link, port or medium; per model what one item takes."""

    busy: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    latency: dict[str, float] = field(default_factory=dict)
    compute: dict[str, list[float]] = field(default_factory=dict)
    transfer_in: dict[str, list[float]] = field(default_factory=dict)
    _spent: dict[tuple[str, int], float] = field(default_factory=lambda: defaultdict(float))
    _used: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def add(self, model: str, where: str, seconds: float) -> None:
        """Keep node, link, port or medium `where` busy for that model."""
        self._used[model].add(where)
        self.busy[where] += seconds

    def busiest(self, model: str) -> float:
        """The bottleneck of what the model uses, whoever else keeps it busy."""
        return max(self.busy[where] for where in self._used[model])

    def bottleneck(self) -> float:
        """The busiest of all."""
        return max(self.busy.values(), default=0.0)


def costs(case: Case, stages: Mapping[str, list[Stage]]) -> Costs:
    """Costs of stages in order, whose nodes exist and can run their blocks."""
    found = Costs()
    for name, placed in stages.items():
        _add_model(found, case, case.chains[name], placed)
    return found


def objective(case: Case, stages: Mapping[str, list[Stage]], found: Costs) -> float:
    """What the problem's objective comes to, seconds."""
    if case.objective == "throughput":
        return found.bottleneck()
    if case.objective == "latency":
        return sum(found.latency.values())
    spent = {m: found.latency[m] + _wait(case, stages, found, m) for m in stages}
    return math.fsum(weight * spent[m] for m, weight in weights(case).items() if m in spent)


def own_objective(case: Case, stages: Mapping[str, list[Stage]], found: Costs, name: str) -> float:
    """One model's part: seconds per item of its own at its bottleneck, or its latency and wait."""
    if case.objective == "throughput":
        return found.busiest(name) / case.share(case.chains[name])
    return found.latency[name] + _wait(case, stages, found, name)


def weights(case: Case) -> dict[str, float]:
    """By model, its part of the weighted objective: priority over the sum of all; equal if all are 0."""
    total = math.fsum(chain.priority for chain in case.chains.values())
    return {m: chain.priority / total if total else 1 / len(case.chains) for m, chain in case.chains.items()}


def stage_costs(case: Case, chain: Chain, placed: list[Stage], number: int) -> list[float]:
    """CPU seconds per item on each of a stage's nodes: compute, messages, bytes on the wire, coding."""
    stage = placed[number]
    wire_in, coded_in = _hop(chain, placed, number)
    wire_out, coded_out = _hop(chain, placed, number + 1)
    index = names(case.boxes)
    found = []
    for node in stage.nodes:
        box = case.boxes[index[node]]
        compute = math.fsum(chain.seconds[b][index[node]] for b in range(stage.start, stage.end))
        found.append(compute + 2 * box.hop_s + box.byte_s * (wire_in + wire_out) + coded_in + coded_out)
    return found


def shares(seconds: list[float]) -> list[float]:
    """Which part of the items each replica takes: by speed, and if some take no time, those alone and equally."""
    if 0.0 in seconds:
        return [1 / seconds.count(0.0) if each == 0 else 0.0 for each in seconds]
    total = math.fsum(1 / each for each in seconds)
    return [1 / each / total for each in seconds]


def _add_model(found: Costs, case: Case, chain: Chain, placed: list[Stage]) -> None:
    index, share = names(case.boxes), case.share(chain)
    parts: list[dict[int, float]] = []
    found.compute[chain.name], found.latency[chain.name] = [], 0.0
    for number, stage in enumerate(placed):
        seconds = stage_costs(case, chain, placed, number)
        weights = shares(seconds)
        places = [index[node] for node in stage.nodes]
        parts.append(dict(zip(places, weights, strict=True)))
        for place, weight, spent in zip(places, weights, seconds, strict=True):
            found.add(chain.name, f"node {case.boxes[place].name}", share * weight * spent)
            found._spent[chain.name, place] += share * weight * spent
            found.latency[chain.name] += weight * spent
        run = range(stage.start, stage.end)
        compute = (w * math.fsum(chain.seconds[b][i] for b in run) for i, w in parts[-1].items() if w > 0)
        found.compute[chain.name].append(math.fsum(compute))
    _add_hops(found, case, chain, placed, parts)


def _add_hops(found: Costs, case: Case, chain: Chain, placed: list[Stage], parts: list[dict[int, float]]) -> None:
    share = case.share(chain)
    found.transfer_in[chain.name] = [0.0] * len(placed)
    for number in range(len(placed) + 1):
        wire, _ = _hop(chain, placed, number)
        for where, weight, bandwidth, delay, media in _carriers(case, parts, number):
            taken = seconds_of(wire, bandwidth)
            found.add(chain.name, where, share * weight * taken)
            found.latency[chain.name] += weight * (taken + delay)
            if number < len(placed):
                found.transfer_in[chain.name][number] += weight * taken
            for name, medium_bandwidth in media:
                found.add(chain.name, f"medium {name}", share * weight * seconds_of(wire, medium_bandwidth))


def _carriers(
    case: Case, parts: list[dict[int, float]], number: int
) -> Iterator[tuple[str, float, float, float, list[tuple[str, float]]]]:
    """What carries hop `number`: its name, the part of the items it sees, bandwidth, delay, media that it shares."""
    if number in (0, len(parts)):
        port = "egress" if number else "ingress"
        bandwidths, delays = case.ports[port]
        for place, weight in parts[number - 1 if number else 0].items():
            yield f"{port} of {case.boxes[place].name}", weight, bandwidths[place], delays[place], []
        return
    for a, weight_a in parts[number - 1].items():
        for b, weight_b in parts[number].items():
            if a == b:
                continue
            ends = case.boxes[a].name, case.boxes[b].name
            media = [(name, bandwidth) for name, members, bandwidth in case.media if members.issuperset(ends)]
            yield f"link {ends[0]} -> {ends[1]}", weight_a * weight_b, case.bandwidth[a][b], case.delay[a][b], media


def seconds_of(count: float, bandwidth: float) -> float:
    """Seconds that `count` bytes take; inf where there is no link."""
    return count / bandwidth if bandwidth > 0 else math.inf


def _hop(chain: Chain, placed: list[Stage], number: int) -> tuple[float, float]:
    """Of the hop into stage `number` (one more: the output): bytes on the wire, CPU seconds of coding at either end."""
    if number == len(placed):
        return chain.cuts[placed[-1].end], 0.0
    stage = placed[number]
    count = chain.cuts[stage.start]
    if stage.codec == "none" or stage.codec not in chain.codecs:
        return count, 0.0
    ratio, byte_s = chain.codecs[stage.codec]
    return count * ratio, byte_s * count


def _wait(case: Case, stages: Mapping[str, list[Stage]], found: Costs, name: str) -> float:
    """Seconds that an item waits for the others of equal or higher priority on the nodes that it visits."""
    index = names(case.boxes)
    above = [m for m in stages if m != name and case.chains[m].priority >= case.chains[name].priority]
    waited = 0.0
    for number, stage in enumerate(stages[name]):
        weights = shares(stage_costs(case, case.chains[name], stages[name], number))
        for node, weight in zip(stage.nodes, weights, strict=True):
            waited += weight * sum(found._spent[m, index[node]] for m in above)
    return waited
