"""Tables, headings and paragraphs that fit the terminal; in a pipe, the same text without colours or cuts."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

UNLIMITED = 10_000
"""Columns of a table in a pipe, so that other programs read each row as one line."""

READABLE = 100
"""Maximum columns of a paragraph; longer lines are hard to read."""

GAP = 2
"""Spaces between the columns of a table."""

LAST = 10
"""Minimum columns of a table's last column, as long as only that one wraps."""

NARROWEST = 40
"""Minimum columns of a layout."""


def columns(in_a_pipe: int) -> int:
    """Return the width of the terminal, or ``COLUMNS`` if set; ``in_a_pipe`` without either."""
    return max(shutil.get_terminal_size((in_a_pipe, 24)).columns, NARROWEST)


def console() -> Console:
    """Return a console on the current stdout; in a pipe or file without colours, and as wide as ``COLUMNS`` or unlimited."""
    if sys.stdout.isatty():
        return Console(highlight=False)
    return Console(highlight=False, color_system=None, force_terminal=False, width=columns(UNLIMITED))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], repeated: int = 0) -> None:
    """Print rows under headings. If they are too wide for the terminal, the last column wraps, or if needed all columns.

    With ``repeated``, no column wraps as long as the first ``repeated`` fit: the others are printed in several tables, one
    below the other, which all begin with these.
    """
    lines = list(rows)
    for number, chosen in enumerate(_parts(columns, lines, repeated) if repeated else [range(len(columns))]):
        if number:
            print()
        _print_part([columns[place] for place in chosen], [[row[place] for place in chosen] for row in lines])


def _parts(columns: Sequence[str], rows: Sequence[Sequence[str]], repeated: int) -> list[list[int]]:
    """Divide the columns after the first ``repeated`` into tables that fit the width; at least one column in each."""
    widths = [max(map(len, cells)) + GAP for cells in zip(columns, *rows)]
    width, first = console().width + GAP, list(range(repeated))  # there is no gap after the last column
    parts = [first[:]]
    for place in range(repeated, len(columns)):
        if len(parts[-1]) > repeated and sum(widths[of] for of in parts[-1]) + widths[place] > width:
            parts.append(first[:])
        parts[-1].append(place)
    return parts


def _print_part(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    widths = [max(map(len, cells)) + GAP for cells in zip(columns, *lines)]
    room = console().width - sum(widths[:-1])
    for column in columns:
        fixed = column != columns[-1] and room >= min(widths[-1] - GAP, LAST)
        table.add_column(column, no_wrap=fixed, overflow="fold", style="cyan" if column == columns[0] else "")
    for row in lines:
        table.add_row(*(Text(cell) for cell in row))
    _print(table)


def print_entries(entries: Sequence[tuple[str, str]]) -> None:
    """Print indented names with their texts: to the right, or below if the names take more than half of the width."""
    width = columns(UNLIMITED)
    edge = max((len(name) for name, _ in entries), default=0) + 4
    below = edge > width // 2
    begin = " " * (6 if below else edge)
    for name, text in entries:
        if below:
            print(f"  {name}")
        head = begin if below else f"  {name}".ljust(edge)
        print(textwrap.fill(text, width, initial_indent=head, subsequent_indent=begin, break_on_hyphens=False) or head.rstrip())


def print_heading(text: str) -> None:
    """Print a heading after an empty line."""
    _print(Text(f"\n{text}", style="bold"))


def _print(shown: RenderableType) -> None:
    """Print like rich, but without trailing spaces, and without its exit if the pipe is closed."""
    screen = console()
    with screen.capture() as captured:
        screen.print(shown)
    for line in captured.get().splitlines():
        print(line.rstrip())


def print_lines(lines: Iterable[str]) -> None:
    """Print lines, wrapped with a hanging indent."""
    for line in lines:
        print(textwrap.fill(line, columns(READABLE), subsequent_indent="  ", break_on_hyphens=False))


def print_paragraphs(text: str) -> None:
    """Print an indented text (a docstring); wrap its paragraphs, bullets and sections to the width."""
    width = min(columns(READABLE), READABLE)
    for item in _items(text.splitlines()):
        depth = _depth(item)
        hang = depth + (2 if item.lstrip().startswith(BULLETS) else 4 if depth else 0)
        begin, rest = " " * depth, " " * hang
        print(textwrap.fill(item.strip(), width, initial_indent=begin, subsequent_indent=rest, break_on_hyphens=False))


BULLETS = ("* ", "- ")


def _items(lines: Iterable[str]) -> Iterable[str]:
    """Yield paragraphs, bullets and section entries, each as one line, with an empty line between paragraphs."""
    item = ""
    for line in lines:
        begins = line.lstrip().startswith(BULLETS) or _depth(line) < _depth(item) or 0 < _depth(line) == _depth(item)
        section = item.endswith(":") and _depth(line) > _depth(item)
        if item and (not line.strip() or begins or section):
            yield item
            item = ""
        if not line.strip():
            yield ""
        else:
            item = f"{item} {line.strip()}" if item else line.rstrip()
    if item:
        yield item


def _depth(line: str) -> int:
    return len(line) - len(line.lstrip())
