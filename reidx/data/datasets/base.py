"""The data set contract: image paths with their identities and cameras.

A data set never opens an image; it reads and checks file names, lists or a table, so that mistakes surface at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import numpy as np

from reidx.data.datasets.locate import locate
from reidx.errors import DataError

PASSED_OVER = "passed over"
"""Key in ``dropped`` for files in a data set's folders that are not read."""
LARGEST = 2**63 - 1


def parse_number(digits: str, what: str, where: str) -> int:
    """Parse ``digits`` as an identity or camera; raises :class:`DataError`, prefixed by ``where``, beyond int64."""
    shortest = digits.lstrip("0")
    if len(shortest) > 19 or int(shortest or "0") > LARGEST:
        shown = digits if len(digits) <= 40 else f"a number of {len(digits):,} digits"
        raise DataError(f"{where}: {what} is {shown}; the largest possible is {LARGEST}. Number them from 0.")
    return int(shortest or "0")


class Counts(NamedTuple):
    """Number of images of a split, and of the identities among them; None where no source states them."""

    images: int | None
    ids: int | None


@dataclass(frozen=True)
class Facts:
    """Facts about a published data set.

    ``request`` is the page on which its authors provide it (empty: none), ``layout`` the published folders and files as text,
    one line each. ``counts`` are the official counts of each split as the loader reads them (without junk), by
    :attr:`Dataset.variant`. ``notice`` is a sentence that every use of the data set shows, such as its withdrawal.
    """

    request: str
    layout: str
    counts: Mapping[str, Mapping[str, Counts]] = field(default_factory=dict)
    notice: str = ""


@dataclass(frozen=True)
class Split:
    """The images of one split: ``paths`` (N), ``ids`` (N,) int64 or None, ``cameras`` (N,) int64, -1 = none known.

    A path is that of a file, or the address of a crop of it (:mod:`reidx.data.address`).

    ``columns`` are further columns (N,) int64 by name, such as clothes or tracks; -1 = unknown. A component gets a column by
    an argument of that name.
    """

    paths: list[str]
    ids: np.ndarray | None
    cameras: np.ndarray
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, column in (("ids", self.ids), ("cameras", self.cameras), *self.columns.items()):
            if column is not None and (len(column) != len(self.paths) or column.dtype != np.int64):
                raise ValueError(f"{name} must be {len(self.paths)} int64 values, one for each path")

    @classmethod
    def of(cls, rows: Sequence[tuple[Any, ...]], *columns: str) -> Split:
        """The split of rows ``(path, identity, camera, …)``, whose further values are those of ``columns``, in their order."""
        values = np.array([row[1:] for row in rows], np.int64).reshape(len(rows), 2 + len(columns))
        paths, numbers = [row[0] for row in rows], [np.ascontiguousarray(column) for column in values.T]
        return cls(paths, numbers[0], numbers[1], dict(zip(columns, numbers[2:], strict=True)))

    @classmethod
    def empty(cls, *columns: str) -> Split:
        """A split without images, for a domain that is only trained on."""
        return cls([], None, np.zeros(0, np.int64), {name: np.zeros(0, np.int64) for name in columns})

    def __len__(self) -> int:
        return len(self.paths)

    def select(self, kept: np.ndarray) -> Split:
        """The images selected by the mask ``kept`` (N,), in their order."""
        paths = [path for path, keep in zip(self.paths, kept, strict=True) if keep]
        columns = {name: column[kept] for name, column in self.columns.items()}
        return Split(paths, None if self.ids is None else self.ids[kept], self.cameras[kept], columns)

    def named_columns(self) -> dict[str, np.ndarray]:
        """The cameras and the further columns (N,) by name."""
        return {"cameras": self.cameras, **self.columns}

    def unlabelled(self) -> Split:
        """The same images without identities, for training on an unlabelled domain."""
        return replace(self, ids=None)

    def classes(self) -> np.ndarray:
        """Labels (N,) int64 in 0..K-1, in the order of the sorted identities.

        Raises :class:`DataError` when the split has no identities.
        """
        if self.ids is None:
            raise DataError("This split has no identities, so it cannot be trained on with labels.")
        return np.unique(self.ids, return_inverse=True)[1].reshape(-1).astype(np.int64)

    def counts(self) -> dict[str, int]:
        """Counts of images, identities (0 if unlabelled) and cameras (0 if none is known)."""
        cameras = np.unique(self.cameras)
        return {
            "images": len(self),
            "ids": 0 if self.ids is None else len(np.unique(self.ids)),
            "cameras": int((cameras >= 0).sum()),
        }


