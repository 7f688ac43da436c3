"""From features to pseudo labels: neighbours, sparse distances, clusterers. Modules are imported on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reidx.labels.clusterers.dbscan import DBSCAN as DBSCAN
    from reidx.labels.clusterers.dbscan import AdaptiveDBSCAN as AdaptiveDBSCAN
    from reidx.labels.clusterers.hdbscan import HDBSCAN as HDBSCAN
    from reidx.labels.clusterers.infomap import InfoMap as InfoMap
    from reidx.labels.clusterers.instances import Instances as Instances
    from reidx.labels.clusterers.kmeans import KMeans as KMeans
    from reidx.labels.clusterers.kmeans import MiniBatchKMeans as MiniBatchKMeans
    from reidx.labels.distances.cosine import Cosine as Cosine
    from reidx.labels.distances.jaccard import Jaccard as Jaccard
    from reidx.labels.graph import fuse as fuse
    from reidx.labels.neighbours.exact import knn as knn
    from reidx.labels.neighbours.sharding import require_same_labels as require_same_labels

_HOMES = {
    "Cosine": "distances.cosine",
    "AdaptiveDBSCAN": "clusterers.dbscan",
    "DBSCAN": "clusterers.dbscan",
    "HDBSCAN": "clusterers.hdbscan",
    "InfoMap": "clusterers.infomap",
    "Instances": "clusterers.instances",
    "Jaccard": "distances.jaccard",
    "KMeans": "clusterers.kmeans",
    "MiniBatchKMeans": "clusterers.kmeans",
    "require_same_labels": "neighbours.sharding",
    "fuse": "graph",
    "knn": "neighbours.exact",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
