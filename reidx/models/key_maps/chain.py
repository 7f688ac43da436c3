"""Application of the registered key maps (kind ``weights``) to the tensors of a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from torch import Tensor

from reidx.errors import CheckpointError, require
from reidx.registry.build import build
from reidx.registry.describing import describe_value
from reidx.registry.discovery import registry
from reidx.registry.seam import call


@dataclass
class Translated:
    """Tensors of a file after the key maps; ``origins`` has the name in the file of each, ``maps`` those used, in order."""

    tensors: dict[str, Tensor]
    origins: dict[str, str]
    maps: dict[str, Any] = field(default_factory=dict)

    @property
    def remarks(self) -> tuple[str, ...]:
        """The remarks of the maps used."""
        return tuple(text for made in self.maps.values() if (text := getattr(made, "remark", "")))


def translate(tensors: Mapping[str, Tensor]) -> Translated:
    """Apply the key maps that recognise the tensors of a file, each at most once.

    The maps are tried in the order of ``reidx list weights``: those of the core, then those of plugins, by name. After a map
    was applied, the search starts again with the renamed tensors. So a map of a training checkpoint (the teacher of DINO)
    may come before one of a network (Swin), whatever their names.
    """
    done = Translated(dict(tensors), {name: name for name in tensors})
    untried = {entry.name: build("weights", entry.name) for entry in registry().entries("weights")}
    while True:
        tried = ((name, call("weights", made, "__call__", _apply, made, done.tensors)) for name, made in untried.items())
        name, applied = next(((name, applied) for name, applied in tried if applied is not None), ("", {}))
        if not name:
            return done
        origins = {new: done.origins[old] for old, (new, _) in applied.items()}
        done = Translated(dict(applied.values()), origins, {**done.maps, name: untried.pop(name)})


def _apply(key_map: Any, tensors: Mapping[str, Tensor]) -> dict[str, tuple[str, Tensor]] | None:
    """New name and value of each tensor that a key map takes, by its present name; None if it does not recognise them."""
    rename = key_map(MappingProxyType(tensors))
    require(rename is None or callable(rename), f"it returned {describe_value(rename)}, not a function or None")
    if rename is None:
        return None
    applied: dict[str, tuple[str, Tensor]] = {}
    before: dict[str, str] = {}
    for old, tensor in tensors.items():
        result = rename(old, tensor)
        if result is None:
            continue
        right = isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], str) and isinstance(result[1], Tensor)
        require(right, f"its renaming of {old} returned {describe_value(result)}, not a name and a tensor")
        require(result[0] not in before, f"its renaming made {result[0]} of both {before.get(result[0])} and {old}")
        before[result[0]] = old
        applied[old] = result
    return applied


def suggest_model(tensors: Mapping[str, Tensor], path: str) -> dict[str, Any]:
    """Return the section ``model`` of a config that loads the weight file ``path`` with these ``tensors``.

    It is the suggestion of the last key map in use that has one: OSNet's width, for example, follows from the shape of its
    first convolution. Raises :class:`CheckpointError` for a file whose network no map recognises.
    """
    done = translate(tensors)
    for made in reversed(done.maps.values()):
        if hasattr(made, "suggest") and (model := call("weights", made, "suggest", made.suggest, done.tensors, path)):
            return dict(model)
    shown = ", ".join(list(tensors)[:6])
    read = f"read as {', '.join(done.maps)}, but of no known network" if done.maps else "in no known layout"
    raise CheckpointError(
        f"weights: {path} is {read}. It has {len(tensors)} tensors: {shown}{', …' if len(tensors) > 6 else ''}. State the "
        "network as `model` of a config; `reidx list weights` names the layouts that are recognised."
    )
