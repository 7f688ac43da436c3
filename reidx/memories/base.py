"""The contract of a memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Memory(nn.Module, ABC):
    """Scorer of batch features: ``reset`` at each relabelling, ``forward`` in a step, ``update`` after it.

    A subclass declares ``outliers``: ``drop`` (images labelled −1 are ignored) or ``keep`` (they become
    classes), and ``needs_features``: whether ``reset`` needs the features of all images (false for a classifier with
    random initialisation, or once a memory has its own features). A memory with an entry for each image has the property
    ``images``, the tensor (N,D) of the entries, empty before the first reset: a labelling may cluster it. ``provides`` names
    attributes that a loss may read. ``accepts_parts`` contains ``features`` if the memory also takes part features (B,P,D),
    ``requires_parts`` if it takes only these. ``column_meaning`` is the meaning of the columns of its scores if they are not
    its labels (:class:`reidx.contracts.Contract`): ``images``, or another word, which a loss must then declare too. State is
    in buffers and parameters; it may change its shape at a reset, and is saved and restored as a whole.
    """

    outliers = "drop"
    needs_features = True
    provides: frozenset[str] = frozenset()
    requires_parts: frozenset[str] = frozenset()
    accepts_parts: frozenset[str] = frozenset()
    column_meaning = ""

    @abstractmethod
    def reset(self, features: Tensor | None, labels: Tensor) -> None:
        """Start a new labelling: ``features`` (N,D), unit or raw, in the domain's order, and ``labels`` (N,).

        A subclass with a further argument ``cameras`` gets the cameras (N,), −1 for an unknown one.
        """

    @abstractmethod
    def forward(self, features: Tensor) -> Tensor:
        """Compute scores (B,K) of features (B,D) against the memory, or (B,K,P) of parts (B,P,D).

        Gradients flow to the features.
        """

    def update(self, features: Tensor, targets: Tensor, index: Tensor) -> None:
        """Update the memory with a step: detached features (B,D), targets (B,) and index (B,).

        An image with several views appears once for each. Images of another labelling (``stream``) are in a call of their
        matched targets, −1 without a match. A subclass with a further argument ``cameras`` gets the cameras (B,).
        """

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Load a state from :meth:`state_dict`; its shapes may differ from the memory's present ones."""
        own = dict(self.named_parameters()) | dict(self.named_buffers())
        if set(own) != set(state):
            raise ValueError(
                f"{type(self).__name__} holds {sorted(own)}; the checkpoint has {sorted(state)} for it."
            )
        for name, saved in state.items():
            module_name, _, leaf = name.rpartition(".")
            module = self.get_submodule(module_name)
            value = saved.clone().to(own[name].device)
            if isinstance(own[name], nn.Parameter):
                setattr(module, leaf, nn.Parameter(value, requires_grad=own[name].requires_grad))
            else:
                setattr(module, leaf, value)


@torch.no_grad()
def centroids(features: Tensor, labels: Tensor) -> Tensor:
    """The L2-normalised mean feature (K,D) of each label 0..K−1; rows labelled −1 are left out.

    For a bank of parts (N,P,D) the result is (K,P,D). Each label must have a member (labellings have no gaps).
    """
    kept = labels >= 0
    features, labels = features[kept], labels[kept]
    count = int(labels.max()) + 1 if len(labels) else 0
    sums = torch.zeros(count, *features.shape[1:], dtype=features.dtype, device=features.device)
    sums.index_add_(0, labels, features)
    return nn.functional.normalize(sums, dim=-1)
