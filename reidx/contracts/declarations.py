"""What the parts of an experiment hand to each other, and what a component declares about itself.

Tensors travel in :class:`Features` and :class:`Batch`, labellings in :class:`LabelSet`; a class says with
``requires``, ``provides``, ``cameras``, ``outliers`` and so on how it wants to be wired (:func:`contract_of` reads that).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch
    from scipy.sparse import csr_array
    from torch import Tensor


class Features(dict[str, "Tensor"]):
    """Named outputs of a network for one batch (or one bank), ``embed`` (B,D) among them.

    ``embed`` is the retrieval vector. Every tensor has the batch as its first axis; usual names are ``global`` (B,D),
    ``parts`` (B,P,D), ``shared``, ``specific``. Raises :class:`ValueError` when ``embed`` is missing or the tensors
    disagree about the batch: that is a fault of the fusion, not of the user.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(tensors)
        if "embed" not in self:
            raise ValueError(f"Features need the retrieval vector 'embed'; given: {', '.join(self) or 'nothing'}.")
        sizes = {name: len(tensor) for name, tensor in self.items()}
        if len(set(sizes.values())) != 1:
            raise ValueError(f"Features disagree about the number of images: {sizes}.")

    def split(self, sizes: list[int]) -> list[Features]:
        """The features of consecutive groups of images, of the given sizes."""
        parts = {name: tensor.split(sizes) for name, tensor in self.items()}
        return [Features({name: part[i] for name, part in parts.items()}) for i in range(len(sizes))]


def mean_normalized(features: Sequence[Tensor]) -> Tensor:
    """What several networks say of the same images: the mean of their L2-normalised features; of one network its own."""
    if len(features) == 1:
        return features[0]
    import torch  # here, as a config is checked without it
    from torch import nn

    return torch.stack([nn.functional.normalize(one.float(), dim=-1) for one in features]).mean(0)


@dataclass
class Batch:
    """One batch of one stream: images (B,3,H,W) and what is known of them.

    ``index`` (B,) are positions in the domain's training split; ``targets`` (B,) are the stream's labels, absent when
    the stream is unlabelled; ``weights`` (B,), ``soft_targets`` (B,K) and what is in ``extra``, by name (B,…), come from
    refiners. Columns of other labellings of the images are in ``extra`` as ``NAME@LEVEL`` (:meth:`under`).
    """

    images: Tensor
    index: Tensor
    targets: Tensor | None = None
    cameras: Tensor | None = None
    weights: Tensor | None = None
    soft_targets: Tensor | None = None
    extra: dict[str, Tensor] = field(default_factory=dict)

    def to(self, device: torch.device) -> Batch:
        return self.each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory, which a GPU fetches from while the host goes on."""
        return self.each(lambda tensor: tensor.pin_memory() if tensor.device.type == "cpu" else tensor)

    def under(self, level: str) -> Batch:
        """The same images under another of their labellings."""
        own = {name.removesuffix(f"@{level}"): column for name, column in self.extra.items() if name.endswith(f"@{level}")}
        known = own.pop("labels"), self.cameras, own.pop("weights", None), own.pop("soft_targets", None)
        return Batch(self.images, self.index, *known, own)

    def each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The batch with ``change`` made of each of its tensors."""
        changed: dict[str, Any] = {
            name: None if value is None else change(value) for name, value in vars(self).items() if name != "extra"
        }
        return Batch(**changed, extra={name: change(value) for name, value in self.extra.items()})


@dataclass
class LabelSet:
    """A labelling of N images: ``labels`` (N,) int64, −1 = outlier, else 0..K−1 without gaps.

    ``weights`` (N,) float32, ``soft_targets`` (N,K) float32 and what is in ``extra``, by name (N,…), are refiners'
    additions; a loss gets each by naming it. ``report`` is what the epoch's log shows of the labelling.
    """

    labels: np.ndarray
    weights: np.ndarray | None = None
    soft_targets: np.ndarray | None = None
    extra: dict[str, np.ndarray] = field(default_factory=dict)
    report: dict[str, float] = field(default_factory=dict)

    def arrays(self) -> dict[str, np.ndarray]:
        """All of its arrays by name: ``labels``, and what refiners added."""
        own = {"labels": self.labels, "weights": self.weights, "soft_targets": self.soft_targets}
        return {**{name: array for name, array in own.items() if array is not None}, **self.extra}

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> LabelSet:
        """The inverse of :meth:`arrays`."""
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
    """Inputs of a refiner besides the labels.

    ``features`` are those of all images by name, ``feature`` is the name of the one that was clustered, ``graph``
    their distances (None for a clusterer of features; those beyond a refiner's ``reach``, if it has one, may be
    missing), ``cluster(eps=0.5)`` clusters anew with settings of ``clusterer`` changed as a refiner announced in its
    ``variations``, ``previous`` are the labels (N,) of the last labelling, ``cameras`` (N,).
    """

    features: dict[str, Tensor]
    feature: str
    graph: csr_array | None
    clusterer: Any
    cluster: Callable[..., np.ndarray]
    epoch: int
    previous: np.ndarray | None = None
    cameras: np.ndarray = field(default_factory=_no_cameras)


