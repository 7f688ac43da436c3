"""Inputs of the conformance checks, and their assertions."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor

from reidx.contracts import (
    CALLS,
    RESERVED,
    Contract,
    LabelSet,
    RefinerContext,
    contract_in_use,
    feature_inputs,
    inputs_of_kind,
    named_inputs,
)
from reidx.errors import suggest
from reidx.labels.clusterers.dbscan import DBSCAN
from reidx.labels.pipeline import check_labels, variations
from reidx.memories import Memory
from reidx.registry import build as builder
from reidx.registry.build import build, contract, fill_defaults
from reidx.registry.registry import KINDS, Entry

IMAGE_SIZE = (64, 32)
DIM = 16
GROUPS, MEMBERS = 64, 8
"""Numbers of groups, and of similar features per group, in the features given to distances, clusterers and memories."""


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


def sorted_names(names: Any) -> str:
    """Join names, sorted, for a message."""
    return ", ".join(sorted(names))


def seeded_generator(seed: int = 0) -> torch.Generator:
    """Create a generator, so that results do not depend on the order of the checks."""
    return torch.Generator().manual_seed(seed)


def spec_of(entry: Entry) -> dict[str, Any]:
    """Return the spec of a component: its name and its example."""
    return {"type": entry.name, **entry.component.example}


def build_component(entry: Entry, **context: Any) -> Any:
    """Build a component from its example and the given context."""
    return build(entry.kind, spec_of(entry), **context)


def contract_of_example(entry: Entry) -> Contract:
    """Return the contract of a component's example, with the defaults written out, as in an experiment."""
    return contract(entry.kind, fill_defaults(entry.kind, spec_of(entry), KINDS[entry.kind].context))


def fusion_with_inputs(entry: Entry) -> tuple[Any, Tensor, dict[str, Tensor]]:
    """Build the fusion, its maps, and the inputs that its forward names: a teacher's maps, cameras, tokens of a backbone.

    An input is a token if its name ends in ``token`` or ``tokens`` or an installed backbone provides it; others count as
    columns of the data set, of two values.
    """
    torch.manual_seed(0)
    needed, optional = inputs_of_kind("fusion", entry.load())
    further = sorted(needed - RESERVED)
    expect_no_misspelt_input("fusion", further)
    tokens = [name for name in further if name.endswith(("token", "tokens")) or name in provided_tokens()]
    fusion = build_component(entry, in_channels=64, token_dims=dict.fromkeys(tokens, 64))
    shapes = {name: (5, 3, 64) if name.endswith("tokens") else (5, 64) for name in tokens}
    named = {name: torch.rand(*shape, generator=seeded_generator(2)) for name, shape in shapes.items()}
    if "teacher" in needed | optional:
        named["teacher"] = torch.rand(5, 64, 8, 4, generator=seeded_generator(1))
    if "cameras" in needed | optional:
        named["cameras"] = torch.arange(5) % 3
    named |= {name: torch.arange(5) % 2 for name in further if name not in tokens}  # columns of the data set
    return fusion, torch.rand(5, 64, 8, 4, generator=seeded_generator()), named


def provided_tokens() -> set[str]:
    """Return the names of the tokens that installed backbones provide."""
    return set[str]().union(*(contract_of_example(entry).provides for entry in builder.registry().entries("backbone")))


def backbone_columns(backbone: Any, images: int) -> dict[str, Tensor]:
    """Return the columns of a batch that a backbone names: its cameras, and columns of the data set of two values."""
    needed, optional = inputs_of_kind("backbone", type(backbone))
    expect_no_misspelt_input("backbone", needed - RESERVED)
    return {name: torch.arange(images) % 2 for name in sorted(needed | (optional & {"cameras"}))}


def known_labels() -> np.ndarray:
    """Return the groups of :func:`grouped_features` as labels (N,)."""
    return np.repeat(np.arange(GROUPS), MEMBERS).astype(np.int64)


def known_columns(kind: str = "", component: Any = None) -> dict[str, np.ndarray]:
    """Return the columns (N,) of the images of :func:`grouped_features` by name: three cameras.

    Other inputs that a component requires, except features (:func:`known_features`), count as columns of the data set, of
    five values.
    """
    further = inputs_of_kind(kind, type(component))[0] - RESERVED - set(known_features(kind, component))
    expect_no_misspelt_input(kind, further)
    numbers = np.arange(len(known_labels()))
    return {"cameras": numbers % 3, **dict.fromkeys(sorted(further), numbers % 5)}


