"""BatchNorm statistics of the data before anything is labelled or trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from reidx import distributed
from reidx.data.domains import Domains
from reidx.engine.step import StageModel
from reidx.reporting.reporter import Reporter

BATCH = 64
"""Images of a stream that pass at a time."""


@torch.no_grad()
def calibrate(
    model: StageModel,
    domains: Domains,
    streams: Mapping[str, str],
    transform: Callable[[Tensor], Tensor],
    batches: int,
    reporter: Reporter,
) -> None:
    """Let ``batches`` batches of each stream's domain pass through all networks in training mode, without training.

    A BatchNorm that no weights were had for begins with a mean of 0 and a variance of 1, which no data has: features
    in evaluation mode, from which labels and memories are made, are then others than those of the first steps.
    ``streams`` names each one's domain. After Li et al., "Revisiting Batch Normalization For Practical Domain Adaptation",
    ICLR Workshop 2017.
    """
    training = model.training
    model.train()
    stores = {stream: domains.images(domain, "train") for stream, domain in streams.items()}
    order = {stream: torch.randperm(len(store)) for stream, store in stores.items()}  # alike in each process
    mine = torch.arange(BATCH)[distributed.shard(BATCH)]
    with reporter.work("statistics of the domains", batches, "batches") as work:
        for batch in range(batches):
            taken = {stream: its[(batch * BATCH + mine) % len(its)].tolist() for stream, its in order.items()}
            images = {stream: transform(stores[stream].batch(rows).to(model.device)) for stream, rows in taken.items()}
            model.take_statistics(images)
            work.advance()
    model.train(training)
