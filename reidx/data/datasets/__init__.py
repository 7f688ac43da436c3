"""Data sets, one module per format: Market-1501's file grammar, MSMT17's lists, CSV tables, rendered images, and
splits of another data set by camera."""

from reidx.data.datasets.base import Dataset, Split
from reidx.data.datasets.camera_split import CameraSplit
from reidx.data.datasets.market import DukeMTMC, Market1501, MarketGrammar, PersonX, VeRi776
from reidx.data.datasets.msmt17 import MSMT17
from reidx.data.datasets.rendered import Synthetic
from reidx.data.datasets.table import CSV

__all__ = [
    "CSV",
    "MSMT17",
    "CameraSplit",
    "Dataset",
    "DukeMTMC",
    "Market1501",
    "MarketGrammar",
    "PersonX",
    "Split",
    "Synthetic",
    "VeRi776",
]
