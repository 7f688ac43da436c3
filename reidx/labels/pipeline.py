"""Label pipeline: distance, clusterer and refiners, from features to a label set and its report."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from reidx.config.node import KeyPath
from reidx.config.parts import Part
from reidx.config.schema import Labelling
from reidx.contracts import INPUTS, LabelSet, RefinerContext, contract_in_use, feature_inputs, named_inputs
from reidx.errors import Broken, ConfigError, DataError
from reidx.labels.features import not_finite
from reidx.labels.graph import checked_graph
from reidx.labels.neighbours.sharding import require_same_labels
from reidx.profiling import span
from reidx.registry.seam import call, kind_of

if TYPE_CHECKING:
    from scipy.sparse import csr_array


class LabelPipeline:
    """Bank → :class:`LabelSet`, by ``distance`` (if the clusterer needs it), ``clusterer`` and ``refiners`` in turn.

    ``vary(**settings)`` builds another clusterer with some of its settings changed. ``provided`` names the features of the
    fusion, which distance and refiners may get by name.
    """

    def __init__(
        self,
        feature: str,
        distance: Any,
        clusterer: Any,
        refiners: Sequence[Any] = (),
        vary: Callable[..., Any] | None = None,
        provided: Collection[str] = (),
    ) -> None:
        self.feature, self.distance, self.clusterer, self.refiners = feature, distance, clusterer, list(refiners)
        self.provided = provided
        self.clusterer_variations = [
            (settings, vary(**settings))
            for refiner in self.refiners
            if vary is not None
            for settings in variations(refiner, clusterer)
        ]

    @property
    def parts(self) -> dict[str, Any]:
        """The components that make labels, by position: the clusterer, then the numbered refiners."""
        return {"clusterer": self.clusterer, **{str(number): refiner for number, refiner in enumerate(self.refiners)}}

    @property
    def views(self) -> frozenset[str]:
        """The names of the features that must be in the bank."""
        readers = [("distance", self.distance), *(("refiner", refiner) for refiner in self.refiners)]
        wanted = [{*contract_in_use(part).requires, *self._named_features(kind, part)} for kind, part in readers]
        return frozenset({self.feature}.union(*wanted))

    def _named_features(self, kind: str, part: Any) -> frozenset[str]:
        """The names of the features that a distance or a refiner gets by name."""
        return feature_inputs(kind, type(part), self.provided)

    def __call__(
        self,
        features: dict[str, Tensor],
        *,
        epoch: int,
        cameras: np.ndarray,
        previous: np.ndarray | None = None,
        columns: Mapping[str, np.ndarray] | None = None,
    ) -> LabelSet:
        """Label every image of the bank; the components get those of ``cameras`` and ``columns`` (N,) that they name.

        Raises :class:`DataError` if features are not finite or no cluster was found or kept, and :class:`ReidxError` if the
        processes of a distributed job find different labels.
        """
        return self.label(self.context(features, epoch=epoch, cameras=cameras, previous=previous, columns=columns))

    def context(
        self,
        features: dict[str, Tensor],
        *,
        epoch: int,
        cameras: np.ndarray,
        previous: np.ndarray | None = None,
        columns: Mapping[str, np.ndarray] | None = None,
    ) -> RefinerContext:
        """Compute the distances, and return them with the other inputs of refiners and matchers."""
        for name in self.views:
            wrong = not_finite(features[name])
            if wrong.any():
                raise DataError(
                    f"Epoch {epoch + 1}: the feature {name!r} of {int(wrong.sum())} images is not finite; the network "
                    "has diverged. Lower the learning rate or use precision: fp32."
                )
        columns = {} if columns is None else columns
        known = {"cameras": cameras, **columns}
        graph = None
        if contract_in_use(self.clusterer).clusterer_input != "features":
            graph = self._graph(features, known, self._reach(), epoch)

        @span("cluster")
        def cluster(**settings: Any) -> np.ndarray:
            clusterer = next((c for s, c in self.clusterer_variations if s == settings), None) if settings else self.clusterer
            if clusterer is None:
                raise ValueError(f"a refiner clusters with {settings}, which is not among its variations")
            given = features[self.feature] if graph is None else graph
            named = named_inputs(clusterer, known)
            found = call("clusterer", clusterer, "__call__", clusterer, given, **named)
            return np.asarray(found, dtype=np.int64)

        return RefinerContext(features, self.feature, graph, self.clusterer, cluster, epoch, previous, cameras, columns)

    def label(self, context: RefinerContext) -> LabelSet:
        """Cluster and refine; raises as :meth:`__call__` does."""
        features, epoch, previous = context.features, context.epoch, context.previous
        known = {"cameras": context.cameras, **context.columns}
        labels = LabelSet(context.cluster())
        if labels.count == 0:
            raise DataError(self._no_cluster_message(epoch, None if context.graph is None else features, known))
        found = labels.count
        for refiner in self.refiners:
            named = named_inputs(refiner, known)
            named |= {name: features[name] for name in self._named_features("refiner", refiner)}
            with span("refine"):
                labels = call("refiner", refiner, "__call__", refiner, labels, context, **named)
        check_labels(labels, len(context.cameras))
        if labels.count == 0:
            names = " and ".join(type(refiner).__name__ for refiner in self.refiners)
            raise DataError(
                f"Epoch {epoch + 1}: {type(self.clusterer).__name__} found {found} clusters, and {names} left none of them: "
                f"all {len(labels.labels)} images are outliers. Make the refiners less strict."
            )
        require_same_labels(labels.labels, labels.arrays())
        labels.report = {**label_statistics(labels.labels, previous), **labels.report}
        return labels

    def _reach(self) -> float:
        """The largest distance in use; cutting there saves memory, as nearly all entries of a graph lie just below 1."""
        clusterers = [self.clusterer, *(clusterer for _, clusterer in self.clusterer_variations)]
        return max(getattr(part, "reach", 1.0) for part in (*clusterers, *self.refiners))

    @span("distance")
    def _graph(self, features: dict[str, Tensor], known: Mapping[str, np.ndarray], within: float, epoch: int) -> csr_array:
        several = contract_in_use(self.distance).requires
        given = {name: features[name] for name in several} if several else features[self.feature]
        named = named_inputs(self.distance, {"within": within, "epoch": epoch, **known})
        named |= {name: features[name] for name in self._named_features("distance", self.distance)}
        graph = call("distance", self.distance, "__call__", self.distance, given, **named)
        images = len(features[self.feature])
        return call("distance", self.distance, "the graph that it returned", _validated_graph, self.distance, graph, images)

    def _no_cluster_message(self, epoch: int, features: dict[str, Tensor] | None, known: Mapping[str, np.ndarray]) -> str:
        from scipy.sparse import csr_array  # slow to import, and used only here

        advice, images = "", len(known["cameras"])
        if features is not None:
            # up to half-way first, which usually suffices: nearly all pairs are just below 1
            apart, graph = np.empty(0), csr_array((images, images), dtype=np.float32)
            for within in ((1 + self._reach()) / 2, 1.0):
                try:
                    graph = self._graph(features, known, within, epoch)
                except DataError:  # too many pairs to be stored: use those found so far
                    break
                apart = graph.data[graph.data > 1e-6]
                if len(apart) >= images:
                    break
            if len(apart):
                low, middle = np.quantile(apart, [0.01, 0.5])
                median = f"{middle:.3f} (median of those up to {within:.2f})"
                advice = f" The nearest pairs are at distances of {low:.3f} (1 %) and {median}."
            if graph.nnz > 2 * images and (not len(apart) or np.ptp(apart) < 1e-6):
                advice += " All pairs of its graph are equally far apart: the network may have collapsed to one point."
        return (
            f"Epoch {epoch + 1}: {type(self.clusterer).__name__} found no cluster among {images} images, all are "
            f"outliers.{advice} Let the clusterer reach further (a larger eps or share, a smaller min_samples), or start "
            "from better weights."
        )


@dataclass
class LabellingPlan:
    """A labelling with its pipeline."""

    settings: Labelling
    pipeline: LabelPipeline

    @property
    def domain(self) -> str:
        assert self.settings.domain is not None
        return self.settings.domain

    def due(self, epoch: int, known: bool) -> bool:
        """Return true if the domain must be relabelled at the start of ``epoch``."""
        return not known or epoch % self.settings.relabel_every == 0


def _validated_graph(distance: Any, graph: Any, images: int) -> csr_array:
    """The graph that a distance made, checked; raises :class:`Broken` of a component, :class:`DataError` of any other."""
    made_by = distance if inspect.isroutine(distance) else type(distance)
    name = f"the graph by the distance {made_by.__qualname__} (module {made_by.__module__})"
    try:
        return checked_graph(graph, images, name)
    except DataError as error:
        if kind_of(distance):
            raise Broken(str(error).rstrip(".")) from error
        raise


def variations(refiner: Any, clusterer: Any) -> list[dict[str, Any]]:
    """The further settings of the clusterer that a refiner requests; none for most.

    Raises :class:`ConfigError` if the clusterer has no such setting.
    """
    asked = getattr(refiner, "variations", None)
    return [] if asked is None else call("refiner", refiner, "variations", asked, clusterer)


def clusterer_variations(refiner: Part, built: Mapping[KeyPath, Any]) -> list[Part]:
    """The clusterers with the other settings that a refiner requests, located at the refiner's key.

    ``built`` holds the components of the stage by path. Raises :class:`ConfigError`, without a location, if the clusterer
    has no such setting.
    """
    spec, at = refiner.holder.clusterer, (*refiner.path[:-2], "clusterer")
    others = variations(built[refiner.path], built[at])
    for settings in others:
        if lacking := [key for key in settings if key not in spec]:
            raise ConfigError(
                f"{refiner.name} requests labels of {spec['type']} at another {', '.join(lacking)}, a setting that it "
                "does not have."
            )
    return [Part("clusterer", {**spec, **settings}, refiner.path, refiner.holder) for settings in others]


def check_labels(labels: LabelSet, images: int) -> None:
    """Raise :class:`ValueError` unless the labelling fulfils the contract of :class:`LabelSet`."""
    array = labels.labels
    if array.shape != (images,) or array.dtype != np.int64:
        raise ValueError(f"labels are {array.dtype} {array.shape}, not int64 ({images},)")
    used = np.unique(array[array >= 0])
    if len(array) and array.min() < -1:
        raise ValueError(f"a label is {array.min()}; an outlier is -1, the others start at 0")
    if len(used) and used[-1] != len(used) - 1:
        raise ValueError(f"labels have gaps: {len(used)} labels, the largest is {used[-1]}")
    taken = {"labels", *INPUTS} & set(labels.extra)
    if taken:
        raise ValueError(f"{', '.join(sorted(taken))} cannot be given in `extra`: it is the name of something else")
    for name, array in labels.arrays().items():
        if len(array) != images:
            raise ValueError(f"there are {len(array)} {name} for {images} images")
    if labels.soft_targets is not None and labels.soft_targets.shape != (images, labels.count):
        raise ValueError(f"soft targets are {labels.soft_targets.shape}, not {(images, labels.count)}")


def label_statistics(labels: np.ndarray, previous: np.ndarray | None = None) -> dict[str, float]:
    """Numbers of clusters and outliers, largest and median cluster size, and stability since the last labelling.

    ``stability`` is the adjusted Rand index against ``previous`` over the images clustered in both.
    """
    sizes = np.bincount(labels[labels >= 0])
    found = {
        "clusters": float(len(sizes)),
        "outliers": float((labels < 0).sum()),
        "largest": float(sizes.max()) if len(sizes) else 0.0,
        "median_size": float(np.median(sizes)) if len(sizes) else 0.0,
    }
    if previous is not None:
        both = (labels >= 0) & (previous >= 0)
        found["stability"] = _rand(previous[both], labels[both]) if both.any() else 0.0
    return found


def quality(labels: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Agreement of pseudo labels with the true identities: ``ari`` over all images (each outlier is a separate cluster).

    For reports only; training must not use it.
    """
    separate = labels.copy()
    outliers = separate < 0
    separate[outliers] = labels.max() + 1 + np.arange(int(outliers.sum()))
    return {"ari": _rand(truth, separate)}


def _rand(truth: np.ndarray, labels: np.ndarray) -> float:
    """Adjusted Rand index of two labellings (Hubert and Arabie, Journal of Classification 1985, eq. 5).

    The same number as scikit-learn's, whose import would take longer than a labelling of a small data set.
    """
    one, other = _numbered(truth), _numbered(labels)
    # ordered pairs of images within a group, without an image paired with itself
    groupings = (one, other, one * len(other) + other)
    in_truth, in_labels, in_both = (int((np.bincount(g) ** 2).sum()) - len(g) for g in map(_numbered, groupings))
    only_truth, only_labels = in_truth - in_both, in_labels - in_both
    if not only_truth and not only_labels:
        return 1.0
    in_neither = len(one) * (len(one) - 1) - in_both - only_truth - only_labels
    agreement = in_both * in_neither - only_truth * only_labels  # exact: integers of Python
    return 2.0 * agreement / (in_truth * (only_truth + in_neither) + in_labels * (only_labels + in_neither))


def _numbered(labels: np.ndarray) -> np.ndarray:
    """Labels as 0, 1, 2, … in the order of their values."""
    return np.unique(labels, return_inverse=True)[1]
