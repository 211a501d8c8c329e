"""Many runs one after the other, on clusters that are replaced now and then, and when a run left one unwell."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .model import Judge
from .rig import Rig, RigKind
from .runner import Report, run
from .scenarios import Scenario
from .verdict import MISSED

RUNS_PER_RIG = 60
"""A cluster is replaced after so many runs."""

STRIKES = 4
"""A strike that hit nothing proves nothing: it is repeated, and counted. A run all of whose strikes miss has failed."""

LOGS = Path("build/faults")
"""What the services of a cluster logged in which a run failed."""

Plan = Sequence[tuple[Scenario, int]]


@contextmanager
def rig_of(kind: RigKind, seed: int) -> Iterator[Rig]:
    """A cluster of that kind in a directory of its own."""
    with (
        tempfile.TemporaryDirectory(prefix="stageline-faults-") as folder,
        Rig(Path(folder) / "rig", kind, seed=seed) as rig,
    ):
        yield rig


def struck(rig: Rig, scenario: Scenario, judge: Judge, seed: int) -> Report:
    """A run, repeated as long as its strike hit no request that was in flight; it says how often that was so."""
    for misses in range(STRIKES):
        report = run(rig, scenario, judge, seed)
        report.misses = misses
        if report.failures != [MISSED]:
            break
    return report


def sit(plan: Plan, done: Callable[[Report], None], until: float = float("inf")) -> None:
    """Run these in about their order, as far as time reaches: those that need the same kind of cluster together."""
    left = list(plan)
    while left and time.monotonic() < until:
        kind = left[0][0].rig
        here = [i for i, (scenario, _) in enumerate(left) if scenario.rig == kind][:RUNS_PER_RIG]
        ran = here[: _on_one_rig(kind, [left[i] for i in here], done, until)]
        left = [one for i, one in enumerate(left) if i not in ran]


def _on_one_rig(kind: RigKind, plan: Plan, done: Callable[[Report], None], until: float) -> int:
    """How many were run before time was over, or one failed, and may have left the cluster unwell."""
    judge = Judge(plan[0][1])
    with rig_of(kind, plan[0][1]) as rig:
        for i, (scenario, seed) in enumerate(plan):
            if time.monotonic() >= until:
                return i
            try:
                report = struck(rig, scenario, judge, seed)
            except Exception as error:
                report = Report(scenario.name, seed, failures=[f"it broke off: {type(error).__name__}: {error}"])
            done(report)
            if report.failures:
                _keep_logs(rig, report)
                return i + 1
    return len(plan)


def _keep_logs(rig: Rig, report: Report) -> None:
    kept = LOGS / f"{report.scenario.replace(' ', '-')}-{report.seed}"
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(rig.folder / "logs", kept)
