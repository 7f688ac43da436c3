"""Fast searches for candidate neighbours, with a lower bound on the distance of all other rows."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from reidx.errors import ConfigError
from reidx.labels.compiled import faiss_threads, has_faiss
from reidx.labels.neighbours.approximate import AIM, BLOCK, ivf
from reidx.labels.neighbours.mutual import mutual_candidates
from reidx.labels.neighbours.on_gpu import exact_on_gpu, ivf_on_gpu
from reidx.machine.devices import CPU, bf16_units

BACKENDS = ("auto", "faiss", "torch", "ivf")
_BLOCK_BYTES = 24 << 20
_ROUNDING = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8}
UNDERFLOW = 2.0**-76
"""Upper bound of the error of a squared distance due to underflow in float32. The squared lengths of rows of at most 1e-12
are below it, so their neighbours cannot be proven."""


class Search(NamedTuple):
    """Search for candidates of `block` query rows at a time.

    `propose` maps query rows (B,) to candidates (B, C), as indices, and to the floor (B,): the least squared distance that
    any other row can have.
    """

    block: int
    propose: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def searches(
    gallery: Tensor, queries: Tensor, k: int, backend: str, place: torch.device, all_rows: bool
) -> Iterator[Search]:
    """Yield the searches of a backend, fastest first, built on demand.

    With `all_rows` the queries are the gallery, and all of them will be searched. Raises ConfigError for an unknown backend
    and for one that is not installed.
    """
    if backend not in BACKENDS:
        raise ConfigError(f"knn: unknown backend {backend!r}; choose one of {', '.join(BACKENDS)}.")
    if backend in ("faiss", "ivf") and place.type not in ("cpu", "cuda"):
        raise ConfigError(f"knn: backend {backend} has no code for the device {place}; use torch or auto.")
    if backend == "auto":
        half_suffices = all_rows  # each product serves two rows
        backend = "torch" if place.type != "cpu" or has_bfloat16() or half_suffices or not has_faiss() else "faiss"
    if backend == "ivf" and place.type == "cuda":
        yield Search(BLOCK, ivf_on_gpu(gallery.cpu().numpy(), queries.cpu().numpy(), k, place, AIM))
        return
    if backend == "ivf":
        quick = torch.bfloat16 if has_bfloat16() else torch.float32
        yield Search(BLOCK, ivf(gallery.cpu(), queries.cpu(), k, quick))
        return
    if backend == "faiss":
        yield _faiss_search(gallery, queries, k + 8, place)
        return
    on_cpu = place.type == "cpu"
    stored_short = on_cpu and has_bfloat16()
    count, dtype = (k + 16, torch.bfloat16) if stored_short else (k + 8, torch.float32)
    if all_rows and on_cpu:
        yield mutual_search(gallery, count, dtype)
    else:
        yield torch_search(gallery, queries, count, dtype, place)
    if stored_short:
        yield torch_search(gallery, queries, k + 8, torch.float32, place)


def has_bfloat16() -> bool:
    """Return True if this processor multiplies bfloat16 faster than float32."""
    return bf16_units() is not None


class _ExactProducts:
    """Context in which float32 products use float32 only; with TF32 or bfloat16, which a user may allow, floors would be wrong.

    Autocast is a setting of the thread, the precision of products one of the process: if several threads are inside, the
    first sets the precision and the last restores it.
    """

    def __init__(self) -> None:
        self.entrance, self.inside = threading.Lock(), 0
        self.set_back: Callable[[], None]

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self.entrance:
            if not self.inside:
                self.set_back = _allow_float32_alone()
            self.inside += 1
        try:
            with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
                yield
        finally:
            with self.entrance:
                self.inside -= 1
                if not self.inside:
                    self.set_back()


exact_products = _ExactProducts()


def _allow_float32_alone() -> Callable[[], None]:
    """Force float32 products; return a function that restores the previous precision."""
    places: list[Any] = [torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)]
    if not all(hasattr(place, "fp32_precision") for place in places):  # before torch 2.9
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        return lambda: torch.set_float32_matmul_precision(before)
    allowed = [place.fp32_precision for place in places]

    def set_back() -> None:
        for place, precision in zip(places, allowed, strict=True):
            place.fp32_precision = precision

    for place in places:
        place.fp32_precision = "ieee"
    return set_back


class _Products:
    """Scores x·y - |y|²/2 from products in `dtype`; the second term is omitted if all rows have the same length."""

    def __init__(self, gallery: Tensor, queries: Tensor, dtype: torch.dtype, place: torch.device) -> None:
        self.y, (self.y_norm, self.y_lost) = gallery.to(place, dtype), _lengths(gallery, dtype)
        self.x, (self.x_norm, self.x_lost) = (
            (self.y, (self.y_norm, self.y_lost))
            if queries is gallery
            else (queries.to(place, dtype), _lengths(queries, dtype))
        )
        half = self.y_norm**2 / 2
        equally_long = float(half.max() - half.min()) <= 1e-5 * float(half.max())
        self.penalty = None if equally_long else torch.from_numpy(half).to(place, torch.float32)
        self.shortest = 2 * half.min() if equally_long else 0.0

    def floor(self, rows: np.ndarray, worst: np.ndarray) -> np.ndarray:
        """Return the least squared distance (B,) of a gallery row that scores below `worst`, the lowest score kept."""
        worst = worst.astype(np.float64)
        norm, lost, longest = self.x_norm[rows], self.x_lost[rows], self.y_norm.max()
        error = lost * longest + (norm + lost) * self.y_lost.max()  # x and y are stored in fewer bits
        # sums and lengths are in float32
        error += UNDERFLOW + 2 * (self.x.shape[1] + 8) * _ROUNDING[torch.float32] * (norm + lost + longest) ** 2
        # products are rounded to `dtype`: with a penalty x·y, otherwise the score
        error += _ROUNDING[self.x.dtype] * (np.abs(worst) if self.penalty is None else norm * longest)
        return norm**2 + self.shortest - 2 * (worst + error)


def mutual_search(gallery: Tensor, count: int, dtype: torch.dtype) -> Search:
    """Search for the candidates of all rows at once, with half the products of `torch_search`, on the CPU."""
    products, numbers = _Products(gallery, gallery, dtype, torch.device("cpu")), np.arange(len(gallery))
    count = min(count, len(gallery))
    where, worst = mutual_candidates(products.x, count, products.penalty)
    floor = products.floor(numbers, worst) if count < len(gallery) else np.full(len(gallery), np.inf)
    return Search(BLOCK, lambda rows: (where[rows], floor[rows]))


def torch_search(gallery: Tensor, queries: Tensor, count: int, dtype: torch.dtype, place: torch.device) -> Search:
    """Search for the candidates of some rows at a time, by products in `dtype`."""
    products = _Products(gallery, queries, dtype, place)
    x, y, penalty = products.x, products.y, products.penalty
    count = min(count, len(gallery))
    tile = min(len(gallery), 1 << 15)
    budget = _BLOCK_BYTES if place.type == "cpu" else 16 * _BLOCK_BYTES

    def propose(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        block = x[torch.from_numpy(rows).to(place)]
        best, where = None, None
        for start in range(0, len(gallery), tile):
            scores = block @ y[start : start + tile].T
            if penalty is not None:
                scores = scores.float() - penalty[start : start + tile]
            top, columns = scores.topk(min(count, scores.shape[1]), dim=1, sorted=False)
            columns += start
            if best is not None and where is not None:
                top, keep = torch.cat([best, top], dim=1).topk(
                    min(count, best.shape[1] + top.shape[1]), dim=1, sorted=False
                )
                columns = torch.cat([where, columns], dim=1).gather(1, keep)
            best, where = top, columns
        assert best is not None and where is not None
        floor = np.full(len(rows), np.inf)
        if count < len(gallery):
            floor = products.floor(rows, best.amin(dim=1).double().cpu().numpy())
        return where.to(torch.int32).cpu().numpy(), floor

    return Search(max(64, budget // (tile * (dtype if penalty is None else torch.float32).itemsize)), propose)


def _faiss_search(gallery: Tensor, queries: Tensor, count: int, place: torch.device = CPU) -> Search:
    if not has_faiss():
        raise ConfigError(
            "knn: backend faiss is not installed (pip install faiss-cpu); backend torch needs nothing."
        )
    import faiss

    count = min(count, len(gallery))
    y, x = gallery.cpu().numpy(), queries.cpu().numpy()
    (y_norm, _), (x_norm, _) = _lengths(gallery, torch.float32), _lengths(queries, torch.float32)
    find = exact_on_gpu(y, place) if place.type == "cuda" else lambda rows, wanted: faiss.knn(rows, y, wanted)

    def propose(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with faiss_threads():
            distances, candidates = find(x[rows], count)
        error = UNDERFLOW + 2 * (x.shape[1] + 8) * _ROUNDING[torch.float32] * (x_norm[rows] + y_norm.max()) ** 2
        floor = distances[:, -1] - error if count < len(y) else np.full(len(rows), np.inf)
        return candidates.astype(np.int32), floor

    return Search(16384, propose)


def _lengths(x: Tensor, dtype: torch.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Return the length of each row and of its rounding error when stored as `dtype`; the errors are slightly overestimated."""
    norms, lost = [], []
    for block in x.split(4096):
        norms.append(torch.linalg.vector_norm(block, dim=1))
        if dtype != torch.float32:
            lost.append(torch.linalg.vector_norm(block - block.to(dtype), dim=1) * (1 + 1e-3))
    length = torch.cat(norms).double().cpu().numpy()
    return length, torch.cat(lost).double().cpu().numpy() if lost else np.zeros_like(length)
