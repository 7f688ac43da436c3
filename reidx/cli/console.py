"""Tables and headings for people, and the same text without colours or cuts when it goes into a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text


def console() -> Console:
    """A console on the present stdout; in a pipe or file it has no colours and lines of any length."""
    if sys.stdout.isatty():
        return Console(highlight=False)
    return Console(highlight=False, color_system=None, force_terminal=False, width=10_000)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows under headings; on a narrow terminal the last column wraps, the others are never cut."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns[:-1]:
        table.add_column(column, no_wrap=True, style="cyan" if column == columns[0] else "")
    table.add_column(columns[-1], overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    screen = console()
    with screen.capture() as captured:
        screen.print(table)
    for line in captured.get().splitlines():  # rich pads every line to the width of the table
        print(line.rstrip())


def print_heading(text: str) -> None:
    """Print a heading, with an empty line before it."""
    console().print(Text(f"\n{text}", style="bold"))
