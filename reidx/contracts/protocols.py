"""The interface of each kind of component, as a typed protocol to implement against.

A component need not inherit from these: a class with the same methods suffices, and a type checker can verify it.
Most kinds also have a base class that does some of the work (:class:`reidx.memories.Memory`,
:class:`reidx.alignments.FeatureAlignment`, :class:`reidx.data.samplers.BatchSampler`, :class:`reidx.data.transforms.Transform`,
:class:`reidx.data.datasets.Dataset`, :class:`reidx.evaluation.Protocol`). Networks, memories, losses and alignments are
``torch.nn.Module``. Class-level declarations (``requires``, ``provides``, …) are listed at
:class:`reidx.contracts.Contract`.

Some methods get further inputs by name, if they have arguments of those names: :data:`reidx.contracts.CALLS` lists them.

Shapes: B images of a batch, N images of a domain, C channels, D dimensions of a feature, P parts, K labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from typing import Protocol as Interface

from reidx.contracts.declarations import Call, Features, Groups, LabelSet, RefinerContext, Summary, Trial

if TYPE_CHECKING:
    import numpy as np
    from scipy.sparse import csr_array
    from torch import Tensor

    Rename = Callable[[str, Tensor], tuple[str, Tensor] | None]


class Split(Interface):
    """The images of one split."""

    paths: list[str]
    ids: np.ndarray | None
    """Identities (N,) int64, or None if unknown."""
    cameras: np.ndarray
    """Cameras (N,) int64, −1 for an unknown camera."""
    columns: dict[str, np.ndarray]
    """Further columns (N,) int64 by name, −1 for an unknown value; the class names them by its contract (``columns``)."""


class Dataset(Interface):
    """Images of a domain: paths, identities and cameras of three splits, each of which may be empty."""

    train: Split
    query: Split
    gallery: Split


class Transform(Interface):
    """Conversion of images to network input."""

    def batch(self, images: Tensor) -> Tensor:
        """Return normalised images (B,3,H,W) float32 of ``images`` (B,3,H,W) uint8, on their device."""


class Sampler(Interface):
    """Batches of an epoch, as positions in a stream; ``size``, if present, is the images per step, over all processes."""

    def __iter__(self) -> Iterator[list[int]]:
        """Yield this process's share of each batch; the constructor fixes the number of batches."""


class Backbone(Interface):
    """Backbone of a network; ``mean`` and ``std`` (three numbers each) are the image normalisation of its weights.

    A backbone with tokens names them in its contract (``provides``) and has ``dims``, the width of each by name.
    """

    out_channels: int
    nonnegative: bool

    def forward(self, images: Tensor) -> Tensor | Mapping[str, Tensor]:
        """Return the feature map (B,C,h,w) of normalised images (B,3,H,W).

        A backbone with tokens returns a mapping of ``map`` and its tokens: one vector per image (B,D), such as
        ``class_token``, or several (B,T,D) under a name that ends in ``tokens``, such as ``part_tokens``.
        """


class Fusion(Interface):
    """Named features of a backbone's map."""

    dims: Mapping[str, int]
    """Dimension of each feature by name, including ``embed``."""

    def forward(self, maps: Tensor) -> Features:
        """Return named features of ``maps`` (B,C,h,w), each (B,D) or (B,P,D).

        Further arguments get the tokens of the backbone by name. An argument ``teacher`` gets the teacher's map, or None if
        no EMA follows the network.
        """


class Distance(Interface):
    """Distances between the images of a domain."""

    def __call__(self, features: Tensor | Mapping[str, Tensor]) -> csr_array:
        """Return the sparse graph (N,N) of distances between features (N,D), or between several of them by name.

        A distance with a keyword ``within`` may omit pairs that are farther apart than that; one with a keyword ``cameras``
        gets the cameras of the images, int64 (N,), −1 for an unknown one; one with a keyword ``epoch`` gets the stage's epoch,
        from 0. A keyword with the name of a feature gets it.
        """


class Clusterer(Interface):
    """Pseudo labels from a graph or from features."""

    def __call__(self, graph: csr_array) -> np.ndarray:
        """Return labels (N,) int64, −1 for outliers, else 0..K−1 without gaps, of a graph (N,N), or of features (N,D) for a
        class that declares ``clusterer_input = "features"``. A keyword ``cameras`` gets the cameras of the images (N,)."""


class Refiner(Interface):
    """Refinement of pseudo labels."""

    def __call__(self, labels: LabelSet, context: RefinerContext) -> LabelSet:
        """Return new labels, weights (N,), soft targets (N,K) or further arrays (N,…), named in ``provides``.

        A keyword ``cameras`` gets the cameras of the images (N,), one with the name of a feature that feature (N,…).
        """


