"""All that an ablation leaves for its reader, written anew each time: records, pages, pictures."""

from __future__ import annotations

from pathlib import Path

from reidx.ablation.plots import write_plots
from reidx.ablation.results import Results, write_records
from reidx.ablation.tables import write_tables


def write_results(results: Results) -> list[Path]:
    """Write what the runs came to so far into the plan's folder; the files, the page of results first."""
    results.plan.home.mkdir(parents=True, exist_ok=True)
    pictures = write_plots(results)
    return [*write_tables(results, pictures), *write_records(results), *pictures]
