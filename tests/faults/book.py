"""Fault runs of many sittings, kept in one JSON file: what is there need not be run again.

A run belongs to the scenario as it was defined then: by its fingerprint it is dropped when the definition changed.
"""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import date
from pathlib import Path
from typing import Any

import msgspec

from .runner import Report
from .scenarios import Scenario

DEFAULT = Path("benchmarks/results/faults.json")
EDITION = 2
"""Raise it when what every run does, or demands, changes: then all old runs are dropped."""


@dataclass
class Entry:
    """One run: when, of which commit (`+`: and changes), on which machine."""

    fingerprint: str
    date: str
    commit: str
    machine: str
    report: Report


class Book:
    """The runs in `path`, of `scenarios` as they are defined now. Every `add` is on disk when it returns."""

    def __init__(self, path: Path, scenarios: Sequence[Scenario]) -> None:
        self._path, self._scenarios = path, list(scenarios)
        self._prints = {scenario.name: fingerprint(scenario) for scenario in scenarios}
        rows = json.loads(path.read_text())["runs"] if path.exists() else []
        found = [msgspec.convert(row, Entry) for row in rows]
        self.entries = [one for one in found if self._prints.get(one.report.scenario) == one.fingerprint]
        self.dropped = len(found) - len(self.entries)

    def reports(self) -> list[Report]:
        """All runs, in the order of the scenarios."""
        order = {scenario.name: i for i, scenario in enumerate(self._scenarios)}
        return sorted((one.report for one in self.entries), key=lambda report: order[report.scenario])

    def lacking(self, runs: int, first_seed: int) -> list[tuple[Scenario, int]]:
        """What is to be run, with seeds that were not used yet, so that all scenarios get on alike."""
        seeds: dict[str, set[int]] = {scenario.name: set() for scenario in self._scenarios}
        for one in self.entries:
            seeds[one.report.scenario].add(one.report.seed)
        rounds = [
            (len(seeds[scenario.name]) + i, scenario, seed)
            for scenario in self._scenarios
            for i, seed in enumerate(_unused(seeds[scenario.name], runs, first_seed))
        ]
        return [(scenario, seed) for _, scenario, seed in sorted(rounds, key=lambda one: one[0])]

    def forget(self, names: Sequence[str]) -> None:
        """Drop the runs of these scenarios."""
        self.entries = [one for one in self.entries if one.report.scenario not in names]

    def add(self, report: Report) -> None:
        """Keep a run."""
        mark = self._prints[report.scenario]
        self.entries.append(Entry(mark, date.today().isoformat(), commit(), machine(), report))
        self._save()

    def _save(self) -> None:
        lines = ",\n".join(json.dumps(_row(one), separators=(",", ":")) for one in self.entries)
        scratch = self._path.with_suffix(".part")
        scratch.write_text(f'{{"runs":[\n{lines}\n]}}\n')
        scratch.replace(self._path)


def _unused(used: set[int], runs: int, first_seed: int) -> Iterator[int]:
    seed = first_seed
    for _ in range(runs - len(used)):
        while seed in used:
            seed += 1
        yield seed
        seed += 1


def _row(entry: Entry) -> dict[str, Any]:
    """As JSON, without counts of nothing."""
    report = entry.report.row()
    report["tally"] = {name: count for name, count in report["tally"].items() if count}
    for name in ("detection_ms", "recovery_ms"):
        report[name] = None if report[name] is None else round(report[name], 1)
    about = {"fingerprint": entry.fingerprint, "date": entry.date, "commit": entry.commit, "machine": entry.machine}
    return {**about, "report": report}


def fingerprint(scenario: Scenario) -> str:
    """Of what a scenario is; a demand that is new, and not made of it, changes nothing."""
    told = {one.name: getattr(scenario, one.name) for one in fields(scenario)}
    said = [f"{one.name}={told[one.name]!r}" for one in fields(scenario) if told[one.name] != one.default]
    return hashlib.sha256(f"{EDITION} {said}".encode()).hexdigest()[:12]


def commit() -> str:
    """The checkout's; empty without one."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--", "services", "shared", "tests/faults")
    return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")


def machine() -> str:
    """In words."""
    cpus = [
        line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return f"{len(cpus)} × {cpus[0] if cpus else platform.machine()}, Linux {platform.release().split('-')[0]}"
