"""Batch samplers: the positions of a stream that make up each batch of an epoch.

An epoch always has the requested number of batches, each of the same size. The plan of an epoch is seeded by one number
drawn from torch's generator when iteration starts, so re-seeding at each epoch determines it; with several ranks, all use
rank 0's number and each takes its own part of every batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar, Literal

import numpy as np
import torch
from mmengine import dist

from reidx.errors import ConfigError, DataError


class BatchSampler(ABC):
    """``batches`` batches of ``size`` positions over all ranks; iteration yields this rank's share of each as a list.

    ``outliers`` says whether positions labelled −1 are drawn (``draw``) or not (``drop``).
    """

    cameras: ClassVar[str] = "unused"
    outliers: ClassVar[str] = "draw"

    def __init__(self, batches: int, size: int, rank: int = 0, world_size: int = 1) -> None:
        if batches < 1 or size < 1:
            raise ConfigError(
                f"{type(self).__name__}: batches ({batches}) and their size ({size}) must be 1 or more."
            )
        self.batches, self.size, self.rank, self.world_size = batches, size, rank, world_size

    @classmethod
    def contract(cls, **params: object) -> dict[str, str]:
        """The inputs that the sampler reads when built with ``params``: ``{"cameras": "used" | "unused"}``."""
        return {"cameras": cls.cameras}

    @abstractmethod
    def plan(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """Endless global batches (size,) of positions, in which each rank's share is contiguous."""

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[int]]:
        # not a generator function: the number must be drawn when iteration starts, not when the first batch is taken
        number = torch.randint(2**62, (1,))
        dist.broadcast(number, src=0)
        return self._share(np.random.default_rng(int(number)))

    def _share(self, rng: np.random.Generator) -> Iterator[list[int]]:
        share = self.size // self.world_size
        for _, batch in zip(range(self.batches), self.plan(rng), strict=False):
            yield batch[self.rank * share : (self.rank + 1) * share].tolist()


class Shuffle(BatchSampler):
    """Batches in random order, for streams without labels.

    Each batch holds ``batch`` of ``images`` positions. All appear once, in random order, before any appears again.

    Raises :class:`ConfigError` when the ranks cannot share a batch evenly, :class:`DataError` without images.
    """

    def __init__(
        self, images: int, batches: int, batch: int = 64, rank: int = 0, world_size: int = 1
    ) -> None:
        super().__init__(batches, batch, rank, world_size)
        if batch % world_size:
            raise ConfigError(
                f"Shuffle: a batch of {batch} cannot be shared evenly by {world_size} processes."
            )
        if images < 1:
            raise DataError("Shuffle: there are no images to draw from.")
        self.images = images

    def plan(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        return _rounds(rng, self.images, self.size)


class PK(BatchSampler):
    """Batches of P identities with K images each, for labelled streams.

    Batches of exactly ``identities`` times ``instances`` images (P times K), identity after identity.

    ``labels`` (N,) are identities or clusters; -1 (an outlier) is never drawn. All identities appear once, in
    random order, before any appears again, and those of a batch differ; only if there are fewer than
    ``identities`` do they repeat, as evenly as possible. For each identity a random anchor is drawn, then
    ``instances`` - 1 others: with ``use_cameras`` and ``cameras`` (N,) from other cameras than the anchor's if the
    identity has such images, else from its remaining images; without replacement if there are enough.

    An identity with one image contributes that image ``instances`` times (each with its own augmentation), so that
    P times K holds. With ``singles: once`` it contributes the image once, as in the reference code: identities follow
    one another until the P times K places are full, and one that does not fit continues in the next batch, so a batch
    may have more identities than P, and the same one twice. The reference code requires ``instances`` candidates to
    draw without replacement; here one fewer is enough.

    Raises :class:`ConfigError` when ``identities`` is no multiple of ``world_size``, :class:`DataError` when
    every label is -1.
    """

    cameras = "used"
    outliers = "drop"

    def __init__(
        self,
        labels: np.ndarray,
        batches: int,
        cameras: np.ndarray | None = None,
        identities: int = 16,
        instances: int = 4,
        use_cameras: bool = True,
        singles: Literal["repeat", "once"] = "repeat",
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(batches, identities * instances, rank, world_size)
        if identities % world_size:
            raise ConfigError(
                f"PK: {identities} identities a batch cannot be shared evenly by {world_size} processes; "
                f"make identities a multiple of {world_size}."
            )
        labels = np.asarray(labels)
        order = np.argsort(labels, kind="stable")
        order = order[np.searchsorted(labels[order], 0) :]
        if not len(order):
            raise DataError(
                f"PK: none of the {len(labels)} images belongs to an identity or cluster (all labels are -1). "
                "If they are pseudo labels, cluster less strictly (for DBSCAN a larger eps or a smaller min_samples)."
            )
        borders = np.flatnonzero(np.diff(labels[order])) + 1
        self.members: list[np.ndarray] = np.split(order, borders)
        self.identities, self.instances, self.singles = identities, instances, singles
        self.camera_of = np.asarray(cameras) if use_cameras and cameras is not None else None

    @classmethod
    def contract(cls, **params: object) -> dict[str, str]:
        return {"cameras": "used" if params.get("use_cameras", True) else "unused"}

    def plan(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        left = np.empty(0, np.int64)
        for chosen in _rounds(rng, len(self.members), self.identities):
            left = np.concatenate([left, *(self._draw(rng, self.members[i]) for i in chosen)])
            while len(left) >= self.size:
                yield left[: self.size]
                left = left[self.size :]

    def _draw(self, rng: np.random.Generator, members: np.ndarray) -> np.ndarray:
        if len(members) == 1 and self.singles == "once":
            return members
        anchor = members[rng.integers(len(members))]
        others = members[:0]
        if self.camera_of is not None:
            others = members[self.camera_of[members] != self.camera_of[anchor]]
        if not len(others):
            others = members[members != anchor] if len(members) > 1 else members
        wanted = self.instances - 1
        return np.append(rng.choice(others, wanted, replace=len(others) < wanted), anchor)[::-1]


def _rounds(rng: np.random.Generator, count: int, size: int) -> Iterator[np.ndarray]:
    """Endless groups (size,) of 0..count-1: each round covers all numbers, and each group is as varied as possible."""
    left = rng.permutation(count)
    while True:
        group, left = left[:size], left[size:]
        while len(group) < size:
            left = rng.permutation(count)
            # numbers that the group already has from the previous round wait until the others have been used
            left = left[np.argsort(np.bincount(group, minlength=count)[left], kind="stable")]
            lacking = size - len(group)
            group, left = np.append(group, left[:lacking]), left[lacking:]
        yield group
