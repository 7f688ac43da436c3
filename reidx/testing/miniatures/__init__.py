"""Miniatures: for each data set, a generator of a few drawn images in its exact layout and file grammar.

They test a loader, a filter and a protocol where the data set itself cannot be had. A module draws those of one data set, or of
one family; `MINIATURES` lists all.
"""

from reidx.testing.miniatures import image_folder, ltcc
from reidx.testing.miniatures.base import Miniature

MINIATURES: tuple[Miniature, ...] = (*ltcc.MINIATURES, *image_folder.MINIATURES)

__all__ = ["MINIATURES", "Miniature"]
