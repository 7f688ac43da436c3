"""k-means on the features themselves: faiss for the full one, scikit-learn for mini-batches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor

from reidx.errors import ConfigError, DataError
from reidx.labels.compiled import faiss_threads, has_faiss
from reidx.labels.features import checked, unit
from reidx.labels.neighbours.duplicates import group_equal_rows
from reidx.labels.neighbours.on_gpu import flat_on_gpu


class KMeans:
    """A given number of clusters, without outliers.

    Features (N, D) to labels (N,) int64, 0..K-1, no outliers; K is `n_clusters` less the clusters that end empty.

    Lloyd's iterations of faiss on all images (no subsampling), the best of `restarts` random starts. With `spherical`
    the centroids are scaled to length 1, with `normalize` the features are, before anything else. Features on a CUDA device
    are clustered there. The same seed gives the same labels on one kind of device. Raises DataError with fewer images than
    clusters.
    """

    outliers = "never"
    clusterer_input = "features"

    def __init__(
        self,
        n_clusters: int = 500,
        iterations: int = 25,
        restarts: int = 1,
        spherical: bool = False,
        normalize: bool = False,
        seed: int = 0,
    ) -> None:
        if n_clusters < 1 or iterations < 1 or restarts < 1:
            raise ConfigError("KMeans: n_clusters, iterations and restarts must be at least 1.")
        self.n_clusters, self.iterations, self.restarts = n_clusters, iterations, restarts
        self.spherical, self.normalize, self.seed = spherical, normalize, seed

    def __call__(self, features: Tensor) -> np.ndarray:
        """Labels (N,) int64."""
        x, place = _enough(features, self.n_clusters, self.normalize, "KMeans"), features.device
        if not has_faiss():
            raise ConfigError("KMeans needs faiss: pip install faiss-cpu. MiniBatchKMeans does without.")
        import faiss

        with faiss_threads():
            settings = {
                "niter": self.iterations, "nredo": self.restarts, "seed": self.seed, "spherical": self.spherical,
                "min_points_per_centroid": 1, "max_points_per_centroid": max(1, len(x)),
            }  # fmt: skip
            if place.type == "cuda":  # faiss.Kmeans would take all GPUs, also those of other processes
                parameters = faiss.ClusteringParameters()
                for name, value in settings.items():
                    setattr(parameters, name, value)
                centroids = flat_on_gpu(x.shape[1], place, inner_product=self.spherical)
                faiss.Clustering(x.shape[1], self.n_clusters, parameters).train(x, centroids)
            else:
                means = faiss.Kmeans(x.shape[1], self.n_clusters, **settings)
                means.train(x)
                centroids = means.index
            labels = _of_each_kind(x, lambda rows: centroids.search(rows, 1)[1][:, 0])
        return _without_gaps(labels)


class MiniBatchKMeans:
    """k-means from batches, for sets that take KMeans too long.

    Features (N, D) to labels (N,) int64, 0..K-1, no outliers.

    scikit-learn's, with the best of `restarts` starts. With `normalize` the features are scaled to length 1 before anything
    else. Raises DataError with fewer images than clusters.
    """

    outliers = "never"
    clusterer_input = "features"

    def __init__(
        self,
        n_clusters: int = 500,
        batch_size: int = 1024,
        iterations: int = 100,
        restarts: int = 3,
        normalize: bool = False,
        seed: int = 0,
    ) -> None:
        if n_clusters < 1 or batch_size < 1 or iterations < 1 or restarts < 1:
            raise ConfigError(
                "MiniBatchKMeans: n_clusters, batch_size, iterations, restarts must be at least 1."
            )
        self.n_clusters, self.batch_size, self.iterations = n_clusters, batch_size, iterations
        self.restarts, self.normalize, self.seed = restarts, normalize, seed

    def __call__(self, features: Tensor) -> np.ndarray:
        """Labels (N,) int64."""
        from sklearn.cluster import MiniBatchKMeans as Peer

        x = _enough(features, self.n_clusters, self.normalize, "MiniBatchKMeans")
        means = Peer(
            self.n_clusters, batch_size=self.batch_size, max_iter=self.iterations, n_init=self.restarts,
            random_state=self.seed,
        )  # fmt: skip
        return _without_gaps(_of_each_kind(x, means.fit(x).predict))


def _enough(features: Tensor, clusters: int, normalize: bool, who: str) -> np.ndarray:
    x = checked(features)
    if len(x) < clusters:
        raise DataError(f"{who}: {len(x)} images cannot form n_clusters={clusters}; lower n_clusters.")
    return (unit(x) if normalize else x).cpu().numpy()


def _of_each_kind(x: np.ndarray, label: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Label each row, with one label for equal rows: among equidistant centroids, rounding would decide."""
    several = group_equal_rows(x, few=1)
    return label(x) if several is None else label(x[several.first])[several.kind]


def _without_gaps(labels: np.ndarray) -> np.ndarray:
    """The labels renumbered 0..K-1 in their order, empty clusters left out."""
    return np.unique(labels, return_inverse=True)[1].astype(np.int64).reshape(-1)
