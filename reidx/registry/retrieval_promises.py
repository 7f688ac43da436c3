"""Checks of the results of protocols and re-rankers, by the rules of :mod:`reidx.registry.promises`."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from reidx.errors import require
from reidx.registry.describing import describe_value, one_line


def ignored(component: Any, result: Any, given: Mapping[str, Any]) -> None:
    """Require a mask of booleans (Q,G)."""
    ids = [np.asarray(value) for value in given.values()]
    wanted = (len(ids[0]), len(ids[1]))
    right = isinstance(result, np.ndarray) and result.dtype == np.bool_ and result.shape == wanted
    require(right, f"it returned {describe_value(result)}, not booleans {wanted}")


def trials(component: Any, result: Any, given: Mapping[str, Any]) -> None:
    """Require trials with positions in range, each at most once, or None."""
    sizes = [len(ids) for ids in itertools.islice(given.values(), 2)]
    require(result is None or len(result) > 0, "it drew no trial")
    for number, trial in enumerate(result or (), 1):
        pair = isinstance(trial, list | tuple) and len(trial) == 2
        require(pair, f"trial {number} is {describe_value(trial)}, not positions of queries and of gallery images")
        for side, positions, size in zip(("query", "gallery"), trial, sizes):
            found = f"the {side} positions of trial {number} are {describe_value(positions)}"
            whole = isinstance(positions, np.ndarray) and positions.dtype.kind in "iu" and positions.ndim == 1
            require(whole, f"{found}, not an array of integers")
            require(len(positions) > 0, f"{found}: a trial needs at least one")
            low, high = int(positions.min()), int(positions.max())
            require(low >= 0 and high < size, f"{found}, from {low} to {high}, not 0 to {size - 1}")
            require(len(np.unique(positions)) == len(positions), f"{found}, some of them twice")


TAKEN = ("combination", "seed", "state", "reason", "seconds", "config_hash", "card", "clusters", "outliers", "ari")
"""Columns of tables of results, which hold a protocol's metrics, too."""


def plain_name(metric: str) -> str:
    """Return the name of a metric for files and curves: characters other than letters, digits, . and - become _."""
    return re.sub(r"[^A-Za-z0-9.-]", "_", metric)


def metric_names(names: Sequence[Any]) -> None:
    """Require names of metrics that tables of results can have as columns, next to their other columns."""
    wrong = [name for name in names if not re.fullmatch(r"(?!reranked_)[\w@+./ -]{1,24}(?<!_sd)", str(name))]
    rule = "1 to 24 letters, digits or characters of @+-._/, not beginning with reranked_ and not ending in _sd"
    require(not wrong, f"its `metrics` name {', '.join(map(repr, wrong))}; a name is {rule}")
    taken = [name for name in names if name in TAKEN or str(name).startswith("last ")]
    require(not taken, f"its `metrics` name {', '.join(map(repr, taken))}, which is another column in tables of results")
    require(len(set(names)) == len(names), f"its `metrics` name one twice: {', '.join(map(str, names))}")
    for first, second in itertools.combinations(map(str, names), 2):
        alike = plain_name(first).lower() == plain_name(second).lower()  # some file systems ignore case
        require(not alike, f"its `metrics` name {first!r} and {second!r}, which have the same name in files: rename one")


