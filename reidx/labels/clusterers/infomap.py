"""InfoMap: communities of the neighbour graph in which a random walk tends to stay."""

from __future__ import annotations

import importlib.util
import io
import os
import subprocess
import sys

import numpy as np
from scipy.sparse import csr_array

from reidx.errors import ConfigError, ReidxError
from reidx.labels.clusterers import infomap_process
from reidx.labels.graph import checked_graph, refuse_beyond

_BYTES = 400  # per link at the peak, in both processes


class InfoMap:
    """Communities of the neighbour graph, by the map equation.

    Graph (N, N) to labels (N,) int64: clusters 0..K-1 numbered by their first image, -1 for outliers.

    Pairs at distance <= 1 - `min_similarity` are links of weight 1 - distance, directed as the rows of the graph; the
    two-level map equation is minimised, the best of `trials`; communities of fewer than `min_size` images are outliers.
    The same seed gives the same labels. `Cosine(k=15)` and the defaults are the setting of Cluster Contrast (Dai et al.,
    ACCV 2022). Source: Rosvall and Bergstrom, PNAS 2008. Needs the package infomap (GPL-3.0-or-later), the
    extra `reidx[infomap]`.
    """

    outliers = "emits"
    clusterer_input = "graph"

    def __init__(
        self, min_similarity: float = 0.5, min_size: int = 5, trials: int = 1, seed: int = 1
    ) -> None:
        if importlib.util.find_spec("infomap") is None:
            raise ConfigError("InfoMap needs the package infomap (GPL-3.0-or-later): pip install 'reidx[infomap]'.")
        if not 0 < min_similarity < 1:
            raise ConfigError(f"InfoMap: min_similarity is {min_similarity}; it must lie between 0 and 1.")
        if min_size < 1 or trials < 1 or seed < 0:
            raise ConfigError("InfoMap: min_size and trials must be at least 1, seed at least 0.")
        self.min_similarity, self.min_size, self.trials, self.seed = min_similarity, min_size, trials, seed

    @property
    def reach(self) -> float:
        """The largest distance that changes its labels."""
        return 1 - self.min_similarity

    def __call__(self, graph: csr_array) -> np.ndarray:
        """Labels (N,) int64."""
        graph = checked_graph(graph)
        n = graph.shape[0]
        entries = graph.tocoo()
        # Compared as distances in the graph's own precision: 1 - 0.5 is exact, 1 - distance may round.
        linked = (entries.row != entries.col) & (
            entries.data <= entries.data.dtype.type(1 - self.min_similarity)
        )
        refuse_beyond(int(linked.sum()) * _BYTES, f"InfoMap: {int(linked.sum()):,} links of {n:,} images")
        links = np.stack(
            [entries.row[linked], entries.col[linked], 1 - entries.data[linked].astype(np.float64)], axis=1
        )
        module = -1 - np.arange(n)  # each image without links is a separate community
        if len(links):
            images, communities = _in_another_process(links, self.trials, self.seed)
            module[images] = communities
        _, first, members = np.unique(module, return_index=True, return_inverse=True)
        members = members.reshape(-1)
        kept = np.nonzero(np.bincount(members, minlength=len(first)) >= self.min_size)[0]
        number = np.full(len(first), -1, np.int64)
        number[kept[np.argsort(first[kept])]] = np.arange(len(kept))
        return number[members]


def _in_another_process(links: np.ndarray, trials: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Find communities in another process, because infomap and faiss share SWIG types and crash in one process."""
    given = io.BytesIO()
    np.savez(given, links=links, trials=trials, seed=seed)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, "-m", infomap_process.__name__, str(os.getpid())],
        input=given.getvalue(),
        capture_output=True,
        env=environment,
        check=False,
    )
    if done.returncode:
        raise ReidxError(f"InfoMap: infomap failed: {done.stderr.decode(errors='replace').strip()[-500:]}")
    images, communities = np.load(io.BytesIO(done.stdout))
    return images, communities
