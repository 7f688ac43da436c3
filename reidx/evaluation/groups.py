"""Groups of images that are ranked as one: tracklets, the images of a query, the tracks of a gallery.

A protocol names the columns that group the images (`groups`). Its methods, the trials and the pairs of one file then refer to
groups; only the distances to the nearest image of a gallery group need the features of its images.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reidx.contracts import Groups, Trial, inputs_of_kind
from reidx.errors import ConfigError, DataError
from reidx.evaluation.counting import nearest_of_groups
from reidx.evaluation.protocols import Columns, Known, Protocol
from reidx.labels.compiled import in_threads

SIDES = ("query", "gallery")
_ROWS = 1 << 16  # rows that are float64 at a time


class Grouped(Protocol):
    """Tracks or other groups of images, each ranked as one.

    ``query`` and ``gallery`` name a column of the data set: images with the same number in it are one group. Images of a side
    without a column stay single. A group has the mean of its images' features (for the metric cosine, of the features before
    they are scaled to length 1). With ``nearest``, the distance to a gallery group is that to its nearest image.

    Tracklets against tracklets (MARS; Zheng et al., ECCV 2016): both columns. Several images for a query (Market-1501):
    ``query`` alone. Images against tracks (VeRi-776; Liu et al., ICME 2016): ``gallery`` alone, with ``nearest``. With
    ``camera_filter``, entries of the query's own identity and camera are ignored, as in Market-1501.
    """

    def __init__(
        self, query: str | None = None, gallery: str | None = None, nearest: bool = False, camera_filter: bool = True
    ) -> None:
        if query is None and gallery is None:
            raise ValueError("neither query nor gallery names a column, so nothing is grouped: name one, or use Market1501")
        if nearest and gallery is None:
            raise ValueError("nearest is about the groups of the gallery: name their column (gallery)")
        groups = Groups(query, gallery, nearest)
        super().__init__("grouped", "1", camera_filter, settings=groups._asdict(), groups=groups)

    @classmethod
    def contract(cls, camera_filter: bool = True, **_: Any) -> dict[str, str]:
        """Cameras are required by the filter alone."""
        return {"cameras": "required"} if camera_filter else {}


@dataclass(frozen=True)
class Members:
    """The images of one side by group; groups are in the order of their first images."""

    side: str
    column: str
    of: np.ndarray  # (N,) int64, the group of each image, 0..M-1
    first: np.ndarray  # (M,) int64, the first image of each group

    @classmethod
    def read(cls, side: str, column: str, columns: Mapping[str, np.ndarray], where: str) -> Members:
        """Group the images by a column; raises :class:`DataError`, which begins with ``where``, if it is missing or unknown."""
        if column not in columns:
            known = ", ".join(sorted(columns)) or "no further columns"
            raise DataError(
                f"{where}: the protocol groups {side} images by the column {column!r}, but they have {known}. Use a data set "
                "with that column, or another protocol."
            )
        values = columns[column]
        if unknown := int((values < 0).sum()):
            raise DataError(
                f"{where}: {unknown:,} of {len(values):,} {side} images have no {column} (−1; the first is image "
                f"{int(np.flatnonzero(values < 0)[0])}), so they are in no group. Give them one, or leave them out."
            )
        _, first, of = np.unique(values, return_index=True, return_inverse=True)
        place = np.empty(len(first), np.int64)
        place[np.argsort(first)] = np.arange(len(first))
        return cls(side, column, place[of.reshape(-1)], np.sort(first).astype(np.int64))

    def shared(self, values: np.ndarray, what: str, where: str) -> np.ndarray:
        """Return the value (M,) of each group; raises :class:`DataError` if its images differ in it."""
        if (differ := values != values[self.first][self.of]).any():
            image = int(np.flatnonzero(differ)[0])
            other = int(self.first[self.of[image]])
            raise DataError(
                f"{where}: {self.side} images {other} and {image} are in one group ({self.column}), but their {what} is "
                f"{values[other]} and {values[image]}. All images of a group need the same."
            )
        return values[self.first]

    def means(self, features: Tensor) -> Tensor:
        """Return the mean features (M, D) of the groups, float32, summed in float64 in the order of the images."""
        sums = torch.zeros(len(self.first), features.shape[1], dtype=torch.float64)
        group = torch.from_numpy(self.of)
        for rows, groups in zip(features.split(_ROWS), group.split(_ROWS)):
            sums.index_add_(0, groups, rows.cpu().double())
        return (sums / torch.bincount(group, minlength=len(sums))[:, None]).float().to(features.device)


@dataclass(frozen=True)
class Entries:
    """The entries of a ranking, images or groups: ids, cameras, pairs with a common file, and columns of each."""

    known: Known
    own: np.ndarray | None
    columns: Columns | None
    members: tuple[Members | None, Members | None] = (None, None)
    """The groups of the two sides; None for a side of images."""
    nearest: bool = False
    """True if the distance to a gallery group is that to its nearest image."""

    @classmethod
    def of(cls, rule: Protocol, known: Known, own: np.ndarray | None, columns: Columns | None, where: str) -> Entries:
        """Group the images as ``rule`` states; raises :class:`DataError`, which begins with ``where``.

        Images of a group must have one identity, one camera, and one value of each column that ``rule`` names. Columns of a
        grouped side are those that ``rule`` names. ``own`` are pairs of positions of images, or of groups that share a file.
        """
        query, gallery = members = members_of(rule, columns, where)
        if query is None and gallery is None:
            return cls(known, own, columns)
        ids, cameras = ([_shared(of, known[at + n], what, where) for n, of in enumerate(members)] for at, what in _NUMBERS)
        named = set[str]().union(*inputs_of_kind("protocol", type(rule)))
        if columns is not None:
            columns = tuple(shared_columns(of, its, side, named, where) for of, its, side in zip(members, columns, SIDES))  # type: ignore[assignment]
        if own is not None:
            own = np.stack([own[:, n] if of is None else of.of[own[:, n]] for n, of in enumerate(members)], axis=1)
            own = np.unique(own, axis=0).astype(np.int64).reshape(-1, 2)
        groups = rule.groups
        assert groups is not None
        return cls((*ids, *cameras), own, columns, members, groups.nearest)  # type: ignore[arg-type]

    def features(self, query: Tensor, gallery: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features of the entries; with ``nearest``, those of all gallery images."""
        of_query, of_gallery = self.members
        query = query if of_query is None else of_query.means(query)
        return query, gallery if of_gallery is None or self.nearest else of_gallery.means(gallery)


    def require_one_trial(self, trials: list[Trial] | None, where: str, name: str) -> None:
        """Raise :class:`ConfigError`, which begins with ``where``, for trials of galleries whose nearest images count."""
        if self.nearest and trials is not None:
            raise ConfigError(f"{where}: protocol {name} draws trials, but galleries of groups with `nearest` cannot be drawn.")

    def places(self, queries: int, gallery: int) -> Trial:
        """Return the position of each entry in its split, of `queries` and `gallery` images: that of a group's first image."""
        of_query, of_gallery = self.members
        firsts = np.arange(queries) if of_query is None else of_query.first
        return Trial(firsts, np.arange(gallery) if of_gallery is None or self.nearest else of_gallery.first)


