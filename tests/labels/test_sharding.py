"""A search shared by 1, 2 or 4 processes gives one result, and different labels are detected."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing

from reidx.labels import DBSCAN, Cosine, Jaccard
from reidx.labels.neighbours.exact import nearest
from reidx.labels.neighbours.sharding import nearest_sharded, require_same_labels


def features() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 12, generator=generator)[torch.randint(40, (301,), generator=generator)]
    return torch.nn.functional.normalize(x + 0.3 * torch.randn(301, 12, generator=generator), dim=1)


def work(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)  # a forked process must not use its parent's threads
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet{world}", rank=rank, world_size=world)
    labels = require_same_labels(DBSCAN()(Jaccard(12, 3, sharded=True)(features())))
    cosine = Cosine(5, sharded=True)(features())
    lists = nearest_sharded(features()[:200], 5, queries=features()[200:])[1]
    noticed = 0
    try:
        require_same_labels(labels + (rank == world - 1))
    except Exception as error:
        noticed = int(f"{world - 1} disagree with process 0" in str(error))
    try:
        require_same_labels(labels, {"note": labels + (rank == 0)})
    except Exception:
        noticed += 1
    np.savez(f"{folder}/{world}_{rank}.npz", labels=labels, noticed=noticed, cosine=cosine.data, lists=lists)
    dist.destroy_process_group()


@pytest.mark.parametrize("world", [2, 4])
def test_any_number_of_processes_gives_same_labels(world, tmp_path):
    alone, cosine = DBSCAN()(Jaccard(12, 3)(features())), Cosine(5)(features())
    lists = nearest(features()[:200], 5, queries=features()[200:])[1]
    assert alone.max() > 5
    multiprocessing.start_processes(work, (world, str(tmp_path)), nprocs=world, start_method="fork")
    for rank in range(world):
        result = np.load(tmp_path / f"{world}_{rank}.npz")
        assert np.array_equal(result["labels"], alone)
        assert np.array_equal(result["cosine"], cosine.data)
        assert np.array_equal(result["lists"], lists)
        assert result["noticed"] == 2  # different labels, and a different extra array


def test_one_process_shares_nothing():
    labels = np.arange(3)
    assert require_same_labels(labels) is labels
    x = features()
    assert np.array_equal(Jaccard(12, 3, sharded=True)(x).data, Jaccard(12, 3)(x).data)
