"""A plan on the terminal: a line for each stage and hop, with bars of one scale: the longest one is what limits.

In a pipe the same as tab-separated columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from stageline.cli.output import shown, size
from stageline.cli.planfigures import Chain, Figures, Hop, Host, Stage
from stageline.cli.plans import BOTTLENECK
from stageline.wording import listed

COLUMNS = ("model", "stage", "blocks", "node", "weights", "compute ms", "bytes out", "in ms", "busy ms", "")
WIDE = 100
"""Characters from which on there is room for memory and longer bars."""

SHOWN_UNUSED = 8

MARK = "◄ bottleneck"

USED, LIMITS, DIM = "cyan", "bold dark_orange", "bright_black"


@dataclass(frozen=True)
class _Scale:
    """The seconds of the longest bar, and the characters that there are for a line."""

    full_s: float
    width: int

    @property
    def wide(self) -> bool:
        return self.width >= WIDE

    def blocks(self, chain: Chain) -> int:
        """Characters for the blocks of a stage: what the other columns and the space between them leave."""
        names = max(len(_named(stage, host)) for stage in chain.stages for host in stage.hosts)
        measured = any(host.measured is not None for stage in chain.stages for host in stage.hosts)
        remark = len(MARK) + (len(" 100 % busy") if measured else 0)
        others = names + len("0 ") + len("1000.0 ms") + self.bar + remark + 2 * 5
        return max(12, self.width - others - (len("1023/1023 MiB") if self.wide else 0))

    @property
    def bar(self) -> int:
        """Characters of the longest bar."""
        return 20 if self.wide else 12


def rows(figures: Figures) -> list[list[str]]:
    """One row per stage; a star marks what limits, with a word where that is a hop into it or out of it."""
    found = []
    for chain in figures.chains:
        hops = [*(stage.hop_in for stage in chain.stages[1:]), chain.hop_out]
        for number, (stage, hop_out) in enumerate(zip(chain.stages, hops, strict=True)):
            last = number == len(chain.stages) - 1
            mark = BOTTLENECK if stage.limits else f"{BOTTLENECK} (in)" if stage.hop_in.limits else ""
            found.append(
                [
                    chain.name,
                    str(number),
                    f"{stage.start}-{stage.end} {names(stage)}",
                    " ".join(host.node for host in stage.hosts),
                    size(stage.weight_bytes),
                    milliseconds(stage.compute_s, ""),
                    size(round(hop_out.wire_bytes)),
                    milliseconds(stage.hop_in.busy_s, ""),
                    milliseconds(max(host.busy_s for host in stage.hosts), ""),
                    mark or (f"{BOTTLENECK} (out)" if last and hop_out.limits else ""),
                ]
            )
    return found


def drawing(figures: Figures, width: int) -> RenderableType:
    """All models, then what they reach and what limits them; `width` in characters."""
    parts: list[RenderableType] = [Text(shown(figures.title), style="bold"), Text()]
    for chain in figures.chains:
        parts += [_heading(chain), _chain(chain, _Scale(figures.bottleneck_s, width)), Text()]
    return Group(*parts, *(Text(shown(line)) for line in summary(figures)))


def summary(figures: Figures) -> Iterator[str]:
    """What the plan reaches, what limits it, how far it is from the best, in sentences; not why it cannot run."""
    if figures.per_s is not None:
        yield f"Predicted: {_rate(figures)}."
    if figures.limits:
        top, *others = figures.limits
        then = f" Next: {others[0].name}, {milliseconds(others[0].busy_s)}." if others else ""
        yield f"Bottleneck: {top.name}, busy {milliseconds(top.busy_s)} per request: {top.why}.{then}"
    if figures.gap is not None and figures.bound_s is not None:
        yield proof(figures)
    if figures.unused:
        yield f"Not used: {listed(figures.unused, SHOWN_UNUSED)}."


def proof(figures: Figures) -> str:
    """How good the plan is at most."""
    if figures.proven:
        return "Proven: no plan for this problem is better."
    bound, gap = milliseconds(figures.bound_s or 0.0), 100 * (figures.gap or 0.0)
    return f"Bound: no plan is below {bound}, so that a better one saves {gap:.2g} % at most."


def names(stage: Stage, room: int | None = None) -> str:
    """The first and the last block; of what has no room, the ends, which tell blocks apart."""
    first, last = shown(stage.first_block), shown(stage.last_block)
    whole = first if first == last else f"{first}…{last}"
    if room is None or len(whole) <= room:
        return whole
    each = max(2, room if first == last else (room - 1) // 2)
    ends = [name if len(name) <= each else f"…{name[1 - each :]}" for name in (first, last)]
    return ends[0] if first == last else "→".join(ends)


def milliseconds(seconds: float, unit: str = " ms") -> str:
    """With digits that matter."""
    value = 1000 * seconds
    return f"{value:.0f}{unit}" if value >= 1000 else f"{value:.1f}{unit}" if value >= 10 else f"{value:.2f}{unit}"


def _rate(figures: Figures) -> str:
    per_s = figures.per_s or 0.0
    text = f"{per_s:.3g} requests/s"
    if len(figures.chains) > 1:
        text += " of the most requested model" if figures.load_factor else " of each model"
    if figures.load_factor:
        text += f", {figures.load_factor:.3g} times the stated load"
    alone = ", ".join(
        f"{milliseconds(chain.latency_s)}{f' for {chain.name}' if len(figures.chains) > 1 else ''}"
        for chain in figures.chains
    )
    return f"{text}; a request alone takes {alone}"


def _heading(chain: Chain) -> Text:
    rate = f", {chain.rate_per_s:g} requests/s expected" if chain.rate_per_s else ""
    stages = "1 stage" if len(chain.stages) == 1 else f"{len(chain.stages)} stages"
    return Text.assemble((shown(chain.name), "bold"), (f"  {stages}{rate}", DIM))


def _chain(chain: Chain, scale: _Scale) -> Table:
    """Columns: node, blocks or bytes, memory if there is room, milliseconds, bar, remark."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True, min_width=len("1000.0 ms"))
    table.add_column(no_wrap=True, min_width=scale.bar)
    table.add_column(no_wrap=True, min_width=len(MARK))
    table.add_row(Text("gateway", style=DIM))
    room = scale.blocks(chain)
    for number, stage in enumerate(chain.stages):
        _add_hop(table, stage.hop_in, scale)
        _add_stage(table, number, stage, scale, room)
    _add_hop(table, chain.hop_out, scale)
    table.add_row(Text("gateway", style=DIM))
    return table


