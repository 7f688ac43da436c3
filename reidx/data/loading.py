"""Batches: labelled views of training images, and the loader that draws from all streams together."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from reidx.contracts import Batch, LabelSet, contract_in_use
from reidx.data.images import ImageStore
from reidx.errors import Broken
from reidx.machine.lifetimes import end_with
from reidx.registry.seam import call


class LabelledView(Dataset[Any]):
    """The training images of a domain under one labelling; immutable, so that workers never read a stale one.

    A relabelling makes a new view. Positions index the domain's training split; ``labels=None`` makes an unlabelled
    view. ``others`` are further labellings of the images, ``columns`` further columns of the data set, by name.
    """

    def __init__(
        self,
        store: ImageStore,
        cameras: np.ndarray,
        labels: LabelSet | None,
        others: Mapping[str, LabelSet] | None = None,
        columns: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self.store = store
        self.columns = {name: torch.from_numpy(column) for name, column in (columns or {}).items()}
        self.cameras = torch.from_numpy(cameras)
        given = {} if labels is None else {k: torch.from_numpy(v) for k, v in labels.arrays().items()}
        self.targets, self.weights = given.pop("labels", None), given.pop("weights", None)
        self.soft_targets = given.pop("soft_targets", None)
        self.extra = given
        for level, other in (others or {}).items():
            self.extra.update({f"{name}@{level}": torch.from_numpy(column) for name, column in other.arrays().items()})

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, position: int) -> Batch:
        return self.__getitems__([position])

    def __getitems__(self, positions: list[int]) -> Batch:
        """The batch at ``positions``, images as uint8 (the stream's transform runs on the device)."""
        index = torch.as_tensor(positions)
        labelled = {
            name: None if column is None else column[index]
            for name, column in (
                ("targets", self.targets),
                ("cameras", self.cameras),
                ("weights", self.weights),
                ("soft_targets", self.soft_targets),
            )
        }
        extra, columns = ({name: column[index] for name, column in of.items()} for of in (self.extra, self.columns))
        return Batch(self.store.batch(positions), index, **labelled, extra=extra, columns=columns)


def identity_collate(batch: Batch) -> Batch:
    """Return the batch unchanged: views make whole batches, so there is nothing to collate."""
    return batch


def batches(view: LabelledView, sampler: Iterable[list[int]], workers: int, steps: int | None = None) -> DataLoader[Any]:
    """A loader of ``view``'s batches in the order that the sampler draws now, decoded by ``workers`` processes (0: here).

    Workers only decode: all randomness is the sampler's and the transform's, in the training process. With ``steps`` the
    sampler must draw that many batches, all of one size.
    """
    # a list, because torch iterates a sampler once without workers and twice with them, which would change the draws
    plan = call("sampler", sampler, "__iter__", _checked_plan, sampler, len(view), view.targets, steps)
    return DataLoader(
        view,
        batch_sampler=plan,  # type: ignore[arg-type]
        num_workers=0 if view.store.held is not None else workers,  # images on a device cannot be passed to worker processes
        worker_init_fn=partial(_end_with, os.getpid()),
        collate_fn=identity_collate,  # type: ignore[arg-type]
        pin_memory=torch.cuda.is_available(),
    )


def _checked_plan(sampler: Any, images: int, labels: Tensor | None, steps: int | None) -> list[list[int]]:
    """The batches of an epoch, each a list of positions among ``images``; raises :class:`Broken` for anything else."""
    drawn = sampler if steps is None else islice(sampler, steps + 1)  # it may never end
    plan = [batch.tolist() if hasattr(batch, "tolist") else list(batch) for batch in drawn]
    positions = [position for batch in plan for position in batch]
    odd = next((p for p in positions if isinstance(p, bool) or not isinstance(p, int | np.integer)), None)
    if odd is not None:
        raise Broken(f"it drew {odd!r} ({type(odd).__name__}), not the position of an image")
    outside = [p for p in (min(positions, default=0), max(positions, default=0)) if positions and not 0 <= p < images]
    if outside:
        raise Broken(f"it drew position {outside[0]}, but there are {images} images, from 0 on")
    if steps is not None:
        sizes = {len(batch) for batch in plan}
        if len(plan) != steps or len(sizes) != 1 or 0 in sizes:
            found = ", ".join(map(str, sorted(sizes))) or "no"
            count = f"more than {steps}" if len(plan) > steps else len(plan)
            raise Broken(f"it drew {count} batches of {found} images, not the requested {steps}, all of one size")
        if labels is not None and contract_in_use(sampler).outliers == "drop":
            left = int((labels[torch.as_tensor([int(p) for p in positions])] < 0).sum())
            if left:
                raise Broken(f"it drew {left} outliers (label -1), but declares that it drops them")
    return plan


def _end_with(parent: int, number: int) -> None:
    end_with(parent)


class StreamLoader:
    """Loader of one batch of each stream per step, as a mapping from stream name to :class:`Batch`; ``iters`` steps per epoch.

    ``views`` maps each further stream to the stream whose images it shares.
    """

    def __init__(self, iters: int, views: Mapping[str, str] | None = None) -> None:
        self.iters, self.views = iters, dict(views or {})
        self.loaders: Mapping[str, DataLoader[Any]] = {}
        self.dataset = self  # mmengine's hooks read the meta information here

    def use(self, loaders: Mapping[str, DataLoader[Any]]) -> None:
        """Draw from these loaders from now on."""
        self.loaders = dict(loaders)

    def __len__(self) -> int:
        return self.iters

    def __iter__(self) -> Iterator[dict[str, Batch]]:
        # iterators are created one by one in the order of the names, because each draws its seed from torch
        iterators = {name: iter(loader) for name, loader in self.loaders.items()}
        for _ in range(self.iters):
            drawn = {name: next(iterator) for name, iterator in iterators.items()}
            yield {**drawn, **{view: drawn[stream] for view, stream in self.views.items()}}
