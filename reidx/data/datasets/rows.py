"""Strict reading of CSV files: rows as text with their line numbers, errors by line."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from reidx.data.datasets.inspection import file_or_line
from reidx.errors import DataError

PACKED = {b"PK\3\4": "a zip file (a workbook of a spreadsheet is one)", b"\x1f\x8b": "a gzip file", b"PAR1": "a Parquet file"}


def read_rows(table: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Read the first line number and the stripped values of ``columns`` of each row below the header.

    The header names the columns in any order and may name others. Blank lines are skipped. Values are separated by commas,
    quotes within quotes are doubled, and the encoding is UTF-8.

    Raises :class:`DataError`, with the line, for malformed text, a missing or repeated column, and a row with more or
    fewer values than the header.
    """
    reader = csv.reader(io.StringIO(_text(table), newline=""), skipinitialspace=True, strict=True)
    begins = 1
    try:
        names = [name.strip() for name in next(reader, [])]
        _check_names(table, names, columns)
        while True:
            begins = reader.line_num + 1
            values = next(reader, None)
            if values is None:
                return
            with file_or_line(f"{table}, line {begins}"):
                if values and len(values) != len(names):
                    raise DataError(f"{table}, line {begins}: {_miscounted(values, len(names))}")
                if values:
                    row = dict(zip(names, values))
                    yield begins, {column: row[column].strip() for column in columns}
    except csv.Error as error:
        raise DataError(f"{table}, line {begins}: the row that begins here cannot be read: {error}.") from error


def _miscounted(values: Sequence[str], wanted: int) -> str:
    """The message for a row with more or fewer values than the header."""
    hint = " Put a value that contains a comma into quotes." if len(values) > wanted else ""
    if (other := _other_mark(values)) is not None:
        hint = f" {other!r} seems to separate them; use commas."
    return f"{len(values)} value{'s' * (len(values) != 1)}, but line 1 names {wanted} columns.{hint}"


def _text(table: Path) -> str:
    if not os.path.isfile(table):
        there = "it is a folder" if os.path.isdir(table) else "it is no regular file"
        why = there if os.path.exists(table) else "there is no such file"
        raise DataError(f"{table} cannot be read as a table: {why}.")
    try:
        content = table.read_bytes()
    except OSError as error:
        raise DataError(f"{table} cannot be read as a table: {error}.") from error
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        wide = "UTF-32" if content[:4] in (b"\xff\xfe\0\0", b"\0\0\xfe\xff") else "UTF-16"
        raise DataError(f"{table}, line 1: the text is {wide}. Save it as UTF-8.")
    if packed := next((kind for mark, kind in PACKED.items() if content.startswith(mark)), None):
        remedy = "Read it with type: Parquet." if content.startswith(b"PAR1") else "Save the table as CSV, in UTF-8."
        raise DataError(f"{table} is {packed}, not a text. {remedy}")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{table}, line {line}: the text is not UTF-8. Save it as UTF-8.") from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(f"{table}, line {line}: it holds a NUL character. Save the table as UTF-8 text.")
    return text


def _other_mark(values: Sequence[str]) -> str | None:
    """The apparent separator of a table that uses no commas, if any."""
    return next((mark for mark in ";\t|" if any(mark in value for value in values)), None)


def _check_names(table: Path, names: Sequence[str], columns: Sequence[str]) -> None:
    wanted = f"the first line must be {','.join(columns)}"
    if lacking := [column for column in columns if column not in names]:
        if (other := _other_mark(names)) is not None:
            raise DataError(f"{table}, line 1: {other!r} separates the columns; {wanted}, with commas.")
        hint = f" If a column has another name, map it: names: {{{lacking[0]}: NAME}}."
        near = [name for name in names if name.casefold() in columns and name not in columns]
        hint = f" Case counts: it has {', '.join(near)}." if near else hint
        raise DataError(f"{table}, line 1: no column {', '.join(lacking)}; {wanted}.{hint}")
    if alike := [name for name in names if name not in columns and name.casefold() in columns]:
        raise DataError(f"{table}, line 1: columns {alike[0].casefold()} and {alike[0]}; which one counts? Rename one of them.")
    if twice := [name for name in dict.fromkeys(names) if name and names.count(name) > 1]:
        places = " and ".join(str(place) for place, name in enumerate(names, start=1) if name == twice[0])
        raise DataError(f"{table}, line 1: column {twice[0]} is there twice (as {places}). Leave one of them out.")
