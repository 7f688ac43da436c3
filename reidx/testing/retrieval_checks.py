"""Conformance checks of protocols and re-rankers."""

from __future__ import annotations

import inspect
import json
import random
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch

from reidx.contracts import RESERVED, inputs_of_kind
from reidx.errors import ReidxError
from reidx.evaluation import evaluate, rerank
from reidx.evaluation.protocols import (
    Columns,
    Known,
    check_metrics,
    drawn_trials,
    ignored,
    in_trial,
    measured,
    summarised,
)
from reidx.registry.registry import Entry
from reidx.registry.seam import full_checks
from reidx.testing.given import (
    build_component,
    expect,
    expect_no_misspelt_input,
    grouped_features,
    known_labels,
)

T = TypeVar("T")


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


def is_described_on_the_card(entry: Entry) -> None:
    """Check that a result's card, as JSON, has the protocol's name and version, and each argument that affects the numbers."""
    protocol = build_component(entry)
    known, columns = protocol_inputs(protocol)
    generator = np.random.default_rng(2)
    query, gallery = (generator.normal(size=(len(ids), 4)).astype(np.float32) for ids in known[:2])
    card = as_promised(lambda: evaluate(query, gallery, *known, protocol, columns=columns)).card
    expect(json.loads(json.dumps(card, default=str)) == card, "its settings are no JSON, so that no card can hold them")
    for name in ("protocol", "protocol_version"):
        expect(isinstance(card[name], str) and bool(card[name]), f"its {name.partition('_')[2] or 'name'} is no text")
    drawn = set() if card["trials"] > 1 else {"seed"}
    arguments = set(inspect.signature(type(protocol).__init__).parameters) - {"self", "trials", "camera_filter"} - drawn
    missing = sorted(arguments - set(card["protocol_settings"]))
    expect(not missing, f"its `settings` lack its arguments {', '.join(missing)}: no card says which numbers these are")


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
    """Check for the declared metrics or arrays, independent of other queries and of the distances of ignored images."""
    protocol = build_component(entry)
    as_promised(partial(check_metrics, protocol))
    if not getattr(protocol, "metrics", ()):
        return
    known, columns = protocol_inputs(protocol)
    for trial in (drawn_trials(protocol, known, columns) or [])[:1]:
        known, _, columns = in_trial(trial, known, None, columns)  # type: ignore[assignment]
    skip = ignored(protocol, known, ALL, ALL, columns)
    distances, others = np.random.default_rng(1).random((2, *skip.shape))
    found = as_promised(partial(measured, protocol, distances, skip, known, ALL, columns))
    parts = measured(protocol, distances[7:9], skip[7:9], known, slice(7, 9), columns)
    moved = measured(protocol, np.where(skip, others, distances), skip, known, ALL, columns)
    totals = getattr(protocol, "totals", ())
    for name, values in found.items():
        expect(np.array_equal(moved[name], values, equal_nan=True), f"its {name} depends on ignored images")
        if name not in totals:
            expect(not np.isnan(values).all(), f"no query counts for its {name}")
            expect(np.array_equal(parts[name], values[7:9], equal_nan=True), f"its {name} depends on the other queries")
    if totals:
        blocks = [slice(0, 7), slice(7, 9), slice(9, len(skip))]
        each = [measured(protocol, distances[block], skip[block], known, block, columns) for block in blocks]
        for name in totals:
            added = sum(np.asarray(part[name], dtype=np.float64) for part in each)
            expect(np.allclose(added, found[name]), f"its {name} of two blocks of queries do not add up to that of all")
    as_promised(partial(summarised, protocol, found))


ALL = slice(None)


def protocol_inputs(protocol: Any) -> tuple[Known, Columns]:
    """Return ids and cameras (0 to 6) of 20 queries and 150 gallery images, and the columns that a protocol requires.

    Columns by which it groups images have a number for each identity and camera, and further columns one for each group.
    """
    generator, sizes = np.random.default_rng(0), (20, 150)
    ids = generator.integers(0, 6, 20), generator.integers(-1, 6, 150)
    cameras = generator.integers(0, 7, 20), generator.integers(0, 7, 150)
    needed, _ = inputs_of_kind("protocol", type(protocol))
    names = sorted({name.removeprefix("query_").removeprefix("gallery_") for name in needed})
    by_query, by_gallery = ({name: generator.integers(0, 4, size) for name in names} for size in sizes)
    for its, column, pair in zip((by_query, by_gallery), getattr(protocol, "groups", None) or (), zip(ids, cameras)):
        if column is not None:
            _, first, group = np.unique(np.stack(pair), axis=1, return_index=True, return_inverse=True)
            group = group.reshape(-1)
            its |= {name: values[first][group] for name, values in its.items()}
            its[column] = group
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
