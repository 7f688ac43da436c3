"""Instance labels: each image is a separate class."""

from __future__ import annotations

import numpy as np
from torch import Tensor


class Instances:
    """Each image as a class, for instance discrimination.

    Features (N, D) to the labels 0..N-1, for memories with an entry for each image.

    Source: Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", CVPR 2018.
    """

    outliers = "never"
    column_meaning = "images"
    clusterer_input = "features"

    def __call__(self, features: Tensor) -> np.ndarray:
        return np.arange(len(features), dtype=np.int64)
