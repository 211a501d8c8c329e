"""Which numbers a problem may have: none so large or so small that sums and quotients of them lose their meaning.

A problem that is read must lie within these limits. One that is built from it may go beyond: a link twice as fast, a
cost times a ratio.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from stageline_coordinator.limits import (
    BANDWIDTH,
    BYTE_S,
    COUNT,
    LATENCY,
    PRIORITY,
    RATE,
    RATIO,
    RELATIVE,
    SECONDS,
    Range,
)

if TYPE_CHECKING:
    from .parts import Model, Node, Port
    from .problem import Problem


Found = tuple[Range, float, str]


def check_limits(problem: Problem) -> None:
    """Raises `ConfigError` naming the first number that is too large or too small."""
    for limits, value, path in _numbers(problem):
        limits.check(value, path)


def _numbers(problem: Problem) -> Iterator[Found]:
    for i, node in enumerate(problem.nodes):
        yield from _of_node(node, f"nodes[{i}]")
    for i, model in enumerate(problem.models):
        yield from _of_model(model, f"models[{i}]")
    if problem.links:
        for i, row in enumerate(problem.links.bandwidth_bytes_per_s):
            others = [0.0 if j == i else rate for j, rate in enumerate(row)]  # the diagonal is not read
            yield from _of_row(BANDWIDTH, others, f"links.bandwidth_bytes_per_s[{i}]")
        for i, row in enumerate(problem.links.latency_s):
            yield from _of_row(LATENCY, row, f"links.latency_s[{i}]")
    for name, port in (("ingress", problem.ingress), ("egress", problem.egress)):
        yield from _of_port(port, name) if port else ()
    for i, medium in enumerate(problem.media):
        yield BANDWIDTH, medium.bandwidth_bytes_per_s, f"media[{i}].bandwidth_bytes_per_s"
    yield RELATIVE, problem.replan.threshold, "replan.threshold"
    yield RELATIVE, problem.replan.tolerance, "replan.tolerance"


def _of_node(node: Node, path: str) -> Iterable[Found]:
    return (SECONDS, node.hop_s, f"{path}.hop_s"), (BYTE_S, node.byte_s, f"{path}.byte_s")


def _of_model(model: Model, path: str) -> Iterator[Found]:
    yield PRIORITY, model.priority, f"{path}.priority"
    yield RATE, model.rate_per_s or 0.0, f"{path}.rate_per_s"
    yield RELATIVE, model.tolerance, f"{path}.tolerance"
    yield COUNT, model.batch, f"{path}.batch"
    yield COUNT, model.max_replicas, f"{path}.max_replicas"
    for i, block in enumerate(model.blocks):
        yield from _of_row(SECONDS, block.seconds, f"{path}.blocks[{i}].seconds")
    for i, codec in enumerate(model.codecs):
        yield RATIO, codec.ratio, f"{path}.codecs[{i}].ratio"
        yield RELATIVE, codec.error, f"{path}.codecs[{i}].error"
        yield BYTE_S, codec.byte_s, f"{path}.codecs[{i}].byte_s"


def _of_port(port: Port, path: str) -> Iterator[Found]:
    yield from _of_row(BANDWIDTH, port.bandwidth_bytes_per_s, f"{path}.bandwidth_bytes_per_s")
    yield from _of_row(LATENCY, port.latency_s, f"{path}.latency_s")


def _of_row(limits: Range, row: Sequence[float], path: str) -> Iterator[Found]:
    return ((limits, value, f"{path}[{i}]") for i, value in enumerate(row))
