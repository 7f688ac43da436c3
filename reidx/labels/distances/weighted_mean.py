"""The weighted mean of a distance over several features of an image."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import numpy as np
from scipy.sparse import csr_array
from torch import Tensor

from reidx.contracts import contract_in_use, named_inputs
from reidx.errors import ConfigError
from reidx.labels.graph import fuse
from reidx.registry.build import Spec, build
from reidx.registry.build import contract as contract_of_spec
from reidx.registry.constructor import Nested

DistanceSpec = Annotated[Spec, Nested("distance")]

_SLACK = 1e-5  # far above the rounding of a distance in float32, far below the saving of a cut
_PASSED_ON = {"within", "epoch", "cameras", "among"}


class WeightedMean:
    """Weighted mean of a distance over several features.

    D = Σ_v w_v D_v (N, N), sparse, float32 in [0, 1): D_v is the distance ``of`` on feature v, w_v its weight in ``weights``.

    The weights sum to 1; a feature of weight 0 is not computed. Raises :class:`ConfigError` for other weights, and for a
    distance that itself takes several features, or needs an input other than cameras and epoch.
    """

    def __init__(self, of: DistanceSpec, weights: dict[str, float]) -> None:
        if min(weights.values(), default=-1.0) < 0 or not abs(sum(weights.values()) - 1) <= 1e-6:  # nan, too
            raise ConfigError(f"WeightedMean: weights is {weights}; give each feature a weight of 0 or more, with a sum of 1.")
        self.distance, self.weights = build("distance", of, where="of"), weights
        name = type(self.distance).__name__
        if contract_in_use(self.distance).requires:
            raise ConfigError(f"WeightedMean: {name} combines several features; name a distance of one feature.")
        _, *others = inspect.signature(self.distance).parameters.values()
        if needed := [each.name for each in others if each.default is each.empty and each.name not in _PASSED_ON]:
            raise ConfigError(f"WeightedMean: {name} needs {', '.join(needed)}; only cameras and epoch are passed on.")

    @staticmethod
    def contract(of: Any, weights: Mapping[str, float], **_: object) -> dict[str, Any]:
        """The features that have a weight, and the need for cameras of the distance."""
        inner = contract_of_spec("distance", {"type": of} if isinstance(of, str) else of)
        return {"requires": frozenset(name for name, weight in weights.items() if weight), "cameras": inner.cameras}

    def __call__(
        self,
        features: Mapping[str, Tensor],
        *,
        within: float = 1.0,
        epoch: int | None = None,
        cameras: np.ndarray | None = None,
    ) -> csr_array:
        """Return the graph (N, N) of features (N, D): with its diagonal and all pairs below 1 and up to ``within``."""
        return weighted_mean(self.distance, features, self.weights, within, {"epoch": epoch, "cameras": cameras})


def weighted_mean(
    distance: Callable[..., csr_array],
    features: Mapping[str, Tensor],
    weights: Mapping[str, float],
    within: float,
    known: Mapping[str, Any] | None = None,
) -> csr_array:
    """Return the graph (N, N) of the mean of a distance over features (N, D), up to ``within``; ``weights`` sum to 1.

    ``distance`` gets the inputs among ``known`` that it names. The features are taken one after another, in the order of
    ``weights``: a distance with a keyword ``among`` computes each only at the pairs that can still be within reach after
    the earlier ones. The peak memory is the sum so far and the graph of one feature.
    """
    mean: csr_array | None = None  # over the features so far
    pairs: csr_array | None = None  # that can still be within reach; None: all
    weighed = 0.0
    for name, weight in weights.items():
        if weight == 0:
            continue
        given = {**(known or {}), "within": _reach(within, weight), "among": pairs}
        graph = distance(features[name], **named_inputs(distance, given))
        total = weighed + weight
        mean = graph if mean is None else fuse([mean, graph], [weighed / total, weight / total])
        weighed, reach = total, _reach(within, total)
        mean = _cut(mean, reach)
        # weighted distances only grow: later features cannot bring a pair beyond `within` back
        pairs = mean if reach < 1 else None
    assert mean is not None
    return _cut(mean, within)


def _reach(within: float, weight: float) -> float:
    """The largest distance needed of features with a total ``weight``; beyond it, their part of the sum exceeds ``within``."""
    return min((within + _SLACK) / weight, 1.0)


def _cut(graph: csr_array, within: float) -> csr_array:
    """The graph without distances beyond ``within`` and without those of 1, which a graph does not store."""
    kept = (graph.data <= np.float32(within)) & (graph.data < 1)
    if kept.all():
        return graph
    before = np.concatenate([[0], np.cumsum(kept)])
    indptr = before[graph.indptr].astype(graph.indptr.dtype)
    return csr_array((graph.data[kept], graph.indices[kept], indptr), shape=graph.shape)
