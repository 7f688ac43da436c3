"""What happens where two configs speak of the same key, and where an override reaches into a config."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from reidx.config.node import KeyPath, Node, Origin, dotted, kind_of
from reidx.config.yaml_text import DEEPEST, escape, read_value
from reidx.errors import ConfigError, excerpt, suggest

COMPONENT_KEY = "type"
"""The key that names the component whose parameters the rest of the mapping is."""

SET = Origin("--set")
"""Where a value set on the command line comes from."""


@dataclass(frozen=True)
class Section:
    """The keys that a mapping of an experiment may have."""

    keys: frozenset[str] = frozenset()
    old: frozenset[str] = frozenset()
    """Keys of an earlier version, whose new names the check of the experiment gives."""
    checked: bool = False
    """Whether any other key is checked with a component."""
    free: bool = False
    """Whether the keys are names of the user's choice."""

    def accepts(self, key: str) -> bool:
        """Whether a key may be set here that no file has set."""
        return self.checked or key in self.keys or key in self.old


Sections = Callable[[KeyPath], Section]
"""The section at each path of the schema."""


def merge(base: Node, over: Node, path: KeyPath = ()) -> Node:
    """``over``, which stands at ``path``, laid on ``base``: mappings key by key unless they name different components, else
    ``over``.

    Two mappings name different components when each has a ``type`` and these differ: parameters of the one must not
    reach the other. A mapping that names none adjusts the component that is there, also one written as its name alone. A
    mapping over a list of items with names (the stages) adjusts those that it names. Raises :class:`ConfigError` for a name
    not there, and for an empty mapping inside ``over`` that seems to be meant to empty one in ``base``.
    """
    if isinstance(base.value, list) and base.value and all(map(_has_name, base.value)) and isinstance(over.value, dict):
        return _items_adjusted(base, over, path)
    base = _written_out(base, over)
    if not isinstance(base.value, dict) or not isinstance(over.value, dict) or _another_component(base, over):
        return over
    merged = dict(base.value)
    for key, node in over.value.items():
        here = (*path, key)
        if key in merged and node.value == {} and _seems_emptied(merged[key], node):
            raise ConfigError(f"{node.origin}: {dotted(here)}: {{}} {unchanged(merged[key], dotted(here))}")
        merged[key] = merge(merged[key], node, here) if key in merged else node
    return Node(merged, over.origin)


def _written_out(base: Node, over: Node) -> Node:
    """``base`` as a mapping where it is a component's name alone and ``over`` adjusts that component."""
    if isinstance(base.value, str) and isinstance(over.value, dict) and COMPONENT_KEY not in over.value:
        return Node({COMPONENT_KEY: base}, base.origin)
    return base


def _seems_emptied(base: Node, over: Node) -> bool:
    """Whether an empty mapping over ``base``, which stays as it is, was meant to take everything out of it.

    On a command line it has no other use. In a file a section may be left empty; a table of numbers (the rates) is none.
    """
    if not isinstance(base.value, dict) or not base.value:
        return False
    return over.origin == SET or all(isinstance(child.value, (int, float)) for child in base.value.values())


def unchanged(base: Node, path: str) -> str:
    """Why a mapping laid on ``base``, which stands at ``path``, has no effect, and what has one."""
    if not isinstance(base.value, dict):
        return f"has no effect: a mapping over the list {path} changes the items that it names, and here it changes none."
    names = list(map(str, base.value))
    kept = excerpt(", ".join(names[:5]) + (", …" if len(names) > 5 else ""))
    why = f"has no effect, as mappings merge key by key: {path} keeps {kept}."
    if {COMPONENT_KEY, "name"} & set(names):
        return f"{why} Give the keys that shall change, with their new values."
    return f"{why} To empty it: {path}=null; to take out one name: {path}={{{excerpt(names[0])}: null}}."


def _items_adjusted(base: Node, over: Node, path: KeyPath) -> Node:
    names = [item.value["name"].value for item in base.value]
    if len({name for name in names if isinstance(name, str)}) < len(names):
        raise ConfigError(f"{over.origin}: a mapping changes items by name, and those of {base.origin} are not all different.")
    items = dict(zip(names, base.value))
    for name, changes in over.value.items():
        if name not in items:
            raise ConfigError(f"{changes.origin}: there is no {excerpt(name)!r} to change. {_hint(name, items)}")
        items[name] = merge(items[name], changes, (*path, name))
    return Node(list(items.values()), over.origin)


