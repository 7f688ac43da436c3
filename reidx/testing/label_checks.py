"""Conformance checks of distances, clusterers, refiners, matchers, memories and losses."""

from __future__ import annotations

import itertools
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor

from reidx.contracts import INPUTS, LabelSet, inputs_of, named_inputs
from reidx.errors import DataError
from reidx.labels.graph import checked_graph
from reidx.memories import Memory
from reidx.registry.registry import Entry
from reidx.testing.given import (
    DIM,
    build_component,
    contract_of_example,
    expect,
    expect_finite,
    expect_gradients,
    expect_label_set,
    expect_labelling,
    expect_plain_state,
    feature_views,
    features_for,
    filled_memory,
    graph_of_groups,
    grouped_features,
    inputs_provided_to,
    known_columns,
    known_features,
    known_labels,
    loss_inputs,
    matched_by,
    refined_by,
    reset_memory,
    update_memory,
)

T = TypeVar("T")

# ---- distance, clusterer, refiner, matcher


def gives_a_graph(entry: Entry) -> None:
    """Check for a sparse float graph (N,N) without negative distances, nearer within groups, and reproducible."""
    distance = build_component(entry, device="cpu")
    views = contract_of_example(entry).requires
    features, same = grouped_features(), known_labels()[:, None] == known_labels()
    given = feature_views(views) if views else features
    known = {"epoch": 0, **known_columns("distance", distance)}
    named = {**named_inputs(distance, known), **known_features("distance", distance)}
    graph = distance(given, **named)
    expect(isinstance(graph, csr_array), f"it returned {type(graph).__name__}, not a csr_array")
    try:
        checked_graph(graph, len(same), "the graph")
    except DataError as error:
        raise AssertionError(str(error)) from error
    dense = np.ones(graph.shape)  # absent pairs are at distance 1
    entries = graph.tocoo()
    dense[entries.row, entries.col] = entries.data
    expect(dense[same].mean() < dense[~same].mean(), "similar images are not nearer than others")
    again = distance(given, **named)
    expect(np.array_equal(again.toarray(), graph.toarray()), "the same features gave another graph")
    if within := named_inputs(distance, {"within": 0.5}):
        near = distance(given, **named, **within).tocoo()
        expected = entries.data <= np.float32(0.5)
        same_places = np.array_equal(near.row, entries.row[expected]) and np.array_equal(
            near.col, entries.col[expected]
        )
        expect(
            same_places and np.array_equal(near.data, entries.data[expected]),
            "within=0.5 is not the graph without the distances beyond 0.5",
        )


def gives_labels(entry: Entry) -> None:
    """Check for labels (N,) int64, −1 or 0..K−1 without gaps, reproducible, and −1 only if declared."""
    contract = contract_of_example(entry)
    given = graph_of_groups() if contract.clusterer_input == "graph" else grouped_features()

    def clustered(given: object) -> np.ndarray:
        clusterer = build_component(entry, seed=1)
        return clusterer(given, **named_inputs(clusterer, known_columns("clusterer", clusterer)))

    labels = clustered(given)
    expect_labelling(LabelSet(labels), len(known_labels()))
    expect(contract.outliers == "emits" or labels.min() >= 0, "it declares outliers: never, but there is a -1")
    expect(np.array_equal(labels, clustered(given)), "the same input and seed gave other labels")
    reach = getattr(build_component(entry, seed=1), "reach", None)
    if reach is not None:
        near, whole = (clustered(graph_of_groups(within)) for within in (reach, 0.999))
        expect(np.array_equal(near, whole), f"distances beyond its reach ({reach}) change its labels")


def refines_labels(entry: Entry) -> None:
    """Check for a LabelSet that fulfils the contract, with and without history and optional inputs, and an unchanged input."""
    truth = known_labels()
    for previous in (None, np.roll(truth, 3)):
        labels = truth.copy()
        labels[:5] = -1
        labels = np.unique(labels, return_inverse=True)[1].astype(np.int64) - 1
        before = labels.copy()
        refined = refined_by(entry, labels, previous, optional=previous is not None)
        expect_label_set(entry, refined, len(labels))
        expect(np.array_equal(labels, before), "it changed the labels that it was given")
    expect_plain_state(build_component(entry))


