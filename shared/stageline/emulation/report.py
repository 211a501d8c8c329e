"""What an emulation measured, as JSON. Pure; times in seconds or milliseconds as the keys say, rates in Mbit/s."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from stageline.bench.recorder import distribution
from stageline.emulation.record import SLICE_S, Phase, Placement, Record, Slice
from stageline.emulation.spec import LINK, Emulation, Event, Link
from stageline.plan import ModelPlan

Predict = Callable[[Placement], float | None]
"""Requests per second that the planner expects of a plan; None where there is none."""


def describe(emulation: Emulation, record: Record, predict: Predict, about: Mapping[str, Any]) -> dict[str, Any]:
    """All of it; `about`: machine and date."""
    phases = [_phase(phase, record.slices, predict) for phase in record.phases]
    return {
        "emulation": emulation.name,
        **about,
        "nodes": [asdict(box) for box in emulation.boxes],
        "gateway": asdict(emulation.gateway),
        "model": asdict(emulation.subject),
        "settings": {section: dict(found) for section, found in emulation.settings.items()},
        "figures": record.figures,
        "profiled_rps": _rounded(predict(record.before)),
        "phases": phases,
        "utilisation": utilisation(emulation, record),
        "events": [_event(at_s, event, record.slices) for at_s, event in record.events],
        "timeline": [_slice(one) for one in record.slices],
    }


def _phase(phase: Phase, slices: Sequence[Slice], predict: Predict) -> dict[str, Any]:
    """`steady_rps`: of the second half, when a new plan has had time to come; that is compared with the prediction."""
    inside = _within(slices, phase.from_s, phase.to_s)
    later = _within(slices, (phase.from_s + phase.to_s) / 2, phase.to_s)
    latencies = distribution([one for each in inside for one in each.latencies_ms])
    steady, predicted = _rate(later), predict(phase.placement)
    return {
        "after": phase.after,
        "from_s": round(phase.from_s, 2),
        "to_s": round(phase.to_s, 2),
        "answered": latencies.count,
        "failed": sum(one.failed for one in inside),
        "throughput_rps": _rounded(_rate(inside)),
        "steady_rps": _rounded(steady),
        "predicted_rps": _rounded(predicted),
        "measured/predicted": _rounded(steady / predicted) if predicted and steady is not None else None,
        "p50_ms": _rounded(latencies.p50),
        "p99_ms": _rounded(latencies.p99),
        "plan": stages(phase.placement.plan),
    }


def stages(plan: ModelPlan | None) -> list[dict[str, Any]]:
    """Who serves which blocks, half-open."""
    return [
        {"blocks": [stage.start, stage.end], "nodes": [one.node for one in stage.replicas], "codec": stage.codec}
        for stage in (plan.stages if plan is not None else ())
    ]


def utilisation(emulation: Emulation, record: Record) -> list[dict[str, Any]]:
    """By node, over the time that it ran: parts of its quota and of its link's rates (None: not limited)."""
    links = {box.name: box.link for box in emulation.boxes}
    found = {box.name: _Sum(box.cpus) for box in emulation.boxes}
    for phase, event in zip(record.phases, [*(event for _, event in record.events), None], strict=True):
        for node, used in phase.used.items():
            found[node].add(phase.to_s - phase.from_s, links[node], used)
        if event is not None and event.kind == LINK:
            links[event.node] = event.link
    return [{"node": node, **one.figures()} for node, one in found.items()]


class _Sum:
    """Of what one node used in several phases."""

    def __init__(self, cpus: float) -> None:
        self._cpus, self._seconds, self._cpu_s, self._throttled_s, self._peak = cpus, 0.0, 0.0, 0.0, 0
        self._bits = {"up": 0.0, "down": 0.0}
        self._room = {"up": 0.0, "down": 0.0}

    def add(self, seconds: float, link: Link, used: Any) -> None:
        self._seconds += seconds
        self._cpu_s += used.cpu_s
        self._throttled_s += used.throttled_s
        self._peak = max(self._peak, used.memory_bytes)
        for way, count, mbps in (
            ("up", used.sent_bytes, link.up_mbps),
            ("down", used.received_bytes, link.down_mbps),
        ):
            self._bits[way] += 8 * count
            self._room[way] += (mbps or float("inf")) * 1e6 * seconds

    def figures(self) -> dict[str, Any]:
        seconds = self._seconds or float("inf")
        used = self._cpu_s / seconds
        return {
            "ran_s": round(self._seconds, 2),
            "cpus": self._cpus,
            "used_cpus": _rounded(used),
            "cpu": _rounded(used / self._cpus),
            "throttled": _rounded(self._throttled_s / seconds),
            "memory_mib": round(self._peak / 2**20),
            **{f"{way}_mbps": _rounded(self._bits[way] / seconds / 1e6) for way in self._bits},
            **{way: _part(self._bits[way], self._room[way]) for way in self._bits},
        }


def _part(bits: float, room: float) -> float | None:
    return _rounded(bits / room) if 0 < room < float("inf") else None


def _event(at_s: float, event: Event, slices: Sequence[Slice]) -> dict[str, Any]:
    """`silence_s`: the longest time without any answer in the ten seconds after it, in half seconds."""
    longest = current = 0
    for one in _within(slices, at_s, at_s + 10):
        current = 0 if one.latencies_ms else current + 1
        longest = max(longest, current)
    return {"at_s": at_s, "due_s": event.at_s, "what": str(event), "silence_s": longest * SLICE_S}


def _slice(one: Slice) -> dict[str, Any]:
    found = distribution(one.latencies_ms)
    return {
        "at_s": round(one.at_s, 2),
        "answered": found.count,
        "failed": one.failed,
        "p50_ms": _rounded(found.p50) if found.count else None,
        "p99_ms": _rounded(found.p99) if found.count else None,
    }


def _within(slices: Sequence[Slice], from_s: float, to_s: float) -> list[Slice]:
    """Slices whose whole half second is inside."""
    return [one for one in slices if one.at_s >= from_s and one.at_s + SLICE_S <= to_s]


def _rate(slices: Sequence[Slice]) -> float | None:
    """Answers per second; None where no time passed."""
    return sum(len(one.latencies_ms) for one in slices) / (len(slices) * SLICE_S) if slices else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
