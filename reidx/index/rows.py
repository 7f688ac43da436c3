"""Columns of a gallery's rows: path, identity, camera and time of each image, in files that are memory-mapped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reidx.errors import DataError
from reidx.index.times import NUMBERS

UNKNOWN = -1
"""Camera of an image whose camera is not known."""

_DTYPES = {"ids": np.int64, "cameras": np.int64, "times": np.float64}


class Paths(Sequence[str]):
    """Texts in one array of bytes (UTF-8), with the end of each; a memory-mapped list."""

    def __init__(self, text: np.ndarray, ends: np.ndarray) -> None:
        self.text, self.ends = text, ends

    @classmethod
    def of(cls, paths: Sequence[str]) -> Paths:
        """Store a list of paths; names that are not UTF-8 keep their bytes."""
        encoded = [path.encode("utf-8", "surrogateescape") for path in paths]
        ends = np.cumsum([len(one) for one in encoded], dtype=np.int64) if encoded else np.zeros(0, np.int64)
        return cls(np.frombuffer(b"".join(encoded), np.uint8), ends)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[number] for number in range(*place.indices(len(self)))]
        number = range(len(self))[int(place)]
        start = int(self.ends[number - 1]) if number else 0
        return self.text[start : int(self.ends[number])].tobytes().decode("utf-8", "surrogateescape")


@dataclass(frozen=True)
class Rows:
    """Paths of N images, and their identities, cameras (-1: unknown) and times (NaN: unknown), where they are known.

    ``time_form`` is the form in which times are written, :data:`reidx.index.times.NUMBERS` or ``DATES``. Raises
    :class:`DataError` for columns of another length.
    """

    paths: Sequence[str]
    ids: np.ndarray | None = None
    cameras: np.ndarray | None = None
    times: np.ndarray | None = None
    time_form: str = NUMBERS

    def __post_init__(self) -> None:
        for name in _DTYPES:
            column = getattr(self, name)
            if column is not None and np.shape(column) != (len(self.paths),):
                raise DataError(f"There are {len(self.paths):,} paths, but the column {name} is of shape {np.shape(column)}.")

    def __len__(self) -> int:
        return len(self.paths)

    def refuse_repeated(self) -> None:
        """Raise :class:`DataError` if a path occurs twice: removing it would be ambiguous."""
        if len(set(self.paths)) < len(self):
            seen: set[str] = set()
            twice = next(path for path in self.paths if path in seen or seen.add(path))  # type: ignore[func-returns-value]
            raise DataError(f"{twice} is listed twice; an index holds each image once.")

    def take(self, chosen: np.ndarray) -> Rows:
        """Return the rows at positions ``chosen``."""
        columns = {name: None if (of := getattr(self, name)) is None else np.asarray(of)[chosen] for name in _DTYPES}
        return Rows([self.paths[place] for place in chosen.tolist()], time_form=self.time_form, **columns)

    def followed_by(self, more: Rows) -> Rows:
        """Return these rows and then those of ``more``; a column that only one of them has is unknown in the other.

        Raises :class:`DataError` if only one of them has identities, and for times of different forms.
        """
        if (self.ids is None) != (more.ids is None):
            has, lacks = ("index", "added images") if more.ids is None else ("added images", "index")
            raise DataError(f"The {has} have identities and the {lacks} have none. Give both, or neither.")
        if self.times is not None and more.times is not None and self.time_form != more.time_form:
            raise DataError(f"The times of the index are {self.time_form}, those of the added images {more.time_form}.")
        columns: dict[str, Any] = {}
        for name, missing in (("ids", UNKNOWN), ("cameras", UNKNOWN), ("times", np.nan)):
            parts = [(getattr(part, name), len(part)) for part in (self, more)]
            if any(column is not None for column, _ in parts):
                filled = [np.full(count, missing, _DTYPES[name]) if column is None else column for column, count in parts]
                columns[name] = np.concatenate(filled).astype(_DTYPES[name])
        form = more.time_form if self.times is None else self.time_form
        return Rows([*self.paths, *more.paths], time_form=form, **columns)

    def write(self, folder: Path) -> None:
        """Write one ``.npy`` file for each column that is known."""
        paths = Paths.of(self.paths)
        arrays = {"path_text": paths.text, "path_ends": paths.ends}
        arrays |= {name: np.asarray(of, dtype) for name, dtype in _DTYPES.items() if (of := getattr(self, name)) is not None}
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array, allow_pickle=False)

    @classmethod
    def read(cls, folder: Path, time_form: str) -> Rows:
        """Map the files that :meth:`write` wrote; raises :class:`OSError` and :class:`ValueError` for damaged ones."""
        columns = {name: _mapped(folder / f"{name}.npy") for name in _DTYPES if (folder / f"{name}.npy").exists()}
        paths = Paths(_mapped(folder / "path_text.npy"), _mapped(folder / "path_ends.npy"))
        return cls(paths, time_form=time_form, **columns)


def _mapped(path: Path) -> np.ndarray:
    """Map an array; an empty one, which cannot be mapped, is read."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError:
        array: np.ndarray = np.load(path, allow_pickle=False)
        if array.size:
            raise
        return array
