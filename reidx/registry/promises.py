"""Runtime checks of components: return values, and inputs and settings that they must not change.

:mod:`reidx.registry.seam` runs them at each call. A check raises :class:`reidx.errors.Broken` with the fault, and
:func:`reidx.registry.seam.call` adds the name of the component. The full checks cost a second pass over the data, so they
run for one step per epoch and for every labelling.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from reidx.contracts import Features, LabelSet, contract_in_use, overrides_update
from reidx.errors import Broken, require
from reidx.registry.describing import arguments_by_name, code_of, describe_value, one_line
from reidx.registry.registry import KINDS, Entry
from reidx.registry.retrieval_promises import ignored, measured, reranked_block, reranking, summary, trials

HASHED = 16 << 20
"""Size in bytes up to which a tensor is fingerprinted by a checksum; above it by the sum of its words, which is faster."""

_columns: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()


def expect_columns(memory: nn.Module, count: int) -> None:
    """Require ``count`` columns, the number of its labels, in the scores of a memory from now on."""
    _columns[memory] = count


def fully_checked_call(
    entry: Entry, component: Any, action: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any
) -> Any:
    """Call ``function`` with full checks: inputs and global settings unchanged, and the result as its kind requires."""
    given = arguments_by_name(code_of(function), args, kwargs)
    before = {name: mark(value) for name, value in given.items()}
    state_before = _state_mark(component) if action == "update" else None
    settings = _settings()
    try:
        result = function(*args, **kwargs)
    finally:
        changed = [name for name, value in _settings().items() if value != settings[name]]
        torch.set_grad_enabled(settings["whether gradients are recorded"])
        torch.set_default_dtype(settings["the default type of tensors"])
    if changed:
        raise Broken(f"it changed {' and '.join(changed)} for the whole program")
    if moved := [name for name, value in given.items() if mark(value) != before[name]]:
        raise Broken(f"it changed {', '.join(moved)} in place, but other code uses it too: work on a copy")
    if state_before is not None and state_before == _state_mark(component):
        _note_unchanged_memory(component, given)
    if (word := KINDS[entry.kind].results.get(action)) is not None:
        _CHECKS[word](component, result, given)
    if entry.namespace and not _all_finite(result) and all(map(_all_finite, given.values())):
        raise Broken(f"it returned NaN or infinite numbers ({describe_value(result)}), although all its inputs are finite")
    return result


def shape_checked_call(
    entry: Entry, component: Any, action: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any
) -> Any:
    """Call ``function`` and check only type and shape of a step's result, which costs no time."""
    result = function(*args, **kwargs)
    if (word := KINDS[entry.kind].results.get(action)) in _EACH_STEP:
        _CHECKS[word](component, result, {**{str(at): value for at, value in enumerate(args)}, **kwargs})
    return result


def _settings() -> dict[str, Any]:
    return {
        "whether gradients are recorded": torch.is_grad_enabled(),
        "the default type of tensors": torch.get_default_dtype(),
        "the seed of torch's generator": torch.initial_seed(),
    }


# ---- inputs and settings


def mark(value: Any, depth: int = 0) -> Any:
    """Return a fingerprint of arrays, tensors, sparse graphs and containers of them; None for other values."""
    if isinstance(value, Tensor):
        return _mark(value.detach()) if value.layout == torch.strided and value.device.type != "meta" else None
    if isinstance(value, np.ndarray):
        plain_numbers = value.dtype.kind in "fiub"
        return (value.shape, _mark_of(np.ascontiguousarray(value).reshape(-1).view(np.uint8))) if plain_numbers else None
    if hasattr(value, "indptr") and hasattr(value, "indices"):
        return [mark(part) for part in (value.data, value.indices, value.indptr)]
    if depth < 3 and isinstance(value, Mapping):
        return {name: mark(part, depth + 1) for name, part in value.items()}
    if depth < 3 and isinstance(value, list | tuple) and not all(isinstance(part, int | float | str) for part in value):
        return [mark(part, depth + 1) for part in value]
    if depth < 3 and is_dataclass(value):
        return {part.name: mark(getattr(value, part.name), depth + 1) for part in fields(value)}
    return None


