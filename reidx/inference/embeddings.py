"""Embeddings of images in a file, Parquet or npz, with the columns path, id, camera and embedding."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from reidx.data.address import as_unicode
from reidx.errors import DataError
from reidx.labels.features import checked
from reidx.runs.checkpoint import write_atomically

Batches = Iterable[tuple[Sequence[str], Tensor | np.ndarray]]
"""Paths and features (B,D) of one batch of images after another."""

SUFFIXES = (".parquet", ".npz")
FACTS = ("digest", "model")


@dataclass(frozen=True)
class Embeddings:
    """Unit features (N,D) float32 of images, with their paths, and identities and cameras (N,) where known.

    A camera of -1 is unknown. ``digest`` is that of the network (:attr:`ReID.digest`), ``model`` its name.
    """

    paths: list[str]
    features: np.ndarray
    ids: np.ndarray | None = None
    cameras: np.ndarray | None = None
    digest: str = ""
    model: str = ""

    def __len__(self) -> int:
        return len(self.paths)

    def require(self, digest: str, what: str) -> None:
        """Raise :class:`DataError` unless the network with this digest computed the embeddings; ``what`` names them."""
        if self.digest and self.digest != digest:
            raise DataError(
                f"The {what} are embeddings of another network ({self.model}, {self.digest[:12]}), not of this one "
                f"({digest[:12]}): their distances mean nothing. Embed the images again."
            )

    def write(self, path: str | Path) -> None:
        """Write a file atomically; see :func:`write_embeddings`."""
        count, width = self.features.shape
        facts = {"ids": self.ids, "cameras": self.cameras, "digest": self.digest, "model": self.model}
        write_embeddings(path, [(self.paths, self.features)], count, width, **facts)  # type: ignore[arg-type]

    @staticmethod
    def read(path: str | Path) -> Embeddings:
        """Read a file of embeddings; raises :class:`DataError` for another file, and for features that are not finite."""
        path = _with_suffix(path)
        if not path.is_file():
            raise DataError(f"There is no file {path}.")
        found = _read_parquet(path) if path.suffix == ".parquet" else _read_npz(path)
        if not len(found):
            raise DataError(f"{path} has no embeddings.")
        checked(found.features, str(path))
        return found


def write_embeddings(
    path: str | Path,
    batches: Batches,
    count: int,
    width: int,
    ids: np.ndarray | None = None,
    cameras: np.ndarray | None = None,
    digest: str = "",
    model: str = "",
) -> None:
    """Write ``count`` embeddings of ``width`` numbers, batch by batch, into a Parquet or npz file that appears when whole.

    Parquet needs pyarrow. An unknown identity or camera is null in Parquet; in npz, a column of which nothing is known is left
    out. Raises :class:`DataError` for another suffix or a missing folder.
    """
    path = _with_suffix(path)
    if not path.parent.is_dir():
        raise DataError(f"There is no folder {path.parent} for {path.name}.")
    columns = {"id": ids, "camera": None if cameras is None or (cameras < 0).all() else cameras}
    for name, column in columns.items():
        if column is not None and len(column) != count:
            raise DataError(f"{path}: there are {len(column):,} values of {name} for {count:,} images.")
    write: Callable[..., None] = _parquet_writer(path) if path.suffix == ".parquet" else _write_npz
    rows = _checked_batches(batches, count, width, path)
    write_atomically(path, partial(write, rows, columns, count, width, {"digest": digest, "model": model}), "run it again")


def _with_suffix(path: str | Path) -> Path:
    path = Path(path).expanduser()
    if path.suffix not in SUFFIXES:
        raise DataError(f"{path} is no file of embeddings; its name ends in {' or '.join(SUFFIXES)}.")
    return path


def _checked_batches(batches: Batches, count: int, width: int, path: Path) -> Iterator[tuple[slice, list[str], np.ndarray]]:
    """Yield positions, paths and float32 rows; raises :class:`DataError` unless there are ``count`` of ``width`` numbers."""
    done = 0
    for paths, features in batches:
        rows = np.ascontiguousarray(features, np.float32)
        if rows.shape != (len(paths), width):
            raise DataError(f"{path}: embeddings of {len(paths)} images are of shape {rows.shape}, not {(len(paths), width)}.")
        yield slice(done, done + len(paths)), list(paths), rows
        done += len(paths)
    if done != count:
        raise DataError(f"{path}: {done:,} embeddings were computed for {count:,} images.")


def have_parquet() -> bool:
    """Return True if pyarrow is installed, which Parquet needs."""
    return find_spec("pyarrow") is not None


def _parquet_writer(path: Path) -> Callable[..., None]:
    _pyarrow(path)
    return _write_parquet


def _pyarrow(path: Path) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(f"{path}: Parquet needs pyarrow (pip install 'reidx[parquet]'). Or name a file .npz.") from error
    return pyarrow


def _write_parquet(
    rows: Iterable[tuple[slice, list[str], np.ndarray]],
    columns: dict[str, np.ndarray | None],
    count: int,
    width: int,
    facts: dict[str, str],
    partial: Path,
) -> None:
    arrow = _pyarrow(partial)
    whole = arrow.int64()
    fields = [("path", arrow.string()), ("id", whole), ("camera", whole), ("embedding", arrow.list_(arrow.float32(), width))]
    schema = arrow.schema(fields, metadata={name: as_unicode(text) for name, text in facts.items()})
    with arrow.parquet.ParquetWriter(partial, schema) as file:
        for place, paths, features in rows:
            known = [_nullable(arrow, name, column, place, len(paths)) for name, column in columns.items()]
            vectors = arrow.FixedSizeListArray.from_arrays(arrow.array(features.reshape(-1)), width)
            file.write_table(arrow.table([arrow.array([as_unicode(path) for path in paths]), *known, vectors], schema=schema))


def _nullable(arrow: Any, name: str, column: np.ndarray | None, place: slice, count: int) -> Any:
    if column is None:
        return arrow.nulls(count, arrow.int64())
    values = column[place].astype(np.int64)
    return arrow.array(values, mask=values < 0 if name == "camera" else None)


def _write_npz(
    rows: Iterable[tuple[slice, list[str], np.ndarray]],
    columns: dict[str, np.ndarray | None],
    count: int,
    width: int,
    facts: dict[str, str],
    partial: Path,
) -> None:
    written: list[str] = []
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        with archive.open("embedding.npy", "w", force_zip64=True) as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": (count, width)}
            np.lib.format.write_array_header_1_0(file, header)  # type: ignore[arg-type]
            for _, paths, features in rows:
                file.write(features.astype("<f4", copy=False).tobytes())
                written += paths
        arrays = {"path": np.array(written, str), **columns, **{name: np.array(text) for name, text in facts.items()}}
        for name, array in arrays.items():
            if array is not None:
                with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, array, allow_pickle=False)  # type: ignore[arg-type]


def _read_parquet(path: Path) -> Embeddings:
    arrow = _pyarrow(path)
    try:
        table = arrow.parquet.read_table(path)
        if lacking := sorted({"path", "embedding"} - set(table.column_names)):
            raise DataError(f"{path} has no column {lacking[0]}; embeddings have path, id, camera and embedding.")
        vectors = table["embedding"].combine_chunks()
        width = vectors.type.list_size if arrow.types.is_fixed_size_list(vectors.type) else None
        if width is None or table["embedding"].null_count:
            raise DataError(f"{path}: the column embedding does not hold a list of a fixed number of floats in each row.")
        features = vectors.flatten().to_numpy(zero_copy_only=False).astype(np.float32).reshape(-1, width)
        known = {name: _numbers(table, name) for name in ("id", "camera")}
        facts = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items() if key.decode() in FACTS}
    except (OSError, arrow.ArrowException, ValueError) as error:
        raise DataError(f"{path} cannot be read as a Parquet table of embeddings: {error}.") from error
    return Embeddings(table["path"].to_pylist(), features, known["id"], known["camera"], **facts)


def _numbers(table: Any, name: str) -> np.ndarray | None:
    """A column of whole numbers, -1 where it is null; None if nothing in it is known."""
    if name not in table.column_names or table[name].null_count == len(table):
        return None
    return table[name].fill_null(-1).to_numpy().astype(np.int64)


def _read_npz(path: Path) -> Embeddings:
    try:
        with np.load(path, allow_pickle=False) as found:
            if lacking := sorted({"path", "embedding"} - set(found.files)):
                raise DataError(f"{path} has no array {lacking[0]}; embeddings have path, id, camera and embedding.")
            paths, features = found["path"].tolist(), np.asarray(found["embedding"], np.float32)
            ids, cameras = (found[name].astype(np.int64) if name in found.files else None for name in ("id", "camera"))
            facts = {name: str(found[name]) for name in FACTS if name in found.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read as an npz file of embeddings: {error}.") from error
    if any(len(column) != len(paths) for column in (features, ids, cameras) if column is not None):
        raise DataError(f"{path}: its arrays differ in length.")
    return Embeddings(paths, features, ids, cameras, **facts)
