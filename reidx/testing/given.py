"""Inputs of the conformance checks, and their assertions."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor

from reidx.contracts import Contract, LabelSet, RefinerContext, contract_of, inputs_of
from reidx.labels.clusterers.dbscan import DBSCAN
from reidx.labels.pipeline import check_labels, variations
from reidx.memories import Memory
from reidx.registry import build as builder
from reidx.registry.build import build, fill_defaults
from reidx.registry.registry import KINDS, Entry

IMAGE_SIZE = (64, 32)
DIM = 16
GROUPS, MEMBERS = 64, 8
"""Numbers of groups, and of similar features per group, in the bank given to distances, clusterers and memories."""


def expect(condition: bool, message: str) -> None:
    """Raise :class:`AssertionError` with ``message`` unless ``condition`` holds."""
    if not condition:
        raise AssertionError(message)


def expect_labelling(labels: LabelSet, images: int) -> None:
    """Raise :class:`AssertionError` unless a label set fulfils its contract for ``images`` images."""
    try:
        check_labels(labels, images)
    except ValueError as error:
        raise AssertionError(str(error)) from error


def expect_finite(tensor: Tensor, what: str) -> None:
    """Raise :class:`AssertionError` unless every entry of ``tensor`` is finite."""
    expect(bool(torch.isfinite(tensor).all()), f"{what}: not all finite")


def in_order(names: Any) -> str:
    """Names, sorted, for a message."""
    return ", ".join(sorted(names))


def seeded(seed: int = 0) -> torch.Generator:
    """A new generator, so that results do not depend on the order of the checks."""
    return torch.Generator().manual_seed(seed)


def spec_of(entry: Entry) -> dict[str, Any]:
    """A component's spec: its name and its example."""
    return {"type": entry.name, **entry.component.example}


def built(entry: Entry, **context: Any) -> Any:
    """The component built from its example and the given context."""
    return build(entry.kind, spec_of(entry), **context)


def declared(entry: Entry) -> Contract:
    """The contract with the defaults written out, as in an experiment."""
    filled = fill_defaults(entry.kind, spec_of(entry), KINDS[entry.kind].context)
    return contract_of(entry.load(), {key: value for key, value in filled.items() if key != "type"})


def built_fusion(entry: Entry) -> tuple[Any, list[Tensor]]:
    """Build the fusion and its arguments: the maps, and the teacher's maps if its forward takes them."""
    torch.manual_seed(0)
    fusion = built(entry, in_channels=64)
    asks = set().union(*inputs_of(type(fusion)))
    maps = [torch.rand(5, 64, 8, 4, generator=seeded(seed)) for seed in range(2 if "teacher" in asks else 1)]
    return fusion, maps


def known_labels() -> np.ndarray:
    """The groups of the bank as labels (N,)."""
    return np.repeat(np.arange(GROUPS), MEMBERS).astype(np.int64)


def clustered_anew(**_: object) -> np.ndarray:
    """The clustering at other settings: each pair of groups is one cluster."""
    return known_labels() // 2


def bank_of_groups() -> Tensor:
    """Unit features (N, 16), close together within each group."""
    middle = torch.randn(GROUPS, DIM, generator=seeded(5))[torch.from_numpy(known_labels())]
    return F.normalize(middle + 0.1 * torch.randn(middle.shape, generator=seeded(6)))


def bank_views(names: Iterable[str]) -> dict[str, Tensor]:
    """The bank under each name; ``parts`` and ``patch`` (N,3,16) repeat it three times."""
    return {
        name: bank_of_groups()[:, None].repeat(1, 3, 1) if name in ("parts", "patch") else bank_of_groups()
        for name in sorted(names)
    }


def graph_of_groups(within: float = 0.5) -> csr_array:
    """Cosine distances of the bank not beyond ``within``, symmetric, diagonal stored."""
    features = bank_of_groups().double().numpy()
    dense = np.maximum(1.0 - features @ features.T, 0.0).astype(np.float32)
    rows, columns = np.nonzero(dense <= np.float32(within))
    return csr_array((dense[rows, columns], (rows, columns)), shape=dense.shape)


