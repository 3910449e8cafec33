"""The ratios as a picture: one line for each row, a mark for each contender, on a logarithmic scale."""

from __future__ import annotations

import math
from collections.abc import Iterator
from html import escape

from scripts.benchmark.contenders import LINKS
from scripts.benchmark.results import Results
from scripts.benchmark.rows import Row

#: Okabe and Ito's palette, which those who cannot tell red from green can read; ours are discs, peers are diamonds.
COLOURS = {
    "copy": "#777777",
    "symfuse-auto": "#56b4e9",
    "symfuse-cached": "#0072b2",
    "symfuse-passthrough": "#009e73",
    "symfuse-stack": "#cc79a7",
    "symfuse-fusepy": "#8ecae6",
    "bindfs": "#d55e00",
    "mergerfs": "#e69f00",
    "rclone-off": "#c9a227",
    "rclone-full": "#8b5a2b",
}
LABELS_PX, PLOT_PX, MARGIN_PX = 390, 560, 30
ROW_PX, HEADING_PX, LEGEND_PX = 22, 30, 26
TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
FONT = "font-family='DejaVu Sans, Verdana, sans-serif' font-size='12'"


def draw(results: Results) -> str:
    """An SVG document. Errors: ValueError where the results hold no ratio."""
    rows = [row for row in results.rows() if not row.absolute]
    names = [name for name in results.contenders if name != LINKS]
    points = {
        (row.key, name): found.median for row in rows for name in names if (found := results.ratio(row.key, name))
    }
    rows = [row for row in rows if any((row.key, name) in points for name in names)]
    if not points:
        raise ValueError("without a ratio there is nothing to draw")
    scale = Scale(min(points.values()), max(points.values()))
    per_line = 5
    top = LEGEND_PX * math.ceil(len(names) / per_line) + 20
    body, bottom = _rows(rows, names, points, scale, top)
    width, height = LABELS_PX + PLOT_PX + MARGIN_PX, bottom + 40
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' width='{width}' {FONT}>",
        f"<rect width='{width}' height='{height}' fill='#ffffff'/>",
        *_legend(names, per_line),
        *_grid(scale, top, bottom),
        *body,
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


class Scale:
    """Where a ratio lies from left to right, in pixels."""

    def __init__(self, least: float, most: float) -> None:
        self._low = math.log10(min(least, 0.9) * 0.9)
        self._high = math.log10(max(most, 1.2) * 1.1)

    def x(self, ratio: float) -> float:
        """Pixels from the left edge of the picture."""
        return round(LABELS_PX + PLOT_PX * (math.log10(ratio) - self._low) / (self._high - self._low), 1)

    def ticks(self) -> list[float]:
        """The round numbers within the scale."""
        return [tick for tick in TICKS if self._low <= math.log10(tick) <= self._high]


def _legend(names: list[str], per_line: int) -> Iterator[str]:
    step = (LABELS_PX + PLOT_PX) // per_line
    for place, name in enumerate(names):
        x, y = 20 + place % per_line * step, 18 + place // per_line * LEGEND_PX
        yield _mark(name, x, y, name)
        yield f"<text x='{x + 10}' y='{y + 4}' fill='#222222'>{escape(name)}</text>"


def _grid(scale: Scale, top: int, bottom: int) -> Iterator[str]:
    for tick in scale.ticks():
        x = scale.x(tick)
        colour, width = ("#222222", 1.5) if tick == 1 else ("#dddddd", 1)
        yield f"<line x1='{x}' y1='{top}' x2='{x}' y2='{bottom}' stroke='{colour}' stroke-width='{width}'/>"
        yield f"<text x='{x}' y='{bottom + 16}' text-anchor='middle' fill='#444444'>{tick:g}</text>"
    middle = LABELS_PX + PLOT_PX // 2
    said = "time as a ratio to reading the links directly (1); less is better"
    yield f"<text x='{middle}' y='{bottom + 33}' text-anchor='middle' fill='#444444'>{said}</text>"


def _rows(
    rows: list[Row], names: list[str], points: dict[tuple[str, str], float], scale: Scale, top: int
) -> tuple[list[str], int]:
    """The rows below their conditions, and where they end."""
    parts, y, before = [], top, None
    for row in rows:
        if row.condition != before:
            y += HEADING_PX
            parts.append(f"<text x='12' y='{y - 8}' font-weight='bold' fill='#222222'>{escape(row.condition)}</text>")
            before = row.condition
        middle = y + ROW_PX // 2
        right = LABELS_PX + PLOT_PX
        parts.append(f"<text x='24' y='{middle + 4}' fill='#222222'>{escape(row.title)}</text>")
        parts.append(f"<line x1='{LABELS_PX}' y1='{middle}' x2='{right}' y2='{middle}' stroke='#eeeeee'/>")
        parts += [
            _mark(name, scale.x(points[row.key, name]), middle, f"{name}: {points[row.key, name]:.2f}")
            for name in reversed(names)  # the first is drawn last, above the others
            if (row.key, name) in points
        ]
        y += ROW_PX
    return parts, y


def _mark(name: str, x: float, y: float, hint: str) -> str:
    title = f"<title>{escape(hint)}</title>"
    paint = f"fill='{COLOURS[name]}' fill-opacity='0.85'"
    if name.startswith("symfuse"):
        return f"<circle cx='{x}' cy='{y}' r='5.5' {paint}>{title}</circle>"
    return f"<path d='M{x - 5.5} {y}L{x} {y - 5.5}L{x + 5.5} {y}L{x} {y + 5.5}Z' {paint}>{title}</path>"
