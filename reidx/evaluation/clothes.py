"""Protocols of changing clothes: matches in other clothes only, or in the same clothes only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from reidx.contracts import Trial
from reidx.evaluation.protocols import Protocol, SingleGalleryShot


class ClothChanging(Protocol):
    """The cloth-changing setting: matches show other clothes.

    A match shows the query's person in other clothes, under another camera; the person's other gallery images are ignored,
    and queries without a match are left out (LTCC, Qian et al., ACCV 2020; PRCC, Yang et al., TPAMI 2019). Needs the column
    ``clothes``; an image of unknown clothes (−1) is no match.

    With ``trials`` (PRCC: 10) the result is the mean over that many galleries of one random image of each person, drawn with
    ``seed``; 0 ranks the whole gallery. Results of the two are not comparable: state which one you use.
    """

    cameras: ClassVar[str] = "required"
    same: ClassVar[bool] = False
    """True if a match must show the query's clothes."""

    def __init__(self, trials: int = 0, seed: int = 0) -> None:
        if trials < 0:
            raise ValueError(f"trials is {trials}; give the number of galleries to draw, or 0 for the whole gallery")
        if seed and not trials:
            raise ValueError(f"seed is {seed}, but nothing is drawn without trials: leave it out, or set trials")
        self.shots = SingleGalleryShot(trials, seed) if trials else None
        name = "same_clothes" if self.same else "cloth_changing"
        super().__init__(name, "1", camera_filter=True, settings={"seed": seed} if trials else {})

    def ignored(  # type: ignore[override]
        self,
        query_ids: np.ndarray,
        gallery_ids: np.ndarray,
        query_cams: np.ndarray,
        gallery_cams: np.ndarray,
        *,
        query_clothes: np.ndarray,
        gallery_clothes: np.ndarray,
    ) -> np.ndarray:
        """Bool (Q, G): the usual ones, and images of the query's person in clothes that are no match."""
        known = (query_clothes[:, None] >= 0) & (gallery_clothes >= 0)
        fits = known & ((query_clothes[:, None] == gallery_clothes) == self.same)
        usual = super().ignored(query_ids, gallery_ids, query_cams, gallery_cams)
        return usual | ((query_ids[:, None] == gallery_ids) & ~fits)

    def draw_trials(
        self, query_ids: np.ndarray, gallery_ids: np.ndarray, query_cams: np.ndarray, gallery_cams: np.ndarray
    ) -> Iterator[Trial] | None:
        """All queries and one gallery image of each identity in each trial; None for the whole gallery."""
        if self.shots is None:
            return None
        return self.shots.draw_trials(query_ids, gallery_ids, query_cams, gallery_cams)


class SameClothes(ClothChanging):
    """The same-clothes setting: matches show the clothes of the query.

    The counterpart of ``ClothChanging``, with the same arguments.
    """

    same = True
