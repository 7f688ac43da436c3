"""Camera-aware k-reciprocal Jaccard distances (Chen et al., CVPR 2024), exact and sparse.

With the encodings W of `reidx_ca_jaccard.encoding`, of unit features and exponents e(i, j) = |f_i - f_j|²,

    d(i, j) = 1 - s / (2 - s),  s = sum_t min(W(i, t), W(j, t))

Cost, besides the encodings: that of the last step of `reidx.labels.distances.jaccard`, which computes it.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from scipy.sparse import csr_array
from torch import Tensor

from reidx.labels.distances.jaccard import jaccard
from reidx.labels.features import checked, unit
from reidx.labels.neighbours.exact import nearest
from reidx.labels.neighbours.sharding import nearest_sharded
from reidx_ca_jaccard.encoding import Lengths, encode


class CAJaccard:
    """k-reciprocal Jaccard distances within and across cameras.

    Maps features (N, D) and cameras (N,) to the sparse graph of their distances, float32 in [0, 1).

    Neighbours in the same camera and in the other cameras are searched separately, so that the images of one camera, which
    resemble each other, cannot fill a list. The lists have `k1_intra` images besides the image itself and `k1_inter` + 1 images
    of other cameras. The encodings of the first `k2_intra` images (the image itself is the first) and of the first `k2_inter`
    images of the two lists are averaged; in the first epoch of a stage, those of `k2_first` images of each list, or with null
    of the same numbers as later. A list ends early if there are fewer images; with one camera, only that camera's list
    counts. Features are scaled to length 1. `backend`, `device` and `sharded` are those of `Jaccard`; they change the time, not
    the graph. Raises DataError for features that are not finite and for images without a camera.
    """

    cameras = "required"

    def __init__(
        self,
        k1_intra: int = 5,
        k1_inter: int = 20,
        k2_intra: int = 2,
        k2_inter: int = 4,
        k2_first: int | None = None,
        backend: str = "auto",
        device: str | None = None,
        sharded: bool = False,
    ) -> None:
        self.lengths = Lengths(k1_intra, k1_inter, k2_intra, k2_inter).check(self)
        self.first = self.lengths
        if k2_first is not None:
            self.first = Lengths(k1_intra, k1_inter, k2_first, k2_first).check(self)
        self.search = partial(nearest_sharded if sharded else nearest, backend=backend, device=device)

    def __call__(
        self, features: Tensor, *, cameras: np.ndarray, epoch: int | None = None, within: float = 1.0
    ) -> csr_array:
        """Return the symmetric graph (N, N) of the distances below 1 that are not beyond `within`, with its diagonal."""
        lengths = self.first if epoch == 0 else self.lengths
        encodings = encode(unit(checked(features)), np.asarray(cameras), lengths, lambda squared: squared, self.search)
        return jaccard(encodings, within=within)
