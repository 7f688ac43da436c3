"""Data types that components exchange, and the contract that a component declares.

:class:`Features` and :class:`Batch` hold tensors, :class:`LabelSet` a labelling; a class declares its connections by
``requires``, ``provides``, ``cameras``, ``outliers`` and other attributes, which :func:`contract_of` reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    import torch
    from scipy.sparse import csr_array
    from torch import Tensor


class Features(dict[str, "Tensor"]):
    """Named outputs of a network for a batch (or a whole domain), including the retrieval vector ``embed`` (B,D).

    The first axis of every tensor is the batch; usual names are ``global`` (B,D), ``parts`` (B,P,D), ``shared``,
    ``specific``. Raises :class:`ValueError` if ``embed`` is missing or the batch sizes differ, which is a bug of the
    fusion.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(tensors)
        if "embed" not in self:
            raise ValueError(f"Features need the retrieval vector 'embed'; given: {', '.join(self) or 'nothing'}.")
        sizes = {name: tensor.shape[0] for name, tensor in self.items()}  # `len` would fix the batch size in an export
        if any(size != sizes["embed"] for size in sizes.values()):
            raise ValueError(f"Features disagree about the number of images: {sizes}.")

    def split(self, sizes: list[int]) -> list[Features]:
        """Split the features into consecutive groups of images of the given sizes."""
        parts = {name: tensor.split(sizes) for name, tensor in self.items()}
        return [Features({name: part[i] for name, part in parts.items()}) for i in range(len(sizes))]


def mean_normalized(features: Sequence[Tensor]) -> Tensor:
    """Average the L2-normalised features of several networks; features of a single network are returned unchanged."""
    if len(features) == 1:
        return features[0]
    import torch  # here, as a config is checked without it
    from torch import nn

    return torch.stack([nn.functional.normalize(one.float(), dim=-1) for one in features]).mean(0)


@dataclass
class Batch:
    """One batch of one stream: images (B,3,H,W) with their labels and cameras.

    ``index`` (B,) are positions in the domain's training split; ``targets`` (B,) are the stream's labels, None for an
    unlabelled stream; ``weights`` (B,), ``soft_targets`` (B,K) and the named arrays (B,…) in ``extra`` come from
    refiners and matchers. ``extra`` also holds columns of other labellings of the images as ``NAME@LABELLING``
    (:meth:`with_labelling`). ``columns`` holds the further columns (B,) of the data set by name.
    """

    images: Tensor
    index: Tensor
    targets: Tensor | None = None
    cameras: Tensor | None = None
    weights: Tensor | None = None
    soft_targets: Tensor | None = None
    extra: dict[str, Tensor] = field(default_factory=dict)
    columns: dict[str, Tensor] = field(default_factory=dict)

    def to(self, device: torch.device) -> Batch:
        return self.each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """Copy the batch to page-locked memory, for asynchronous copies to a GPU."""
        return self.each(lambda tensor: tensor.pin_memory() if tensor.device.type == "cpu" else tensor)

    def with_labelling(self, level: str) -> Batch:
        """Return the same images with the labels of another labelling."""
        own = {name.removesuffix(f"@{level}"): column for name, column in self.extra.items() if name.endswith(f"@{level}")}
        known = own.pop("labels"), self.cameras, own.pop("weights", None), own.pop("soft_targets", None)
        return Batch(self.images, self.index, *known, own, self.columns)

    def each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """Apply ``change`` to each tensor of the batch."""
        changed: dict[str, Any] = {
            name: None if value is None else change(value)
            for name, value in vars(self).items()
            if name not in ("extra", "columns")
        }
        extra, columns = ({name: change(value) for name, value in of.items()} for of in (self.extra, self.columns))
        return Batch(**changed, extra=extra, columns=columns)

    def named_columns(self) -> dict[str, Tensor | None]:
        """Return the cameras and the further columns (B,) of the data set by name."""
        return {"cameras": self.cameras, **self.columns}


