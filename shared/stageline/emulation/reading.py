"""CLUSTER.yaml, and the clusters that are there already, as an `Emulation`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

from stageline.config import SECTIONS
from stageline.emulation.capacity import LEAST_CPUS
from stageline.emulation.places import Place
from stageline.emulation.spec import (
    FREEZE,
    LINK,
    LOSE,
    RESTORE,
    THAW,
    Box,
    Emulation,
    Event,
    EventKind,
    Link,
    Subject,
    Workload,
)
from stageline.errors import ConfigError

PRESETS = Path(__file__).parent / "presets"
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
MAX_BOXES = 64
MAX_MBPS = 100_000.0
LEAST_MBPS = 0.1
MAX_SECONDS = 86_400.0
LEAST_MIB = 320
"""torch and a worker alone take about 250."""

OURS = frozenset(
    {"name", "coordinator", "keys_dir", "host", "transport", "port", "plan_port", "blob_port", "join_port", "data_dir"}
    | {"client_host", "insecure", "http_port", "http_host", "http_token_file", "ready_file", "cache_dir", "journal"}
    | {"tokens_file", "tls_cert", "tls_key", "tls_client_ca"}
    | {"join_token", "join_token_file", "standby_of", "control_address", "advertise_host", "data_port", "data_address"}
)
"""Settings that the emulator makes itself."""

RATES = ("up_mbps", "down_mbps")
MAX_DELAY_MS = 10_000.0
TOP = ("nodes", "model", "gateway", "workload", "events", "settings")


def presets() -> list[str]:
    """The names of the clusters that are there already."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def find(named: str) -> Path:
    """The file that is meant: a path, or the name of a preset. Raises `ConfigError` naming those."""
    path = Path(named)
    if path.exists() or named not in presets():
        if not path.is_file():
            raise ConfigError(f"{named} is neither a file nor a preset: there are {', '.join(presets())}")
        return path
    return PRESETS / f"{named}.yaml"


def read(path: Path) -> Emulation:
    """Raises `ConfigError` naming file, line and key of the first thing that is wrong."""
    top = Place.read(path)
    found = top.members(TOP, required=("nodes", "model"))
    boxes = tuple(box for place in found["nodes"].items() for box in _boxes(place))
    _check_names(found["nodes"], boxes)
    workload = _workload(found["workload"]) if "workload" in found else Workload()
    events = _events(found["events"], boxes, workload) if "events" in found else ()
    gateway = _link(found["gateway"].members((*RATES, "delay_ms"))) if "gateway" in found else Link()
    settings = _settings(found["settings"]) if "settings" in found else {}
    return Emulation(path.stem, boxes, _subject(found["model"]), gateway, workload, events, settings)


def _boxes(place: Place) -> list[Box]:
    """`count` of them are called NAME-0, NAME-1, …"""
    found = place.members(("name", "count", "cpus", "memory_mib", *RATES, "delay_ms"), required=("name", "cpus"))
    name = _name(found["name"])
    cpus = found["cpus"].number(LEAST_CPUS, 1024)
    memory = found["memory_mib"].integer(LEAST_MIB, 1 << 24) if "memory_mib" in found else 0
    link = _link(found)
    if "count" not in found:
        return [Box(name, cpus, memory, link)]
    return [Box(f"{name}-{i}", cpus, memory, link) for i in range(found["count"].integer(1, MAX_BOXES))]


def _name(place: Place) -> str:
    name = place.text()
    if not NAME.fullmatch(name):
        raise place.error(f"must be small letters, digits and -, 40 at most, not {name[:60]!r}")
    return name


def _link(found: Mapping[str, Place]) -> Link:
    up, down = (_rate(found[way]) if way in found else 0.0 for way in RATES)
    return Link(up, down, found["delay_ms"].number(0, MAX_DELAY_MS) if "delay_ms" in found else 0.0)


