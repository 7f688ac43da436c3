"""Calibration of BatchNorm statistics before the first labelling."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from reidx import distributed
from reidx.data.domains import Domains
from reidx.engine.step import StageModel
from reidx.reporting.reporter import Reporter

BATCH = 64
"""Images per stream and batch."""


@torch.no_grad()
def calibrate(
    model: StageModel,
    domains: Domains,
    streams: Mapping[str, str],
    transform: Callable[[Tensor], Tensor],
    batches: int,
    reporter: Reporter,
) -> None:
    """Estimate BatchNorm statistics: pass ``batches`` batches per stream through all networks in training mode.

    A BatchNorm without pretrained statistics starts with mean 0 and variance 1, which match no data: the features in
    evaluation mode, from which labels and memories are computed, would then differ from those of the first steps. No weight
    is changed. ``streams`` maps each stream to its domain. After Li et al., "Revisiting Batch Normalization For Practical
    Domain Adaptation", ICLR Workshop 2017.
    """
    training = model.training
    model.train()
    stores = {stream: domains.images(domain, "train") for stream, domain in streams.items()}
    order = {stream: torch.randperm(len(store)) for stream, store in stores.items()}  # the same in every process
    columns_of = {stream: domains.split(domain, "train").named_columns() for stream, domain in streams.items()}
    named = {
        stream: {name: torch.from_numpy(column).to(model.device) for name, column in its.items()}
        for stream, its in columns_of.items()
    }
    mine = torch.arange(BATCH)[distributed.shard(BATCH)]
    with reporter.work("statistics of the domains", batches, "batches") as work:
        for batch in range(batches):
            taken = {stream: its[(batch * BATCH + mine) % len(its)].tolist() for stream, its in order.items()}
            images = {stream: transform(stores[stream].batch(rows).to(model.device)) for stream, rows in taken.items()}
            columns = {stream: {name: its[rows] for name, its in named[stream].items()} for stream, rows in taken.items()}
            model.take_statistics(images, columns)
            work.advance()
    model.train(training)
