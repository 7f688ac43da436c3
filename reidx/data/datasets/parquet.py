"""A data set in a Parquet table, for the user's own images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from reidx.data.datasets.table import Table
from reidx.errors import DataError


class Parquet(Table):
    """Your own images, listed in a Parquet table.

    Its columns and arguments are those of ``CSV``. Values may be texts or numbers; a null is an empty cell. Reading needs
    pyarrow: ``pip install 'reidx[parquet]'``.

    Raises :class:`DataError`, with the table's row (from 1), as ``CSV`` does, and for a file that is no Parquet table.
    """

    unit: ClassVar[str] = "row"

    def read(self, headings: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
        """Read the rows, numbered from 1."""
        return enumerate(read_parquet(self.table, headings), start=1)


def read_parquet(table: Path, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    """Read the values of ``columns`` of each row, as text; raises :class:`DataError` for a missing or repeated column."""
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise DataError(
            f"{table}: reading a Parquet table needs pyarrow (pip install 'reidx[parquet]'). Or save the table as CSV."
        ) from error
    try:
        with parquet.ParquetFile(table) as file:
            names = file.schema_arrow.names
            if lacking := [column for column in columns if names.count(column) != 1]:
                how = "more than one column" if lacking[0] in names else "no column"
                hint = f"If it has another name, map it: names: {{{lacking[0]}: NAME}}."
                raise DataError(f"{table}: there is {how} {lacking[0]}; it needs {', '.join(columns)}. {hint}")
            rows = file.read(columns=list(columns)).to_pylist()
    except (OSError, ArrowException) as error:
        raise DataError(f"{table} cannot be read as a Parquet table: {error}.") from error
    return ({column: _text(row[column]) for column in columns} for row in rows)


def _text(value: Any) -> str:
    """A value as the text of a cell: a whole number without a fraction (pandas writes 3.0 in columns with empty cells)."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()
