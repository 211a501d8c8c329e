"""Two identity stages: what a hop costs. `python benchmarks/hop.py --help` says what can be chosen.

Between workers: the floor (bare pyzmq), Stageline, torch.distributed.pipelining over gloo, Ray compiled graphs. From
clients over TCP: Stageline's gateway, mosec.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from common import (
    Contender,
    interleave,
    machine,
    progress,
    ratio,
    report,
    say,
    significant,
    start_all,
    stop_all,
    summary,
)
from contenders.floor import Floor
from contenders.gloo import Gloo
from contenders.mosec_two import Mosec
from contenders.ray_graphs import RayGraphs
from contenders.stageline_pipes import IdentityCluster, ThroughGateway, Workers

SIZES = {"800KB": 800_000, "12KB": 12_000}
WINDOWS = {"streaming": 8, "one in flight": 1}
STAGES = 2
CALIBRATION = 40
MIN_ITEMS = 64


def groups() -> dict[str, list[Contender]]:
    """Who is compared with whom."""
    shared = IdentityCluster(list(SIZES.values()))
    between: list[Contender] = []
    for kind in ("tcp", "ipc"):
        between += [Floor(kind), Workers(shared, kind)]
    return {
        "between workers": [*between, Gloo(), RayGraphs()],
        "from TCP clients": [ThroughGateway(shared), Mosec()],
    }


def measure(contenders: Sequence[Contender], rounds: int, seconds: float) -> dict[str, dict[str, list[float]]]:
    """Seconds per item of each contender in each round, by "size, mode"."""
    found: dict[str, dict[str, list[float]]] = {}
    cases = [(size, mode) for size in SIZES for mode in WINDOWS]
    with progress("hop", len(cases) * rounds * len(contenders)) as tick:
        for size, mode in cases:
            runs = {c.name: _repeatable(c, SIZES[size], WINDOWS[mode], seconds) for c in contenders}
            found[f"{size}, {mode}"] = interleave(runs, rounds, tick)
    return found


def _repeatable(contender: Contender, nbytes: int, window: int, seconds: float) -> Any:
    """A run of about so many seconds that gives the seconds per item."""
    contender.run(nbytes, window, CALIBRATION)
    per_item = contender.run(nbytes, window, CALIBRATION) / CALIBRATION
    items = max(MIN_ITEMS, round(seconds / per_item))
    return lambda: contender.run(nbytes, window, items) / items


def table(times: Mapping[str, list[float]], streaming: bool) -> dict[str, Any]:
    """The figures of one case."""
    if streaming:
        return {name: {"items_per_s": summary([1 / t for t in figures])} for name, figures in times.items()}
    return {name: {"us_per_item": summary([t * 1e6 for t in figures])} for name, figures in times.items()}


def ratios(times: Mapping[str, list[float]], streaming: bool) -> dict[str, float]:
    """Stageline beside the floor and beside mosec."""
    found: dict[str, float] = {}
    for kind in ("tcp", "ipc"):
        ours, floor = times.get(f"stageline-{kind}"), times.get(f"pyzmq-{kind}")
        if ours and floor and streaming:
            found[f"stageline/pyzmq over {kind}, items/s"] = ratio(floor, ours)
            found[f"the same, best round of each, {kind}"] = significant(min(floor) / min(ours), 3)
        elif ours and floor:
            added = [(a - b) / STAGES * 1e6 for a, b in zip(ours, floor, strict=True)]
            found[f"added per hop over {kind}, us"] = summary(added)["median"]
            found[f"the same, best round of each, {kind}"] = significant((min(ours) - min(floor)) / STAGES * 1e6, 4)
    for name, figures in times.items():
        if "stageline" in times and name == "mosec":
            found["stageline/mosec, items/s"] = ratio(figures, times["stageline"])
        elif streaming and "stageline-tcp" in times and name in ("torch-pipelining", "ray-compiled-graph"):
            found[f"stageline-tcp/{name}, items/s"] = ratio(figures, times["stageline-tcp"])
            found[f"stageline-ipc/{name}, items/s"] = ratio(figures, times["stageline-ipc"])
    return found


@click.command()
@click.option("--rounds", default=7, show_default=True, help="How often each contender has its turn.")
@click.option("--seconds", default=1.0, show_default=True, help="About how long a turn takes.")
@click.option("--only", multiple=True, help="Contenders by name (repeatable); all by default.")
@click.option("--group", multiple=True, help="'between workers', 'from TCP clients'; both by default.")
@click.option("--save", is_flag=True, help="Keep the result under benchmarks/results/.")
def main(rounds: int, seconds: float, only: tuple[str, ...], group: tuple[str, ...], save: bool) -> None:
    """Measure what a hop costs; the result is JSON on standard output."""
    result: dict[str, Any] = {"machine": machine(), "window": WINDOWS, "bytes": SIZES, "groups": {}}
    for title, contenders in groups().items():
        chosen = [c for c in contenders if (not only or c.name in only) and (not group or title in group)]
        if not chosen:
            continue
        say(f"{title}: starting {', '.join(c.name for c in chosen)}")
        running, skipped = start_all(chosen)
        try:
            times = measure(running, rounds, seconds)
        finally:
            stop_all(running)
        result["groups"][title] = {
            "transport": {c.name: c.transport for c in running},
            "skipped": skipped,
            "cases": {
                case: {**table(found, "streaming" in case), "ratios": ratios(found, "streaming" in case)}
                for case, found in times.items()
            },
        }
    report("hop", result, save=save)


if __name__ == "__main__":
    main()
