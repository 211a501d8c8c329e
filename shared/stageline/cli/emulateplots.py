"""Pictures of an emulation's report: how much was answered when, and how busy nodes and links were."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stageline.cli.svg import FAINT, HOT, INK, MARGIN, MUTED, USED, WIDTH, Canvas, draw_bar

LEFT = MARGIN + 60
PANEL, SPACE = 200, 66
ROW, BAR = 26, 190
TICKS = 9
WIDTH_S = 2.0
"""Seconds over which answers are counted for the curve."""

Curve = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class _Panel:
    """A diagram of a value over seconds, below `top`."""

    canvas: Canvas
    top: float
    span: tuple[float, float]
    most: float

    def x(self, seconds: float) -> float:
        first, last = self.span
        return LEFT + (WIDTH - MARGIN - LEFT) * (seconds - first) / max(1e-9, last - first)

    def y(self, value: float) -> float:
        return self.top + PANEL * (1 - min(1.0, value / self.most))

    def frame(self, title: str) -> None:
        self.canvas.text(MARGIN, self.top - 14, title, 13, bold=True)
        for part in (0.0, 0.5, 1.0):
            y = self.y(part * self.most)
            self.canvas.rect(LEFT, y, WIDTH - MARGIN - LEFT, 1, FAINT)
            self.canvas.text(LEFT - 8, y + 4, f"{part * self.most:.3g}", 11, fill=MUTED, anchor="end")

    def curve(self, points: Curve, colour: str, width: float = 1.5, **more: str) -> None:
        if len(points) > 1:
            self.canvas.line([(self.x(at), self.y(value)) for at, value in points], colour, width, **more)


def timeline(report: Mapping[str, Any]) -> str:
    """Answers per second and latency over time, with the events, and what the planner expected between them."""
    canvas = Canvas(f"{report['emulation']}: answers over time")
    canvas.text(
        MARGIN, 48, f"{report['emulation']}: {report['model']['name']}", 20, bold=True, width=WIDTH - 2 * MARGIN
    )
    slices, phases = report["timeline"], report["phases"]
    span = (slices[0]["at_s"], slices[-1]["at_s"]) if slices else (0.0, 1.0)
    rates = _rates(slices)
    expected = [phase["predicted_rps"] for phase in phases if phase["predicted_rps"]]
    rate = _Panel(canvas, 100, span, 1.15 * max([value for _, value in rates] + expected, default=1.0) or 1.0)
    rate.frame("answers/s (dashed: predicted)")
    for phase in phases:
        if phase["predicted_rps"]:
            level = phase["predicted_rps"]
            rate.curve([(phase["from_s"], level), (phase["to_s"], level)], INK, 1, stroke_dasharray="5 4")
    rate.curve(rates, USED)
    tails = [(one["at_s"], one["p99_ms"]) for one in slices if one["p99_ms"] is not None]
    slow = _Panel(canvas, rate.top + PANEL + SPACE, span, 1.1 * max((value for _, value in tails), default=1.0) or 1.0)
    slow.frame("slowest answers, ms (p99 of each half second)")
    slow.curve(tails, USED)
    bottom = slow.top + PANEL
    _events(canvas, report, rate, bottom)
    return canvas.finish(bottom + 50)


def _events(canvas: Canvas, report: Mapping[str, Any], panel: _Panel, bottom: float) -> None:
    """Lines across both panels, with what happened; the beginning of the measurement is one of them."""
    marks = [(0.0, "measured from here"), *((event["at_s"], event["what"]) for event in report["events"])]
    for number, (at_s, what) in enumerate(marks):
        x, colour = panel.x(at_s), HOT if number else MUTED
        canvas.line([(x, panel.top - 4), (x, bottom)], colour, 1, stroke_dasharray="2 3")
        canvas.text(x + 4, panel.top + 10 + 13 * (number % 3), what, 11, fill=colour)
    for seconds in _ticks(*panel.span):
        canvas.text(panel.x(seconds), bottom + 18, f"{seconds:g} s", 11, fill=MUTED, anchor="middle")


def _ticks(first: float, last: float) -> list[float]:
    """Round seconds in [first, last], at most `TICKS` of them."""
    span = max(last - first, 1e-9)
    size = 10 ** math.floor(math.log10(span / TICKS))
    step = next(each * size for each in (1, 2, 5, 10, 20) if span / (each * size) < TICKS)
    return [number * step for number in range(math.ceil(first / step), math.floor(last / step) + 1)]


def _rates(slices: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """Answers per second, over `WIDTH_S` up to each slice."""
    if len(slices) < 2:
        return []
    step = slices[1]["at_s"] - slices[0]["at_s"]
    count = max(1, round(WIDTH_S / step))
    counted = [one["answered"] for one in slices]
    return [
        (slices[i]["at_s"], sum(counted[max(0, i + 1 - count) : i + 1]) / (step * min(count, i + 1)))
        for i in range(len(slices))
    ]


def utilisation(report: Mapping[str, Any]) -> str:
    """By node, the parts of its processor and of its link's rates that were used."""
    canvas = Canvas(f"{report['emulation']}: utilisation")
    canvas.text(MARGIN, 48, f"{report['emulation']}: how busy nodes and links were", 20, bold=True)
    columns = [("cpu", "processor (quota)"), ("up", "sent (limit)"), ("down", "received (limit)")]
    at = [MARGIN + 190 + number * 310 for number in range(len(columns))]
    for x, (_, title) in zip(at, columns, strict=True):
        canvas.text(x, 84, title, 12, fill=MUTED)
    y = 100.0
    for node in report["utilisation"]:
        canvas.text(MARGIN, y + 12, node["node"], 13, width=170, bold=True)
        for x, (key, _) in zip(at, columns, strict=True):
            part = node[key]
            draw_bar(canvas, (x, y + 3), (BAR, 9), part or 0.0, HOT if (part or 0.0) > 0.9 else USED)
            canvas.text(x + BAR + 10, y + 12, _amount(node, key), 11, fill=MUTED)
        y += ROW
    return canvas.finish(y + 30)


def _amount(node: Mapping[str, Any], key: str) -> str:
    part = "" if node[key] is None else f"{100 * node[key]:.0f} %"
    if key == "cpu":
        return f"{part} ({node['cpus']:g})"
    return part or f"{node[f'{key}_mbps']:.3g} Mbit/s"
