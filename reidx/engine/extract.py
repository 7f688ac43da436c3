"""Feature extraction for a whole split, for labelling and for evaluation."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler

from reidx import distributed
from reidx.contracts import Features
from reidx.data.images import ImageStore
from reidx.data.loading import LabelledView, batches
from reidx.errors import DataError
from reidx.optim.optimizer import autocast
from reidx.profiling import span
from reidx.registry.seam import full_checks
from reidx.reporting.reporter import Reporter

BATCH = {"cpu": 64, "cuda": 256}
"""Images per forward pass, by device; small batches fit a CPU's caches."""


@torch.no_grad()
def extract(
    network: Callable[..., Features],
    store: ImageStore,
    transform: Callable[[Tensor], Tensor],
    names: Collection[str],
    *,
    device: torch.device,
    precision: str = "fp32",
    kept: torch.dtype = torch.float32,
    flip: bool = False,
    workers: int = 0,
    reporter: Reporter | None = None,
    what: str = "features",
    columns: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Tensor]:
    """Extract the named features (N,…) of all images of ``store``, in its order, on the CPU with dtype ``kept``.

    Each process extracts a share and receives all features. ``network`` must be in evaluation mode; it gets ``columns`` (N,)
    of the images, if there are any, as an argument of that name. ``flip`` averages the
    features of each image and its mirror image, without normalising the mean. Non-finite features are detected where they
    are used. Raises :class:`DataError` for fewer images than processes.
    """
    view = LabelledView(store, np.full(len(store), -1, dtype=np.int64), None)
    if len(store) < distributed.count():
        raise DataError(f"{what}: {len(store)} images cannot be distributed over {distributed.count()} processes.")
    mine = range(len(store))[distributed.shard(len(store))]
    order = BatchSampler(mine, BATCH.get(device.type, 64), drop_last=False)
    extracted: dict[str, Tensor] = {}
    filled = mine.start
    named = {name: torch.from_numpy(column) for name, column in (columns or {}).items()}
    reporter = reporter or Reporter("quiet")
    if workers == 0:
        with reporter.counted(f"{what}: decoding") as progress, span("decode", len(mine)):
            store.warm(mine, progress=progress)
    with reporter.work(what, len(mine)) as work, span("extract", len(mine)), autocast(device, precision):
        for batch in batches(view, order, workers):
            with full_checks(filled == mine.start):  # the first batch
                images = transform(batch.images.to(device)).contiguous(memory_format=torch.channels_last)
                given = {"columns": {name: its[batch.index].to(device) for name, its in named.items()}} if named else {}
                features: Sequence[Features] = [network(images, **given)]
                if flip:
                    features = [*features, network(images.flip(-1), **given)]
            for name in names:
                rows = torch.stack([f[name].float() for f in features]).mean(0)
                if name not in extracted:  # the first batch determines the shape
                    extracted[name] = torch.empty(len(store), *rows.shape[1:], dtype=kept)
                extracted[name][filled : filled + len(rows)] = rows
            filled += len(images)
            work.advance(len(images))
    return {name: distributed.fill_shards_(rows) for name, rows in extracted.items()}
