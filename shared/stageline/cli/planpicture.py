"""A plan as an SVG picture for a report: self-contained, on white, without scripts, fonts or links.

Each model is a row of boxes from gateway to gateway that goes on below where it is full. Bars of busy time have one
scale in the whole picture; what limits is orange.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

from stageline.cli.output import size
from stageline.cli.plandraw import memory, milliseconds, names, summary
from stageline.cli.planfigures import Chain, Figures, Hop, Host, Stage
from stageline.cli.svg import (
    FAINT,
    FILL,
    HELD,
    HOT,
    HOT_FILL,
    INK,
    LETTER,
    MARGIN,
    MUTED,
    PAPER,
    USED,
    WIDTH,
    Canvas,
    draw_bar,
)

BOX_WIDTH, GATE_WIDTH, GAP = 180, 76, 84
HEAD, HOST, SHARE, PAD = 46, 44, 14, 14  # of a box: lines of its blocks, of a host, of its share, and around them
ROW_GAP, INDENT = 58, 34
SHOWN_HOSTS = 4


def picture(figures: Figures) -> str:
    """The SVG document."""
    canvas = Canvas(figures.title)
    y = _header(canvas, figures)
    for chain in figures.chains:
        y = _chain(canvas, chain, figures.bottleneck_s, y)
    y = _footer(canvas, figures, y)
    return canvas.finish(y)


@dataclass(frozen=True)
class _Place:
    """Where an item of a row is."""

    x: float
    width: float
    row: int


def _header(canvas: Canvas, figures: Figures) -> float:
    canvas.text(MARGIN, 52, figures.title, 22, width=WIDTH - 2 * MARGIN, bold=True)
    for number, (value, meaning, hot) in enumerate(_tiles(figures)):
        x = MARGIN + number * (WIDTH - 2 * MARGIN) / 4
        canvas.text(x, 98, value, 24, width=250, fill=HOT if hot else INK, bold=True)
        canvas.text(x, 118, meaning, 12, width=250, fill=MUTED)
    return 140


def _tiles(figures: Figures) -> Iterator[tuple[str, str, bool]]:
    if figures.per_s is not None:
        each = " of each model" if len(figures.chains) > 1 and not figures.load_factor else ""
        yield f"{figures.per_s:.3g} requests/s", f"predicted{each}", False
    if figures.chains:
        slowest = max(figures.chains, key=lambda chain: chain.latency_s)
        yield milliseconds(slowest.latency_s), "for a request alone", False
    if figures.limits:
        yield milliseconds(figures.limits[0].busy_s), f"bottleneck: {figures.limits[0].name}", True
    if figures.gap is not None:
        yield (
            f"{100 * figures.gap:.2g} %",
            "proven: no plan is better" if figures.proven else "gap to the proven bound",
            False,
        )


def _chain(canvas: Canvas, chain: Chain, full_s: float, top: float) -> float:
    """Draws a model below `top`; returns where it ends."""
    canvas.rect(MARGIN, top, WIDTH - 2 * MARGIN, 1, FAINT)
    rate = f", {chain.rate_per_s:g} requests/s expected" if chain.rate_per_s else ""
    canvas.text(MARGIN, top + 32, f"{chain.name}{rate}", 15, width=WIDTH - 2 * MARGIN, bold=True)
    places = _places(len(chain.stages))
    height = max(_height(stage) for stage in chain.stages)
    first = top + 54

    def middle(place: _Place) -> float:
        return first + place.row * (height + ROW_GAP) + height / 2

    hops = [*(stage.hop_in for stage in chain.stages), chain.hop_out]
    for hop, before, after in zip(hops, places, places[1:], strict=False):
        _hop(canvas, hop, (before, middle(before)), (after, middle(after)), height)
    for place in (places[0], places[-1]):
        _gateway(canvas, place.x, middle(place))
    for number, (stage, place) in enumerate(zip(chain.stages, places[1:-1], strict=True)):
        _box(canvas, number, stage, (place.x, middle(place) - _height(stage) / 2), full_s)
    return first + (places[-1].row + 1) * (height + ROW_GAP) - ROW_GAP + 26


def _places(stages: int) -> list[_Place]:
    """Of the gateway, the stages and the gateway again, from left to right; rows after the first are indented."""
    widths = [GATE_WIDTH, *[BOX_WIDTH] * stages, GATE_WIDTH]
    found: list[_Place] = []
    x, row = float(MARGIN), 0
    for width in widths:
        if found and x + width > WIDTH - MARGIN - INDENT / 2:
            x, row = float(MARGIN + INDENT), row + 1
        found.append(_Place(x, width, row))
        x += width + GAP
    return found


def _height(stage: Stage) -> float:
    hosts = min(len(stage.hosts), SHOWN_HOSTS)
    return HEAD + _host_height(stage) * hosts + PAD / 2 + (SHARE if len(stage.hosts) > SHOWN_HOSTS else 0)


def _host_height(stage: Stage) -> float:
    return HOST + (SHARE if any(map(_remark, stage.hosts)) else 0)


def _remark(host: Host) -> str:
    """Its share of the requests if there are others, and how busy it was found to be."""
    share = f"takes {100 * host.share:.0f} % of the requests" if host.share < 1 else ""
    measured = f"was {100 * host.measured:.0f} % busy" if host.measured is not None else ""
    return f"takes {100 * host.share:.0f} %, {measured}" if share and measured else share or measured


def _gateway(canvas: Canvas, x: float, middle: float) -> None:
    canvas.rect(x, middle - 18, GATE_WIDTH, 36, PAPER, stroke=HELD, rx="18")
    canvas.text(x + GATE_WIDTH / 2, middle + 4, "gateway", 12, fill=MUTED, anchor="middle")


def _hop(canvas: Canvas, hop: Hop, start: tuple[_Place, float], end: tuple[_Place, float], height: float) -> None:
    """An arrow and what it carries; to the next row it goes between the two."""
    (before, y), (after, below) = start, end
    colour, width = (HOT, 2.5) if hop.limits else (HELD, 1.5)
    right = before.x + before.width
    points = [(right, y), (after.x - 2, below)]
    label = ((right + after.x) / 2, y)
    if before.row != after.row:
        between, aside = y + height / 2 + ROW_GAP / 2, after.x - INDENT + 8
        points = [(right, y), (right + 16, y), (right + 16, between), (aside, between), (aside, below), points[-1]]
        label = ((right + 16 + aside) / 2, between)
    canvas.arrow(points, colour, width)
    codec = "" if hop.codec == "none" else f"as {hop.codec}"
    bold, fill = hop.limits, HOT if hop.limits else MUTED
    busy = milliseconds(hop.busy_s) if hop.busy_s else "free"
    for y, text in ((label[1] - 8, size(round(hop.wire_bytes))), (label[1] + 17, busy), (label[1] + 31, codec)):
        canvas.text(label[0] - 4, y, text, 11, width=GAP, fill=fill, anchor="middle", bold=bold)


def _box(canvas: Canvas, number: int, stage: Stage, corner: tuple[float, float], full_s: float) -> None:
    (x, y), height = corner, _height(stage)
    fill, stroke, width = (HOT_FILL, HOT, "2") if stage.limits else (FILL, HELD, "1")
    canvas.rect(x, y, BOX_WIDTH, height, fill, stroke=stroke, stroke_width=width, rx="8")
    inner = BOX_WIDTH - 2 * PAD
    count = stage.end - stage.start
    blocks = f"block {stage.start}" if count == 1 else f"blocks {stage.start}-{stage.end}"
    canvas.text(x + PAD, y + 22, f"{number} · {blocks}", 12, width=inner, fill=MUTED)
    canvas.text(x + PAD, y + 38, names(stage, int(inner / (LETTER * 11))), 11, fill=MUTED, whole=names(stage))
    for i, host in enumerate(stage.hosts[:SHOWN_HOSTS]):
        hot = HOT if stage.limits and host.limits else ""
        _host(canvas, host, (x + PAD, y + HEAD + _host_height(stage) * i), full_s, hot)
    more = len(stage.hosts) - SHOWN_HOSTS
    if more > 0:
        canvas.text(x + PAD, y + height - 8, f"and {more} more nodes", 11, fill=MUTED)


def _host(canvas: Canvas, host: Host, corner: tuple[float, float], full_s: float, hot: str) -> None:
    """Name and milliseconds, a bar for the busy time, a thin one for memory; `hot`: the colour of what limits."""
    (x, y), width = corner, BOX_WIDTH - 2 * PAD
    canvas.text(x, y + 14, host.node, 13, width=width - 66, fill=hot or INK, bold=True)
    canvas.text(x + width, y + 14, milliseconds(host.busy_s), 12, fill=hot or INK, anchor="end")
    if remark := _remark(host):
        y += SHARE
        canvas.text(x, y + 13, remark, 10, width=width, fill=MUTED)
    draw_bar(canvas, (x, y + 20), (width, 7), host.busy_s / full_s if full_s > 0 else 0.0, hot or USED)
    room = width - 84
    draw_bar(canvas, (x, y + 33), (room, 3), host.held_bytes / max(1, host.memory_bytes), HELD)
    canvas.text(x + width, y + 38, memory(host), 10, fill=MUTED, anchor="end")


def _footer(canvas: Canvas, figures: Figures, top: float) -> float:
    canvas.rect(MARGIN, top, WIDTH - 2 * MARGIN, 1, FAINT)
    y = top + 8
    for line in (*summary(figures), *(f"This plan cannot run: {fault}." for fault in figures.faults)):
        for part in textwrap.wrap(line, int((WIDTH - 2 * MARGIN) / (LETTER * 13))):
            y += 20
            canvas.text(MARGIN, y, part, 13)
        y += 4
    y += 26
    draw_bar(canvas, (MARGIN, y - 7), (40, 7), 0.7, USED)
    canvas.text(MARGIN + 50, y, "busy per request; a full bar is the bottleneck", 11, fill=MUTED)
    draw_bar(canvas, (MARGIN + 330, y - 5), (40, 3), 0.7, HELD)
    canvas.text(MARGIN + 380, y, "memory held by all that the node serves", 11, fill=MUTED)
    return y + 24