def matches_labellings(entry: Entry) -> None:
    """Check for a label set of each labelling that fulfils the contract and is reproducible, and for unchanged inputs.

    The labellings have different images and clusters; one has outliers.
    """
    fewer = known_labels()[: len(known_labels()) // 2]
    for history in (False, True):
        labels = [known_labels(), fewer[::-1].copy() - 1]
        before = [given.copy() for given in labels]
        matched = matched_by(entry, labels, history)
        several = isinstance(matched, list | tuple) and len(matched) == len(labels)
        expect(several, f"it returned {type(matched).__name__}, not a list with a label set for each labelling")
        expect(all(map(np.array_equal, labels, before)), "it changed the labels that it was given")
        again = matched_by(entry, labels, history)
        for given, new, same in zip(labels, matched, again, strict=True):
            expect_label_set(entry, new, len(given))
            alike = all(np.array_equal(array, same.arrays()[name]) for name, array in new.arrays().items())
            expect(alike, "the same labels and features gave another match")
    expect_plain_state(build_component(entry, labellings=["one", "other"]))


# ---- memory, loss


def follows_the_memory_cycle(entry: Entry) -> None:
    """Check the cycle of reset, forward, update and another reset, with an image twice in an update.

    Scores are (B,K), or (B,K,P) of parts, and carry a gradient for the features.
    """
    memory = build_component(entry, dim=DIM)
    expect(isinstance(memory, Memory), "it is no subclass of reidx.memories.Memory")
    bank, truth = features_for(memory), torch.from_numpy(known_labels())
    for labels in (truth.clone(), truth % 5, truth % 9):
        labels[3] = -1
        reset_memory(memory, bank if memory.needs_features else None, labels)
        index = torch.arange(10, 22)
        features = F.normalize(bank[index] + 0.01, dim=-1).requires_grad_()
        scores = memory(features)
        classes = int(labels.max()) + 1
        shape = (len(index), scores.shape[1], *features.shape[1:-1])
        expect(scores.shape == shape, f"scores are {tuple(scores.shape)}, not (B,K), or (B,K,P) of parts")
        expect(scores.shape[1] >= classes, f"there are {scores.shape[1]} scores for {classes} labels")
        expect_finite(scores, "scores")
        scores.square().sum().backward()
        expect(
            features.grad is not None and bool(features.grad.abs().sum() > 0),
            "no gradient reaches the features",
        )
        twice = torch.cat([index, index[:2]])
        update_memory(memory, features.detach()[twice - 10], labels[twice], twice)
        expect_finite(memory(features.detach()), "scores after an update")
        for name in contract_of_example(entry).provides:
            expect(isinstance(getattr(memory, name, None), Tensor), f"it provides {name!r}, but has no such tensor")
        if hasattr(memory, "images"):
            expect(len(memory.images) == len(bank), f"images are {len(memory.images)}, the bank has {len(bank)}")


def restores_from_a_checkpoint(entry: Entry) -> None:
    """Check that a memory of any size, restored from another's state, gives the same scores and can be updated."""
    saved, fresh, labels = filled_memory(entry), build_component(entry, dim=DIM), torch.from_numpy(known_labels())
    features = features_for(saved)
    fresh.restore(saved.state_dict())
    expect(torch.equal(saved(features[:9]), fresh(features[:9])), "the restored memory gives other scores")
    for memory in (saved, fresh):
        update_memory(memory, features[:9].flip(-1), labels[:9], torch.arange(9))
    expect(torch.equal(saved(features[:9]), fresh(features[:9])), "an update changes the restored memory differently")


def returns_a_scalar_with_a_gradient(entry: Entry) -> None:
    """Check that a loss is one finite number with a finite gradient, with and without its optional inputs."""
    loss = build_component(entry)
    needed, optional = inputs_of(type(loss))
    others = (needed | optional) - set(INPUTS)
    provided, memory = inputs_provided_to(entry, others)
    parts: frozenset[str] = contract_of_example(entry).requires_parts
    columns = len(known_labels()) if others or contract_of_example(entry).column_meaning == "images" else 4
    shapes = [parts] if others else list(dict.fromkeys([parts, parts | contract_of_example(entry).accepts_parts]))
    for names, shape in itertools.product((needed, needed | optional), shapes):
        for alike in (False, True):
            inputs = loss_inputs(alike, columns, shape)
            if memory is not None:
                inputs["scores"] = memory(inputs["features"])
            given = {name: value for name, value in {**inputs, **provided}.items() if name in names}
            value = loss(**given)
            expect(isinstance(value, Tensor) and value.ndim == 0, "it returned no scalar tensor")
            expect_finite(value, "loss")
            trained = [given[name] for name in ("features", "scores") if name in given]
            expect(
                bool(trained), "its forward takes neither features nor scores, so it cannot train anything"
            )
            expect_gradients(value, trained, "all images alike" if alike else "a batch")
