"""Plots of results: scores of each combination with its difference from the base, and a map of two-axis designs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from reidx.ablation.grid import shortened
from reidx.ablation.results import Results
from reidx.registry.retrieval_promises import plain_name
from reidx.runs.metrics import METRICS

PLOTTED = ("mAP", "rank-1")
BASE, OTHER, LINE = "#444444", "#1f6fb4", "#bbbbbb"


def pictures(results: Results) -> dict[Path, Callable[[Path], None]]:
    """Drawing functions by file: a plot of each metric, and a map if a full design has two axes."""
    figures: dict[str, Callable[[], Any]] = {
        f"scores-{plain_name(metric)}.png": partial(scores, results, metric)
        for metric in (*PLOTTED, *(name for name in results.shown if name not in METRICS))
        if any(results.scores(row, metric) for row in results.plan.rows)
    }
    grid = results.plan.grid
    if figures and grid.design == "full" and sum(len(axis.values) > 1 for axis in grid.axes) == 2:
        figures["map-mAP.png"] = partial(two_axes, results, "mAP")
    return {results.plan.home / name: partial(_draw, figure) for name, figure in figures.items()}


def _draw(figure: Callable[[], Any], path: Path) -> None:
    figure().savefig(path, dpi=150, format="png", bbox_inches="tight")


def scores(results: Results, metric: str) -> Any:
    """Plot two panels over the same rows: scores per seed with their mean, and paired differences with intervals."""
    rows = [row for row in results.plan.rows if results.scores(row, metric)]
    places = np.arange(len(rows))
    longest = max(len(row.name) for row in rows)
    figure, (left, right) = _figure(1, 2, (6.5 + 0.07 * min(longest, 60), 1.2 + 0.38 * len(rows)))
    for place, row in zip(places, rows):
        colour = BASE if row is results.plan.rows[0] else OTHER
        found = list(results.scores(row, metric).values())
        left.plot(found, [place] * len(found), "o", color=colour, alpha=0.45, markersize=5, markeredgewidth=0)
        left.plot([np.mean(found)] * 2, [place - 0.28, place + 0.28], color=colour, linewidth=2)
        difference = results.difference(row, metric)
        if difference is not None:
            if difference.low is not None and difference.high is not None:
                right.plot([difference.low, difference.high], [place, place], color=colour, linewidth=2, solid_capstyle="butt")
            right.plot(difference.mean, place, "o", color=colour, markersize=6)
    right.axvline(0, color=LINE, linewidth=1, zorder=0)
    left.set_yticks(places, [shortened(row.name, 60) for row in rows], parse_math=False)
    right.set_yticks(places, [""] * len(rows))
    left.set_title("each seed, and the mean", fontsize="medium")
    right.set_title("difference, 95 % interval", fontsize="medium")
    left.set_xlabel(f"{metric} (%)", parse_math=False)
    right.set_xlabel(shortened(f"points to {rows[0].name}", 60), parse_math=False)
    for axes in (left, right):
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", color="#eeeeee", zorder=0)
        axes.set_axisbelow(True)
    return figure


def two_axes(results: Results, metric: str) -> Any:
    """Plot the mean score of each pair of values of two axes; refused and unfinished pairs stay empty."""
    down, across = (axis for axis in results.plan.grid.axes if len(axis.values) > 1)
    table = np.full((len(down.values), len(across.values)), np.nan)
    labels = [[value.label for value in axis.values] for axis in (down, across)]
    shown = [[shortened(label, 40) for label in one] for one in labels]
    for row in results.plan.rows:
        spread = results.spread(row, metric)
        if spread is not None:
            table[labels[0].index(row.labels[down.name]), labels[1].index(row.labels[across.name])] = spread.mean
    figure, axes = _figure(1, 1, (2.5 + 1.1 * len(labels[1]), 1.5 + 0.6 * len(labels[0])))
    image = axes.imshow(table, cmap="Blues", aspect="auto")
    middle = (np.nanmin(table) + np.nanmax(table)) / 2
    for (y, x), value in np.ndenumerate(table):
        text, colour = ("–", "black") if np.isnan(value) else (f"{value:.1f}", "white" if value > middle else "black")
        axes.text(x, y, text, ha="center", va="center", color=colour)
    axes.set_xticks(range(len(labels[1])), shown[1], rotation=25, ha="right", parse_math=False)
    axes.set_yticks(range(len(labels[0])), shown[0], parse_math=False)
    axes.set_xlabel(across.name, parse_math=False)
    axes.set_ylabel(down.name, parse_math=False)
    figure.colorbar(image, label=f"{metric} (%)")
    return figure


def _figure(rows: int, columns: int, size: tuple[float, float]) -> Any:
    """Create a figure and its axes without a window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns)
