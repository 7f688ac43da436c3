"""The faiss structures that find neighbours: exact, inverted file (ivf), navigable small world (hnsw); all compare cosines.

exact compares a query with every row. ivf divides the rows into cells by k-means and compares a query with the rows of the
nearest cells (Sivic and Zisserman, ICCV 2003). hnsw follows the links of a graph of near rows from layer to layer (Malkov and
Yashunin, TPAMI 2020). The ``effort`` of a search is the number of cells, or of candidates that the graph search keeps.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from reidx.errors import ConfigError
from reidx.labels.compiled import faiss_threads, has_faiss

KINDS = ("exact", "ivf", "hnsw")

LINKS = 16
"""Links of a row in a layer of the graph; twice as many in the lowest."""

CONSTRUCTION = 40
"""Candidates that the graph's construction keeps for the links of a row."""

_TRAINED_ON = 32  # rows a cell, for the k-means
_ITERATIONS = 8
_BLOCK = 1 << 15
_ROWS_A_CELL = 39  # below this, faiss warns that a cell is hardly determined
_FEW = 0.1  # share of allowed rows below which they are compared one by one


def faiss_module() -> Any:
    """Return faiss; raises :class:`ConfigError` with the remedy if it is missing."""
    if not has_faiss():
        raise ConfigError("An index needs faiss: pip install faiss-cpu.")
    import faiss

    return faiss


