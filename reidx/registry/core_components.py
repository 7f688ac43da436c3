"""Components of the core, registered through the same hooks as those of a plugin."""

from __future__ import annotations

from collections.abc import Sequence

from reidx.registry.hookspecs import API, PluginInfo, hookimpl
from reidx.registry.registry import Component

_MARKET = {"type": "Market1501", "root": "data"}
_CAMERA_SPLIT = {"of": _MARKET, "side": "target", "cameras": [4, 5, 6]}
_MEAN = {"of": {"type": "Jaccard", "k1": 20}, "weights": {"embed": 1.0}}


@hookimpl
def reidx_plugin() -> PluginInfo:
    return PluginInfo(title="reidx: the core and its plain components", api=API, licence="Apache-2.0")


@hookimpl
def reidx_configs() -> tuple[str, str]:
    return "reidx_configs", "."


@hookimpl
def reidx_components() -> Sequence[Component]:
    return (
        Component("dataset", "Market1501", "reidx.data.datasets:Market1501", {"root": "data/market1501"}),
        Component("dataset", "MSMT17", "reidx.data.datasets:MSMT17", {"root": "data", "version": "V1"}),
        Component("dataset", "DukeMTMC", "reidx.data.datasets:DukeMTMC", {"root": "data/DukeMTMC-reID"}),
        Component("dataset", "OccludedDuke", "reidx.data.datasets:OccludedDuke", {"root": "data/Occluded_Duke"}),
        Component("dataset", "PersonX", "reidx.data.datasets:PersonX", {"root": "data/PersonX"}),
        Component("dataset", "VeRi776", "reidx.data.datasets:VeRi776", {"root": "data/VeRi"}),
        Component("dataset", "VehicleID", "reidx.data.datasets:VehicleID", {"root": "data", "vehicles": 800}),
        Component("dataset", "VERIWild", "reidx.data.datasets:VERIWild", {"root": "data", "test": "small"}),
        Component("dataset", "MARS", "reidx.data.datasets:MARS", {"root": "data"}),
        Component("dataset", "SYSUMM01", "reidx.data.datasets:SYSUMM01", {"root": "data/SYSU-MM01"}),
        Component("dataset", "RegDB", "reidx.data.datasets:RegDB", {"root": "data/RegDB", "trial": 1}),
        Component("dataset", "LTCC", "reidx.data.datasets:LTCC", {"root": "data/LTCC_ReID"}),
        Component("dataset", "PRCC", "reidx.data.datasets:PRCC", {"root": "data/prcc"}),
        Component("dataset", "CUHK03", "reidx.data.datasets:CUHK03", {"root": "data/cuhk03"}),
        Component("dataset", "MLRCUHK03", "reidx.data.datasets:MLRCUHK03", {"root": "data/cuhk03"}),
        Component("dataset", "PartialREID", "reidx.data.datasets:PartialREID", {"root": "data/Partial_REID"}),
        Component("dataset", "PartialILIDS", "reidx.data.datasets:PartialILIDS", {"root": "data/PartialiLIDS"}),
        Component("dataset", "OccludedREID", "reidx.data.datasets:OccludedREID", {"root": "data/Occluded_REID"}),
        Component("dataset", "VIPeR", "reidx.data.datasets:VIPeR", {"root": "data/viper", "trial": 1}),
        Component("dataset", "GRID", "reidx.data.datasets:GRID", {"root": "data/grid", "trial": 1}),
        Component("dataset", "PRID2011", "reidx.data.datasets:PRID2011", {"root": "data/prid2011", "trial": 1}),
        Component("dataset", "ImageFolder", "reidx.data.datasets:ImageFolder", {"root": "data/mine"}),
        Component("dataset", "CSV", "reidx.data.datasets:CSV", {"path": "data/mine.csv"}),
        Component("dataset", "Parquet", "reidx.data.datasets:Parquet", {"path": "data/mine.parquet"}),
        Component("dataset", "Subset", "reidx.data.datasets:Subset", {"of": _MARKET, "identities": 100}),
        Component("dataset", "Union", "reidx.data.datasets:Union", {"of": [_MARKET, {"type": "MSMT17", "root": "data"}]}),
        Component("dataset", "CameraSplit", "reidx.data.datasets:CameraSplit", _CAMERA_SPLIT),
        Component("transform", "ReidAugment", "reidx.data.transforms:ReidAugment"),
        Component("transform", "ReidTest", "reidx.data.transforms:ReidTest"),
        Component("sampler", "PK", "reidx.data.samplers:PK", {"identities": 16, "instances": 4}),
        Component("sampler", "Shuffle", "reidx.data.samplers:Shuffle"),
        Component("backbone", "Timm", "reidx.models.backbones:Timm", {"name": "resnet50", "last_stride": 1}),
        Component("fusion", "GlobalPool", "reidx.fusions.global_pool:GlobalPool"),
        Component("fusion", "ClassToken", "reidx.fusions.class_token:ClassToken"),
        Component("distance", "Jaccard", "reidx.labels.distances.jaccard:Jaccard", {"k1": 30, "k2": 6}),
        Component("distance", "Cosine", "reidx.labels.distances.cosine:Cosine"),
        Component("distance", "WeightedMean", "reidx.labels.distances.weighted_mean:WeightedMean", _MEAN),
        Component("clusterer", "DBSCAN", "reidx.labels.clusterers.dbscan:DBSCAN", {"eps": 0.6, "min_samples": 4}),
        Component("clusterer", "KMeans", "reidx.labels.clusterers.kmeans:KMeans", {"n_clusters": 500}),
        Component("clusterer", "MiniBatchKMeans", "reidx.labels.clusterers.kmeans:MiniBatchKMeans", {"n_clusters": 500}),
        Component("clusterer", "AdaptiveDBSCAN", "reidx.labels.clusterers.dbscan:AdaptiveDBSCAN", {"share": 0.02}),
        Component("clusterer", "HDBSCAN", "reidx.labels.clusterers.hdbscan:HDBSCAN"),
        Component("clusterer", "Instances", "reidx.labels.clusterers.instances:Instances"),
        Component("clusterer", "InfoMap", "reidx.labels.clusterers.infomap:InfoMap"),
        Component("memory", "LinearClassifier", "reidx.memories.classifier:LinearClassifier"),
        Component("loss", "CrossEntropy", "reidx.losses.cross_entropy:CrossEntropy"),
        Component("loss", "MemoryContrast", "reidx.losses.cross_entropy:MemoryContrast"),
        Component("loss", "Triplet", "reidx.losses.triplet:Triplet"),
        Component("alignment", "MMD", "reidx.alignments.mmd:MMD", {"feature": "embed"}),
        Component("alignment", "CORAL", "reidx.alignments.coral:CORAL", {"feature": "embed"}),
        Component("alignment", "GradientReversal", "reidx.alignments.reversal:GradientReversal", {"feature": "embed"}),
        Component("protocol", "Market1501", "reidx.evaluation.protocols:Market1501"),
        Component("protocol", "Market1501Trapezoid", "reidx.evaluation.trapezoid:Market1501Trapezoid"),
        Component("protocol", "NoCameraFilter", "reidx.evaluation.protocols:NoCameraFilter"),
        Component("protocol", "SingleGalleryShot", "reidx.evaluation.protocols:SingleGalleryShot"),
        Component("protocol", "Grouped", "reidx.evaluation.groups:Grouped", {"query": "track", "gallery": "track"}),
        Component("protocol", "ClothChanging", "reidx.evaluation.clothes:ClothChanging"),
        Component("protocol", "SameClothes", "reidx.evaluation.clothes:SameClothes"),
        Component("protocol", "OpenSet", "reidx.evaluation.open_set:OpenSet"),
        Component("protocol", "Verification", "reidx.evaluation.verification:Verification"),
        Component("protocol", "SYSUMM01", "reidx.evaluation.sysu_mm01:SYSUMM01"),
        Component("reranker", "AverageQueryExpansion", "reidx.evaluation.query_expansion:AverageQueryExpansion", {"k": 5}),
        Component("reranker", "AlphaQueryExpansion", "reidx.evaluation.query_expansion:AlphaQueryExpansion", {"k": 5}),
        Component("reranker", "KReciprocal", "reidx.evaluation.k_reciprocal:KReciprocal", {"k1": 20, "k2": 6}),
        Component("weights", "CLIP", "reidx.models.key_maps.transformers:CLIP"),
        Component("weights", "ClusterContrast", "reidx.models.key_maps.resnet:ClusterContrast"),
        Component("weights", "DINO", "reidx.models.key_maps.training:DINO"),
        Component("weights", "EfficientNetLite", "reidx.models.key_maps.efficientnet:EfficientNetLite"),
        Component("weights", "FastReID", "reidx.models.key_maps.training:FastReID"),
        Component("weights", "MoCo", "reidx.models.key_maps.training:MoCo"),
        Component("weights", "ResNet", "reidx.models.key_maps.resnet:ResNet"),
        Component("weights", "SOLIDER", "reidx.models.key_maps.transformers:SOLIDER"),
        Component("weights", "ViT", "reidx.models.key_maps.transformers:ViT"),
    )