def known_features(kind: str, component: Any) -> dict[str, Tensor]:
    """Return the grouped features under the names, among those of installed fusions, that a component takes as arguments."""
    return feature_views(feature_inputs(kind, type(component), provided_features()))


def provided_features() -> set[str]:
    """Return the names of the features that installed fusions provide."""
    return set[str]().union(*(contract_of_example(entry).provides for entry in builder.registry().entries("fusion")))


def expect_no_misspelt_input(kind: str, names: Iterable[str]) -> None:
    """Raise :class:`AssertionError` if a further input is one letter or so from an input of the kind; others can be columns."""
    calls = CALLS.get(kind, {}).values()
    known = sorted({name for call in calls for name in call.named})
    known += sorted(provided_features()) if any(call.provider == "fusion" for call in calls) else []
    for name in sorted(names):
        side = next((side for side in ("query_", "gallery_") if name.startswith(side)), "")
        hint = suggest(name.removeprefix(side), [other.removeprefix(side) for other in known if other.startswith(side)])
        expect(not hint, f"it takes {name!r}, which the engine does not provide to a {kind}. {hint}")


def cluster_pairs_of_groups(**_: object) -> np.ndarray:
    """Return the labels for other settings of the clusterer: each pair of groups is one cluster."""
    return known_labels() // 2


def grouped_features() -> Tensor:
    """Return unit features (N, 16) that are similar within each group."""
    middle = torch.randn(GROUPS, DIM, generator=seeded_generator(5))[torch.from_numpy(known_labels())]
    return F.normalize(middle + 0.1 * torch.randn(middle.shape, generator=seeded_generator(6)))


def feature_views(names: Iterable[str]) -> dict[str, Tensor]:
    """Return the grouped features under each name; ``parts`` and ``patch`` (N,3,16) repeat them three times."""
    return {
        name: grouped_features()[:, None].repeat(1, 3, 1) if name in ("parts", "patch") else grouped_features()
        for name in sorted(names)
    }


def graph_of_groups(within: float = 0.5) -> csr_array:
    """Return the cosine distances of the grouped features not beyond ``within``: symmetric, with the diagonal."""
    features = grouped_features().double().numpy()
    dense = np.maximum(1.0 - features @ features.T, 0.0).astype(np.float32)
    rows, columns = np.nonzero(dense <= np.float32(within))
    return csr_array((dense[rows, columns], (rows, columns)), shape=dense.shape)


def loss_inputs(alike: bool, classes: int = 4, parts: Collection[str] = ()) -> dict[str, Tensor]:
    """Return the engine's own inputs of a loss, for 8 images of 4 labels; with ``alike``, for the same image 8 times.

    Inputs named in ``parts`` have three parts: features (8,3,D), scores (8,K,3).
    """

    def rows(width: int, seed: int) -> Tensor:
        return torch.randn(1 if alike else 8, width, generator=seeded_generator(seed)).expand(8, width)

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


def inputs_provided_to(entry: Entry, names: Collection[str]) -> tuple[dict[str, Tensor], Memory | None]:
    """Return further inputs of a loss, for the first 8 images, and the memory that provides them, if any.

    They come from an installed refiner, matcher or memory, preferably of the loss's own plugin; inputs that none provides
    count as columns of the data set, of three values.
    """
    found: dict[str, Tensor] = {}
    memory: Memory | None = None
    for name in sorted(names):
        offered = [e for kind in ("refiner", "matcher", "memory") for e in builder.registry().entries(kind)]
        entries = [e for e in offered if name in contract_of_example(e).provides]
        entries.sort(key=lambda e: e.namespace != entry.namespace)
        if not entries:
            expect_no_misspelt_input("loss", [name])
            found[name] = torch.arange(8) % 3
        elif entries[0].kind == "refiner":
            refined = refined_by(entries[0], known_labels())
            found[name] = torch.from_numpy(refined.extra[name][:8])
        elif entries[0].kind == "matcher":
            matched = matched_by(entries[0], [known_labels(), known_labels()])
            found[name] = torch.from_numpy(matched[0].extra[name][:8])
        else:
            memory = memory if memory is not None else filled_memory(entries[0])
            found[name] = getattr(memory, name)
    return found, memory


def filled_memory(entry: Entry) -> Memory:
    """Build a memory and fill it with the grouped features, under three cameras."""
    memory: Memory = build_component(entry, dim=DIM)
    labels = torch.from_numpy(known_labels())
    reset_memory(memory, features_for(memory) if memory.needs_features else None, labels)
    return memory


