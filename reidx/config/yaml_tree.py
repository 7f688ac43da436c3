"""Tree of an experiment: its file, base files and overrides merged, with the origin of each value."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reidx.config.files import ConfigFile
from reidx.config.merge import Override, Sections, merge, refuse_base
from reidx.config.node import KeyPath, Node, Origin, dotted, kind_of
from reidx.config.yaml_text import DEEPEST, escape, read_yaml, write_scalar
from reidx.errors import ConfigError, ReidxError

__all__ = [
    "KeyPath",
    "Origin",
    "Tree",
    "dotted",
    "kind_of",
    "load_node",
    "load_tree",
    "render",
    "tree_hash",
    "tree_of",
]


@dataclass
class Tree:
    """Merged data (dicts, lists, scalars) with the origin of every key and list item by path."""

    data: dict[str, Any] = field(default_factory=dict)
    origins: dict[KeyPath, Origin] = field(default_factory=dict)

    def origin(self, path: KeyPath) -> Origin:
        """Return the origin of the value at ``path``, or of its nearest ancestor that has one."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.origins:
                return self.origins[path[:length]]
        return Origin("unknown origin")

    def get(self, path: KeyPath) -> Any:
        """Return the value at ``path``; raises KeyError, IndexError or TypeError if there is none."""
        value: Any = self.data
        for key in path:
            value = value[key]
        return value

    def set(self, path: KeyPath, value: Any, origin: Origin) -> None:
        """Set the value at ``path``, with ``origin`` for it and all its children; the parent must exist.

        Tuples become lists. Raises :class:`ConfigError` if ``value`` is not plain data.
        """
        node = Node.of(value, origin, path)
        self.get(path[:-1])[path[-1]] = node.plain()
        self.origins = {known: o for known, o in self.origins.items() if known[: len(path)] != path}
        self.origins.update(_origins(node, path))


def load_tree(path: str | Path, overrides: Sequence[str] = (), sections: Sections | None = None) -> Tree:
    """Load the experiment at ``path`` (or ``namespace::file.yaml``) with its bases and ``overrides``.

    Later ``_base_`` files win over earlier ones, the file over its bases, and the overrides (``key.path=value``, the value
    in YAML) over the file, in the order given. Mappings merge key by key, except that a mapping which names a different
    component (``type``) replaces the old one; other values are replaced.

    List items are addressed by position or by their ``name``. An override may set keys of the merged file and keys that
    ``sections`` has at their path, where the schema has a default. Where the user chooses the names,
    ``+key.path=value`` adds one. Raises :class:`ConfigError`.
    """
    return tree_of(load_node(path), [Override.read(text, sections) for text in overrides])


def load_node(path: str | Path) -> Node:
    """Load the experiment at ``path`` (or ``namespace::file.yaml``), merged onto its ``_base_`` files, with origins."""
    return Bases().load(ConfigFile.at(str(path)), None, ())


def tree_of(root: Node, overrides: Sequence[Override]) -> Tree:
    """Apply ``overrides`` to an experiment, in the order given."""
    for override in overrides:
        root = override.applied_to(root)
    return Tree(root.plain(), dict(_origins(root)))


def render(tree: Tree, origins: bool = True) -> str:
    """Write ``tree`` as YAML that loads to the same data, with the origin of each value in an aligned comment."""
    rows = list(_rows(tree, ())) or [("{}", None)]
    width = max((len(text) for text, origin in rows if origin and len(text) <= 60), default=0)
    return "".join(
        f"{text:<{width}}  # {escape(str(origin))}\n" if origin and origins else f"{text}\n"
        for text, origin in rows
    )


