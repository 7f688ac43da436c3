"""What happens where two configs speak of the same key, and where an override reaches into a config."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from reidx.config_node import KeyPath, Node, Origin, dotted, kind_of
from reidx.errors import ConfigError
from reidx.yaml_text import DEEPEST, read_yaml

COMPONENT_KEYS = ("type", "loss")
"""The keys that name the component whose parameters the rest of the mapping is."""

SET = Origin("--set")
"""Where a value set on the command line comes from."""

Known = Callable[[KeyPath, dict[str, Any]], bool]
"""Whether an experiment with this data may have a key at this path, since the schema has a default for it."""


def merge(base: Node, over: Node) -> Node:
    """``over`` laid on ``base``: mappings key by key unless they name different components, else ``over``.

    Two mappings name different components when each has a ``type`` (or ``loss``) and these differ: parameters
    of the one must not reach the other. A mapping that names none adjusts whatever component is there. A mapping over a
    list of items with names (the stages) adjusts those that it names; raises :class:`ConfigError` for a name not there.
    """
    if isinstance(base.value, list) and base.value and all(map(_has_name, base.value)) and isinstance(over.value, dict):
        return _items_adjusted(base, over)
    if not isinstance(base.value, dict) or not isinstance(over.value, dict) or _another_component(base, over):
        return over
    merged = dict(base.value)
    for key, node in over.value.items():
        merged[key] = merge(merged[key], node) if key in merged else node
    return Node(merged, over.origin)


def _items_adjusted(base: Node, over: Node) -> Node:
    names = [item.value["name"].value for item in base.value]
    if len({name for name in names if isinstance(name, str)}) < len(names):
        raise ConfigError(f"{over.origin}: a mapping changes items by name, and those of {base.origin} are not all different.")
    items = dict(zip(names, base.value))
    for name, changes in over.value.items():
        if name not in items:
            raise ConfigError(f"{changes.origin}: there is no {name!r} to be changed. {_hint(name, items)}")
        items[name] = merge(items[name], changes)
    return Node(list(items.values()), over.origin)


def _another_component(base: Node, over: Node) -> bool:
    for key in COMPONENT_KEYS:
        names = [node.value[key].value for node in (base, over) if key in node.value]
        if len(names) == 2 and all(isinstance(name, str) for name in names) and names[0] != names[1]:
            return True
    return False


def refuse_base(node: Node) -> None:
    """Raise :class:`ConfigError` if there is a ``_base_`` anywhere in ``node``."""
    for key, child in node.children():
        if key == "_base_":
            raise ConfigError(f"{child.origin}: _base_ may only stand at the top level of a file.")
        refuse_base(child)


class Override:
    """A value to be put at a path into a config: ``key.path``, or ``+key.path`` which adds a key that is not there.

    ``where`` begins the message of each :class:`ConfigError`: when it is malformed or, on use, fits nothing. The first
    ``keys`` of the path may have dots in them.
    """

    def __init__(
        self, path: str, value: Node, where: str, known: Known | None = None, keys: Sequence[str] = ()
    ) -> None:
        self.where, self.value, self.known = where, value, known
        self.adds = path.startswith("+")
        self.path = path.removeprefix("+")
        own = self.path[len(".".join(keys)) :]
        self.names = [*keys, *own.split(".")[1:]] if keys else own.split(".")
        if not all(name and name == name.strip() for name in self.names):
            raise self.error("write key.path=value, with no spaces in key.path.")
        if len(self.names) > DEEPEST:
            raise self.error(f"more than {DEEPEST} levels deep.")
        if "_base_" in self.names:
            raise self.error("_base_ cannot be set; it belongs at the top of a file.")
        refuse_base(value)

    @classmethod
    def read(cls, text: str, known: Known | None = None, keys: Sequence[str] = ()) -> Override:
        """The override that ``key.path=value``, its value in YAML, is on a command line.

        ``keys`` are those that the text begins with, if these have dots or equals signs in them.
        """
        begin = ".".join(keys)
        rest, equals, value = text[len(begin) :].partition("=")
        path = begin + rest
        # without its sign there is no value to be read, but the path may be wrong already
        override = cls(path if equals else "", Node(None, SET), f"--set {text}", known, keys if equals else ())
        node = read_yaml(value, override.where, lines=False)
        if node is None:
            raise override.error("there is no value; write null or '' if that is what you mean.")
        refuse_base(node)
        override.value = Node.of(node.plain(), SET)
        return override

    @property
    def origins(self) -> set[Origin]:
        """Where the values that it puts in come from."""
        return _origins(self.value)

    def applied_to(self, root: Node) -> Node:
        """``root`` with the value in place."""
        self.data = root.plain()
        return self._put(root, self.names, ())

    def _put(self, node: Node, names: Sequence[str], path: KeyPath) -> Node:
        """``node``, which stands at ``path``, with the value put in at ``names`` below it."""
        inside = {} if node.value is None else node.value
        key: Any  # the position in a list, the key in a mapping
        if isinstance(inside, list):
            key = self._position(inside, names[0], path)
            old = inside[key] if key < len(inside) else None
        elif isinstance(inside, dict):
            key, old = names[0], inside.get(names[0])
            if old is None:
                self._check_new(key, inside, path)
        else:
            raise self.error(f"{dotted(path)} is {kind_of(inside)} and has nothing inside.")
        here = (*path, key)
        if len(names) > 1:
            new = self._put(old or Node({}, self.value.origin), names[1:], here)
        elif old is not None and self.adds:
            raise self.error(f"{dotted(here)} exists already; drop the +.")
        else:
            new = self.value if old is None else merge(old, self.value)
        if isinstance(inside, list):
            return Node([*inside[:key], new, *inside[key + 1 :]], node.origin)
        alone = Node({key: new}, node.origin)
        if _another_component(Node(inside, node.origin), alone):
            return alone
        return Node({**inside, key: new}, node.origin)

    def _check_new(self, name: str, inside: dict[str, Node], path: KeyPath) -> None:
        place = dotted(path) or "the experiment"
        if name.isdecimal():
            raise self.error(f"{place} is not a list, so it has no item {name}; set {place} as a whole.")
        if self.adds or (self.known is not None and self.known((*path, name), self.data)):
            return
        raise self.error(
            f"{place} has no key {name!r}. {_hint(name, inside)} To add a new key, write +{self.path}=..."
        )

    def _position(self, items: list[Node], name: str, path: KeyPath) -> int:
        if name.isdecimal():
            if int(name) < len(items) + self.adds:  # the + may append one
                return int(name)
            raise self.error(f"{dotted(path)} has {len(items)} items, counted from 0.")
        names = [item.value["name"].value if _has_name(item) else None for item in items]
        found = [i for i, known in enumerate(names) if known == name]
        if len(found) == 1:
            return found[0]
        if found:
            choice = " or ".join(dotted((*path, i)) for i in found)
            raise self.error(f"{dotted(path)} has {len(found)} items named {name!r}; say which: {choice}.")
        hint = _hint(name, [known for known in names if isinstance(known, str)])
        raise self.error(f"{dotted(path)} has no item named {name!r}. {hint} Positions count from 0.")

    def error(self, message: str) -> ConfigError:
        return ConfigError(f"{self.where}: {message}")


def _origins(node: Node) -> set[Origin]:
    return {node.origin}.union(*(_origins(child) for _, child in node.children()))


def _has_name(item: Node) -> bool:
    return isinstance(item.value, dict) and "name" in item.value


def _hint(name: str, candidates: Iterable[str]) -> str:
    candidates = list(candidates)
    close = difflib.get_close_matches(name, candidates, n=3, cutoff=0.5)
    if close:
        return f"Did you mean {' or '.join(close)}?"
    return f"It has: {', '.join(candidates) or 'none'}."
