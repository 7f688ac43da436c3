"""Data sets, one module per format or family: Market-1501's file grammar, MSMT17's lists, CUHK03 and its low resolution
(MLR-CUHK03), visible and infrared images (SYSU-MM01, RegDB), changing clothes (LTCC, PRCC), Occluded-Duke, tests on partial
bodies, single-shot sets, the user's own folders and tables, and data sets made of others: unions, subsets, camera splits."""

from reidx.data.datasets.base import Counts, Dataset, Facts, Split
from reidx.data.datasets.camera_split import CameraSplit
from reidx.data.datasets.cuhk03 import CUHK03
from reidx.data.datasets.image_folder import ImageFolder
from reidx.data.datasets.ltcc import LTCC
from reidx.data.datasets.market import DukeMTMC, Market1501, MarketGrammar, PersonX, VeRi776
from reidx.data.datasets.mars import MARS
from reidx.data.datasets.mlr_cuhk03 import MLRCUHK03
from reidx.data.datasets.msmt17 import MSMT17
from reidx.data.datasets.occluded_duke import OccludedDuke
from reidx.data.datasets.parquet import Parquet
from reidx.data.datasets.partial import OccludedREID, PartialILIDS, PartialREID
from reidx.data.datasets.prcc import PRCC
from reidx.data.datasets.regdb import RegDB
from reidx.data.datasets.single_shot import GRID, PRID2011, VIPeR
from reidx.data.datasets.subset import Subset
from reidx.data.datasets.sysu_mm01 import SYSUMM01
from reidx.data.datasets.table import CSV
from reidx.data.datasets.union import Union
from reidx.data.datasets.vehicleid import VehicleID
from reidx.data.datasets.veri_wild import VERIWild

__all__ = [
    "CSV",
    "CUHK03",
    "GRID",
    "LTCC",
    "MARS",
    "MLRCUHK03",
    "MSMT17",
    "PRCC",
    "PRID2011",
    "SYSUMM01",
    "CameraSplit",
    "Counts",
    "Dataset",
    "DukeMTMC",
    "Facts",
    "ImageFolder",
    "Market1501",
    "MarketGrammar",
    "OccludedDuke",
    "OccludedREID",
    "Parquet",
    "PartialILIDS",
    "PartialREID",
    "PersonX",
    "RegDB",
    "Split",
    "Subset",
    "Union",
    "VERIWild",
    "VIPeR",
    "VeRi776",
    "VehicleID",
]