def tree_hash(data: Mapping[str, Any]) -> str:
    """Hash ``data`` to twelve hexadecimal digits, independent of the order of its keys."""
    canonical = json.dumps(data, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


# ---- bases


MOST_FILES = 1000  # limit of base files in one experiment, repetitions counted


class Bases:
    """Loader for the files of one experiment; reads and merges each file once."""

    def __init__(self) -> None:
        self.loaded: dict[Path, Node] = {}
        self.named = 0

    def load(self, file: ConfigFile, asked_by: Origin | None, chain: tuple[tuple[ConfigFile, Path], ...]) -> Node:
        """Load ``file`` with its bases; ``asked_by`` is the origin of its ``_base_`` entry, ``chain`` the files above it."""
        try:
            real = _resolved(file)
            text = None if real in self.loaded else file.read()
        except ConfigError as error:
            raise ConfigError(f"{asked_by}: _base_: {error}" if asked_by else str(error)) from None
        chain = (*chain, (file, real))
        if any(real == earlier for _, earlier in chain[:-1]):
            raise ConfigError(f"{asked_by}: _base_ is circular: {' -> '.join(str(link) for link, _ in chain)}.")
        if len(chain) > DEEPEST:
            raise ConfigError(f"{asked_by}: _base_: bases of bases are nested more than {DEEPEST} levels deep.")
        if text is not None:
            self.loaded[real] = self._merged(text, file, chain)
        return self.loaded[real]

    def _merged(self, text: str, file: ConfigFile, chain: tuple[tuple[ConfigFile, Path], ...]) -> Node:
        """Parse ``text`` and merge it onto its bases."""
        root = read_yaml(text, str(file))
        if root is None:
            raise ConfigError(f"{file}:1: the file is empty; an experiment is a mapping (`key: value`).")
        if not isinstance(root.value, dict):
            found = kind_of(root.value)
            raise ConfigError(f"{file}:1: the file holds {found}; an experiment is a mapping (`key: value`).")
        own = Node({key: node for key, node in root.value.items() if key != "_base_"}, root.origin)
        refuse_base(own)
        merged: Node | None = None
        for address, origin in _bases(root.value.get("_base_")):
            self.named += 1
            if self.named > MOST_FILES:
                raise ConfigError(f"{origin}: _base_: more than {MOST_FILES} bases in one experiment.")
            try:
                base = file.base(address)
            except ReidxError as error:
                raise type(error)(f"{origin}: _base_: {error}") from None
            loaded = self.load(base, origin, chain)
            merged = loaded if merged is None else merge(merged, loaded)
        return own if merged is None else merge(merged, own)


def _resolved(file: ConfigFile) -> Path:
    """Resolve a file to its canonical path. Raises :class:`ConfigError` if it has none."""
    try:
        return file.file.resolve()
    except (OSError, ValueError, RuntimeError):  # circular links or a null character: read() reports it
        file.read()
        raise


def _bases(node: Node | None) -> Iterator[tuple[str, Origin]]:
    items = [] if node is None else node.value if isinstance(node.value, list) else [node]
    for item in items:
        if not isinstance(item.value, str) or not item.value:
            raise ConfigError(
                f"{item.origin}: _base_ takes a path or a list of paths (relative to this file, or "
                f"namespace::path.yaml), not {'an empty one' if item.value == '' else kind_of(item.value)}."
            )
        yield item.value, item.origin


def _origins(node: Node, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Origin]]:
    yield path, node.origin
    for key, child in node.children():
        yield from _origins(child, (*path, key))


# ---- writing


def _rows(tree: Tree, path: KeyPath) -> Iterator[tuple[str, Origin | None]]:
    """Yield the lines of the mapping or list at ``path``, each with the origin to show."""
    value = tree.get(path)
    for key in value if isinstance(value, dict) else range(len(value)):
        here = (*path, key)
        flow = _flow(tree, here)
        if isinstance(value, dict):
            if flow is not None:
                yield f"{write_scalar(key)}: {flow}", tree.origin(here)
            else:
                yield f"{write_scalar(key)}:", None
                yield from ((f"  {text}", origin) for text, origin in _rows(tree, here))
        elif flow is not None:
            yield f"- {flow}", tree.origin(here)
        else:
            yield from (
                (f"{'  ' if i else '- '}{text}", origin) for i, (text, origin) in enumerate(_rows(tree, here))
            )


def _flow(tree: Tree, path: KeyPath) -> str | None:
    """Format the value at ``path`` if it fits on the line of its key: a scalar, or a short list of scalars of one source."""
    value = tree.get(path)
    if isinstance(value, dict):
        return None if value else "{}"
    if not isinstance(value, list):
        return write_scalar(value)
    sources = {tree.origin((*path, i)).source for i in range(len(value))}
    if len(sources) > 1 or any(isinstance(item, (dict, list)) for item in value):
        return None
    text = f"[{', '.join(map(write_scalar, value))}]"
    return text if len(text) <= 80 or not value else None
