"""InfoMap: communities of the neighbour graph, as the places where a random walk stays."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from reidx.errors import ConfigError
from reidx.labels.graph import checked_graph


class InfoMap:
    """Graph (N, N) to labels (N,) int64: clusters 0..K-1 numbered by their first image, -1 for outliers.

    Pairs at distance <= 1 - `min_similarity` are links of weight 1 - distance, directed as the rows of the graph; the
    two-level map equation is minimised, the best of `trials`; communities of fewer than `min_size` images are outliers.
    With `Cosine(k=15)` and the defaults this is LP section 5.1. The same seed gives the same labels.
    Source: Rosvall and Bergstrom, PNAS 2008. Needs the package infomap, the extra `reidx[infomap]`.
    """

    requires: frozenset[str] = frozenset()
    provides: frozenset[str] = frozenset()
    cameras = "unused"
    outliers = "emits"
    needs = "graph"

    def __init__(self, min_similarity: float = 0.5, min_size: int = 5, trials: int = 1, seed: int = 1) -> None:
        if not 0 < min_similarity < 1:
            raise ConfigError(f"InfoMap: min_similarity is {min_similarity}; it must lie between 0 and 1.")
        if min_size < 1 or trials < 1 or seed < 1:
            raise ConfigError("InfoMap: min_size, trials and seed must be at least 1.")
        self.min_similarity, self.min_size, self.trials, self.seed = min_similarity, min_size, trials, seed

    def __call__(self, graph: csr_array) -> np.ndarray:
        """Labels (N,) int64."""
        try:
            from infomap import Infomap
        except ImportError as absent:
            raise ConfigError("InfoMap needs the package infomap: pip install 'reidx[infomap]'.") from absent
        graph = checked_graph(graph)
        n = graph.shape[0]
        module = np.arange(n)  # an image without links is a community of its own
        entries = graph.tocoo()
        # Compared as distances in the graph's own precision: 1 - 0.5 is exact, 1 - distance may round.
        linked = (entries.row != entries.col) & (entries.data <= entries.data.dtype.type(1 - self.min_similarity))
        if linked.any():
            walk = Infomap(
                silent=True, directed=True, two_level=True, seed=self.seed, num_trials=self.trials
            )
            weights = 1 - entries.data[linked].astype(np.float64)
            walk.add_links(
                list(zip(entries.row[linked].tolist(), entries.col[linked].tolist(), weights.tolist(), strict=True))
            )
            result = walk.run()
            # Before 2.10 run() returns nothing and the walk itself holds the communities.
            communities = walk.get_modules() if result is None else result.modules()
            for image, community in dict(communities).items():
                module[image] = n + community
        _, first, members = np.unique(module, return_index=True, return_inverse=True)
        members = members.reshape(-1)
        large = np.bincount(members, minlength=len(first)) >= self.min_size
        number = np.full(len(first), -1, np.int64)
        kept = np.nonzero(large)[0]
        number[kept[np.argsort(first[kept])]] = np.arange(len(kept))
        return number[members]
