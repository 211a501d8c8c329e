"""Runs one scenario on a rig and says what became of every request."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from stageline.errors import ClusterError

from .events import Target
from .ledger import Ledger, Tally
from .load import Load, wait_until
from .model import Judge
from .rig import Rig
from .scenarios import Scenario
from .verdict import IN_FLIGHT, MISSED, broken
from .watch import Watch

MARGIN = 8
"""The gauges are up to 0.2 s old: wait for a few more than must be in flight."""

SLACK_S = 5.0
FLOW_S = 60.0
PROOF_S = 20.0
NO_PROOF_S = 0.3
FLOWS = 100
"""Answers before an event, and after it, that show that requests flow."""


@dataclass
class Report:
    """What a run showed; times in milliseconds after the strike, None where nothing was to be seen.

    `misses`: how often it was run before, and its strike hit no request; None where nobody counted.
    """

    scenario: str
    seed: int
    victim: str = ""
    in_flight: int = 0
    proof: str = ""
    tally: Tally = Tally()
    detection_ms: float | None = None
    recovery_ms: float | None = None
    breaks: int = 0
    failures: list[str] = field(default_factory=list)
    misses: int | None = None

    def row(self) -> dict[str, Any]:
        """As JSON."""
        return dataclasses.asdict(self)


def run(rig: Rig, scenario: Scenario, judge: Judge, seed: int, *, aimed: bool = True) -> Report:
    """One run; with `aimed` false the strike goes to a decoy, and the report must say so in its failures."""
    return _Run(rig, scenario, judge, seed, aimed).run()


class _Run:
    def __init__(self, rig: Rig, scenario: Scenario, judge: Judge, seed: int, aimed: bool) -> None:
        self._rig, self._scenario, self._aimed = rig, scenario, aimed
        self._report = Report(scenario.name, seed)
        self._ledger = Ledger(scenario.deadline_s, SLACK_S)
        self._judge = judge

    def run(self) -> Report:
        rig, scenario, report = self._rig, self._scenario, self._report
        rig.random.seed(report.seed)
        rig.settle()
        name = f"{scenario.name}/{report.seed}/{time.monotonic_ns()}"
        with Load(
            rig.client_address, self._judge, self._ledger,
            width=scenario.width, deadline_s=scenario.deadline_s, run=name, silent=scenario.silent,
        ) as load:  # fmt: skip
            self._wait("the load flows", lambda: self._ledger.answered >= FLOWS)
            with self._after_the_first(), Watch(self._broadcasts()) as watch:
                self._wait("the coordinator broadcasts", lambda: watch.seen)
                self._pause()
                self._strike(watch, load)
            load.stop(scenario.deadline_s + SLACK_S)
        report.tally, report.breaks = self._ledger.tally(), len(self._ledger.breaks)
        report.failures += broken(scenario, report.tally, self._ledger.errors, report.in_flight)
        self._restore()
        return report

    @contextmanager
    def _after_the_first(self) -> Iterator[None]:
        """What happens before the strike has happened, and ends when the run does, if not before."""
        rig, first = self._rig, self._scenario.first
        if first is None or not self._aimed:
            yield
            return
        target = first.aim(rig)
        first.strike(rig, target)
        try:
            self._wait("what comes first is seen", lambda: first.proof(rig, target), PROOF_S)
            time.sleep(first.seconds)
            if first.seconds:
                first.relent(rig, target)
            yield
        finally:
            if not first.seconds:
                first.relent(rig, target)

    def _broadcasts(self) -> str:
        """The address of the coordinator's that leads now."""
        with self._rig.admin() as admin:
            return admin.welcome.plan

    def _pause(self) -> None:
        if self._aimed:
            time.sleep(self._scenario.pause_s)

    def _come_back(self, load: Load) -> None:
        """The client asks for what it is owed once the gateway, started anew, has computed all of it by itself."""
        gateway = self._rig.gateway
        left, owed = self._ledger.unsettled(), self._owed()
        if owed:
            self._wait(
                "the gateway computes what it had taken",
                lambda: gateway.gauge("stageline_gateway_dispatched_total") and not self._rig.unanswered(),
            )
        load.ask_again()
        self._wait("the client has what it was owed", lambda: self._ledger.settled_after(left) is not None)
        there = f"{len(owed)} outcomes were there when the client asked"
        self._wait(there, lambda: gateway.gauge("stageline_gateway_replayed_total") >= len(owed), PROOF_S)
        if not owed and not self._report.failures:
            self._report.failures.append(MISSED)

    def _targets(self) -> tuple[Target, Target]:
        """The victim, and what is struck in fact, with enough in flight on it; plans may change meanwhile."""
        event = self._scenario.event
        while True:
            victim = event.aim(self._rig)
            target = victim if self._aimed else event.decoy(self._rig)
            patience = FLOW_S if self._aimed else NO_PROOF_S
            self._wait("requests are in flight", partial(self._is_busy, target), patience)
            if self._report.failures:
                return victim, target
            if event.aim(self._rig).name == victim.name and self._in_flight(target) >= IN_FLIGHT:
                return victim, target

    def _strike(self, watch: Watch, load: Load) -> None:
        rig, event, report = self._rig, self._scenario.event, self._report
        victim, target = self._targets()
        report.victim = target.name
        report.in_flight = self._in_flight(target)
        struck, under_way = time.monotonic(), self._ledger.unsettled()
        blocks = rig.blocks_on(victim.node)
        event.strike(rig, target)
        self._wait("the fault is seen", lambda: self._proven(victim), PROOF_S if self._aimed else NO_PROOF_S)
        if self._scenario.degrades:
            within = FLOW_S if self._aimed else NO_PROOF_S
            self._wait("the slow worker is spared", lambda: rig.spared(victim.node, blocks), within)
        left_s = event.seconds - (time.monotonic() - struck)
        time.sleep(max(0.0, left_s) if self._aimed else 0.0)
        event.relent(rig, target)
        if self._scenario.silent:
            self._come_back(load)
        else:
            before = self._ledger.answered
            self._wait("answers flow again", lambda: self._ledger.answered >= before + FLOWS)
        if self._scenario.notices:
            within = PROOF_S if self._aimed else NO_PROOF_S
            self._wait("the coordinator notices", lambda: watch.noticed(victim.node, struck) is not None, within)
        if self._scenario.localises:
            within = PROOF_S if self._aimed else NO_PROOF_S
            self._wait("the link is named", lambda: watch.localised(victim.node, struck) is not None, within)
        self._wait("the requests in flight end", lambda: self._ledger.settled_after(under_way) is not None)
        self._times(victim, watch, struck, under_way)

    def _times(self, victim: Target, watch: Watch, struck: float, under_way: list[int]) -> None:
        seen = watch.noticed(victim.node, struck) if victim.node and not self._scenario.localises else victim.seen
        seen = watch.localised(victim.node, struck) if self._scenario.localises else seen
        ended = self._ledger.settled_after(under_way)
        self._report.detection_ms = None if seen is None else (seen - struck) * 1000
        self._report.recovery_ms = None if ended is None else (ended - struck) * 1000

    def _is_busy(self, target: Target) -> bool:
        """Enough is in flight; where outcomes are owed to a silent client, some of it has been accepted, too."""
        if self._scenario.silent and len(self._owed()) < MARGIN:
            return False
        return self._in_flight(target) >= IN_FLIGHT + MARGIN

    def _owed(self) -> list[int]:
        """The requests that were accepted and have no outcome."""
        requests = self._ledger.requests
        return [number for number in self._ledger.unsettled() if requests[number].accepted is not None]

    def _in_flight(self, target: Target) -> int:
        return self._rig.in_flight(target.node) if target.node else self._rig.unanswered()

    def _proven(self, victim: Target) -> bool:
        self._report.proof = self._scenario.event.proof(self._rig, victim)
        return bool(self._report.proof)

    def _wait(self, what: str, holds: Callable[[], object], seconds: float = FLOW_S) -> None:
        problem = wait_until(what, partial(_already, holds), seconds)
        if problem:
            self._report.failures.append(problem)

    def _restore(self) -> None:
        """The cluster is whole again and holds no more than before."""
        problem = self._rig.heal()
        if problem:
            self._report.failures.append(problem)
        elif wait_until("the baseline", lambda: not self._rig.above_baseline(), PROOF_S):
            self._report.failures += self._rig.above_baseline()


def _already(holds: Callable[[], object]) -> object:
    """Whether that holds; while a service is down that would have to be asked, it does not."""
    try:
        return holds()
    except ClusterError:
        return False
