"""Valid keys at each path of an experiment, from the schema."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from typing import Any

from reidx.config.merge import Section
from reidx.config.node import KeyPath
from reidx.config.renamed import RENAMED
from reidx.config.schema import Experiment, Labelling, Stage

ANY = Section(checked=True)
"""Section of a component, whose keys are checked with it, or of a mapping under names chosen by the user."""


def key_of(field: dataclasses.Field[Any]) -> str:
    """The key of a schema field: its name without the trailing underscore that avoids a Python keyword (``from_``)."""
    return field.name.removesuffix("_")


def section_of(hint: Any) -> type | None:
    """The schema class that a field holds one of, or may hold (``float | Section``); None for others."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    choices = [hint] if isinstance(hint, type) else typing.get_args(hint) if union else []
    return next((choice for choice in choices if dataclasses.is_dataclass(choice)), None)


def section_at(path: KeyPath) -> Section:
    """Return the valid keys of the mapping at ``path``; the top level also has the keys of a stage."""
    if not path:
        stage = _section(Stage)
        return Section(_section(Experiment).keys | stage.keys - {"name"}, stage.old)
    cls: Any = Stage
    keys = list(path)
    if keys[0] == "stages":
        keys = keys[2:]
    elif keys[0] in _section(Experiment).keys:
        cls = Experiment
    while keys:
        name = str(keys.pop(0))
        field = next((field for field in dataclasses.fields(cls) if key_of(field) == name), None)
        if cls is Stage and name == "labels":  # its keys are the defaults of each labelling
            cls = Labelling
            if not keys:
                return Section(_section(cls).keys | {"labellings"}, _section(cls).old)
            if keys == ["labellings"]:
                return ANY
            if keys[0] == "labellings":
                keys = keys[2:]
            continue
        if field is None or "kind" in field.metadata or "catalogue" in field.metadata:
            return ANY
        hint = _hints(cls)[field.name]
        inner = next((a for a in typing.get_args(hint) if dataclasses.is_dataclass(a)), None)
        if (section := section_of(hint)) is not None:
            cls = section
        elif inner is None:
            return Section(free=typing.get_origin(hint) is dict)  # a list or a number has no keys
        elif not keys:
            return ANY
        else:
            keys, cls = keys[1:], inner
    return _section(cls)


@functools.cache
def _section(cls: type) -> Section:
    keys = frozenset(key_of(field) for field in dataclasses.fields(cls))
    return Section(keys, frozenset(RENAMED.get(cls.__name__, ())))


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)