def create(kind: str, vectors: np.ndarray) -> Any:
    """Build a structure of unit rows (N,D) float32. Raises :class:`ConfigError` for an unknown kind."""
    if kind not in KINDS:
        raise ConfigError(f"There is no index of kind {kind!r}; choose one of {', '.join(KINDS)}.")
    faiss, width = faiss_module(), vectors.shape[1]
    if kind == "exact":
        index = faiss.IndexFlatIP(width)
    elif kind == "hnsw":
        index = faiss.IndexHNSWFlat(width, LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = CONSTRUCTION
    else:
        index = faiss.IndexIVFFlat(_centres(vectors), width, cells_of(len(vectors)), faiss.METRIC_INNER_PRODUCT)
    add(index, vectors)
    return index


def cells_of(rows: int) -> int:
    """Return the number of cells for so many rows: 4·√N, but at least 39 rows a cell."""
    return max(1, min(int(4 * rows**0.5), rows // _ROWS_A_CELL))


def _centres(vectors: np.ndarray) -> Any:
    """Return a flat index of the cells' centres: spherical k-means on 32 rows a cell."""
    faiss, cells = faiss_module(), cells_of(len(vectors))
    count = min(len(vectors), _TRAINED_ON * cells)
    sample = np.sort(np.random.default_rng(0).choice(len(vectors), count, replace=False))
    with faiss_threads():
        means = faiss.Kmeans(
            vectors.shape[1], cells, niter=_ITERATIONS, seed=1, spherical=True,
            min_points_per_centroid=1, max_points_per_centroid=_TRAINED_ON,
        )  # fmt: skip
        means.train(np.ascontiguousarray(vectors[sample]))
    centres = faiss.IndexFlatIP(vectors.shape[1])
    centres.add(means.centroids)
    return centres


def add(index: Any, vectors: np.ndarray) -> None:
    """Add unit rows, block by block."""
    with faiss_threads():
        for start in range(0, len(vectors), _BLOCK):
            index.add(np.ascontiguousarray(vectors[start : start + _BLOCK], np.float32))


def without(index: Any, kind: str, kept: np.ndarray) -> Any:
    """Return a structure of the rows ``kept`` (positions) alone: ivf keeps its cells, hnsw builds its graph again."""
    faiss = faiss_module()
    if kind == "hnsw":
        return create(kind, np.concatenate(list(blocks(index, kept))))
    if kind == "ivf":
        fresh = faiss.IndexIVFFlat(faiss.clone_index(index.quantizer), index.d, index.nlist, faiss.METRIC_INNER_PRODUCT)
    else:
        fresh = faiss.IndexFlatIP(index.d)
    for block in blocks(index, kept):
        add(fresh, block)
    return fresh


def blocks(index: Any, rows: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the vectors of ``rows`` (positions), block by block."""
    if hasattr(index, "make_direct_map"):
        index.make_direct_map()
    for start in range(0, len(rows), _BLOCK):
        yield index.reconstruct_batch(np.ascontiguousarray(rows[start : start + _BLOCK], np.int64))


def efforts(index: Any, kind: str) -> list[int]:
    """Return the efforts to choose from, least first: powers of two."""
    if kind == "exact":
        return [0]
    last = index.nlist if kind == "ivf" else 512
    first = 1 if kind == "ivf" else 16
    steps = [first << step for step in range(20) if first << step < last]
    return [*steps, last]


def search(
    index: Any, kind: str, queries: np.ndarray, k: int, effort: int, allowed: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return cosines (Q,k) float32 and positions (Q,k) int64, best first, among the rows that the mask ``allowed`` (N,) allows.

    A filter that leaves few rows is searched exactly, one that leaves more with a greater effort, because the neighbours are
    farther away. A query with too few results is searched again, exactly. At least k rows must be allowed.
    """
    share = 1.0 if allowed is None else float(allowed.mean())
    if kind == "exact" or share < _FEW:
        return search_exactly(index, kind, queries, k, allowed)
    wider = round(effort / share)
    wider = min(wider, index.nlist) if kind == "ivf" else max(wider, k)
    scores, found = _call(index, kind, queries, k, wider, allowed)
    short = np.flatnonzero((found < 0).any(axis=1))
    if len(short):
        scores[short], found[short] = search_exactly(index, kind, queries[short], k, allowed)
    return scores, found


def search_exactly(
    index: Any, kind: str, queries: np.ndarray, k: int, allowed: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Search as :func:`search` does, comparing each query with every allowed row."""
    if kind == "hnsw":
        index, kind = faiss_module().downcast_index(index.storage), "exact"
    return _call(index, kind, queries, k, getattr(index, "nlist", 0), allowed)


def _call(
    index: Any, kind: str, queries: np.ndarray, k: int, effort: int, allowed: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    faiss, given = faiss_module(), {}
    if allowed is not None:
        bits = np.packbits(allowed, bitorder="little")  # faiss keeps a pointer to it during the search
        given["sel"] = faiss.IDSelectorBitmap(bits)
    if kind == "ivf":
        parameters = faiss.SearchParametersIVF(nprobe=max(1, effort), **given)
    elif kind == "hnsw":
        parameters = faiss.SearchParametersHNSW(efSearch=effort, **given)
    else:
        parameters = faiss.SearchParameters(**given)
    with faiss_threads():
        scores, found = index.search(np.ascontiguousarray(queries, np.float32), k, params=parameters)
    return scores, found


def write(index: Any, path: Path) -> None:
    """Write a structure to a file; raises :class:`OSError` if the disk is full or refuses it."""
    try:
        faiss_module().write_index(index, str(path))
    except RuntimeError as error:
        raise OSError(None, _first_line(error), str(path)) from error


def read(path: Path, kind: str, mapped: bool) -> Any:
    """Read a structure, or map it into memory so that only the parts that a search touches are read.

    Raises :class:`ValueError` for a damaged file and for one of another kind.
    """
    faiss = faiss_module()
    flags = 0 if not mapped else faiss.IO_FLAG_MMAP if kind == "ivf" else faiss.IO_FLAG_MMAP_IFC
    try:
        index = faiss.read_index(str(path), flags)
    except (RuntimeError, MemoryError) as error:
        raise ValueError(_first_line(error)) from error
    classes = {"exact": faiss.IndexFlatIP, "ivf": faiss.IndexIVFFlat, "hnsw": faiss.IndexHNSWFlat}
    if not isinstance(index, classes[kind]):
        raise ValueError(f"it holds a {type(index).__name__}, not an index of kind {kind}")
    return index


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.rpartition(": ")[2].splitlines()[0][:200]
