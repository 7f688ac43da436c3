"""Traversal of the components of an experiment, shared by the checks and the engine."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import Any

from reidx.config.node import KeyPath
from reidx.config.schema import Experiment, Spec, Stage


@dataclass(frozen=True)
class Part:
    """A component in an experiment: its kind, its resolved spec, its key path, and the section that holds it."""

    kind: str
    spec: Spec
    path: KeyPath
    holder: Any

    @property
    def name(self) -> str:
        return str(self.spec["type"])


def parts_of(section: Any, path: KeyPath = ()) -> Iterator[Part]:
    """Yield every component of a section and its subsections, in schema order; ``path`` leads to the section."""
    for slot in fields(section):
        value, at = getattr(section, slot.name), (*path, slot.name, *slot.metadata.get("below", ()))
        kind = slot.metadata.get("kind")
        for item, place in _items(value, at):
            if kind is not None and item is not None:
                yield Part(kind, item, place, section)
            elif is_dataclass(item):
                yield from parts_of(item, place)


def _items(value: Any, at: KeyPath) -> Iterator[tuple[Any, KeyPath]]:
    """Yield the value, or each item of a list or mapping of sections or components, with its key path."""
    if isinstance(value, dict) and not isinstance(value.get("type"), str):
        yield from ((item, (*at, name)) for name, item in value.items())
    elif isinstance(value, list):
        yield from ((item, (*at, index)) for index, item in enumerate(value))
    else:
        yield value, at


@cache
def places() -> dict[str, str]:
    """Return the first key path of each kind of component; ``NAME`` is a name chosen by the user."""
    return dict(reversed(list(_places(Experiment, ()))))


_ITEM: dict[Any, str] = {dict: "NAME", list: "0"}


def _places(cls: type, path: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for slot in fields(cls):
        hint, container = typing.get_type_hints(cls)[slot.name], slot.metadata.get("container")
        inner = next((a for a in (hint, *typing.get_args(hint)) if is_dataclass(a)), None)
        if inner is Stage:
            yield from _places(Stage, path)
        elif inner is not None:
            several = _ITEM.get(typing.get_origin(hint))
            own = () if several is None or slot.metadata.get("below") else (several,)
            yield from _places(inner, (*path, slot.name, *own))  # type: ignore[arg-type]
        elif (kind := slot.metadata.get("kind")) is not None:
            yield kind, ".".join((*path, slot.name, *([_ITEM[container]] if container in _ITEM else [])))
