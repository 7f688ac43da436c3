"""A config's values together with where each comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from reidx.errors import ConfigError

KeyPath = tuple[str | int, ...]
"""The keys and list positions that lead to a value."""


@dataclass(frozen=True)
class Origin:
    """Where a value comes from: file and line, or a phrase: ``--set``, ``default of GlobalPool``."""

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
        """Plain data as a node that comes from ``origin`` throughout; tuples become lists.

        Raises :class:`ConfigError`, which names ``origin`` and ``path``, for what YAML's core cannot hold.
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
        """Key or position, and node, of what is inside; nothing for a scalar."""
        if isinstance(self.value, dict):
            yield from self.value.items()
        elif isinstance(self.value, list):
            yield from enumerate(self.value)

    def plain(self) -> Any:
        """The value without origins."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value


def dotted(path: KeyPath) -> str:
    """``path`` as it is written after ``--set``: ``stages.0.epochs``."""
    return ".".join(map(str, path))


def kind_of(value: Any) -> str:
    """What a value is, in the words of an error message: ``a mapping``, ``a number``, ``null``."""
    if value is None:
        return "null"
    names = {dict: "a mapping", list: "a list", str: "a string", bool: "a boolean"}
    names |= {int: "a number", float: "a number"}
    return names.get(type(value), f"of Python's type {type(value).__name__}")