def _mark(tensor: Tensor) -> Any:
    flat = tensor.contiguous().view(-1)
    octets = (torch.view_as_real(flat.resolve_conj()).view(-1) if flat.is_complex() else flat).view(torch.uint8)
    if octets.device.type == "cpu":
        return tuple(tensor.shape), _mark_of(octets.numpy())
    words = octets[: len(octets) // 4 * 4].view(torch.int32)
    return tuple(tensor.shape), [int(part.sum(dtype=torch.int64)) for part in words.split(HASHED)]


def _mark_of(octets: np.ndarray) -> Any:
    if octets.nbytes <= HASHED:
        return zlib.crc32(octets.data)
    words = octets[: len(octets) // 8 * 8].view(np.int64)
    return int(words.sum()), zlib.crc32(octets[words.nbytes :].data)


def _state_mark(memory: Any) -> Any:
    """Return a fingerprint of a memory's state; None if it has no ``update``, or if a momentum of 1 freezes it."""
    takes_in = overrides_update(type(memory)) and getattr(memory, "momentum", None) != 1
    return mark(dict(memory.state_dict())) if takes_in else None


remarks: list[str] = []
"""Warnings about unusual but possibly intended behaviour; the stage prints them."""


def _note_unchanged_memory(memory: Any, given: Mapping[str, Any]) -> None:
    targets = given.get("targets")
    if isinstance(targets, Tensor) and len(targets) and bool((targets >= 0).any()):
        remarks.append(f"memory {type(memory).__name__}: the update after a step changed nothing in it")


# ---- results


def _tensor(result: Any, shape: Sequence[int | None], wanted: str, reference: Any, found: str = "it returned") -> None:
    """Raise unless ``result`` is a float tensor of a shape (None: any length) on the device of ``reference``."""
    alien = " of numpy, no tensor" if isinstance(result, np.ndarray | np.generic) else ""
    require(isinstance(result, Tensor), f"{found} {describe_value(result)}{alien}, not {wanted}")
    right = len(result.shape) == len(shape) and all(b in (None, a) for a, b in zip(result.shape, shape))
    require(right, f"{found} {describe_value(result)}, not {wanted}")
    require(
        result.dtype in (torch.float32, torch.float16, torch.bfloat16),
        f"{found} {describe_value(result)}, not {wanted} of float32 (or half precision, where the stage computes so)",
    )
    others = list(_tensors(reference))
    if others:
        require(
            result.device == others[0].device,
            f"{found} a tensor on {result.device}, but was given one on {others[0].device}",
        )


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _tensors(part)


def _all_finite(value: Any) -> bool:
    """Return True if all floats in tensors and mappings of them are finite; other values count as finite."""
    return all(
        bool(torch.isfinite(tensor).all())
        for tensor in _tensors(value)
        if (tensor.is_floating_point() or tensor.is_complex()) and tensor.device.type != "meta"
    )


def _network_input(component: Any, result: Any, given: Mapping[str, Any]) -> None:
    images = next(_tensors(dict(given)))
    size = tuple(images.shape)
    _tensor(result, size, f"images of the size that it was given, {size}", images)
    require(result.dtype == torch.float32, f"it returned {describe_value(result)}; a network takes float32")


def _map(component: Any, result: Any, given: Mapping[str, Any]) -> None:
    images = next(_tensors(dict(given)))
    channels, dims = component.out_channels, getattr(component, "dims", {})
    tokens: Mapping[str, Any] = {}
    if dims:
        names = ", ".join(("map", *dims))
        named = isinstance(result, Mapping) and set(result) == {"map", *dims}
        require(named, f"it returned {describe_value(result)}, not a mapping of {names} (`dims`)")
        tokens, result = result, result["map"]
    wanted = f"a map of {images.shape[0]} images with {channels} channels"
    _tensor(result, (images.shape[0], channels, None, None), wanted, images, "its map is" if dims else "it returned")
    for name, width in dims.items():
        several = (None,) if name.endswith("tokens") else ()
        wanted = f"{'several vectors' if several else 'one vector'} of {width} numbers for each of {images.shape[0]} images"
        _tensor(tokens[name], (images.shape[0], *several, width), wanted, images, f"its {name} is")


def _features(component: Any, result: Any, given: Mapping[str, Any]) -> None:
    maps = next(_tensors(dict(given)))
    require(isinstance(result, Features), f"it returned {describe_value(result)}, not Features with `embed` among them")
    dims = component.dims
    missing = [name for name in ("embed", *dims) if name not in result]
    require(not missing, f"it returned no {', '.join(missing)}, which its `dims` name (it returned {', '.join(result)})")
    shown = [name for name in getattr(component, "figures", ()) if name not in result]
    require(not shown, f"it returned no {', '.join(shown)}, which its `figures` name")
    for name, feature in result.items():
        wanted = f"a feature of {maps.shape[0]} images" + (f" and {dims[name]} numbers each (`dims`)" if name in dims else "")
        found = f"its {name} is"
        parts = (None,) * (getattr(feature, "ndim", 2) - 2) if getattr(feature, "ndim", 2) in (2, 3) else ()
        _tensor(feature, (maps.shape[0], *parts, dims.get(name)), wanted, maps, found)


def _scores(component: Any, result: Any, given: Mapping[str, Any]) -> None:
    features = next(_tensors(dict(given)))
    columns = _columns.get(component)
    declared = contract_in_use(component)
    columns = None if declared.column_meaning or declared.outliers == "keep" else columns
    wanted = f"scores of {len(features)} images" + ("" if columns is None else f" against {columns} labels")
    _tensor(result, (len(features), columns, *features.shape[1:-1]), wanted, features)


def _provided(component: Any, result: Any, given: Mapping[str, Any]) -> None:
    missing = [name for name in sorted(contract_in_use(component).provides) if not hasattr(component, name)]
    require(not missing, f"after it the memory has no {', '.join(missing)}, which its `provides` declares")


def _scalar(component: Any, result: Any, given: Mapping[str, Any]) -> None:
    _tensor(result, (), "a scalar", dict(given))
    trained = any(tensor.requires_grad for tensor in _tensors(dict(given)))
    require(result.requires_grad or not (trained and torch.is_grad_enabled()), "the scalar that it returned has no gradient")


def _scalars(component: Any, result: Any, given: Mapping[str, Any]) -> None:
    require(not isinstance(result, Mapping) or bool(result), "it returned no value at all")
    for name, value in result.items() if isinstance(result, Mapping) else [("", result)]:
        _tensor(value, (), "a scalar", dict(given), f"its {one_line(name)} is" if name else "it returned")


def _labels(component: Any, result: Any, given: Mapping[str, Any]) -> None:
    images = next(iter(given.values())).shape[0]
    labels = np.asarray(result)
    require(labels.shape == (images,), f"it returned {describe_value(result)}, not labels ({images},)")
    require(labels.dtype.kind in "iu", f"it returned labels of {labels.dtype}, not int64")
    _gapless(labels)
    if contract_in_use(component).outliers == "never":
        require(bool((labels >= 0).all()), f"it left {int((labels < 0).sum())} outliers, but declares `outliers` never")


def _gapless(labels: np.ndarray) -> None:
    if not len(labels):
        return
    require(int(labels.min()) >= -1, f"a label is {labels.min()}; an outlier is -1, the others start at 0")
    used = np.unique(labels[labels >= 0])
    require(
        not len(used) or int(used[-1]) == len(used) - 1,
        f"its labels have gaps: {len(used)} labels, the largest is {used[-1] if len(used) else -1}",
    )


def _refined(component: Any, result: Any, given: Mapping[str, Any]) -> None:
    _label_set(component, result, next(iter(given.values())))


def _matched(component: Any, result: Any, given: Mapping[str, Any]) -> None:
    before = next(iter(given.values()))
    several = isinstance(result, list | tuple) and len(result) == len(before)
    require(several, f"it returned {describe_value(result)}, not a list of {len(before)} label sets, one for each labelling")
    for labels, old in zip(result, before, strict=True):
        _label_set(component, labels, old)


def _label_set(component: Any, result: Any, old: LabelSet) -> None:
    """Raise unless ``result`` is a correct label set, and its arrays are those of ``old`` and those that are declared."""
    images = len(old.labels)
    require(isinstance(result, LabelSet), f"it returned {describe_value(result)}, not a LabelSet")
    labels = result.labels
    right = isinstance(labels, np.ndarray) and labels.dtype == np.int64 and labels.shape == (images,)
    require(right, f"it returned labels {describe_value(labels)}, not int64 ({images},)")
    _gapless(labels)
    if contract_in_use(component).outliers == "never":
        require(bool((labels >= 0).all()), f"it left {int((labels < 0).sum())} outliers, but declares `outliers` never")
    before, there = old.arrays(), result.arrays()
    promised = contract_in_use(component).provides
    require(promised <= set(there), f"it gave no {', '.join(sorted(promised - set(there)))}, which its `provides` declares")
    undeclared = sorted(set(there) - promised - set(before))
    require(not undeclared, f"it gave {', '.join(undeclared)}, which its `provides` does not declare")
    for name, array in there.items():
        whole = isinstance(array, np.ndarray) and array.shape[:1] == (images,)
        require(whole, f"its {name} is {describe_value(array)}, not an array of {images} images")
        require(array.dtype.kind != "f" or bool(np.isfinite(array).all()), f"its {name} has NaN or infinite numbers")
    _weights(result.weights, images)
    _soft(result.soft_targets, labels, images, result.count)


def _weights(weights: np.ndarray | None, images: int) -> None:
    if weights is None:
        return
    require(weights.shape == (images,), f"its weights are {describe_value(weights)}, not ({images},)")
    right = bool(((weights >= 0) & (weights <= 1)).all())
    require(right, f"its weights reach from {weights.min()} to {weights.max()}, not 0 to 1")


def _soft(soft: np.ndarray | None, labels: np.ndarray, images: int, count: int) -> None:
    if soft is None:
        return
    require(soft.shape == (images, count), f"its soft targets are {describe_value(soft)}, not ({images}, {count})")
    sums = soft[labels >= 0].sum(1)
    right = bool((soft >= 0).all()) and (not len(sums) or float(np.abs(sums - 1).max()) < 1e-3)
    rule = "the row of an image in a cluster has no negative number and sums to 1"
    require(right, f"its soft targets are not probabilities: {rule}")


_CHECKS: dict[str, Callable[[Any, Any, Mapping[str, Any]], None]] = {
    "network input": _network_input,
    "map": _map,
    "features": _features,
    "scores": _scores,
    "provided": _provided,
    "scalar": _scalar,
    "scalars": _scalars,
    "labels": _labels,
    "label set": _refined,
    "label sets": _matched,
    "ignored": ignored,
    "trials": trials,
    "measured": measured,
    "summary": summary,
    "reranking": reranking,
    "reranked block": reranked_block,
}
"""Checks by name, as used in :attr:`reidx.registry.registry.Kind.results`."""

_EACH_STEP = ("network input", "map", "features", "scores", "scalar", "scalars")
"""Tensor results of a step; checks of their shapes are free and do not synchronise with the device."""
