"""Draws medians with their intervals, one line each, as an SVG that needs no library and fits light and dark pages."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

__all__ = ["Line", "draw"]

ROW, TOP, LEFT, WIDTH, RIGHT = 18, 44, 270, 480, 20
LOWEST, HIGHEST = 0.6, 1.15
"""What the axis shows; what is beyond is drawn at its end."""
STYLE = """\
<style>
svg { font: 12px sans-serif; background: #fff } text { fill: #222 } .grid { stroke: #ddd } .bar { stroke: #b00 }
.ours { stroke: #06c; fill: #06c; stroke-width: 2 } .theirs { fill: #d70 } .right { text-anchor: end }
.middle { text-anchor: middle }
</style>"""


class Line(NamedTuple):
    """A median, its interval, and another's median beside it, if there is one."""

    name: str
    median: float
    low: float
    high: float
    other: float | None = None


def draw(lines: Sequence[Line], title: str, other: str, limit: float) -> str:
    """Draws one row for each line, with a red rule at the limit."""
    height = TOP + ROW * len(lines) + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + RIGHT} {height}" role="img">',
        f"<title>{escape(title)}</title>",
        STYLE,
        f'<rect width="{LEFT + WIDTH + RIGHT}" height="{height}" fill="#fff"/>',
        *_axis(height, limit),
        *(part for number, line in enumerate(lines) for part in _row(number, line)),
        f'<text x="8" y="18">{escape(title)}</text>',
        f'<circle class="theirs" cx="{LEFT + 6}" cy="14" r="4"/><text x="{LEFT + 16}" y="18">{escape(other)}</text>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _axis(height: int, limit: float) -> Iterator[str]:
    for percent in range(round(LOWEST * 100), round(HIGHEST * 100) + 1, 10):
        x = _x(percent / 100)
        yield f'<path class="grid" d="M{x} {TOP - 8}V{height - 24}"/>'
        yield f'<text class="middle" x="{x}" y="{height - 8}">{percent / 100:.1f}</text>'
    yield f'<path class="bar" d="M{_x(limit)} {TOP - 8}V{height - 24}"/>'


def _row(number: int, line: Line) -> Iterator[str]:
    y = TOP + ROW * number + 4
    yield f'<text class="right" x="{LEFT - 12}" y="{y + 4}">{escape(line.name)}</text>'
    yield f'<path class="ours" d="M{_x(line.low)} {y}H{_x(line.high)}"/>'
    yield f'<circle class="ours" cx="{_x(line.median)}" cy="{y}" r="3"/>'
    if line.other is not None:
        yield f'<circle class="theirs" cx="{_x(line.other)}" cy="{y}" r="4"/>'


def _x(ratio: float) -> float:
    inside = min(max(ratio, LOWEST), HIGHEST)
    return round(LEFT + (inside - LOWEST) / (HIGHEST - LOWEST) * WIDTH, 1)