def reset_memory(memory: Memory, features: Tensor | None, labels: Tensor) -> None:
    """Reset a memory to a labelling of the grouped features, with the columns that it names."""
    columns = {name: torch.from_numpy(column) for name, column in known_columns("memory", memory).items()}
    memory.reset(features, labels, **named_inputs(memory.reset, columns))


def update_memory(memory: Memory, features: Tensor, labels: Tensor, index: Tensor) -> None:
    """Update a memory with images of the grouped features, with the columns that it names."""
    columns = {name: torch.from_numpy(column)[index] for name, column in known_columns("memory", memory).items()}
    memory.update(features, labels, index, **named_inputs(memory.update, columns))


def features_for(memory: Memory) -> Tensor:
    """Return the grouped features (N,D), or three parts (N,3,D) for a memory of parts."""
    return feature_views(["parts" if contract_in_use(memory).requires_parts else "embed"]).popitem()[1]


def refined_by(
    entry: Entry, labels: np.ndarray, previous: np.ndarray | None = None, optional: bool = True
) -> LabelSet:
    """Apply a refiner to labels of the grouped features, clustered by DBSCAN, with or without its optional inputs."""
    refiner = build_component(entry)
    clusterer = DBSCAN()
    variations(refiner, clusterer)
    named = {**named_inputs(refiner, known_columns("refiner", refiner)), **known_features("refiner", refiner)}
    features = feature_views({"embed", *contract_of_example(entry).requires, *known_features("refiner", refiner)})
    left_out = set() if optional else inputs_of_kind("refiner", type(refiner))[1]
    return refiner(
        LabelSet(labels),
        RefinerContext(
            features, "embed", graph_of_groups(), clusterer, cluster_pairs_of_groups, 0, previous, known_columns()["cameras"]
        ),
        **{name: value for name, value in named.items() if name not in left_out},
    )


def matched_by(entry: Entry, labels: Sequence[np.ndarray], history: bool = False) -> Sequence[LabelSet]:
    """Apply a matcher to labellings of the first grouped features, one for each array of ``labels``, of any length.

    With ``history``, the labels of the last labelling are known.
    """
    matcher = build_component(entry, labellings=[f"labelling{number}" for number in range(len(labels))])
    contexts = []
    for given in labels:
        images = len(given)
        features = feature_views({"embed", *contract_of_example(entry).requires})
        features = {name: feature[:images] for name, feature in features.items()}
        graph = graph_of_groups()[:images, :images]
        previous = np.roll(given, 3) if history else None
        cameras = known_columns()["cameras"][:images]
        contexts.append(RefinerContext(features, "embed", graph, DBSCAN(), given.copy, 0, previous, cameras))
    return matcher([LabelSet(given) for given in labels], contexts)


def expect_label_set(entry: Entry, labels: LabelSet, images: int) -> None:
    """Raise :class:`AssertionError` unless a label set fulfils the contract of the refiner or matcher that made it."""
    expect(isinstance(labels, LabelSet), f"it returned {type(labels).__name__}, not a LabelSet")
    expect_labelling(labels, images)
    contract = contract_of_example(entry)
    expect(contract.outliers != "never" or labels.labels.min() >= 0, "it declares outliers: never, but there is a -1")
    given = set(labels.arrays()) - {"labels"}
    expect(given == contract.provides, f"provides is {sorted_names(contract.provides)}, not {sorted_names(given)}")
    for name, array in labels.arrays().items():
        expect(bool(np.isfinite(array).all()), f"{name} are not finite")


def expect_plain_state(component: Any) -> None:
    """Raise :class:`AssertionError` unless a component, if it has a state, can restore it from a checkpoint."""
    if hasattr(component, "state_dict"):
        file = io.BytesIO()
        torch.save(component.state_dict(), file)
        file.seek(0)
        try:
            state = torch.load(file, weights_only=True)
            component.load_state_dict(state)
        except Exception as error:
            raise AssertionError(f"its state is not plain data and tensors, as a checkpoint requires: {error}") from error


def expect_gradients(value: Tensor, trained: list[Tensor], when: str) -> None:
    """Raise :class:`AssertionError` unless all of ``trained`` receive finite gradients of ``value``."""
    expect(value.requires_grad, "it carries no gradient")
    gradients = [g for g in torch.autograd.grad(value, trained, allow_unused=True) if g is not None]
    expect(bool(gradients), "no gradient reaches its inputs")
    for gradient in gradients:
        expect_finite(gradient, f"gradient for {when}")
