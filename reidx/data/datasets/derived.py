"""The base of data sets that are made from one other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

from reidx.data.datasets.base import Dataset
from reidx.registry.build import Spec, build
from reidx.registry.build import contract as contract_of_spec
from reidx.registry.constructor import Nested

DatasetSpec = Annotated[Spec, Nested("dataset")]


class DerivedDataset(Dataset):
    """Images of another data set, ``whole``, whose columns, numbers, notices and folders it has.

    ``of`` is the spec of that data set. A subclass sets ``name``, ``dropped`` and the splits.
    """

    def __init__(self, of: DatasetSpec, progress: Callable[[int, int], None] | None = None) -> None:
        self.whole: Dataset = build("dataset", of, where="of", progress=progress)
        self.root, self.version = self.whole.root, self.whole.version
        self.remarks, self.numbered = self.whole.remarks, self.whole.numbered

    @staticmethod
    def contract(of: Any, **_: object) -> dict[str, Any]:
        """The columns of the data set."""
        return {"columns": contract_of_spec("dataset", {"type": of} if isinstance(of, str) else of).columns}

    @property
    def roots(self) -> Sequence[str]:
        return self.whole.roots

    def camera_number(self, camera: int) -> int:
        return self.whole.camera_number(camera)

    def notices(self) -> list[str]:
        return self.whole.notices()

    def card(self) -> dict[str, Any]:
        """The usual card, added to that of the whole data set."""
        return {**self.whole.card(), **super().card()}
