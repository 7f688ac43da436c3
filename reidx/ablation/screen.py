"""Displays of a running ablation: a live table in a terminal, lines in a log, JSON events, or nothing."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from rich.console import Console, Group, JustifyMethod
from rich.live import Live
from rich.table import Table
from rich.text import Text

from reidx.ablation.grid import shortened
from reidx.ablation.plan import Run
from reidx.ablation.results import run_conditions
from reidx.ablation.schedule import SweepListener, SweepState
from reidx.reporting.displays import Mode, Stderr, duration, timestamped
from reidx.runs.conditions import condition_lines
from reidx.runs.epoch_log import json_line
from reidx.runs.metrics import percent

COLOURS = {"running": "cyan", "failed": "red", "done": "green", "waiting": "dim"}


def watcher(mode: Mode | None) -> SweepListener:
    """Build the listener for a display mode: by default a table in a terminal, lines elsewhere."""
    console = Console(file=Stderr())  # type: ignore[arg-type]
    shown = mode or ("rich" if console.is_terminal else "plain")
    if shown == "quiet":
        return SweepListener()
    return {"rich": LiveTable, "plain": Lines, "json": Events}[shown](console)


def names_of(sweep: SweepState) -> dict[str, str]:
    """Names of all runs, from row and seed, by hash."""
    names: dict[str, str] = {}
    for row in sweep.plan.rows:
        for seed, run in row.runs.items():
            names.setdefault(run.hash, f"{row.name}, seed {seed}")
    return names


def summary(sweep: SweepState) -> str:
    """Summary in one line: ``3 of 12 runs done, 1 failed, 2 running · about 14 min left``."""
    parts = [f"{len(sweep.done)} of {len(sweep.plan.runs)} runs done"]
    parts += [f"{len(sweep.failed)} failed"] if sweep.failed else []
    parts += [f"{len(sweep.under_way)} running"] if sweep.under_way else []
    refused = len(sweep.plan.refused)
    parts += [f"{refused} combination{'s' * (refused != 1)} refused"] if refused else []
    left = sweep.seconds_left if sweep.waiting or sweep.under_way else None
    return ", ".join(parts) + ("" if left is None else f" · about {duration(left)} left")


def conditions(sweep: SweepState) -> list[str]:
    """Lines on the conditions of the finished runs' metrics: what all share, then what differs with the runs."""
    names = names_of(sweep)
    found = {names[hash_]: run_conditions(result["card"]) for hash_, result in sweep.done.items()}
    return condition_lines(found, "differs by run")


class Lines(SweepListener):
    """Lines for runs that start, finish or fail, each with date and time."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def began(self, sweep: SweepState, run: Run) -> None:
        """Print a line for a run that was started or resumed."""
        verb = "resumed" if (run.folder / "experiment.json").is_file() else "started"
        self._print(f"{verb} {names_of(sweep)[run.hash]} ({run.hash})")

    def ended(self, sweep: SweepState, run: Run) -> None:
        """Print a line for a run that finished or failed."""
        name = names_of(sweep)[run.hash]
        failed = run.hash in sweep.failed
        text = f"FAILED {name}: {sweep.failed[run.hash]}" if failed else f"done {name}: {scored(sweep.done[run.hash])}"
        self._print(f"{text} · {summary(sweep)}")

    def _print(self, text: str) -> None:
        print(timestamped(text), file=self.console.file, flush=True)


class Events(SweepListener):
    """JSON events, one object per line: ``run_began``, ``run_done``, ``run_failed``."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def began(self, sweep: SweepState, run: Run) -> None:
        """Print an event for a run that was started or resumed."""
        self._print_event("run_began", sweep, run)

    def ended(self, sweep: SweepState, run: Run) -> None:
        """Print an event for a run that finished or failed."""
        self._print_event("run_failed" if run.hash in sweep.failed else "run_done", sweep, run)

    def _print_event(self, event: str, sweep: SweepState, run: Run) -> None:
        facts = {
            "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            "event": event,
            "run": run.hash,
            "name": names_of(sweep)[run.hash],
            "folder": str(run.folder),
            "metrics": sweep.done.get(run.hash, {}).get("metrics"),
            "reason": sweep.failed.get(run.hash),
            "done": len(sweep.done),
            "failed": len(sweep.failed),
            "runs": len(sweep.plan.runs),
            "seconds_left": sweep.seconds_left,
        }
        print(json_line(facts), file=self.console.file, flush=True)


