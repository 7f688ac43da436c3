"""Output files of an ablation, rewritten each time: records, pages, pictures."""

from __future__ import annotations

import contextlib
from pathlib import Path

from reidx.ablation.plan import Run
from reidx.ablation.plots import pictures
from reidx.ablation.results import Results, write_records
from reidx.ablation.schedule import SweepListener, SweepState
from reidx.ablation.tables import write_tables
from reidx.runs.checkpoint import write_atomically


def write_results(results: Results) -> list[Path]:
    """Write the results so far into the plan's folder; returns the files, the page of results first.

    Pages and pictures of earlier plans that do not belong to this one are deleted.
    """
    home = results.plan.home
    home.mkdir(parents=True, exist_ok=True)
    drawn = pictures(results)
    files = [*write_tables(results, list(drawn)), *write_records(results)]
    kept = {*drawn, *(home / results.card(row) for row in results.plan.rows if row.runs)}
    for pattern in ("cards/[0-9][0-9]*-*.md", "scores-*.png", "map-*.png"):
        for old in set(home.glob(pattern)) - kept:
            old.unlink()
    for path, draw in drawn.items():  # last, so that a failing plot cannot prevent the numbers
        write_atomically(path, draw)
    return [*files, *drawn]


class Reporting(SweepListener):
    """Listener that rewrites the results after every run and forwards all events to another listener."""

    def __init__(self, watcher: SweepListener) -> None:
        self.watcher = watcher
        self.began, self.looked, self.close = watcher.began, watcher.looked, watcher.close  # type: ignore[method-assign]

    def ended(self, sweep: SweepState, run: Run) -> None:
        """Forward the event and rewrite the results."""
        self.watcher.ended(sweep, run)
        with contextlib.suppress(Exception):  # must not end the runs; the final write reports the error
            write_results(Results(sweep.plan, sweep.failed))