def _add_hop(table: Table, hop: Hop, scale: _Scale) -> None:
    codec = "" if hop.codec == "none" else f" as {shown(hop.codec)}"
    what = Text(f"{size(round(hop.wire_bytes))}{codec}", style=DIM)
    busy = Text(milliseconds(hop.busy_s) if hop.busy_s else "free", style=DIM)
    table.add_row(Text("  ↓", style=DIM), what, "", busy, _bar(hop.busy_s, scale, hop.limits), _mark(hop.limits))


def _add_stage(table: Table, number: int, stage: Stage, scale: _Scale, room: int) -> None:
    """A line per host; the blocks stand beside the first."""
    for i, host in enumerate(stage.hosts):
        name = (_named(stage, host), LIMITS if host.limits else "bold")
        blocks = f"{stage.start}-{stage.end} "
        measured = "" if host.measured is None else f"{100 * host.measured:.0f} % busy"
        table.add_row(
            Text.assemble((f"{number} " if i == 0 else "  ", DIM), name),
            Text(blocks + names(stage, room - len(blocks)) if i == 0 else ""),
            Text(memory(host) if scale.wide else "", style=DIM),
            Text(milliseconds(host.busy_s)),
            _bar(host.busy_s, scale, host.limits),
            Text(" ").join(part for part in (_mark(host.limits), Text(measured, style=DIM)) if part.plain),
        )


def _named(stage: Stage, host: Host) -> str:
    share = f" ×{100 * host.share:.0f} %" if len(stage.hosts) > 1 else ""
    return shown(host.node) + share


def memory(host: Host) -> str:
    """Bytes held of bytes there are, in the unit of the latter."""
    whole = size(host.memory_bytes)
    unit = whole.split()[-1]
    factor = 1024 ** ("B", "KiB", "MiB", "GiB").index(unit)
    return f"{host.held_bytes / factor:.3g}/{host.memory_bytes / factor:.3g} {unit}"


def _bar(seconds: float, scale: _Scale, limits: bool) -> Text:
    """As long as its part of the bottleneck, in eighths of a character."""
    eighths = round(8 * scale.bar * min(1.0, seconds / scale.full_s)) if scale.full_s > 0 else 0
    text = "█" * (eighths // 8) + ("▏▎▍▌▋▊▉"[eighths % 8 - 1] if eighths % 8 else "")
    return Text(text.ljust(scale.bar), style=LIMITS if limits else USED, no_wrap=True)


def _mark(limits: bool) -> Text:
    return Text(MARK if limits else "", style=LIMITS)
