"""The measurement on a cluster that only notes what is done to it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any, cast

import pytest

from stageline.bench.report import Settings
from stageline.emulation.course import Course
from stageline.emulation.record import Record
from stageline.emulation.site import Site
from stageline.emulation.spec import Box, Emulation, Event, Link, Subject
from stageline.emulation.usage import Usage
from stageline.errors import FailedError, NotReadyError
from stageline.plan import Plan

SETTINGS = Settings("net", 1, None, "poisson", duration_s=0.3, warmup_s=0.1, batch=1, seed=0)
FIGURES = {"answered": 3}


class Admin:
    """Nothing is planned yet."""

    def plan(self) -> Plan:
        return Plan(term=1, version=1)

    def problem(self, models: list[str]) -> str:
        raise NotReadyError("not measured yet")


class Engine:
    def ended(self, container: str) -> str:
        return "exit code 1: load: no such model"


class Cluster:
    """Each look at a node's usage finds one more second used; `figures`: whether the load ends well."""

    admin, engine, ready_s, containers = Admin(), Engine(), 5.0, {"load": "L"}

    def __init__(self, events: tuple[Event, ...] = (), *, figures: bool = True) -> None:
        boxes = (Box("a", 0.5), Box("b", 0.5, link=Link(10, 10)))
        self.emulation = Emulation("site", boxes, Subject("m:make", "net"), events=events)
        self.done: list[tuple[Any, ...]] = []
        self.over = threading.Event()
        self._figures, self._looks = figures, 0

    def start_load(self, settings: Settings) -> str:
        return "L"

    def lines(self, container: str) -> Iterator[bytes]:
        yield json.dumps({"begun": time.monotonic()}).encode()
        yield b'{"slice": 0, "answered_ms": [1.5, 2.5], "failed": 1}'
        if self._figures:
            assert self.over.wait(10)
            yield json.dumps({"figures": FIGURES}).encode()

    def usage(self) -> dict[str, Usage]:
        self._looks += 1
        if self._looks == 2 * (len(self.emulation.events) + 1):  # the last one
            self.over.set()
        return {box.name: Usage(cpu_s=self._looks, sent_bytes=10 * self._looks) for box in self.emulation.boxes}

    def check_alive(self, but: frozenset[str]) -> None:
        return

    def lose(self, node: str) -> None:
        self.done.append(("lose", node))

    def restore(self, node: str, link: Link) -> None:
        self.done.append(("restore", node, link))

    def freeze(self, node: str, frozen: bool) -> None:
        self.done.append(("freeze", node, frozen))

    def limit(self, node: str, link: Link) -> None:
        self.done.append(("limit", node, link))


def run(cluster: Cluster) -> Record:
    return Course(cast(Site, cluster), SETTINGS, lambda text, part: None).run()


def test_events_come_in_their_order_and_end_phases() -> None:
    slow = Link(1, 2)
    events = (
        Event(0.05, "link", "b", slow),
        Event(0.1, "lose", "b"),
        Event(0.15, "restore", "b"),
        Event(0.2, "freeze", "a"),
        Event(0.2, "thaw", "a"),
    )
    cluster = Cluster(events)
    record = run(cluster)
    assert cluster.done == [
        ("limit", "b", slow),
        ("lose", "b"),
        ("restore", "b", slow),
        ("freeze", "a", True),
        ("freeze", "a", False),
    ]
    assert [phase.after for phase in record.phases] == ["start", *map(str, events)]
    assert [event for _, event in record.events] == list(events)
    assert all(at_s >= event.at_s for at_s, event in record.events)
    assert [sorted(phase.used) for phase in record.phases] == [["a", "b"], ["a", "b"], ["a"], *[["a", "b"]] * 3]
    assert all(used == Usage(cpu_s=1, sent_bytes=10) for phase in record.phases for used in phase.used.values())
    assert record.figures == FIGURES
    (first,) = record.slices
    assert (first.at_s, first.latencies_ms, first.failed) == (-0.1, (1.5, 2.5), 1)


def test_a_load_that_ends_early_is_said_with_its_reason() -> None:
    with pytest.raises(FailedError, match="the load ended early with exit code 1: load: no such model"):
        run(Cluster(figures=False))
