"""Processes that share the search compute the same distances as one process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from reidx_ca_jaccard.distance import CAJaccard
from torch import multiprocessing

CAMERAS = np.array([0] * 60 + [1] * 30 + [2])  # the last camera has fewer images than there are processes


def features() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(9, 12, generator=generator)[torch.arange(91) % 9]
    return centres + 0.4 * torch.randn(91, 12, generator=generator)


def work(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)  # a forked process must not use its parent's threads
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    graph = CAJaccard(sharded=True)(features(), cameras=CAMERAS)
    np.savez(f"{folder}/{rank}.npz", data=graph.data, indices=graph.indices)
    dist.destroy_process_group()


def test_two_processes_compute_the_same_distances(tmp_path: Path) -> None:
    alone = CAJaccard()(features(), cameras=CAMERAS)
    multiprocessing.start_processes(work, (2, str(tmp_path)), nprocs=2, start_method="fork")
    for rank in range(2):
        result = np.load(tmp_path / f"{rank}.npz")
        assert np.array_equal(result["data"], alone.data)
        assert np.array_equal(result["indices"], alone.indices)
