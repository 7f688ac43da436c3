"""Neighbour search distributed over the processes of a job, and the check that all have the same labels."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from reidx import distributed
from reidx.errors import ReidxError
from reidx.labels.neighbours.exact import nearest


def nearest_sharded(
    features: Tensor,
    k: int,
    *,
    queries: Tensor | None = None,
    backend: str = "auto",
    device: str | torch.device | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Search as `nearest` does, with the rows shared out among the processes; every process receives all results.

    Every process must call it with the same features (N, D) and queries (Q, D), which are the features by default. Exact
    neighbours are the same for any number of processes; with backend `ivf`, each process searches its own index, built from
    the same seed.
    """
    rows = len(features if queries is None else queries)
    mine = distributed.shard(rows)
    found = nearest(features, k, queries=queries, backend=backend, device=device, rows=mine)
    if distributed.count() == 1:
        return found
    squared, indices = (torch.empty(rows, part.shape[1], dtype=torch.from_numpy(part).dtype) for part in found)
    for whole, part in zip((squared, indices), found, strict=True):
        whole[mine] = torch.from_numpy(part)
        distributed.fill_shards_(whole)
    return squared.numpy(), indices.numpy()


def require_same_labels(labels: np.ndarray, more: Mapping[str, np.ndarray] | None = None) -> np.ndarray:
    """Return the labels; raise ReidxError if the processes differ in them or in ``more``, further arrays by name.

    The message names the processes that differ from process 0.
    """
    sha = hashlib.sha256(np.ascontiguousarray(labels).tobytes())
    for name, array in sorted((more or {}).items()):
        sha.update(f"{name} {array.dtype} {array.shape}".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    others = distributed.ranks_that_differ(sha.hexdigest())
    if others:
        raise ReidxError(
            f"Pseudo labels differ between processes: {', '.join(map(str, others))} disagree with process 0. "
            "They must label the same features in the same order; check that extraction gathers all of them everywhere."
        )
    return labels