class Matcher(Interface):
    """Match of the clusters of several labellings, such as those of two modalities."""

    def __call__(self, labels: Sequence[LabelSet], contexts: Sequence[RefinerContext]) -> Sequence[LabelSet]:
        """Return a label set for each labelling, in their order; the contexts are those of the labellings' refiners.

        It may change the labels, and add weights or further arrays (N,…), named in ``provides``: ``other_labels`` (N,), for
        example, the cluster of the other labelling that an image belongs to, −1 for none.
        """


class Memory(Interface):
    """Scores of features against entries that persist across steps."""

    def reset(self, features: Tensor | None, labels: Tensor) -> None:
        """Start from a new labelling: ``features`` (N,D) of all images, ``labels`` (N,); ``cameras`` (N,) by name."""

    def forward(self, features: Tensor) -> Tensor:
        """Return scores (B,K) of features (B,D), or (B,K,P) of parts (B,P,D)."""

    def update(self, features: Tensor, targets: Tensor, index: Tensor) -> None:
        """Update the entries with a step's features (B,D), without gradients, labels (B,) and positions in the domain (B,).

        An argument ``cameras`` gets the cameras (B,).
        """


class Loss(Interface):
    """A scalar to minimise. The arguments of ``forward`` name its inputs: those of :data:`reidx.contracts.INPUTS`, and those
    that a refiner of the labels or the term's memory provides. An argument with a default is an optional input."""

    forward: Any


class Alignment(Interface):
    """Distance between two domains, to be minimised."""

    def forward(self, source: Features, target: Features) -> Tensor | Mapping[str, Tensor]:
        """Return a scalar, or several by name that are added up, from the features of one batch of each domain."""


class Protocol(Interface):
    """Evaluation protocol: the gallery images ignored for each query and, if present, trials and metrics.

    Keyword arguments ``query_NAME`` and ``gallery_NAME`` of each method get the column NAME of the data set. Ids and cameras
    are int64, one per image; −1 is junk, or an unknown camera.
    """

    metrics: tuple[str, ...]
    """Names of the metrics; ``mAP``, ``mINP`` and ``rank-1``, ``-5`` and ``-10`` replace the standard ones."""
    arrays: tuple[str, ...]
    """Names of the arrays of :meth:`measure` if :meth:`summarise` computes the metrics from them; empty: the metrics."""
    totals: tuple[str, ...]
    """Names of arrays of :meth:`measure`, in any shape, that are added up over all queries for :meth:`summarise`."""
    groups: Groups | None
    """If present and not None, the columns that group images: each method then gets a value for each group, not each image."""

    def ignored(
        self, query_ids: np.ndarray, gallery_ids: np.ndarray, query_cams: np.ndarray, gallery_cams: np.ndarray
    ) -> np.ndarray:
        """Return booleans (Q,G): gallery images that count neither for nor against a query."""

    def draw_trials(
        self, query_ids: np.ndarray, gallery_ids: np.ndarray, query_cams: np.ndarray, gallery_cams: np.ndarray
    ) -> Iterable[Trial] | None:
        """Return the trials, whose mean is the result: positions of queries and gallery images, each at most once.

        None is one trial of everything. Draws depend on the constructor's arguments alone, such as a seed.
        """

    def measure(
        self,
        distances: np.ndarray,
        ignored: np.ndarray,
        query_ids: np.ndarray,
        gallery_ids: np.ndarray,
        query_cams: np.ndarray,
        gallery_cams: np.ndarray,
    ) -> Mapping[str, np.ndarray]:
        """Return each of :attr:`metrics` for some queries of a trial: fractions (B,), NaN where a query does not count.

        With :attr:`arrays`, each of these: any numbers (B,); with :attr:`totals`, each of these for these queries together.
        ``distances`` (B,G) float64 rank the trial's gallery, nearest first; equal ones are ordered by position. ``ignored``
        (B,G) are the images that do not count for a query, including the query's own file.
        """

    def summarise(self, values: Mapping[str, np.ndarray]) -> Summary:
        """Return the metrics of a trial from its arrays (Q,) and totals; by default means over the queries that count."""


