"""Loading of weight files: tensors of any known layout under the names of a network, all or none."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from reidx.errors import CheckpointError
from reidx.models.key_maps import LoadReport, Translated, translate
from reidx.models.weight_files import load_tensors, refuse_unusable, size_of, verify_checksum

HEADS = re.compile(r"(heads?|head_dist|fc|classifier|bottleneck|neck|bnneck|feat|feat_bn|pre_logits)(_\w+)?\.|mask_token$")
"""Names of parts that belong to the training of the network of a file: left out unless the network has them."""

ENTRIES = ("state_dict", "model", "params")
"""Entries of a file that hold the network, next to the state of its training."""

TRAINING = ("optimizer", "optimizers", "scheduler", "lr_scheduler", "scaler", "fp16_scaler", "amp")
"""Entries of a file that hold the state of a training."""

DEPTH = 8
"""Levels of nested entries that are read; a file may contain itself."""


def read_weights(path: str | Path, module: nn.Module | None = None) -> dict[str, Tensor]:
    """The tensors of a weight file by name (``.safetensors``, or a PyTorch file read with ``weights_only=True``).

    The entries :data:`ENTRIES` of training scripts are unwrapped; names of other nested tensors are joined by a point
    (``teacher.backbone.cls_token``). ``module``, if given, is the target of the weights: its size bounds that of the file, and
    its buffers may be infinite.

    Raises:
        CheckpointError: the file is missing, unreadable, far too large, holds more than tensors, or holds none; it does not
            match its checksum file; a tensor is no weight: NaN, infinite, complex, sparse, quantised.
    """
    path = Path(os.path.expanduser(path))  # Path.expanduser raises for an unknown user
    try:
        content = load_tensors(path, 0 if module is None else size_of(module))
        verify_checksum(path)
    except CheckpointError as error:
        raise CheckpointError(f"weights: {error}") from error
    tensors = named_tensors(content)
    if not tensors:
        raise CheckpointError(f"weights: {path} holds no named tensors, so it is not a file of weights.")
    refuse_unusable(tensors, path, () if module is None else dict(module.named_buffers()))
    return tensors


def named_tensors(content: Any) -> dict[str, Tensor]:
    """The tensors in the content of a file by their joined names; empty for a content without named tensors.

    The state of the training (:data:`TRAINING`) is no part of a network and is left out.
    """
    for _ in range(DEPTH):
        if not isinstance(content, Mapping):
            return {}
        content = next((content[name] for name in ENTRIES if isinstance(content.get(name), Mapping)), content)
    return _flat(content, "", DEPTH)


def _flat(content: Mapping[Any, Any], prefix: str, depth: int) -> dict[str, Tensor]:
    found = {f"{prefix}{name}": value for name, value in content.items() if isinstance(value, Tensor)}
    for name, value in content.items():
        if isinstance(value, Mapping) and depth and str(name) not in TRAINING:
            found |= _flat(value, f"{prefix}{name}.", depth - 1)
    return found


def weights_for(
    path: str | Path, names: Collection[str], module: nn.Module | None = None, known: Collection[str] | None = None
) -> tuple[dict[str, Tensor], LoadReport]:
    """The tensors of a file for the network with the parameters ``names``, and a report on them.

    The file may have a layout of any key map (kind ``weights``), and may hold the network within a larger one, under a prefix
    such as ``module.`` or ``backbone.``. Heads and necks that the network lacks are left out. ``known`` are all names of the
    network, also buffers. If the file lacks some of ``names``, the result has the tensors of the likeliest part of the file,
    for :func:`load_state` to refuse.

    Raises :class:`CheckpointError` as :func:`read_weights`, and for a file with several such networks.
    """
    tensors = read_weights(path, module)
    done = translate(tensors)
    prefix, whole = _part(done.tensors, names, path)
    if not whole and done.maps:
        plain, whole = _part(tensors, names, path)
        if whole:  # names of the network itself, which a map took for another layout
            done, prefix = Translated(tensors, {name: name for name in tensors}), plain
    known = names if known is None else known
    inside = {name.removeprefix(prefix): name for name in done.tensors if name.startswith(prefix)}
    part = {inner: done.tensors[name] for inner, name in inside.items() if inner in known or not HEADS.match(inner)}
    origins = {done.origins[inside[inner]] for inner in part}
    taken = tuple(name for name in part if name in known)
    left = tuple(name for name in tensors if name not in origins)
    shared = "".join(f"{part}." for part in _shared_parts([name.split(".")[:-1] for name in origins]))
    return part, LoadReport(str(path), tuple(done.maps), taken, left, remarks=done.remarks, prefix=shared)


def _shared_parts(paths: Sequence[Sequence[str]]) -> list[str]:
    """The parts with which all of these paths begin."""
    return [parts[0] for parts in itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*paths))]


def _part(state: Mapping[str, Tensor], names: Collection[str], source: str | Path) -> tuple[str, bool]:
    """The prefix of the network with the parameters ``names`` in a file, and whether all of them are there.

    Raises :class:`CheckpointError` for several whole networks.
    """
    starts: dict[str, int] = {"": sum(name in state for name in names)}
    for sought in list(names)[:4]:  # a file that lacks one of them may still have the others
        for start in {key.removesuffix(sought) for key in state if key.endswith(f".{sought}")}:
            starts.setdefault(start, sum(start + name in state for name in names))
    whole = sorted(start for start, count in starts.items() if count == len(names)) if names else []
    if len(whole) > 1 and "" not in whole:
        raise CheckpointError(
            f"weights: {source} holds these weights under {' and under '.join(whole)}. Save the right ones in a separate file."
        )
    return max(starts, key=starts.__getitem__), bool(whole)


def load_state(module: nn.Module, state: Mapping[str, Tensor], source: str | Path) -> None:
    """Copy ``state`` into ``module``, only if every name and shape matches.

    Raises:
        CheckpointError: names are missing or left over, or shapes differ; each kind is listed.
    """
    own = module.state_dict()
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in state if k not in own]
    differing = [
        f"{k} (file {tuple(v.shape)}, model {tuple(own[k].shape)})"
        for k, v in state.items()
        if k in own and v.shape != own[k].shape
    ]
    typed = [
        f"{k} (file {v.dtype}, model {own[k].dtype})"
        for k, v in state.items()
        if k in own and v.is_floating_point() != own[k].is_floating_point()
    ]
    problems = {
        "missing in the file": missing,
        "unknown to the model": unexpected,
        "of another shape": differing,
        "of another type": typed,
    }
    if any(problems.values()):
        listing = "; ".join(f"{kind}: {_some(names)}" for kind, names in problems.items() if names)
        raise CheckpointError(f"weights: {source} does not fit {type(module).__name__}: {listing}.")
    module.load_state_dict(state, strict=False)  # strict except for the counters checked above


def _some(names: list[str], shown: int = 6) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