class Dataset:
    """A domain: the splits ``train``, ``query`` and ``gallery``, and their origin.

    A subclass sets ``name``, ``version``, ``root`` and the three splits, and counts in ``dropped`` the images that its rules
    exclude. A data set for training alone leaves out ``query`` and ``gallery``. ``remarks`` are sentences on other surprises
    for the user, such as files that were passed over. If its splits have further columns, its contract names them: ``columns``,
    by attribute or by the class method ``contract``. ``numbered`` holds the texts behind the numbers of ``ids``, ``cameras``
    or a column, if the data set has texts in their place. A published data set has ``facts``, and a ``variant`` if these
    facts differ between its versions or subsets. It is recognised by its ``layouts`` (names of the folders and files that
    each requires) in one of its ``places`` (folders below a given root).
    """

    facts: ClassVar[Facts | None] = None
    places: ClassVar[tuple[str, ...]] = (".",)
    layouts: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    separate_ids: ClassVar[bool] = False
    """True if training and test number their identities separately: the same number is two people."""
    variant: str = ""
    name: str
    version: str = ""
    root: str
    train: Split
    query: Split = Split.empty()
    gallery: Split = Split.empty()
    dropped: dict[str, int]
    remarks: Sequence[str] = ()
    numbered: Mapping[str, Sequence[str]] = MappingProxyType({})

    @property
    def roots(self) -> Sequence[str]:
        """The folders that may be moved, each as a whole: ``root``, or those of the data sets that this one is made of."""
        return [self.root]

    def notices(self) -> list[str]:
        """The notice of the data set, or those of the data sets that it is made of."""
        return [self.facts.notice] if self.facts is not None and self.facts.notice else []

    @classmethod
    def locate(cls, root: str, layouts: Mapping[str, tuple[str, ...]] | None = None) -> list[tuple[str, Path]]:
        """Find each (layout, folder) of the data set under ``root``; raises :class:`DataError` if there is none.

        ``layouts`` are those to look for (default: all).
        """
        wanted = cls.layouts if layouts is None else layouts
        name = getattr(cls, "name", cls.__name__)  # a subclass may set it in its constructor
        return locate(name, root, cls.places, wanted, cls.facts.request if cls.facts else None)

    @classmethod
    def arguments_of(cls, layout: str) -> dict[str, Any]:
        """The arguments, besides ``root``, with which the data set is read in one of its ``layouts``."""
        return {}

    @classmethod
    def repeats(cls, **arguments: Any) -> tuple[str, Sequence[int]] | None:
        """The argument that chooses one of several random splits, and its values: a published result is their mean.

        None for a data set with one split under these ``arguments``.
        """
        return None

    def notes(self) -> list[str]:
        """Sentences reported each time the data set is read: the notices, the exclusions, then ``remarks``."""
        left = [f"{count:,} {what}" for what, count in self.dropped.items() if count and what != PASSED_OVER]
        return [*self.notices(), *([f"left out: {', '.join(left)}"] if left else []), *self.remarks]

    @property
    def distractors(self) -> int:
        """Number of gallery images whose identity is in no query."""
        if self.query.ids is None or self.gallery.ids is None:
            return 0
        return int(np.isin(self.gallery.ids, self.query.ids, invert=True).sum())

    def camera_number(self, camera: int) -> int:
        """The number that the data set's own names or lists give to one of its ``cameras``."""
        return camera

    def camera_name(self, camera: int) -> str:
        """The text for one of its ``cameras``, or the number, in the data set's own names or lists."""
        names = self.numbered.get("cameras")
        return names[camera] if names else str(self.camera_number(camera))

    def card(self) -> dict[str, Any]:
        """Facts about the data that accompany a result: name, version, counts of each split, exclusions."""
        return {
            "name": self.name,
            "version": self.version,
            **{split: getattr(self, split).counts() for split in ("train", "query", "gallery")},
            "dropped": dict(self.dropped),
            "distractors": self.distractors,
        }