class LiveTable(SweepListener):
    """Live table of all runs, with the progress of those running; its last state stays on the screen."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live = Live(console=console, auto_refresh=False, transient=False)
        self.closed = False

    def looked(self, sweep: SweepState) -> None:
        """Refresh the table; does nothing once it is closed."""
        if self.closed:
            return
        if not self.live.is_started:
            self.live.start()
        lines = conditions(sweep)
        above = [Text(line, style="dim", no_wrap=True, overflow="ellipsis") for line in lines]
        shown = Group(*above, self._table(sweep, len(lines)), Text(summary(sweep), style="bold"))
        self.live.update(shown, refresh=True)

    def close(self) -> None:
        """Leave the table as it is and release the terminal."""
        self.closed = True
        self.live.stop()

    def _table(self, sweep: SweepState, above: int) -> Table:
        table = Table(box=None, pad_edge=False, header_style="bold")
        names, order = names_of(sweep), {"running": 0, "failed": 1, "done": 2, "waiting": 3}
        own = min(max(map(len, names.values())), self.console.width // 2)
        widths = {"run": own, "state": 7, "where": max(self.console.width - own - 7 - 6 - 7 - 8, 12), "mAP": 6, "left": 7}
        for column, width in widths.items():  # fixed, so that a long reason cannot displace the numbers
            justify: JustifyMethod = "right" if column in ("mAP", "left") else "left"
            table.add_column(column, no_wrap=True, overflow="ellipsis", justify=justify, width=width)
        rows = sorted(((self._state(sweep, run), run) for run in sweep.plan.runs), key=lambda row: order[row[0]])
        room = max(4, self.console.height - 5 - above)
        for state, run in rows[:room]:
            cells = [shortened(names[run.hash], own), state, *self._cells(sweep, state, run)]
            table.add_row(*(Text(cell, style=COLOURS[state] if place == 1 else "") for place, cell in enumerate(cells)))
        if len(rows) > room:
            table.add_row(Text(f"… and {len(rows) - room} more", style="dim"))
        return table

    def _state(self, sweep: SweepState, run: Run) -> str:
        if run.hash in sweep.under_way:
            return "running"
        return "done" if run.hash in sweep.done else "failed" if run.hash in sweep.failed else "waiting"

    def _cells(self, sweep: SweepState, state: str, run: Run) -> list[str]:
        if state == "running":
            follower = sweep.under_way[run.hash][1]
            left = "" if follower.left is None else duration(follower.left)
            return [f"{follower.where} {bar(follower.share)}", map_in_percent(follower.metrics), left]
        if state == "failed":
            return [sweep.failed[run.hash], "", ""]
        if state == "done":
            result = sweep.done[run.hash]
            return [duration(result["card"]["seconds"]), map_in_percent(result["metrics"]), ""]
        return ["", "", ""]


def bar(share: float, width: int = 12) -> str:
    """Draw a share from 0 to 1 as a bar of characters."""
    full = round(share * width)
    return "━" * full + "╌" * (width - full)


def map_in_percent(metrics: dict[str, float]) -> str:
    """Format the mAP in percent; empty without one."""
    return f"{100 * metrics['mAP']:.2f}" if "mAP" in metrics else ""


def scored(result: dict[str, Any]) -> str:
    """Metrics of a finished run, in one line."""
    metrics = result["metrics"]
    shown = [f"{name} {percent(metrics, name)}" for name in ("mAP", "rank-1") if name in metrics]
    return ", ".join(shown) or "nothing evaluated"