@dataclass
class LabelSet:
    """A labelling of N images: ``labels`` (N,) int64, −1 = outlier, else 0..K−1 without gaps.

    Refiners and matchers add ``weights`` (N,) float32, ``soft_targets`` (N,K) float32 and named arrays (N,…) in ``extra``;
    a loss gets each by naming it as an argument. ``report`` holds numbers for the epoch's log.
    """

    labels: np.ndarray
    weights: np.ndarray | None = None
    soft_targets: np.ndarray | None = None
    extra: dict[str, np.ndarray] = field(default_factory=dict)
    report: dict[str, float] = field(default_factory=dict)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return all arrays by name: ``labels`` and the additions of refiners and matchers."""
        own = {"labels": self.labels, "weights": self.weights, "soft_targets": self.soft_targets}
        return {**{name: array for name, array in own.items() if array is not None}, **self.extra}

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> LabelSet:
        """Build a label set from arrays by name; inverse of :meth:`arrays`."""
        extra = {k: v for k, v in arrays.items() if k not in ("labels", "weights", "soft_targets")}
        return cls(arrays["labels"], arrays.get("weights"), arrays.get("soft_targets"), extra)

    @property
    def count(self) -> int:
        """The number of clusters K."""
        return int(self.labels.max()) + 1 if len(self.labels) else 0


def _no_cameras() -> np.ndarray:
    import numpy as np  # here, as a config is checked without it

    return np.zeros(0, dtype=np.int64)


@dataclass
class RefinerContext:
    """Inputs of a refiner besides the labels; a matcher gets one for each labelling.

    ``features`` holds the features of all images by name, ``feature`` is the name of the clustered one, and ``graph`` has
    their distances (None for a clusterer of features; distances beyond a refiner's ``reach``, if it has one, may be
    missing). ``cluster(eps=0.5)`` clusters again with changed settings of ``clusterer``, which a refiner declares in its
    ``variations``. ``previous`` (N,) are the labels of the last labelling, ``cameras`` (N,), and ``columns`` the further
    columns (N,) of the data set by name.
    """

    features: dict[str, Tensor]
    feature: str
    graph: csr_array | None
    clusterer: Any
    cluster: Callable[..., np.ndarray]
    epoch: int
    previous: np.ndarray | None = None
    cameras: np.ndarray = field(default_factory=_no_cameras)
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)


class Trial(NamedTuple):
    """One ranking of an evaluation: positions (int64) of its queries and of its gallery images in their splits."""

    queries: np.ndarray
    gallery: np.ndarray


class Summary(NamedTuple):
    """Metrics of a trial, fractions by name, and further numbers for the card, such as thresholds and counts of queries."""

    metrics: Mapping[str, float]
    facts: Mapping[str, float] = MappingProxyType({})


class Groups(NamedTuple):
    """Columns of a data set whose values group the images of a ranking: each group is one query, or one entry of the gallery.

    None leaves the images of a side single. A group has the mean of its images' features; with ``nearest``, the distance to a
    gallery group is that to its nearest image instead.
    """

    query: str | None = None
    gallery: str | None = None
    nearest: bool = False


OTHER_LABELS = "other_labels"
"""The array by which a matcher of two labellings gives each image its cluster of the other one, −1 for none."""

CAMERAS = ("required", "used", "unused")
OUTLIERS = ("", "emits", "never", "draw", "drop", "keep")
CLUSTERER_INPUTS = ("", "graph", "features")


@dataclass(frozen=True)
class Call:
    """A method that the engine calls: its positional arguments, and the inputs that it may name after them.

    It may also name what a component of the kind ``provider`` provides: tokens of the backbone, or features of the fusion.
    """

    positional: tuple[str, ...]
    named: tuple[str, ...]
    provider: Literal["", "backbone", "fusion"] = ""


@dataclass(frozen=True)
class Contract:
    """Declarations of a component; each field has the name of a class attribute.

    ``requires`` and ``provides`` are names of features; ``provides`` of a backbone names its tokens, that of a refiner or a
    matcher its additions per image, that of a memory the tensors that losses may read. ``cameras`` is one of
    :data:`CAMERAS`, ``outliers`` of :data:`OUTLIERS`, ``clusterer_input`` of :data:`CLUSTERER_INPUTS`. A fusion with
    ``requires_tail`` takes over the backbone's last stage, its ``tail``. ``part_features`` are a fusion's features (B,P,D)
    with one vector per part of an image.
    ``accepts_parts`` are the inputs of a memory (``features``) or a loss (``features``, ``scores``, ``teacher``,
    ``teacher_scores``) that may be part features, ``requires_parts`` those that must be. ``column_meaning`` is the
    meaning of a label or a column of scores: a cluster or an identity (""), or an image by its number in the domain
    (``images``). A clusterer declares it for its labels, a memory for its columns, a loss for the columns that it reads;
    other words are a convention between a memory and its losses. ``columns`` names the further columns of a data set.
    """

    requires: frozenset[str] = frozenset()
    provides: frozenset[str] = frozenset()
    cameras: str = "unused"
    outliers: str = ""
    clusterer_input: str = ""
    requires_tail: bool = False
    part_features: frozenset[str] = frozenset()
    accepts_parts: frozenset[str] = frozenset()
    requires_parts: frozenset[str] = frozenset()
    column_meaning: str = ""
    columns: frozenset[str] = frozenset()


def contract_of(component: type, params: Mapping[str, Any] | None = None) -> Contract:
    """Read the contract of a class for the given constructor arguments.

    A class whose contract depends on its arguments has ``contract(**params)``, which returns the fields that differ from
    the class attributes.
    """
    declared = {
        name: getattr(component, name)
        for name in Contract.__dataclass_fields__
        if hasattr(component, name) and not isinstance(getattr(component, name), property)
    }
    adapt = getattr(component, "contract", None)
    if adapt is not None:
        declared.update(adapt(**(params or {})))
    for name in ("requires", "provides", "part_features", "accepts_parts", "requires_parts", "columns"):
        declared[name] = frozenset(declared.get(name, ()))
    contract = Contract(**declared)
    choices = {
        "cameras": CAMERAS,
        "outliers": OUTLIERS,
        "clusterer_input": CLUSTERER_INPUTS,
        "requires_tail": (False, True),
    }
    for name, allowed in choices.items():
        if getattr(contract, name) not in allowed:
            raise TypeError(f"{component.__name__}.{name} is {getattr(contract, name)!r}; it must be one of {allowed}.")
    return contract


def overrides_update(memory: type) -> bool:
    """Return True if a memory class overrides ``update``, so that training steps change it.

    Compared by name because ``memory`` may be an outline, whose base class is a different object.
    """
    update = getattr(memory, "update", None)
    return update is None or (update.__module__, update.__qualname__) != ("reidx.memories.base", "Memory.update")
