"""Pictures for reports: self-contained SVG, on white, without scripts, fonts or links."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree as Xml

from stageline.cli.output import shown

WIDTH, MARGIN = 1160, 40
INK, MUTED, FAINT, PAPER = "#1f2933", "#616e7c", "#cbd2d9", "#ffffff"
FILL, USED, HELD = "#f5f7fa", "#3e7cb1", "#9aa5b1"
HOT, HOT_FILL = "#c2410c", "#fff5ee"
FONT = "system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif"
LETTER = 0.56
"""Mean width of a letter, in parts of the font's size."""


class Canvas:
    """Elements of a picture, whose height is known at the end."""

    def __init__(self, title: str) -> None:
        self.root = Xml.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "font-family": FONT, "role": "img"})
        Xml.SubElement(self.root, "title").text = shown(title)
        self._paper = self.rect(0, 0, WIDTH, 0, PAPER)

    def finish(self, height: float) -> str:
        """The document, so many units high."""
        self.root.set("viewBox", f"0 0 {WIDTH} {height:g}")
        self.root.set("width", f"{WIDTH}")
        self.root.set("height", f"{height:g}")
        self._paper.set("height", f"{height:g}")
        Xml.indent(self.root)
        return Xml.tostring(self.root, encoding="unicode") + "\n"

    def rect(self, x: float, y: float, width: float, height: float, fill: str, **more: str) -> Xml.Element:
        """A rectangle; `more`: attributes, with _ for -."""
        where = {"x": f"{x:g}", "y": f"{y:g}", "width": f"{width:g}", "height": f"{height:g}", "fill": fill}
        return Xml.SubElement(self.root, "rect", {**where, **{k.replace("_", "-"): v for k, v in more.items()}})

    def text(
        self, x: float, y: float, text: str, points: float = 12, *, width: float = 0, fill: str = INK,
        anchor: str = "start", bold: bool = False, whole: str = "",
    ) -> None:  # fmt: skip
        """A line whose baseline is at `y`; one that is wider than `width` is cut. `whole` shows when pointed at."""
        whole, text = shown(whole or text), shown(text)
        cut = fit(text, width, points * (1.06 if bold else 1)) if width else text
        where = {"x": f"{x:g}", "y": f"{y:g}", "font-size": f"{points:g}", "fill": fill, "text-anchor": anchor}
        element = Xml.SubElement(self.root, "text", {**where, **({"font-weight": "600"} if bold else {})})
        element.text = cut
        if cut != whole:
            Xml.SubElement(element, "title").text = whole

    def line(self, points: Sequence[tuple[float, float]], colour: str, width: float, **more: str) -> None:
        """Through the points; `more`: attributes, with _ for -."""
        style = {"points": " ".join(f"{x:.1f},{y:.1f}" for x, y in points), "fill": "none", "stroke": colour}
        more = {"stroke-width": f"{width:g}", **{k.replace("_", "-"): v for k, v in more.items()}}
        Xml.SubElement(self.root, "polyline", {**style, "stroke-linejoin": "round", **more})

    def arrow(self, points: Sequence[tuple[float, float]], colour: str, width: float) -> None:
        """A line with a head, which points to the right."""
        line = " ".join(f"{x:g},{y:g}" for x, y in points)
        style = {"points": line, "fill": "none", "stroke": colour, "stroke-width": f"{width:g}"}
        Xml.SubElement(self.root, "polyline", {**style, "stroke-linejoin": "round"})
        x, y = points[-1]
        head = f"{x + 1:g},{y:g} {x - 9:g},{y - 5:g} {x - 9:g},{y + 5:g}"
        Xml.SubElement(self.root, "polygon", {"points": head, "fill": colour})


def fit(text: str, width: float, points: float) -> str:
    """The text as far as it has room."""
    room = int(width / (LETTER * points))
    return text if len(text) <= room else text[: max(1, room - 1)] + "…"


def draw_bar(canvas: Canvas, corner: tuple[float, float], area: tuple[float, float], part: float, colour: str) -> None:
    """A bar of which a part is filled."""
    (x, y), (width, height) = corner, area
    canvas.rect(x, y, width, height, "#e4e7eb", rx=f"{height / 2:g}")
    if part > 0:
        canvas.rect(x, y, max(height, width * min(1.0, part)), height, colour, rx=f"{height / 2:g}")
