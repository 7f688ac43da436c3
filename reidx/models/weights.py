"""Weight files: safe reading and all-or-nothing loading."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from reidx.errors import CheckpointError
from reidx.models.weight_files import load_tensors, refuse_unusable, size_of, verify_checksum


def read_weights(
    path: str | Path,
    module: nn.Module | None = None,
    wrappers: Sequence[str] = ("state_dict", "model", "params"),
) -> dict[str, Tensor]:
    """The tensors of a weight file by name (``.safetensors``, or a PyTorch file read with ``weights_only=True``).

    Wrappers of training scripts are removed: outer entries named in ``wrappers``, tried in that order, and the ``module.``
    prefix of data-parallel training. ``module``, if given, is the target of the weights: its size bounds
    that of the file, and its buffers may be infinite.

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
    for wrapper in wrappers:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    tensors = {}
    if isinstance(content, Mapping):
        tensors = {str(k).removeprefix("module."): v for k, v in content.items() if isinstance(v, Tensor)}
    if not tensors:
        raise CheckpointError(f"weights: {path} holds no named tensors, so it is not a file of weights.")
    refuse_unusable(tensors, path, () if module is None else dict(module.named_buffers()))
    return tensors


def extract_part(state: dict[str, Tensor], names: Collection[str], source: str | Path) -> tuple[dict[str, Tensor], list[str]]:
    """Extract the network with the parameters ``names`` from a file of a larger one; also returns a sentence on the rest.

    All names of such a network share a prefix (``backbone.``, ``_orig_mod.``). ``state`` is returned unchanged if it has one
    of ``names``, or lacks a prefix common to all. Raises :class:`CheckpointError` for several such prefixes.
    """
    first = next(iter(names), "")
    starts = {key.removesuffix(first) for key in state if key.endswith(f".{first}")}
    found = sorted(start for start in starts if all(start + name in state for name in names))
    if not found or not state.keys().isdisjoint(names):
        return state, []
    if len(found) > 1:
        raise CheckpointError(
            f"weights: {source} holds these weights under {' and under '.join(found)}. Save the right ones in a separate file."
        )
    part = {name.removeprefix(found[0]): value for name, value in state.items() if name.startswith(found[0])}
    said = [f"weights: {source}: of {len(state):,} tensors the {len(part):,} under `{found[0]}` are used"]
    return part, said if len(part) < len(state) else []


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
