"""Miniatures: for each data set, a generator of a few drawn images in its exact layout and file grammar.

They test a loader, a filter and a protocol where the data set itself cannot be had. A module draws those of one data set, or of
one family; `MINIATURES` lists all.
"""

from reidx.testing.miniatures import (
    cuhk03,
    image_folder,
    ltcc,
    market,
    mars,
    mlr_cuhk03,
    msmt17,
    multi_query,
    occluded_duke,
    partial,
    prcc,
    single_shot,
    vehicles,
    visible_infrared,
)
from reidx.testing.miniatures.base import Miniature

MINIATURES: tuple[Miniature, ...] = (
    *market.MINIATURES,
    *msmt17.MINIATURES,
    *visible_infrared.MINIATURES,
    *ltcc.MINIATURES,
    *prcc.MINIATURES,
    *mlr_cuhk03.MINIATURES,
    *image_folder.MINIATURES,
    *cuhk03.MINIATURES,
    *occluded_duke.MINIATURES,
    *partial.MINIATURES,
    *single_shot.MINIATURES,
    *mars.MINIATURES,
    *multi_query.MINIATURES,
    *vehicles.MINIATURES,
)

__all__ = ["MINIATURES", "Miniature"]