class Reranking(Interface):
    """Re-ranked distances of Q queries to G gallery images, in blocks of queries."""

    @property
    def shape(self) -> tuple[int, int]:
        """Q and G."""

    def block(self, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        """Return factors (B,) float64, not negative, and offsets (B,G) float32 of the queries in ``rows``.

        The re-ranked distance is factor · squared Euclidean distance + offset.
        """

    def card(self) -> dict[str, Any]:
        """Return the method and its settings, for a result's card."""


class Reranker(Interface):
    """Re-ranking of a gallery; ``bytes_needed(images)``, if present, bounds its memory for queries and gallery together."""

    def __call__(self, query_features: Tensor, gallery_features: Tensor) -> Reranking:
        """Return the re-ranking of a gallery (G,D) for queries (Q,D), whose squared Euclidean distances rank it otherwise:
        features of length 1 for the metric cosine.

        Keyword arguments ``query_cams`` and ``gallery_cams`` get the cameras, int64 (Q,) and (G,), −1 for an unknown one;
        ``query_NAME`` and ``gallery_NAME`` get the column NAME of the data set.
        """


class Weights(Interface):
    """Layout of weight files; ``remark``, if present, states how the network of the file differs from the one that loads it."""

    def __call__(self, tensors: Mapping[str, Tensor]) -> Rename | None:
        """Return a function of name and tensor that gives the new name and value, or None for a tensor of another part.

        Return None for a file in another layout."""

    @staticmethod
    def sample() -> Mapping[str, Sequence[int]]:
        """Return names and shapes of a few tensors in this layout, which the tests use."""


class Optimizer(Interface):
    """A subclass of ``torch.optim.Optimizer``.

    It reads ``lr`` and ``weight_decay`` of each group in ``param_groups`` at each step, since schedules and rates change them,
    and keeps what a resumed run needs in its ``state`` and its groups.
    """

    def step(self) -> Any:
        """Change the parameters that have a gradient; there is no closure, as a step computes the objective once."""


class Schedule(Interface):
    """A subclass of :class:`reidx.optim.Schedule`, or of mmengine's schedules of the learning rate."""

    by_epoch: bool

    def step(self) -> None:
        """Set the learning rates of the next epoch, or of the next step if not ``by_epoch``."""


INTERFACES: dict[str, type] = {
    name.lower(): value
    for name, value in list(globals().items())
    if isinstance(value, type) and value.__module__ == __name__ and value not in (Split, Reranking)
}
"""The interface of each kind, by the name of the kind."""


# ---- what the engine passes to each kind, and reads of it

INPUTS = ("features", "targets", "scores", "weights", "soft_targets", "teacher", "teacher_scores", "cameras", "index")
"""Arguments that the ``forward`` of a loss may name, besides those that the stream's refiners and the term's memory provide."""

_SIDES = ("query_ids", "gallery_ids", "query_cams", "gallery_cams")

CALLS: dict[str, dict[str, Call]] = {
    "backbone": {"forward": Call(("images",), ("cameras",))},
    "fusion": {"forward": Call(("maps",), ("teacher", "cameras"), provider="backbone")},
    "distance": {"__call__": Call(("features",), ("within", "epoch", "cameras"), provider="fusion")},
    "clusterer": {"__call__": Call(("graph",), ("cameras",))},
    "refiner": {"__call__": Call(("labels", "context"), ("cameras",), provider="fusion")},
    "matcher": {"__call__": Call(("labels", "contexts"), ())},
    "memory": {
        "reset": Call(("features", "labels"), ("cameras",)),
        "update": Call(("features", "targets", "index"), ("cameras",)),
    },
    "loss": {"forward": Call((), INPUTS)},
    "protocol": {
        "ignored": Call(_SIDES, ()),
        "draw_trials": Call(_SIDES, ()),
        "measure": Call(("distances", "ignored", *_SIDES), ()),
    },
    "reranker": {"__call__": Call(("query_features", "gallery_features"), ("query_cams", "gallery_cams"))},
}
"""Methods with named inputs, by kind. ``cameras`` holds a number for each image, −1 for an unknown camera.

Each may also name further columns of the data set (:class:`reidx.data.datasets.Split`): ``clothes``, or ``query_clothes``
and ``gallery_clothes`` for a protocol and a re-ranker; a matcher has them in its contexts. A distance and a refiner may
name features of the fusion, too: a tensor (N,…) of all images, on the CPU; a fusion may name tokens of the backbone.
"""

HONOURED: dict[str, tuple[str, ...]] = {
    "dataset": ("columns",),
    "transform": (),
    "sampler": ("cameras", "outliers"),
    "backbone": ("provides", "cameras"),
    "fusion": ("provides", "cameras", "requires_tail", "part_features"),
    "distance": ("requires", "cameras"),
    "clusterer": ("cameras", "outliers", "clusterer_input", "column_meaning"),
    "refiner": ("requires", "provides", "cameras", "outliers"),
    "matcher": ("requires", "provides", "cameras", "outliers"),
    "memory": ("provides", "cameras", "outliers", "accepts_parts", "requires_parts", "column_meaning"),
    "loss": ("cameras", "accepts_parts", "requires_parts", "column_meaning"),
    "alignment": ("requires",),
    "protocol": ("cameras",),
    "reranker": ("cameras",),
    "weights": (),
    "optimizer": (),
    "schedule": (),
}
"""Fields of :class:`reidx.contracts.Contract` that the engine reads, by kind."""

OUTLIERS_OF: dict[str, tuple[str, ...]] = {
    "sampler": ("draw", "drop"),
    "clusterer": ("emits", "never"),
    "refiner": ("emits", "never"),
    "matcher": ("emits", "never"),
    "memory": ("keep", "drop"),
}
"""Values of ``outliers`` by kind."""
