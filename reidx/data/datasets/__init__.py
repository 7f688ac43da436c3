"""Data sets, a module each way of writing one down: folders in Market-1501's grammar, MSMT17's lists, a table, drawn;
and one made of the cameras of another."""

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
