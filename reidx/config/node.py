"""Config values with their origins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from reidx.errors import ConfigError

KeyPath = tuple[str | int, ...]
"""Keys and list positions that lead to a value."""


@dataclass(frozen=True)
class Origin:
    """The source of a value: file and line, or a phrase such as ``--set`` or ``default of GlobalPool``."""

    source: str
    line: int | None = None

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source}:{self.line}"


@dataclass(frozen=True)
class Node:
    """A value with its origin: a scalar, or a ``dict[str, Node]`` or ``list[Node]`` of further nodes."""

    value: Any
    origin: Origin

    @classmethod
    def of(cls, value: Any, origin: Origin, path: KeyPath = ()) -> Node:
        """Convert plain data to nodes that all have the given ``origin``; tuples become lists.

        Raises :class:`ConfigError`, which names ``origin`` and ``path``, for data outside YAML's core schema.
        """
        if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            return cls({key: cls.of(child, origin, (*path, key)) for key, child in value.items()}, origin)
        if isinstance(value, (list, tuple)):
            return cls([cls.of(child, origin, (*path, i)) for i, child in enumerate(value)], origin)
        if value is None or isinstance(value, bool):
            return cls(value, origin)
        for plain in (int, float, str):
            if isinstance(value, plain):
                return cls(str.__str__(value) if plain is str else plain(value), origin)
        raise ConfigError(f"{origin}: {dotted(path)} is {kind_of(value)}; a config holds plain data only.")

    def children(self) -> Iterator[tuple[str | int, Node]]:
        """Yield the key or position and the node of each child; a scalar has none."""
        if isinstance(self.value, dict):
            yield from self.value.items()
        elif isinstance(self.value, list):
            yield from enumerate(self.value)

    def plain(self) -> Any:
        """Return the value without origins."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value


def dotted(path: KeyPath) -> str:
    """Format ``path`` in the syntax of ``--set``: ``stages.0.epochs``."""
    return ".".join(map(str, path))


def kind_of(value: Any) -> str:
    """Name the type of a value for an error message: ``a mapping``, ``a number``, ``null``."""
    if value is None:
        return "null"
    names = {dict: "a mapping", list: "a list", str: "a string", bool: "a boolean"}
    names |= {int: "a number", float: "a number"}
    return names.get(type(value), f"of Python's type {type(value).__name__}")
