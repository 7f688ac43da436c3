"""One data set made of several."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np

from reidx.data.datasets.base import Dataset, Split
from reidx.errors import DataError
from reidx.registry.build import Spec, build
from reidx.registry.build import contract as contract_of_spec
from reidx.registry.constructor import Nested

DatasetSpecs = Annotated[list[Spec], Nested("dataset")]
SPLITS = ("train", "query", "gallery")


class Union(Dataset):
    """Several data sets as one, with the images of a split in their order.

    ``of`` lists the specs of the parts. Their people and cameras count as different and are numbered from 0, part by
    part; ``shared_ids`` and ``shared_cameras`` keep the numbers, so that equal numbers, or equal names, mean the same person or
    camera. A part without query and gallery only adds training images. If a part has no identities for its training images,
    the whole has none.

    ``columns: common`` keeps the further columns that all parts have, ``all`` those of any part, with -1 where a part has none.
    The columns ``apart`` count within a data set, so their values are numbered part by part. Those of other columns, such as
    a modality, are kept.

    An image that is in two parts counts as two people, which is reported, unless they share their numbers.

    Raises :class:`DataError` if one part has numbers and another names for something that they share.
    """

    def __init__(
        self,
        of: DatasetSpecs,
        shared_ids: bool = False,
        shared_cameras: bool = False,
        columns: Literal["common", "all"] = "common",
        apart: tuple[str, ...] = ("clothes", "track"),
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        if len(of) < 2:
            raise ValueError(f"of lists {len(of)} data sets; a union has two or more.")
        parts: list[Dataset] = [build("dataset", spec, where=f"of.{n}", progress=progress) for n, spec in enumerate(of)]
        self.parts = parts
        self.name, self.root = " + ".join(part.name for part in parts), parts[0].root
        dropped = Counter[str]()
        for part in parts:
            dropped.update(part.dropped)
        self.dropped = dict(dropped)
        self.numbered = {}
        splits = [[getattr(part, name) for name in SPLITS] for part in parts]
        ids = self._merged("ids", [[split.ids for split in part] for part in splits], shared_ids)
        cameras = self._merged("cameras", [[split.cameras for split in part] for part in splits], shared_cameras)
        names = [set[str]().union(*(split.columns for split in part)) for part in splits]
        kept = set.intersection(*names) if columns == "common" else set.union(*names)
        values = {
            name: self._merged(name, [[split.columns.get(name) for split in part] for part in splits], name not in apart)
            for name in sorted(kept)
        }
        for n, name in enumerate(SPLITS):
            whole = Split(
                [path for part in splits for path in part[n].paths],
                None if any(len(part[n]) and part[n].ids is None for part in splits) else ids[n],
                cameras[n],
                {column: numbers[n] for column, numbers in values.items()},
            )
            setattr(self, name, whole)
        self.remarks = [
            f"{twice:,} {name} images are in two parts, as different people"
            for name in (SPLITS if not shared_ids else ())
            if (twice := len(getattr(self, name)) - len(set(getattr(self, name).paths)))
        ]
        blind = [part.name for part, (train, *_) in zip(parts, splits, strict=True) if len(train) and train.ids is None]
        if 0 < len(blind) < len(parts):
            self.remarks += [f"no identities for training, because {' and '.join(blind)} has none"]

    @staticmethod
    def contract(of: Sequence[Any], columns: str = "common", **_: object) -> dict[str, Any]:
        """The columns of all parts, or of any part."""
        specs = [{"type": spec} if isinstance(spec, str) else spec for spec in of]
        found = [contract_of_spec("dataset", spec).columns for spec in specs] or [frozenset()]
        return {"columns": frozenset.intersection(*found) if columns == "common" else frozenset.union(*found)}

    @property
    def roots(self) -> Sequence[str]:
        return [root for part in self.parts for root in part.roots]

    def notices(self) -> list[str]:
        return list(dict.fromkeys(notice for part in self.parts for notice in part.notices()))

    def notes(self) -> list[str]:
        """The sentences on each part, which begin with its name, then those on the whole."""
        return [*(f"{part.name}: {note}" for part in self.parts for note in part.notes()), *self.remarks]

    def card(self) -> dict[str, Any]:
        """The usual card, with those of the parts."""
        return {**super().card(), "parts": [part.card() for part in self.parts]}

    def _merged(self, what: str, values: list[list[np.ndarray | None]], shared: bool) -> list[np.ndarray]:
        """The values of each split of the whole; ``values`` are those of each part and split, None where it has none."""
        lengths = [[len(getattr(part, name)) for name in SPLITS] for part in self.parts]
        full = [
            [np.full(length, -1, np.int64) if column is None else column for column, length in zip(columns, part, strict=True)]
            for columns, part in zip(values, lengths, strict=True)
        ]
        renumbered = self._same_names(what, full) if shared else _part_by_part(full)
        return [np.concatenate(columns) for columns in zip(*renumbered, strict=True)]

    def _same_names(self, what: str, values: list[list[np.ndarray]]) -> list[list[np.ndarray]]:
        """The values as they are or, if they number names, numbered in the sorted order of the names of all parts."""
        names = [tuple(part.numbered.get(what, ())) for part in self.parts]
        known = [any((column >= 0).any() for column in columns) for columns in values]
        named = [part.name for part, own, there in zip(self.parts, names, known, strict=True) if there and own]
        plain = [part.name for part, own, there in zip(self.parts, names, known, strict=True) if there and not own]
        if not named:
            return values
        if plain:
            raise DataError(
                f"{what}: {named[0]} has names and {plain[0]} has numbers, so they cannot be shared. Write both in one way, or "
                "keep them apart."
            )
        merged = sorted(set().union(*names))
        self.numbered = {**self.numbered, what: merged}
        places: Mapping[str, int] = {name: place for place, name in enumerate(merged)}
        tables = [np.array([*(places[name] for name in own), -1], np.int64) for own in names]  # the last one for -1
        return [[table[column] for column in columns] for table, columns in zip(tables, values, strict=True)]


def _part_by_part(values: list[list[np.ndarray]]) -> list[list[np.ndarray]]:
    """Number the values of each part from where those of the part before it end, in their order; -1 stays."""
    numbered, begin = [], 0
    for columns in values:
        known = np.unique(np.concatenate(columns))
        known = known[known >= 0]
        numbered.append([np.where(column < 0, -1, begin + np.searchsorted(known, column)) for column in columns])
        begin += len(known)
    return numbered