INPUTS = (
    "features",
    "targets",
    "scores",
    "weights",
    "soft_targets",
    "teacher",
    "teacher_scores",
    "cameras",
    "index",
)
"""What a loss may name as an argument of its ``forward``, beside what the stream's refiners and the term's memory provide."""

CAMERAS = ("required", "used", "unused")
OUTLIERS = ("", "emits", "never", "draw", "drop", "keep")
NEEDS = ("", "graph", "features", "tail")


def inputs_of(loss: type) -> tuple[set[str], set[str]]:
    """The inputs that a loss class must have, and those that it can do without, read from its ``forward``."""
    parameters = list(inspect.signature(loss.forward).parameters.values())[1:]  # type: ignore[attr-defined]
    needed = {p.name for p in parameters if p.default is p.empty}
    return needed, {p.name for p in parameters} - needed


@dataclass(frozen=True)
class Contract:
    """What a component declares of itself; the fields are those of the class attributes of the same names.

    ``requires`` and ``provides`` are names of features; of a refiner, ``provides`` names what it adds to each image,
    of a memory the tensors that losses may read. ``cameras`` is one of :data:`CAMERAS`, ``outliers`` of
    :data:`OUTLIERS`, ``needs`` of :data:`NEEDS`. ``part_features`` are a fusion's features (B,P,D) with a vector for
    each part of an image. ``accepts_parts`` are the inputs of a memory (``features``) or a loss (``features``,
    ``scores``, ``teacher``, ``teacher_scores``) that may be of parts, ``requires_parts`` those that must be.
    ``column_meaning`` is what a label, or a column of scores, stands for: a cluster or an identity (""), or an image,
    under its number in the domain (``images``). A clusterer declares it for its labels, a memory for its columns, a
    loss for the columns that it can read; any other word is between a memory and its losses.
    """

    requires: frozenset[str] = frozenset()
    provides: frozenset[str] = frozenset()
    cameras: str = "unused"
    outliers: str = ""
    needs: str = ""
    part_features: frozenset[str] = frozenset()
    accepts_parts: frozenset[str] = frozenset()
    requires_parts: frozenset[str] = frozenset()
    column_meaning: str = ""


def contract_of(component: type, params: Mapping[str, Any] | None = None) -> Contract:
    """The contract of a class, for the given constructor arguments.

    A class whose contract depends on its arguments has ``contract(**params)`` returning those fields that differ from the
    class attributes.
    """
    declared = {
        name: getattr(component, name) for name in Contract.__dataclass_fields__ if hasattr(component, name)
    }
    adapt = getattr(component, "contract", None)
    if adapt is not None:
        declared.update(adapt(**(params or {})))
    for name in ("requires", "provides", "part_features", "accepts_parts", "requires_parts"):
        declared[name] = frozenset(declared.get(name, ()))
    contract = Contract(**declared)
    for name, words in {"cameras": CAMERAS, "outliers": OUTLIERS, "needs": NEEDS}.items():
        if getattr(contract, name) not in words:
            raise TypeError(f"{component.__name__}.{name} is {getattr(contract, name)!r}; it must be one of {words}.")
    return contract


def overrides_update(memory: type) -> bool:
    """Whether a memory class has an ``update`` of its own, and so changes with the images of a step.

    Told by name, as ``memory`` may be an outline, of which the base class is another object.
    """
    update = getattr(memory, "update", None)
    return update is None or (update.__module__, update.__qualname__) != ("reidx.memories.base", "Memory.update")