_NUMBERS = ((0, "identity"), (2, "camera"))


class NearestImages:
    """The gallery images in the order of their groups, of which each query sees the nearest one of each group."""

    def __init__(self, members: Members) -> None:
        self.order = np.argsort(members.of, kind="stable")
        self.group = members.of[self.order]  # (G,) of the sorted images
        self.bounds = np.searchsorted(self.group, np.arange(len(members.first) + 1))

    def sorted(self, offset: np.ndarray) -> np.ndarray:
        """Return the offsets (B, G) of re-ranked distances in the order of the sorted images; (B, 0) unchanged."""
        return np.take(offset, self.order, axis=1) if offset.shape[1] else offset

    def find(
        self, block: np.ndarray, error: np.ndarray, x: np.ndarray, y: np.ndarray, factor: np.ndarray, offset: np.ndarray
    ) -> np.ndarray:
        """Return the nearest image (B, M) of each group for a block of queries, by `count_ranks`'s distances."""
        found = np.empty((len(block), len(self.bounds) - 1), np.int64)
        in_threads(nearest_of_groups, len(block), block, error, x, y, factor, offset, self.bounds, found)
        return found

    def skipped(self, found: np.ndarray, skip: np.ndarray) -> np.ndarray:
        """Return the mask (B, G) of images that do not count: all but the nearest of each group outside ``skip`` (B, M)."""
        images = np.ones((len(found), len(self.order)), np.bool_)
        np.put_along_axis(images, found, skip, axis=1)
        return images


def members_of(rule: Any, columns: Columns | None, where: str) -> tuple[Members | None, Members | None]:
    """Return the groups of the queries and of the gallery images of a protocol; None for a side without groups."""
    groups = getattr(rule, "groups", None)
    if groups is None:
        return None, None
    by_side = ({}, {}) if columns is None else columns
    names = (groups.query, groups.gallery)
    query, gallery = (
        None if name is None else Members.read(side, name, its, where) for side, name, its in zip(SIDES, names, by_side)
    )
    return query, gallery


def ranked_groups(rule: Any, columns: Columns | None, where: str) -> tuple[Members | None, Members | None]:
    """Return the groups whose mean features a protocol compares: none of a gallery whose nearest images count."""
    query, gallery = members_of(rule, columns, where)
    return query, None if gallery is not None and rule.groups.nearest else gallery


def shared_columns(
    of: Members | None, columns: Mapping[str, np.ndarray], side: str, named: Collection[str], where: str
) -> dict[str, np.ndarray]:
    """Return the columns of a side's entries: of groups, those that a component names as ``SIDE_NAME``."""
    if of is None:
        return dict(columns)
    chosen = {name: values for name, values in columns.items() if f"{side}_{name}" in named}
    return {name: of.shared(values, name, where) for name, values in chosen.items()}


def _shared(of: Members | None, values: np.ndarray, what: str, where: str) -> np.ndarray:
    return values if of is None else of.shared(values, what, where)


def group_card(rule: Any) -> dict[str, str] | None:
    """Return the groups of a protocol for a result's card, by side; None for a protocol of images."""
    groups: Groups | None = getattr(rule, "groups", None)
    if groups is None:
        return None
    found = {"query": f"mean of each {groups.query}"} if groups.query is not None else {}
    if groups.gallery is not None:
        found["gallery"] = f"{'nearest image' if groups.nearest else 'mean'} of each {groups.gallery}"
    return found
