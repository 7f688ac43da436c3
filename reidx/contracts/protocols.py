"""The interface of each kind of component, as a typed protocol to implement against.

A component need not inherit from these: a class with the same methods will do, and a type checker says whether it has them.
Most kinds also have a base class that does some of the work (:class:`reidx.memories.Memory`,
:class:`reidx.alignments.FeatureAlignment`, :class:`reidx.data.samplers.BatchSampler`, :class:`reidx.data.transforms.Transform`,
:class:`reidx.data.datasets.Dataset`, :class:`reidx.evaluation.Protocol`). Networks, memories, losses and alignments are
``torch.nn.Module``. What a class declares of itself (``requires``, ``provides``, …) is listed at
:class:`reidx.contracts.Contract`.

Shapes: B images of a batch, N images of a domain, C channels, D numbers of a feature, P parts, K labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from typing import Protocol as Interface

from reidx.contracts.declarations import Features, LabelSet, RefinerContext

if TYPE_CHECKING:
    import numpy as np
    from scipy.sparse import csr_array
    from torch import Tensor



class Split(Interface):
    """The images of one split."""

    paths: list[str]
    ids: np.ndarray | None
    """Identities (N,) int64, or None where they are unknown."""
    cameras: np.ndarray
    """Cameras (N,) int64, −1 where one is unknown."""


class Dataset(Interface):
    """The images of a domain: paths, identities and cameras of three splits; empty splits where there are none."""

    train: Split
    query: Split
    gallery: Split


class Transform(Interface):
    """Network input of images."""

    def batch(self, images: Tensor) -> Tensor:
        """Return normalised images (B,3,H,W) float32 of ``images`` (B,3,H,W) uint8, on their device."""


class Sampler(Interface):
    """The batches of an epoch, as positions in a stream; an attribute ``size`` is the images of a step, over all processes."""

    def __iter__(self) -> Iterator[list[int]]:
        """Yield this process's share of each batch, always the number of batches that the constructor was given."""


class Backbone(Interface):
    """The trunk of a network; ``mean`` and ``std`` (three numbers each) are what its weights expect of images."""

    out_channels: int
    nonnegative: bool

    def forward(self, images: Tensor) -> Tensor:
        """Return the map (B,C,h,w) of normalised images (B,3,H,W)."""


class Fusion(Interface):
    """Features of a backbone's map."""

    dims: Mapping[str, int]
    """The width of each feature, by name; ``embed`` among them."""

    def forward(self, maps: Tensor) -> Features:
        """Return named features of ``maps`` (B,C,h,w), each (B,D) or (B,P,D).

        A fusion with a second argument ``teacher`` is given the map of the teacher there, None where no EMA follows
        the network.
        """


class Distance(Interface):
    """Distances between the images of a domain."""

    def __call__(self, features: Tensor | Mapping[str, Tensor]) -> csr_array:
        """Return the sparse graph (N,N) of distances between features (N,D), or between several of them by name.

        A distance with a keyword ``within`` may leave out pairs that lie farther apart.
        """


class Clusterer(Interface):
    """Pseudo labels."""

    def __call__(self, graph: csr_array) -> np.ndarray:
        """Return labels (N,) int64, −1 for outliers, else 0..K−1 without gaps, of a graph (N,N), or of features (N,D) for a
        class that declares ``needs = "features"``."""


class Refiner(Interface):
    """Better pseudo labels."""

    def __call__(self, labels: LabelSet, context: RefinerContext) -> LabelSet:
        """Return new labels, weights (N,), soft targets (N,K) or arrays of its own (N,…), named in ``provides``."""


class Memory(Interface):
    """Scores of features against entries that outlive a step."""

    def reset(self, features: Tensor | None, labels: Tensor, cameras: Tensor | None = None) -> None:
        """Start from a new labelling: ``features`` (N,D) of all images, ``labels`` (N,), ``cameras`` (N,)."""

    def forward(self, features: Tensor) -> Tensor:
        """Return scores (B,K) of features (B,D), or (B,K,P) of parts (B,P,D)."""

    def update(self, features: Tensor, targets: Tensor, index: Tensor) -> None:
        """Take in a step's features (B,D), without gradients, with their labels (B,) and positions in the domain (B,)."""


class Loss(Interface):
    """A scalar to minimise. ``forward`` names its inputs: those of :data:`reidx.contracts.INPUTS`, and those that a refiner of
    the labels, or the term's memory, provides. An input with a default is left out where there is none."""

    forward: Any


class Alignment(Interface):
    """The distance between two domains, to be trained away."""

    def forward(self, source: Features, target: Features) -> Tensor | Mapping[str, Tensor]:
        """Return a scalar, or several by name whose sum counts, of the features of a batch of each domain."""


class Protocol(Interface):
    """The rule by which rankings are judged."""

    def ignored(
        self, query_ids: np.ndarray, gallery_ids: np.ndarray, query_cams: np.ndarray, gallery_cams: np.ndarray
    ) -> np.ndarray:
        """Return booleans (Q,G): gallery images that count neither for nor against a query."""


INTERFACES: dict[str, type] = {
    name.lower(): value
    for name, value in list(globals().items())
    if isinstance(value, type) and value.__module__ == __name__ and value is not Split
}
"""The interface of each kind, which has its name."""
