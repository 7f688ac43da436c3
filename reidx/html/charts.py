"""Charts as plain data: lines over epochs or ranks, and points of an embedding, with a text alternative of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

Point = tuple[float, float]

WIDTH, HEIGHT = 420, 250
"""Size of a chart in units of its drawing."""
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 14, 40
STYLES = 6
"""Number of styles of lines (colour, dashes and marker)."""
MARKED = 12
"""Points of a line that get a marker, at most."""


@dataclass(frozen=True)
class Line:
    """A line of a chart; its points are ordered by x."""

    name: str
    points: Sequence[Point]


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: its place in the drawing, and its text."""

    place: float
    text: str


@dataclass(frozen=True)
class Drawn:
    """A line in units of the drawing: path, places of the markers, style."""

    name: str
    path: str
    markers: Sequence[Point]
    style: int


@dataclass(frozen=True)
class Chart:
    """Lines over a common axis; ``percent`` shows fractions as percentages."""

    title: str
    x: str
    y: str
    lines: Sequence[Line]
    percent: bool = False
    kind: ClassVar[str] = "chart"
    width: ClassVar[int] = WIDTH
    height: ClassVar[int] = HEIGHT
    frame: ClassVar[tuple[int, int, int, int]] = (LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM)

    @cached_property
    def _ticks(self) -> tuple[list[float], list[float]]:
        from matplotlib.ticker import MaxNLocator

        xs = [x for line in self.lines for x, _ in line.points]
        ys = [y for line in self.lines for _, y in line.points]
        along = MaxNLocator(6, integer=True, min_n_ticks=2).tick_values(min(xs), max(*xs, min(xs) + 1))
        low, high = min(ys), max(ys)
        up = MaxNLocator(5, min_n_ticks=3).tick_values(low, high if high > low else low + (abs(low) or 1.0))
        return [float(x) for x in along], [float(y) for y in up]

    def _place(self, x: float, y: float) -> Point:
        """The place in the drawing of a point of the data."""
        along, up = self._ticks
        left = LEFT + (x - along[0]) / (along[-1] - along[0]) * (WIDTH - LEFT - RIGHT)
        top = HEIGHT - BOTTOM - (y - up[0]) / (up[-1] - up[0]) * (HEIGHT - TOP - BOTTOM)
        return round(left, 1), round(top, 1)

    @property
    def ticks_x(self) -> list[Tick]:
        """The marks of the horizontal axis."""
        along, up = self._ticks
        return [Tick(self._place(x, up[0])[0], f"{x:g}") for x in along]

    @property
    def ticks_y(self) -> list[Tick]:
        """The marks of the vertical axis."""
        along, up = self._ticks
        return [Tick(self._place(along[0], y)[1], self.number(y, short=True)) for y in up]

    @property
    def drawn(self) -> list[Drawn]:
        """The lines in units of the drawing."""
        found = []
        for index, line in enumerate(self.lines):
            places = [self._place(*point) for point in line.points]
            path = " ".join(f"{'L' if n else 'M'}{x} {y}" for n, (x, y) in enumerate(places))
            step = -(-len(places) // MARKED) or 1
            found.append(Drawn(line.name, path, places[::step], index % STYLES))
        return found

    def number(self, value: float, short: bool = False) -> str:
        """A value as text."""
        if self.percent:
            return f"{100 * value:.4g}" if short else f"{100 * value:.2f}"
        return f"{value:,.0f}" if value == int(value) and abs(value) < 1e9 else f"{value:.4g}"

    @property
    def summary(self) -> str:
        """The chart in a sentence: the first and the last value of each line."""
        parts = []
        for line in self.lines:
            (x0, y0), (x1, y1) = line.points[0], line.points[-1]
            more = f", {self.number(y1)} at {self.x} {x1:g}" if len(line.points) > 1 else ""
            parts.append(f"{line.name}: {self.number(y0)} at {self.x} {x0:g}{more}")
        return f"{self.y} by {self.x}. {'; '.join(parts)}."

    @property
    def head(self) -> list[str]:
        """The headings of the chart's table."""
        return [self.x, *(line.name for line in self.lines)]

    @property
    def rows(self) -> list[list[str]]:
        """The values as rows of a table, one for each x."""
        values = [dict(line.points) for line in self.lines]
        xs = sorted({x for of_line in values for x in of_line})
        return [[f"{x:g}", *(self.number(v[x]) if x in v else "–" for v in values)] for x in xs]


@dataclass(frozen=True)
class Glyph:
    """A point of a map: place in the drawing, the character that is drawn, style (−1: background), and a description."""

    x: float
    y: float
    text: str
    style: int
    title: str


@dataclass(frozen=True)
class Map:
    """Points of an embedding in two dimensions, drawn as characters; ``summary`` is the text alternative."""

    title: str
    glyphs: Sequence[Glyph]
    summary: str
    legend: Sequence[tuple[str, int, str]] = ()
    """Characters with their styles and meanings."""
    kind: ClassVar[str] = "map"
    size: ClassVar[int] = 420


def in_square(points: Sequence[Point], size: float = 420, margin: float = 14) -> list[Point]:
    """Scale points into a square drawing, each axis by itself."""
    scaled: list[list[float]] = []
    for axis in (0, 1):
        values = [point[axis] for point in points]
        low, span = min(values), (max(values) - min(values)) or 1.0
        scaled.append([round(margin + (value - low) / span * (size - 2 * margin), 1) for value in values])
    return list(zip(*scaled))  # type: ignore[arg-type]