def _rate(place: Place) -> float:
    """0 is no limit."""
    rate = place.number(0, MAX_MBPS)
    if 0 < rate < LEAST_MBPS:
        raise place.error(f"must be at least {LEAST_MBPS} (0: not limited)")
    return rate


def _check_names(place: Place, boxes: tuple[Box, ...]) -> None:
    names = [box.name for box in boxes]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise place.error(f"has two nodes that are called {twice[0]}")
    if "gateway" in names or "coordinator" in names:
        raise place.error("must not call a node gateway or coordinator: those are there beside the nodes")
    if len(boxes) > MAX_BOXES:
        raise place.error(f"has {len(boxes)} nodes: {MAX_BOXES} are the most")


def _subject(place: Place) -> Subject:
    found = place.members(("source", "name", "random_weights"), required=("source", "name"))
    seed = found["random_weights"].integer(0, 2**32 - 1) if "random_weights" in found else None
    return Subject(found["source"].text(), _name(found["name"]), seed)


def _workload(place: Place) -> Workload:
    known = tuple(each.name for each in fields(Workload))
    found = place.members(known)
    usual = Workload()
    return Workload(
        concurrency=found["concurrency"].integer(1, 1000) if "concurrency" in found else usual.concurrency,
        rate_rps=found["rate_rps"].number(0.001, 10_000) if "rate_rps" in found else None,
        warmup_s=found["warmup_s"].number(0, MAX_SECONDS) if "warmup_s" in found else usual.warmup_s,
        duration_s=found["duration_s"].number(1, MAX_SECONDS) if "duration_s" in found else usual.duration_s,
        batch=found["batch"].integer(1, 1024) if "batch" in found else usual.batch,
        seed=found["seed"].integer(0, 2**32 - 1) if "seed" in found else usual.seed,
    )


def _events(place: Place, boxes: tuple[Box, ...], workload: Workload) -> tuple[Event, ...]:
    """In the order of their times; each must be possible after those before it."""
    placed = sorted(((_event(one, boxes, workload), one) for one in place.items()), key=lambda pair: pair[0].at_s)
    state = dict.fromkeys((box.name for box in boxes), "runs")
    after = {LOSE: ("runs", "lost"), RESTORE: ("lost", "runs"), FREEZE: ("runs", "frozen"), THAW: ("frozen", "runs")}
    for event, one in placed:
        before, then = after.get(event.kind, ("runs", "runs"))
        if state[event.node] != before:
            raise one.error(f"cannot be: {event.node} {_is(state[event.node])} at {event.at_s:g} s")
        state[event.node] = then
    return tuple(event for event, _ in placed)


def _is(state: str) -> str:
    return state if state == "runs" else f"is {state}"


def _event(place: Place, boxes: tuple[Box, ...], workload: Workload) -> Event:
    kinds = (LOSE, RESTORE, FREEZE, THAW, LINK)
    found = place.members(("at_s", *kinds, *RATES), required=("at_s",))
    chosen = [kind for kind in kinds if kind in found]
    if len(chosen) != 1:
        raise place.error(f"must have one of {', '.join(kinds)}")
    kind, node = chosen[0], found[chosen[0]].text()
    if node not in [box.name for box in boxes]:
        raise found[kind].error(f"names no node: there are {', '.join(box.name for box in boxes)}")
    odd = [way for way in RATES if way in found and kind != LINK]
    if odd:
        raise found[odd[0]].error("belongs to the event link alone")
    at_s = found["at_s"].number(0, workload.duration_s)
    return Event(at_s, cast(EventKind, kind), node, _link(found))


def _settings(place: Place) -> dict[str, dict[str, Any]]:
    """Their values are the services' business: they end with a line about one that cannot be."""
    sections = place.members(tuple(SECTIONS))
    found: dict[str, dict[str, Any]] = {}
    for section, settings in sections.items():
        known = tuple(sorted(each.name for each in fields(SECTIONS[section]) if each.name not in OURS))
        found[section] = {name: value.text() for name, value in settings.members(known).items()}
    return found
