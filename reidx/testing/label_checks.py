"""Conformance checks of distances, clusterers, refiners, matchers, memories, losses, protocols and re-rankers."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor

from reidx.contracts import INPUTS, RESERVED, LabelSet, inputs_of, inputs_of_kind, named_inputs
from reidx.errors import DataError, ReidxError
from reidx.evaluation import rerank
from reidx.evaluation.protocols import Columns, Known, check_metrics, drawn_trials, ignored, measured
from reidx.labels.graph import checked_graph
from reidx.memories import Memory
from reidx.registry.registry import Entry
from reidx.registry.seam import full_checks
from reidx.testing.given import (
    DIM,
    build_component,
    contract_of_example,
    expect,
    expect_finite,
    expect_gradients,
    expect_label_set,
    expect_labelling,
    expect_no_misspelt_input,
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


# ---- protocol


def ignores_each_row_independently(entry: Entry) -> None:
    """Check for a mask (Q,G) in which rows are independent of the other queries and some match remains."""
    protocol = build_component(entry)
    known, columns = protocol_inputs(protocol)
    query_ids, gallery_ids = known[:2]
    skip = ignored(protocol, known, ALL, ALL, columns)
    expect(
        skip.shape == (len(query_ids), len(gallery_ids)) and skip.dtype == np.bool_,
        f"it gave {skip.dtype} {skip.shape}, not bool (Q,G)",
    )
    rows = ignored(protocol, known, slice(7, 9), ALL, columns)
    expect(np.array_equal(rows, skip[7:9]), "the images that a query ignores depend on the other queries")
    matches = query_ids[:, None] == gallery_ids
    expect(bool((matches & ~skip).any()), "it ignores every match")
    for name in ("name", "version", "camera_filter", "junk"):
        expect(hasattr(protocol, name), f"it has no {name}, which the card of a result reports")


def draws_the_same_trials(entry: Entry) -> None:
    """Check for valid trials that are the same in each call and for each instance, and independent of random states."""
    drawn = []
    for seed in (0, 1):
        protocol = build_component(entry)
        known, columns = protocol_inputs(protocol)
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        before = random_states()
        for _ in range(2):
            trials = as_promised(partial(drawn_trials, protocol, known, columns))
            drawn.append([[positions.tolist() for positions in trial] for trial in trials or ()])
        expect(random_states() == before, "it draws from the global random state: use np.random.default_rng(seed)")
    expect(all(other == drawn[0] for other in drawn), "two calls draw different trials")


def measures_each_query_independently(entry: Entry) -> None:
    """Check for the declared metrics, independent of the other queries and of the distances of ignored images."""
    protocol = build_component(entry)
    as_promised(partial(check_metrics, protocol))
    if not getattr(protocol, "metrics", ()):
        return
    known, columns = protocol_inputs(protocol)
    skip = ignored(protocol, known, ALL, ALL, columns)
    distances, others = np.random.default_rng(1).random((2, *skip.shape))
    found = as_promised(partial(measured, protocol, distances, skip, known, ALL, columns))
    parts = measured(protocol, distances[7:9], skip[7:9], known, slice(7, 9), columns)
    moved = measured(protocol, np.where(skip, others, distances), skip, known, ALL, columns)
    for name, values in found.items():
        expect(not np.isnan(values).all(), f"no query counts for its {name}")
        expect(np.array_equal(parts[name], values[7:9], equal_nan=True), f"its {name} depends on the other queries")
        expect(np.array_equal(moved[name], values, equal_nan=True), f"its {name} depends on ignored images")


ALL = slice(None)


def protocol_inputs(protocol: Any) -> tuple[Known, Columns]:
    """Return ids and cameras (0 to 6) of 20 queries and 150 gallery images, and the columns that a protocol requires."""
    generator, sizes = np.random.default_rng(0), (20, 150)
    ids = generator.integers(0, 6, 20), generator.integers(-1, 6, 150)
    cameras = generator.integers(0, 7, 20), generator.integers(0, 7, 150)
    needed, _ = inputs_of_kind("protocol", type(protocol))
    names = sorted({name.removeprefix("query_").removeprefix("gallery_") for name in needed})
    by_query, by_gallery = ({name: generator.integers(0, 4, size) for name in names} for size in sizes)
    return (*ids, *cameras), (by_query, by_gallery)


def as_promised(function: Callable[[], T]) -> T:
    """Call a component with the checks of its kind's promises; a broken one raises :class:`AssertionError`."""
    try:
        with full_checks():
            return function()
    except (ReidxError, RuntimeError) as error:
        raise AssertionError(str(error)) from error


def random_states() -> tuple[object, ...]:
    """Return the states of the global random generators of Python, NumPy and torch."""
    return random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()


# ---- reranker


def reranks_a_gallery(entry: Entry) -> None:
    """Check for finite, reproducible distances (Q,G) in blocks, smaller within groups, for any queries and gallery."""
    reranker = build_component(entry)
    needed, _ = inputs_of_kind(entry.kind, type(reranker))
    expect_no_misspelt_input(entry.kind, needed - RESERVED)
    further = [name.partition("_")[2] for name in sorted(needed - RESERVED)]
    features, groups, numbers = grouped_features(), known_labels(), np.arange(len(known_labels()))
    asked = numbers % 8 == 0

    def distances(queries: np.ndarray, gallery: np.ndarray) -> np.ndarray:
        cameras = numbers[queries] % 3, numbers[gallery] % 3
        columns = [dict.fromkeys(further, numbers[rows] % 5) for rows in (queries, gallery)]
        found = rerank(reranker, features[queries], features[gallery], cameras=cameras, columns=(columns[0], columns[1]))
        expect(found.shape == (len(queries), len(gallery)), f"its shape is {found.shape}, not {(len(queries), len(gallery))}")
        blocks = [found.block(slice(start, min(start + 7, len(queries)))) for start in range(0, len(queries), 7)]
        factor, offset = (np.concatenate(parts) for parts in zip(*blocks))
        expect(factor.dtype == np.float64 and factor.shape == (len(queries),), f"its factors are {factor.dtype} {factor.shape}")
        expect(offset.dtype == np.float32 and offset.shape == found.shape, f"its offsets are {offset.dtype} {offset.shape}")
        expect(bool((factor >= 0).all()), "it has negative factors: larger distances would rank higher")
        whole = found.block(slice(0, len(queries)))
        expect(np.array_equal(whole[0], factor) and np.array_equal(whole[1], offset), "its distances depend on the block")
        card = found.card()
        expect(bool(card.get("method")) and json.loads(json.dumps(card)) == card, "its card is no JSON with its method")
        squared = (2 - 2 * features[queries].double() @ features[gallery].double().T).numpy()
        ranked = factor[:, None] * squared + offset
        expect(bool(np.isfinite(ranked).all()), "its distances are not all finite")
        return ranked

    queries, gallery = np.flatnonzero(asked), np.flatnonzero(~asked)
    ranked, same = distances(queries, gallery), groups[asked][:, None] == groups[~asked]
    expect(bool(ranked[same].mean() < ranked[~same].mean()), "features of one group are not nearer than those of others")
    expect(np.array_equal(distances(queries, gallery), ranked), "it gives other distances for the same features")
    distances(queries[3:8], gallery[::2])
