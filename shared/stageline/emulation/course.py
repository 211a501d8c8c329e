"""The measurement: load on the emulated cluster, events at their times, and what everything used between them."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from stageline.bench.report import Settings
from stageline.catalogue import Report
from stageline.emulation.record import SLICE_S, Phase, Placement, Record, Slice
from stageline.emulation.site import LOAD_NAME, Site
from stageline.emulation.spec import FREEZE, LINK, LOSE, RESTORE, Event
from stageline.emulation.usage import Usage
from stageline.errors import FailedError, NotReadyError, StagelineError

TICK_S = 0.1
OVER_S = 60.0
"""How long the load may take to end after its time: it waits for the last answers."""


class Course:
    """One run of the workload on a site that serves the model."""

    def __init__(self, site: Site, settings: Settings, report: Report) -> None:
        self._site, self._settings, self._report = site, settings, report
        self._model, self._record = settings.model, Record()
        self._links = {box.name: box.link for box in site.emulation.boxes}
        self._down: set[str] = set()
        self._begun = 0.0
        self._lines: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()

    def run(self) -> Record:
        """Raises `NotReadyError` for a container that ends on its own, `FailedError` when the load does."""
        record = self._record
        record.before = self._placement()
        container = self._site.start_load(self._settings)
        threading.Thread(target=self._follow, args=(container,), name="load", daemon=True).start()
        self._begun = self._first() + self._settings.warmup_s
        self._until(0.0)
        phase_from, after, used = 0.0, "start", self._site.usage()
        for event in (*self._site.emulation.events, None):
            at_s = event.at_s if event is not None else self._settings.duration_s
            self._until(at_s)
            now, using = self._now(), self._site.usage()
            spent = _spent(used, using, self._down)
            record.phases.append(Phase(after, phase_from, now, spent, self._placement()))
            if event is not None:
                self._apply(event)
                record.events.append((round(self._now(), 3), event))
                phase_from, after, used = self._now(), str(event), self._site.usage()
        self._finish()
        return record

    # --- events ---------------------------------------------------------------------------------------------

    def _apply(self, event: Event) -> None:
        site, node = self._site, event.node
        if event.kind == LOSE:
            site.lose(node)
            self._down.add(node)
        elif event.kind == RESTORE:
            site.restore(node, self._links[node])
            self._down.discard(node)
        elif event.kind == LINK:
            site.limit(node, event.link)
            self._links[node] = event.link
        else:
            site.freeze(node, event.kind == FREEZE)

    # --- what the load says ---------------------------------------------------------------------------------

    def _follow(self, container: str) -> None:
        """In a thread of its own; None at the end, however that comes."""
        try:
            for line in self._site.lines(container):
                self._lines.put(json.loads(line))
        except Exception as error:  # its end is what counts: the container says why
            self._report(f"lost sight of the load: {error}", 0.0)
        finally:
            self._lines.put(None)

    def _first(self) -> float:
        """The clock when the load began."""
        deadline = time.monotonic() + self._site.ready_s
        for line in self._heard(deadline):
            if "begun" in line:
                return float(line["begun"])
        raise NotReadyError(f"the load did not begin within {self._site.ready_s:.0f} s")

    def _until(self, at_s: float) -> None:
        """Listen to the load until then."""
        for line in self._heard(self._begun + at_s):
            self._take(line)
            total = self._settings.warmup_s + self._settings.duration_s
            part = (self._now() + self._settings.warmup_s) / total
            self._report(self._text(), min(1.0, max(0.0, part)))

    def _text(self) -> str:
        now, slices = self._now(), self._record.slices[-10:]
        answered = sum(len(one.latencies_ms) for one in slices) / (SLICE_S * max(1, len(slices)))
        where = f"{now:.0f} s" if now >= 0 else "warming up"
        last = f", {self._record.events[-1][1]}" if self._record.events else ""
        return f"{where}: {answered:.3g} answers/s{last}"

    def _finish(self) -> None:
        for line in self._heard(time.monotonic() + OVER_S):
            self._take(line)
        if self._record.figures:
            return
        raise FailedError("the load did not end in time: its container says nothing")

    def _heard(self, deadline: float) -> Iterator[dict[str, Any]]:
        """Lines that come before the deadline, or until the load has ended well."""
        checked = time.monotonic()
        while not self._record.figures and (now := time.monotonic()) < deadline:
            if now - checked > 1.0:
                checked = now
                self._site.check_alive(frozenset({LOAD_NAME, *self._down}))
            try:
                line = self._lines.get(timeout=min(TICK_S, deadline - now))
            except queue.Empty:
                continue
            if line is None:
                raise FailedError(f"the load ended early with {self._ended()}")
            yield line

    def _ended(self) -> str:
        return self._site.engine.ended(self._site.containers[LOAD_NAME]) or "its container still there"

    def _take(self, line: Mapping[str, Any]) -> None:
        if "figures" in line:
            self._record.figures = dict(line["figures"])
        elif "slice" in line:
            at_s = line["slice"] * SLICE_S - self._settings.warmup_s
            self._record.slices.append(Slice(at_s, tuple(line["answered_ms"]), line["failed"]))

    # --- what the cluster says ------------------------------------------------------------------------------

    def _now(self) -> float:
        return time.monotonic() - self._begun

    def _placement(self) -> Placement:
        plan = self._site.admin.plan().model(self._model)
        try:
            return Placement(plan, self._site.admin.problem([self._model]))
        except StagelineError:  # not all is measured yet, or too few nodes are left
            return Placement(plan)


def _spent(before: Mapping[str, Usage], after: Mapping[str, Usage], down: set[str]) -> dict[str, Usage]:
    """The difference, for nodes that run; memory as it is now."""
    return {
        node: Usage(
            now.cpu_s - before[node].cpu_s,
            now.throttled_s - before[node].throttled_s,
            now.memory_bytes,
            now.sent_bytes - before[node].sent_bytes,
            now.received_bytes - before[node].received_bytes,
        )
        for node, now in after.items()
        if node not in down
    }
