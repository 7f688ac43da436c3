"""Lists of images: text files with one image a line, read strictly, with errors by line."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from reidx.data.datasets.inspection import file_or_line
from reidx.errors import DataError


def read_lines(table: Path) -> list[str]:
    """Read the lines of a text file, which may begin with a byte-order mark; raises :class:`DataError` if it is unreadable."""
    try:
        return table.read_text(encoding="utf-8-sig").split("\n")  # splitlines would also cut at rare separators within names
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{table} cannot be read as a list: {error}.") from error


def read_list(table: Path, line: re.Pattern[str], example: str) -> Iterator[tuple[str, re.Match[str]]]:
    """Read the location (file and line number) and the match of ``line`` of each line that is not blank.

    Raises :class:`DataError` for a line that does not match, with ``example``, and for a list without images.
    """
    empty = True
    for number, text in enumerate(read_lines(table), start=1):
        if not text.strip():
            continue
        match, where = line.fullmatch(text.strip()), f"{table}, line {number}"
        empty = False
        if match is not None:
            yield where, match
            continue
        with file_or_line(where):
            raise DataError(f"{where}: {text!r} does not give an image and its identity; a line looks like {example}.")
    if empty:
        raise DataError(f"{table} lists no images.")


def check_listed(path: str, where: str, places: dict[str, str]) -> None:
    """Raise :class:`DataError` if a listed file is missing, or listed before; ``places`` holds the location of each file."""
    if not os.path.isfile(path):
        raise DataError(f"{where}: there is no file {path}. Unpack the images again, into the data set's folder.")
    if path in places:
        raise DataError(f"{where}: {path} is in {places[path]}, too. Drop one of the two lines.")
    places[path] = where
