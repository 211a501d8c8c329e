"""Killing the worker of a middle stage under load, and timing what follows."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from urllib.error import URLError
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

from stageline.demo.load import Sample
from stageline.demo.watch import Broadcasts
from stageline.embedded import Cluster
from stageline.embedded.processes import group_members, signal_group
from stageline.errors import ClusterError, NotReadyError, PlacementError
from stageline.plan import ModelPlan

IN_FLIGHT = 28
"""How many requests have to be in flight on a node before it is killed: at least 20, and the gauge is 0.2 s old."""

POLL_S = 0.05
DEATH_S = 10.0
GAUGE = "stageline_gateway_node_in_flight"
QUEUE_GAUGE = "stageline_stage_queue_depth"


@dataclass(frozen=True)
class Fault:
    """What happened; times in seconds after the kill, negative where it never came.

    `in_flight` are requests that were dispatched on paths through the node and unanswered at the kill, `waiting`
    batches in the node's own queue.
    """

    node: str
    stage: int
    pids: tuple[int, ...]
    in_flight: int
    waiting: int
    killed_at: float
    suspect_s: float = -1.0
    gone_s: float = -1.0
    replanned_s: float = -1.0
    recovery_s: float = -1.0
    placement: ModelPlan | None = None


def middle_stage(model: ModelPlan) -> tuple[int, str]:
    """Number and node of a stage that is neither first nor last. Raises `PlacementError` if there is none."""
    if len(model.stages) < 3:
        raise PlacementError(
            f"{model.name} was placed on {len(model.stages)} stages, which have no middle one: is a core free for each?"
        )
    number = len(model.stages) // 2
    return number, model.stages[number].replicas[0].node


def kill(cluster: Cluster, gateway_http: str, model: ModelPlan, timeout_s: float) -> Fault:
    """SIGKILL agent and executor of the middle stage's node once enough requests are in flight on it.

    Raises `NotReadyError` when they never are, `ClusterError` if the processes survive.
    """
    stage, node = middle_stage(model)
    process = cluster.state.process(node)
    if process is None:
        raise ClusterError(f"{node} is no process of this cluster")
    labels = {"model": model.name, "node": node}
    deadline = time.monotonic() + timeout_s
    while (in_flight := int(read_gauge(gateway_http, GAUGE, labels))) < IN_FLIGHT:
        if time.monotonic() > deadline:
            raise NotReadyError(
                f"only {in_flight} requests were in flight on {node}, {IN_FLIGHT} are needed: try again"
            )
        time.sleep(POLL_S)
    waiting = int(read_gauge(process.http, QUEUE_GAUGE, {}))
    pids = tuple(member.pid for member in group_members(process.pid, process.started))
    killed_at = time.monotonic()
    signal_group(process.pid, process.started, signal.SIGKILL)
    while group_members(process.pid, process.started):
        if time.monotonic() > killed_at + DEATH_S:
            raise ClusterError(f"the processes of {node} survived SIGKILL for {DEATH_S:g} s: look at the machine")
        cluster.exited()
        time.sleep(POLL_S / 10)
    return Fault(node, stage, pids, in_flight, waiting, killed_at)


def read_gauge(http: str, name: str, labels: dict[str, str]) -> float:
    """A value from a service's /metrics; 0 where it is not listed (yet)."""
    try:
        with urlopen(f"{http}/metrics", timeout=5) as answer:
            text = answer.read().decode()
    except (URLError, OSError) as error:
        raise ClusterError(f"the metrics of {http} cannot be read ({error}): does the service run?") from None
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return next((sample.value for sample in samples if sample.name == name and sample.labels == labels), 0.0)


def follow(fault: Fault, model: str, broadcasts: Broadcasts, recovered: Callable[[], bool], wait_s: float) -> Fault:
    """Wait for detection, the new plan and `recovered`; what does not come within `wait_s` stays negative."""
    deadline = time.monotonic() + wait_s
    node, after = fault.node, fault.killed_at

    def left() -> float:
        return max(0.0, deadline - time.monotonic())

    broadcasts.wait_for(lambda: (node, "gone") in broadcasts.states, left())
    broadcasts.wait_for(lambda: broadcasts.first_plan_without(node, model, after) is not None, left())
    found = broadcasts.first_plan_without(node, model, after)
    while found is not None and not recovered() and left():
        time.sleep(POLL_S)
    gone = broadcasts.states.get((node, "gone"), after - 1)
    return replace(
        fault,
        suspect_s=broadcasts.states.get((node, "suspect"), gone) - after,
        gone_s=gone - after,
        replanned_s=found[0] - after if found else -1.0,
        placement=found[1] if found else None,
    )


def recovery(fault: Fault, before: ModelPlan, samples: list[Sample]) -> float:
    """Seconds from the kill to the first answer computed entirely under the new plan; -1 if none came.

    Such an answer went through as many stages as the new plan has, or was asked for after that plan.
    """
    if fault.placement is None:
        return -1.0
    stages, planned_at = len(fault.placement.stages), fault.killed_at + fault.replanned_s
    times = [
        sample.done
        for sample in samples
        if sample.result is not None
        and sample.done >= planned_at
        and (sample.sent >= planned_at or _stages(sample) == stages != len(before.stages))
    ]
    return min(times) - fault.killed_at if times else -1.0


def _stages(sample: Sample) -> int:
    timings = sample.result.timings if sample.result else None
    return len(timings.stages) if timings else 0
