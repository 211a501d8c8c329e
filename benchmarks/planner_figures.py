"""Summaries, the table and the plots of `planner.py`."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from common import RESULTS, say, significant
from stageline_coordinator.planner.algorithms import COMPARED, OURS

if TYPE_CHECKING:
    from planner import Record

Rows = Sequence["Record"]


def of_setting(records: Rows) -> dict[str, Any]:
    """What a comparison comes to. Problems whose best plan crosses no link at all (objective 0) have no ratios."""
    placed = [r for r in records if r.objective_s[OURS] is not None]
    judged = [r for r in placed if (r.objective_s[OURS] or 0) > 0]
    return {
        "problems": len(records),
        "without any plan": len(records) - len(placed),
        "objective 0": len(placed) - len(judged),
        "optimal": sum(r.status == "optimal" for r in judged),
        "gap": gaps(judged),
        "found a plan": {name: sum(r.objective_s[name] is not None for r in placed) for name in COMPARED},
        "of the bound": {name: _by(judged, "nodes", lambda rows, n=name: _of_bound(rows, n)) for name in COMPARED},
        "over the planner": {name: over_planner(judged, name) for name in COMPARED if name != OURS},
        "over the planner, by": {
            label: {
                name: _by(judged, label, lambda rows, n=name: over_planner(rows, n).get("geometric mean"))
                for name in COMPARED
                if name != OURS
            }
            for label in ("model", "bandwidth", "capacity_mb")
            if judged and label in judged[0].labels
        },
        "solve_s": {name: _by(placed, "nodes", lambda rows, n=name: _seconds(rows, n)) for name in COMPARED},
    }


def of_sizes(records: Rows) -> list[dict[str, Any]]:
    """Solve seconds and gaps of the planner by number of nodes, number of blocks and kind of nodes."""
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        labels = record.labels
        groups.setdefault((labels["nodes"], labels["blocks"], labels["kind"]), []).append(record)
    return [
        {
            "nodes": nodes,
            "blocks": blocks,
            "kind": kind,
            "problems": len(rows),
            "optimal": sum(r.status == "optimal" for r in rows),
            "gap": gaps(rows),
            "solve_s": _seconds(rows, OURS),
            "algorithms": sorted({r.algorithm for r in rows}),
        }
        for (nodes, blocks, kind), rows in groups.items()
    ]


def gaps(records: Rows) -> dict[str, float]:
    """Median and worst gap to the proven bound."""
    found = [r.gap for r in records if r.gap is not None]
    return {"median": significant(statistics.median(found), 3), "worst": significant(max(found), 3)} if found else {}


def over_planner(records: Rows, name: str) -> dict[str, float]:
    """The baseline's bottleneck over the planner's, where it found a plan."""
    pairs = [(r.objective_s[name], r.objective_s[OURS]) for r in records]
    ratios = [theirs / ours for theirs, ours in pairs if theirs is not None and ours is not None]
    if not ratios:
        return {}
    figures = {"geometric mean": geometric_mean(ratios), "median": statistics.median(ratios), "largest": max(ratios)}
    return {**{key: significant(value, 4) for key, value in figures.items()}, "problems": len(ratios)}


def geometric_mean(values: Iterable[float]) -> float:
    logs = [math.log(value) for value in values]
    return math.exp(math.fsum(logs) / len(logs))


def _of_bound(records: Rows, name: str) -> float | None:
    values = [(r.objective_s[name], r.bound_s) for r in records]
    ratios = [objective / bound for objective, bound in values if objective is not None and bound > 0]
    return significant(geometric_mean(ratios), 4) if ratios else None


def _seconds(records: Rows, name: str) -> dict[str, float]:
    spent = [r.solve_s[name] for r in records]
    return {"median": significant(statistics.median(spent), 3), "max": significant(max(spent), 3)}


def _by(records: Rows, label: str, figure: Callable[[Rows], Any]) -> dict[str, Any]:
    """The figure by the value of a label, in the order of the problems."""
    values = dict.fromkeys(r.labels[label] for r in records)
    return {str(value): figure([r for r in records if r.labels[label] == value]) for value in values}


def table(title: str, figures: Mapping[str, Any]) -> None:
    """Bottleneck over the proven bound (geometric mean) by number of nodes, on standard error."""
    of = f"{title}, {figures['problems']} problems: bottleneck / bound by number of nodes, and / the planner's"
    shown = Table(title=of, title_justify="left")
    nodes = list(figures["of the bound"][OURS])
    for column in ("algorithm", *nodes, "/ planner", "plans"):
        shown.add_column(column, justify="left" if column == "algorithm" else "right", no_wrap=True)
    for name, by_nodes in figures["of the bound"].items():
        over = figures["over the planner"].get(name, {}).get("geometric mean", "")
        cells = ["" if by_nodes.get(n) is None else f"{by_nodes[n]:.3f}" for n in nodes]
        shown.add_row(name, *cells, str(over), str(figures["found a plan"][name]))
    Console(stderr=True).print(shown)


def plots(result: Mapping[str, Any]) -> None:
    """Ratios and solve seconds as SVG under `results/`; a message where matplotlib is missing."""
    try:
        import matplotlib as mpl
    except ModuleNotFoundError:
        say("no plots: matplotlib is not installed (pip install 'stageline[bench]')")
        return
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "planner"  # the same picture for the same figures
    _plot_ratios(result["settings"])
    _plot_seconds(result["solve seconds and gaps"])


def _plot_ratios(settings: Mapping[str, Any]) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(settings), figsize=(5 * len(settings), 4), squeeze=False)
    for axis, (title, figures) in zip(axes[0], settings.items(), strict=True):
        for name, by_nodes in figures["of the bound"].items():
            points = [(int(n), ratio) for n, ratio in by_nodes.items() if ratio is not None]
            axis.plot(*zip(*points, strict=True), marker="o", label=name, linewidth=3 if name == OURS else 1)
        axis.set(title=title, xlabel="nodes")
        axis.loglog()
        nodes = [int(n) for n in figures["of the bound"][OURS]]
        axis.set_xticks(nodes, [str(n) for n in nodes])
        axis.set_xticks([], minor=True)
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter("{x:g}")
        axis.tick_params(which="minor", labelsize="x-small")
    axes[0][0].set_ylabel("bottleneck / proven bound")
    axes[0][-1].legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="small")
    _keep(figure, "planner-ratios")


def _plot_seconds(sizes: Sequence[Mapping[str, Any]]) -> None:
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(5, 4))
    for blocks in sorted({row["blocks"] for row in sizes}):
        rows = [row for row in sizes if row["blocks"] == blocks and row["kind"] == "arbitrary"]
        medians = [row["solve_s"]["median"] for row in rows]
        axis.plot([row["nodes"] for row in rows], medians, marker="o", label=f"{blocks} blocks")
    axis.set(title="solve seconds (one core), arbitrary nodes", xlabel="nodes", ylabel="median", yscale="log")
    axis.legend(fontsize="small")
    _keep(figure, "planner-seconds")


def _keep(figure: Any, name: str) -> None:
    RESULTS.mkdir(exist_ok=True)
    figure.savefig(RESULTS / f"{name}.svg", bbox_inches="tight", metadata={"Date": None})