def measured(component: Any, result: Any, given: Mapping[str, Any]) -> None:
    """Require the declared metrics, each with a fraction or NaN for each query, or the declared arrays and totals."""
    arrays, totals = getattr(component, "arrays", ()), getattr(component, "totals", ())
    declared, word = ((*arrays, *totals), "arrays and totals") if arrays or totals else (component.metrics, "metrics")
    queries, names = len(next(iter(given.values()))), ", ".join(map(str, declared))
    metric_names(component.metrics)
    require(isinstance(result, Mapping), f"it returned {describe_value(result)}, not arrays by name ({names})")
    same = set(result) == set(declared)
    require(same, f"it returned {', '.join(map(one_line, result)) or 'nothing'}; its `{word}` are {names}")
    for name in totals:
        right = isinstance(result[name], np.ndarray) and result[name].dtype.kind in "iuf" and np.isfinite(result[name]).all()
        require(bool(right), f"its {name} is {describe_value(result[name])}, not an array of finite numbers")
    for name, values in ((name, values) for name, values in result.items() if name not in totals):
        right = isinstance(values, np.ndarray) and values.dtype.kind == "f" and values.shape == (queries,)
        require(right, f"its {name} is {describe_value(values)}, not an array of {queries} floats")
        known = values[~np.isnan(values)]
        low, high = (float(known.min()), float(known.max())) if len(known) and word == "metrics" else (0.0, 0.0)
        require(low >= 0 and high <= 1, f"its {name} reaches from {low} to {high}, not 0 to 1 (or NaN)")


def summary(component: Any, result: Any, given: Mapping[str, Any]) -> None:
    """Require the declared metrics as fractions, and facts as finite numbers."""
    right = isinstance(result, tuple) and len(result) == 2 and all(isinstance(part, Mapping) for part in result)
    require(right, f"it returned {describe_value(result)}, not metrics and facts by name (a Summary)")
    metrics, facts = result
    found, names = (", ".join(map(one_line, each)) or "none" for each in (metrics, component.metrics))
    require(set(metrics) == set(component.metrics), f"it returned the metrics {found}; its `metrics` are {names}")
    for name, value in {**facts, **metrics}.items():
        number = isinstance(value, int | float) and math.isfinite(value)
        require(number, f"its {name} is {describe_value(value)}, not a finite number")
        require(name not in metrics or 0 <= value <= 1, f"its {name} is {value}, not a fraction from 0 to 1")


def reranking(component: Any, result: Any, given: Mapping[str, Any]) -> None:
    """Require a re-ranking of its shape, with a card, and promised blocks."""
    wanted = tuple(len(features) for features in [*given.values()][:2])
    for name in ("shape", "block", "card"):
        require(hasattr(result, name), f"it returned {describe_value(result)}, not a re-ranking: it has no {name}")
    require(result.shape == wanted, f"it returned a re-ranking of shape {result.shape}, not {wanted}")
    require(isinstance(result.card(), dict), f"the card of its re-ranking is {describe_value(result.card())}, not a dict")
    few = slice(0, min(wanted[0], 4))
    reranked_block(component, result.block(few), {"rows": few}, wanted[1])


def reranked_block(component: Any, result: Any, given: Mapping[str, Any], gallery: int | None = None) -> None:
    """Require finite factors (B,), not negative, and finite offsets (B,G) of a block of queries."""
    rows = next(iter(given.values()))
    pair = isinstance(result, tuple) and len(result) == 2
    require(pair, f"a block of its re-ranking is {describe_value(result)}, not two arrays")
    factor, offset = result
    _numbers(factor, (rows.stop - rows.start,), np.float64, "the factors of its re-ranking are")
    _numbers(offset, (rows.stop - rows.start, gallery), np.float32, "the offsets of its re-ranking are")
    require(bool((factor >= 0).all()), f"a factor of its re-ranking is {factor.min()}: larger distances would rank higher")


def _numbers(array: Any, shape: Sequence[int | None], dtype: type, found: str) -> None:
    """Raise unless ``array`` is of numpy, of this shape (None: any length) and type, and finite."""
    right = isinstance(array, np.ndarray) and array.dtype == dtype and len(array.shape) == len(shape)
    right = right and all(wanted in (None, length) for wanted, length in zip(shape, array.shape))
    named = tuple("G" if length is None else length for length in shape)
    require(right, f"{found} {describe_value(array)}, not {np.dtype(dtype)} {named}")
    require(bool(np.isfinite(array).all()), f"{found} {describe_value(array)}, with NaN or infinite numbers")