def loss_inputs(alike: bool, classes: int = 4, parts: Collection[str] = ()) -> dict[str, Tensor]:
    """The engine's own inputs of a loss, for 8 images of 4 labels; with ``alike``, for the same image 8 times.

    Inputs named in ``parts`` have three parts: features (8,3,D), scores (8,K,3).
    """

    def rows(width: int, seed: int) -> Tensor:
        return torch.randn(1 if alike else 8, width, generator=seeded(seed)).expand(8, width)

    given = {
        "features": F.normalize(rows(DIM, 1)),
        "targets": torch.arange(8) // 2,
        "scores": rows(classes, 2),
        "weights": torch.linspace(0.0, 1.0, 8),
        "soft_targets": torch.softmax(rows(classes, 3), 1),
        "teacher": F.normalize(rows(DIM, 4)),
        "teacher_scores": rows(classes, 5),
        "cameras": torch.arange(8) % 2,
        "index": torch.arange(8),
    }
    for name in parts:
        whole = given[name][:, None] if name in ("features", "teacher") else given[name][..., None]
        given[name] = whole.repeat(1, 3, 1) if name in ("features", "teacher") else whole.repeat(1, 1, 3)
    for name in ("features", "scores"):
        given[name] = given[name].detach().clone().requires_grad_()
    return given


def provided_to(entry: Entry, names: Collection[str]) -> tuple[dict[str, Tensor], Memory | None]:
    """The further inputs of a loss for the first 8 images of the bank, and the memory that provides them, if any.

    They come from an installed refiner or memory that provides them, preferably of the loss's own plugin.
    """
    found: dict[str, Tensor] = {}
    memory: Memory | None = None
    for name in sorted(names):
        offered = [e for kind in ("refiner", "memory") for e in builder.registry().entries(kind)]
        entries = [e for e in offered if name in declared(e).provides]
        entries.sort(key=lambda e: e.namespace != entry.namespace)
        expect(bool(entries), f"its forward asks for {name}, which no installed refiner or memory provides")
        if entries[0].kind == "refiner":
            refined = refined_by(entries[0], known_labels())
            found[name] = torch.from_numpy(refined.extra[name][:8])
        else:
            memory = memory if memory is not None else filled_memory(entries[0])
            found[name] = getattr(memory, name)
    return found, memory


def filled_memory(entry: Entry) -> Memory:
    """A memory filled with the bank and its groups, seen by three cameras."""
    memory: Memory = built(entry, dim=DIM)
    labels = torch.from_numpy(known_labels())
    memory.reset(bank_for(memory) if memory.needs_features else None, labels, torch.arange(len(labels)) % 3)
    return memory


def bank_for(memory: Memory) -> Tensor:
    """The bank (N,D), or one with three parts (N,3,D) for a memory of parts."""
    return bank_views(["parts" if memory.requires_parts else "embed"]).popitem()[1]


def refined_by(entry: Entry, labels: np.ndarray, previous: np.ndarray | None = None) -> LabelSet:
    """The labels of the bank, clustered by DBSCAN, after a refiner."""
    refiner = built(entry)
    clusterer = DBSCAN()
    variations(refiner, clusterer)
    features = bank_views({"embed", *declared(entry).requires})
    cameras = np.arange(len(labels)) % 3
    return refiner(
        LabelSet(labels),
        RefinerContext(features, "embed", graph_of_groups(), clusterer, clustered_anew, 0, previous, cameras),
    )


def expect_gradients(value: Tensor, trained: list[Tensor], when: str) -> None:
    """Raise :class:`AssertionError` unless all of ``trained`` receive finite gradients of ``value``."""
    expect(value.requires_grad, "it carries no gradient")
    gradients = [g for g in torch.autograd.grad(value, trained, allow_unused=True) if g is not None]
    expect(bool(gradients), "no gradient reaches what it was given")
    for gradient in gradients:
        expect_finite(gradient, f"gradient for {when}")
