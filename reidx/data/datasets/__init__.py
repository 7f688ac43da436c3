"""Data sets, one module per format: Market-1501's file grammar, MSMT17's lists, visible and infrared images (SYSU-MM01, RegDB),
changing clothes (LTCC, PRCC), low resolution (MLR-CUHK03), the user's own folders and tables, and data sets made of others:
unions, subsets and splits by camera."""

from reidx.data.datasets.base import Counts, Dataset, Facts, Split
from reidx.data.datasets.camera_split import CameraSplit
from reidx.data.datasets.image_folder import ImageFolder
from reidx.data.datasets.ltcc import LTCC
from reidx.data.datasets.market import DukeMTMC, Market1501, MarketGrammar, PersonX, VeRi776
from reidx.data.datasets.mlr_cuhk03 import MLRCUHK03
from reidx.data.datasets.msmt17 import MSMT17
from reidx.data.datasets.parquet import Parquet
from reidx.data.datasets.prcc import PRCC
from reidx.data.datasets.regdb import RegDB
from reidx.data.datasets.subset import Subset
from reidx.data.datasets.sysu_mm01 import SYSUMM01
from reidx.data.datasets.table import CSV
from reidx.data.datasets.union import Union

__all__ = [
    "CSV",
    "LTCC",
    "MLRCUHK03",
    "MSMT17",
    "PRCC",
    "SYSUMM01",
    "CameraSplit",
    "Counts",
    "Dataset",
    "DukeMTMC",
    "Facts",
    "ImageFolder",
    "Market1501",
    "MarketGrammar",
    "Parquet",
    "PersonX",
    "RegDB",
    "Split",
    "Subset",
    "Union",
    "VeRi776",
]