def _another_component(base: Node, over: Node) -> bool:
    names = [node.value[COMPONENT_KEY].value for node in (base, over) if COMPONENT_KEY in node.value]
    return len(names) == 2 and all(isinstance(name, str) for name in names) and names[0] != names[1]


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
        self, path: str, value: Node, where: str, sections: Sections | None = None, keys: Sequence[str] = ()
    ) -> None:
        self.where, self.value, self.sections = where, value, sections
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
    def read(cls, text: str, sections: Sections | None = None, keys: Sequence[str] = ()) -> Override:
        """The override that ``key.path=value`` is on a command line; of the value, :func:`reidx.config.yaml_text.read_value`.

        ``keys`` are those that the text begins with, if these have dots or equals signs in them.
        """
        shown = excerpt("".join(c if c.isprintable() else escape(c) for c in text))
        begin = ".".join(keys)
        rest, equals, value = text[len(begin) :].partition("=")
        path = begin + rest
        # without its sign there is no value to be read, but the path may be wrong already
        override = cls(path if equals else "", Node(None, SET), f"--set {shown}", sections, keys if equals else ())
        quoted = shlex.quote(f'{excerpt(path)}="{excerpt(escape(value))}"')
        node = read_value(value, override.where, f"To give it as text: --set {quoted}")
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
        return self._put(root, self.names, ())

    def _put(self, node: Node, names: Sequence[str], path: KeyPath) -> Node:
        """``node``, which stands at ``path``, with the value put in at ``names`` below it."""
        inside = {} if node.value is None else node.value
        if isinstance(inside, str) and self._section(path).accepts(names[0]):
            inside = {COMPONENT_KEY: node}
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
            new = self.value if old is None else self._laid_on(old, here)
        if isinstance(inside, list):
            return Node([*inside[:key], new, *inside[key + 1 :]], node.origin)
        alone = Node({key: new}, node.origin)
        if _another_component(Node(inside, node.origin), alone):
            return alone
        return Node({**inside, key: new}, node.origin)

    def _laid_on(self, old: Node, path: KeyPath) -> Node:
        """The value laid on what stands at ``path``; raises where merging leaves that as it was."""
        old = _written_out(old, self.value)
        new = merge(old, self.value, path)
        if isinstance(self.value.value, dict) and (self.typed or not self.value.value):
            before, given = old.plain(), self.value.plain()
            if before != given and new.plain() == before:
                raise self.error(unchanged(old, dotted(path)))
        return new

    def _check_new(self, name: str, inside: dict[str, Node], path: KeyPath) -> None:
        place = dotted(path) or "the experiment"
        if name.isdecimal():
            raise self.error(f"{place} is not a list, so it has no item {name}; set {place} as a whole.")
        section = self._section(path)
        if section.accepts(name) or (self.adds and section.free):
            return
        hint = _hint(name, [*inside, *sorted(section.keys - {*inside})])
        advice = f" To add a new key, write +{self.path}=..." if section.free else ""
        raise self.error(f"{place} has no key {name!r}. {hint}{advice}")

    def _section(self, path: KeyPath) -> Section:
        return Section(free=True) if self.sections is None else self.sections(path)

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

    @property
    def typed(self) -> bool:
        """Whether it is from a command line. A value of a grid's axis may well be that of the base."""
        return self.value.origin == SET

    def error(self, message: str) -> ConfigError:
        return ConfigError(f"{self.where}: {message}")


def _origins(node: Node) -> set[Origin]:
    return {node.origin}.union(*(_origins(child) for _, child in node.children()))


def _has_name(item: Node) -> bool:
    return isinstance(item.value, dict) and "name" in item.value


def _hint(name: str, candidates: Iterable[str]) -> str:
    candidates = list(candidates)
    return suggest(name, candidates) or f"It has: {excerpt(', '.join(candidates), 1000) or 'none'}."
