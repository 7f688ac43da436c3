"""A rendered domain of visible and infrared cameras as a data set, drawn on first use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from reidx.data.datasets.base import Split
from reidx.data.datasets.market import MarketGrammar
from reidx.data.datasets.sysu_mm01 import INFRARED, VISIBLE
from reidx_synthetic.domain import DISTRACTOR, INFRARED_VERSION, VERSION, render_domain


class VisibleInfrared(MarketGrammar):
    """Rendered people under visible and near-infrared cameras.

    A domain, ``source`` or ``target``, drawn into ``root/DOMAIN-infrared-seedSEED`` on first use. Its first ``cameras`` cameras
    are visible and give the pictures of ``People`` with these arguments; ``infrared_cameras`` cameras at night follow.

    ``modality`` selects the training images: the ``visible`` or the ``infrared`` ones, a domain each for unsupervised methods,
    or ``both``. ``test`` selects the test images: for ``cross`` the queries are all infrared ones, the gallery all visible
    ones; for ``visible`` and ``infrared`` the first picture of each person and camera of that modality is a query, and the
    gallery has the others. The column ``modality`` is 0 for visible and 1 for infrared images. The other arguments are
    those of ``People``.

    Raises :class:`DataError` for arguments that make no valid benchmark, or if that folder holds something else.
    """

    name = "Synthetic, visible and infrared"
    columns: ClassVar[tuple[str, ...]] = ("modality",)

    def __init__(
        self,
        root: str = "data/synthetic",
        domain: str = "source",
        modality: Literal["visible", "infrared", "both"] = "both",
        test: Literal["cross", "visible", "infrared"] = "cross",
        identities: tuple[int, int] = (150, 60),
        images_per_camera: int = 4,
        cameras: int = 4,
        infrared_cameras: int = 2,
        size: tuple[int, int] = (128, 64),
        seed: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        if infrared_cameras < 1:
            raise ValueError(f"infrared_cameras is {infrared_cameras}; a pair needs 1 or more")
        self.name = f"Synthetic {domain}, visible and infrared"
        self.version = f"v{VERSION}.{INFRARED_VERSION} seed {seed}"
        self.modality, self.visible_cameras = modality, cameras
        folder = Path(root).expanduser() / f"{domain}-infrared-seed{seed}"
        height, width = size
        render_domain(
            folder,
            domain,
            identities=(identities[0], identities[1]),
            images_per_camera=images_per_camera,
            cameras=cameras,
            infrared_cameras=infrared_cameras,
            size=(height, width),
            seed=seed,
            progress=progress,
        )
        super().__init__(str(folder))
        if test != "cross":
            self.name = f"Synthetic {domain}, tested on {test} images"
            held_out = self.gallery if test == "visible" else self.query
            first = _first_pictures(held_out)
            self.query, self.gallery = _select(held_out, first), _select(held_out, ~first)

    def card(self) -> dict[str, Any]:
        """The usual card, with the modality of the training images."""
        return {**super().card(), "train_modality": self.modality}

    def _read(self, folder: Path, split: str) -> Split:
        whole = super()._read(folder, split)
        modality = np.where(whole.cameras < self.visible_cameras, VISIBLE, INFRARED)
        whole = replace(whole, columns={"modality": modality})
        if split == "train" and self.modality != "both":
            return _select(whole, modality == (VISIBLE if self.modality == "visible" else INFRARED))
        return whole


def _select(split: Split, kept: np.ndarray) -> Split:
    """The images of a split selected by the mask ``kept`` (N,)."""
    paths = [path for path, keep in zip(split.paths, kept, strict=True) if keep]
    columns = {name: column[kept] for name, column in split.columns.items()}
    assert split.ids is not None  # the names give all identities
    return Split(paths, split.ids[kept], split.cameras[kept], columns)


def _first_pictures(split: Split) -> np.ndarray:
    """Mask (N,) of the first picture of each person and camera; false alarms have none."""
    assert split.ids is not None
    first = np.full(len(split), False)
    first[np.unique(np.stack([split.ids, split.cameras]), axis=1, return_index=True)[1]] = True
    return first & (split.ids != DISTRACTOR)
