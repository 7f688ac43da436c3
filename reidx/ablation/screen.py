"""How an ablation is shown while it goes on: one live table in a terminal, lines in a log, events for a program, or nothing."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from rich.console import Console, Group, JustifyMethod
from rich.live import Live
from rich.table import Table
from rich.text import Text

from reidx.ablation.grid import shortened
from reidx.ablation.plan import Run
from reidx.ablation.schedule import SweepListener, SweepState
from reidx.reporting.displays import Mode, Stderr, duration
from reidx.runs.epoch_log import json_line

COLOURS = {"running": "cyan", "failed": "red", "done": "green", "waiting": "dim"}


def watcher(mode: Mode | None) -> SweepListener:
    """Who tells how it goes on: by default a table in a terminal, lines elsewhere."""
    console = Console(file=Stderr())  # type: ignore[arg-type]
    shown = mode or ("rich" if console.is_terminal else "plain")
    if shown == "quiet":
        return SweepListener()
    return {"rich": LiveTable, "plain": Lines, "json": Events}[shown](console)


def names_of(standing: SweepState) -> dict[str, str]:
    """What each run is called: its rows and its seed, by its hash."""
    names: dict[str, str] = {}
    for row in standing.plan.rows:
        for seed, run in row.runs.items():
            names.setdefault(run.hash, f"{row.name}, seed {seed}")
    return names


def summary(standing: SweepState) -> str:
    """All in one line: ``3 of 12 runs done, 1 failed, 2 running · about 14 min left``."""
    parts = [f"{len(standing.done)} of {len(standing.plan.runs)} runs done"]
    parts += [f"{len(standing.failed)} failed"] if standing.failed else []
    parts += [f"{len(standing.under_way)} running"] if standing.under_way else []
    refused = len(standing.plan.refused)
    parts += [f"{refused} combination{'s' * (refused != 1)} refused"] if refused else []
    left = standing.seconds_left if standing.waiting or standing.under_way else None
    return ", ".join(parts) + ("" if left is None else f" · about {duration(left)} left")


class Lines(SweepListener):
    """A line for each run that begins, is done or has failed."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def began(self, standing: SweepState, run: Run) -> None:
        """A run was started, or is gone on with."""
        verb = "going on with" if (run.folder / "experiment.json").is_file() else "started"
        self._print(f"{verb} {names_of(standing)[run.hash]} ({run.hash})")

    def ended(self, standing: SweepState, run: Run) -> None:
        """A run is done, or has failed."""
        name = names_of(standing)[run.hash]
        failed = run.hash in standing.failed
        said = f"FAILED {name}: {standing.failed[run.hash]}" if failed else f"done {name}: {scored(standing.done[run.hash])}"
        self._print(f"{said} · {summary(standing)}")

    def _print(self, text: str) -> None:
        print(text, file=self.console.file, flush=True)


class Events(SweepListener):
    """A JSON object a line: ``run_began``, ``run_done``, ``run_failed``."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def began(self, standing: SweepState, run: Run) -> None:
        """A run was started, or is gone on with."""
        self._tell("run_began", standing, run)

    def ended(self, standing: SweepState, run: Run) -> None:
        """A run is done, or has failed."""
        self._tell("run_failed" if run.hash in standing.failed else "run_done", standing, run)

    def _tell(self, event: str, standing: SweepState, run: Run) -> None:
        facts = {
            "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            "event": event,
            "run": run.hash,
            "name": names_of(standing)[run.hash],
            "folder": str(run.folder),
            "metrics": standing.done.get(run.hash, {}).get("metrics"),
            "reason": standing.failed.get(run.hash),
            "done": len(standing.done),
            "failed": len(standing.failed),
            "runs": len(standing.plan.runs),
            "seconds_left": standing.seconds_left,
        }
        print(json_line(facts), file=self.console.file, flush=True)


class LiveTable(SweepListener):
    """One table of all runs, those under way with their place; it stays as it was last seen."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live = Live(console=console, auto_refresh=False, transient=False)
        self.closed = False

    def looked(self, standing: SweepState) -> None:
        """Time has passed; nothing is shown any more once it is closed."""
        if self.closed:
            return
        if not self.live.is_started:
            self.live.start()
        self.live.update(Group(self._table(standing), Text(summary(standing), style="bold")), refresh=True)

    def close(self) -> None:
        """The table stays as it is, and the terminal is the shell's again."""
        self.closed = True
        self.live.stop()

    def _table(self, standing: SweepState) -> Table:
        table = Table(box=None, pad_edge=False, header_style="bold")
        names, order = names_of(standing), {"running": 0, "failed": 1, "done": 2, "waiting": 3}
        own = min(max(map(len, names.values())), self.console.width // 2)
        widths = {"run": own, "state": 7, "where": max(self.console.width - own - 7 - 6 - 7 - 8, 12), "mAP": 6, "left": 7}
        for column, width in widths.items():  # fixed: a long reason must not take the room of the numbers
            justify: JustifyMethod = "right" if column in ("mAP", "left") else "left"
            table.add_column(column, no_wrap=True, overflow="ellipsis", justify=justify, width=width)
        rows = sorted(((self._state(standing, run), run) for run in standing.plan.runs), key=lambda row: order[row[0]])
        room = max(4, self.console.height - 5)
        for state, run in rows[:room]:
            cells = [shortened(names[run.hash], own), state, *self._cells(standing, state, run)]
            table.add_row(*(Text(cell, style=COLOURS[state] if place == 1 else "") for place, cell in enumerate(cells)))
        if len(rows) > room:
            table.add_row(Text(f"… and {len(rows) - room} more", style="dim"))
        return table

    def _state(self, standing: SweepState, run: Run) -> str:
        if run.hash in standing.under_way:
            return "running"
        return "done" if run.hash in standing.done else "failed" if run.hash in standing.failed else "waiting"

    def _cells(self, standing: SweepState, state: str, run: Run) -> list[str]:
        if state == "running":
            follower = standing.under_way[run.hash][1]
            left = "" if follower.left is None else duration(follower.left)
            return [f"{follower.where} {bar(follower.share)}", percent(follower.metrics), left]
        if state == "failed":
            return [standing.failed[run.hash], "", ""]
        if state == "done":
            result = standing.done[run.hash]
            return [duration(result["card"]["seconds"]), percent(result["metrics"]), ""]
        return ["", "", ""]


def bar(share: float, width: int = 12) -> str:
    """A share as a bar of characters."""
    full = round(share * width)
    return "━" * full + "╌" * (width - full)


def percent(metrics: dict[str, float]) -> str:
    """The mAP in percent, where it is known."""
    return f"{100 * metrics['mAP']:.2f}" if "mAP" in metrics else ""


def scored(result: dict[str, Any]) -> str:
    """The metrics of a run that is done, in one line."""
    metrics = result["metrics"]
    shown = [f"{name} {100 * metrics[name]:.2f}" for name in ("mAP", "rank-1") if name in metrics]
    return ", ".join(shown) or "nothing evaluated"
