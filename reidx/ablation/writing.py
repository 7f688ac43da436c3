"""All that an ablation leaves for its reader, written anew each time: records, pages, pictures."""

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
    """Write what the runs came to so far into the plan's folder; the files, the page of results first.

    Pages and pictures of earlier plans that are no longer of this one are deleted.
    """
    home = results.plan.home
    home.mkdir(parents=True, exist_ok=True)
    drawn = pictures(results)
    files = [*write_tables(results, list(drawn)), *write_records(results)]
    kept = {*drawn, *(home / results.card(row) for row in results.plan.rows if row.runs)}
    for pattern in ("cards/[0-9][0-9]*-*.md", "scores-*.png", "map-*.png"):
        for old in set(home.glob(pattern)) - kept:
            old.unlink()
    for path, draw in drawn.items():  # last: a picture that cannot be drawn shall cost nobody the numbers
        write_atomically(path, draw)
    return [*files, *drawn]


class Reporting(SweepListener):
    """Writes the results whenever a run has ended, beside telling another watcher of everything."""

    def __init__(self, watcher: SweepListener) -> None:
        self.watcher = watcher
        self.began, self.looked, self.close = watcher.began, watcher.looked, watcher.close  # type: ignore[method-assign]

    def ended(self, standing: SweepState, run: Run) -> None:
        """A run is done, or has failed."""
        self.watcher.ended(standing, run)
        with contextlib.suppress(Exception):  # ends no run: what is written in the end says what is wrong
            write_results(Results(standing.plan, standing.failed))
