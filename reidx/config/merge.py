"""Merging of configs, and overrides of single values."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from reidx.config.node import KeyPath, Node, Origin, dotted, kind_of
from reidx.config.yaml_text import DEEPEST, escape, read_value
from reidx.errors import ConfigError, excerpt, suggest

COMPONENT_KEY = "type"
"""The key that names a component; the other keys of the mapping are its arguments."""

SET = Origin("--set")
"""The origin of values set on the command line."""


@dataclass(frozen=True)
class Section:
    """Valid keys of a mapping in an experiment."""

    keys: frozenset[str] = frozenset()
    old: frozenset[str] = frozenset()
    """Keys of an earlier version; the check of the experiment reports their new names."""
    checked: bool = False
    """True if other keys are arguments of a component, which are checked with it."""
    free: bool = False
    """True if the user chooses the keys."""

    def accepts(self, key: str) -> bool:
        """Return True if ``key`` may be set here although no file sets it."""
        return self.checked or key in self.keys or key in self.old


Sections = Callable[[KeyPath], Section]
"""Function from a key path to its section of the schema."""


def merge(base: Node, over: Node, path: KeyPath = ()) -> Node:
    """Merge ``over``, located at ``path``, onto ``base``.

    Mappings merge key by key unless they name different components; anything else is replaced by ``over``. Two mappings
    name different components if both have a ``type`` and these differ: arguments of one component must not reach another.
    A mapping without ``type`` adjusts the component in ``base``, also where that is a name alone. A mapping over a list of
    named items (the stages) adjusts the items that it names. Raises :class:`ConfigError` for an unknown item name, and for
    an empty mapping inside ``over`` that was probably meant to empty a mapping in ``base``.
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
            raise ConfigError(f"{node.origin}: {dotted(here)}: {{}} {explain_no_effect(merged[key], dotted(here))}")
        merged[key] = merge(merged[key], node, here) if key in merged else node
    return Node(merged, over.origin)


def _written_out(base: Node, over: Node) -> Node:
    """Expand ``base`` from a component's name to a mapping if ``over`` adjusts that component."""
    if isinstance(base.value, str) and isinstance(over.value, dict) and COMPONENT_KEY not in over.value:
        return Node({COMPONENT_KEY: base}, base.origin)
    return base


def _seems_emptied(base: Node, over: Node) -> bool:
    """Return True if an empty mapping over ``base``, which changes nothing, was probably meant to empty ``base``.

    On a command line it has no other use. In a file a section may be left empty, but a table of numbers (the rates) may not.
    """
    if not isinstance(base.value, dict) or not base.value:
        return False
    return over.origin == SET or all(isinstance(child.value, (int, float)) for child in base.value.values())


def explain_no_effect(base: Node, path: str) -> str:
    """Explain why a mapping merged onto ``base`` at ``path`` has no effect, and give the syntax that has one."""
    if not isinstance(base.value, dict):
        return f"has no effect: a mapping over the list {path} changes the items that it names, and this one changes none."
    names = list(map(str, base.value))
    kept = excerpt(", ".join(names[:5]) + (", …" if len(names) > 5 else ""))
    why = f"has no effect, as mappings merge key by key: {path} keeps {kept}."
    if {COMPONENT_KEY, "name"} & set(names):
        return f"{why} Give the keys to change, with their new values."
    return f"{why} To empty it: {path}=null; to take out one name: {path}={{{excerpt(names[0])}: null}}."


def _items_adjusted(base: Node, over: Node, path: KeyPath) -> Node:
    names = [item.value["name"].value for item in base.value]
    if len({name for name in names if isinstance(name, str)}) < len(names):
        raise ConfigError(f"{over.origin}: a mapping changes items by name, but the names at {base.origin} are not unique.")
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
    """An assignment of a value to a key path of a config; ``+key.path`` adds a new key.

    ``where`` begins the message of each :class:`ConfigError`, raised for a malformed path, or on use for a path that does
    not exist. The first ``keys`` of the path may contain dots.
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
        """Parse ``key.path=value`` from a command line; :func:`reidx.config.yaml_text.read_value` reads the value.

        ``keys`` are the leading keys of the text, needed if they contain dots or equals signs.
        """
        shown = excerpt("".join(c if c.isprintable() else escape(c) for c in text))
        begin = ".".join(keys)
        rest, equals, value = text[len(begin) :].partition("=")
        path = begin + rest
        # without an equals sign there is no value, but a bad path is reported first
        override = cls(path if equals else "", Node(None, SET), f"--set {shown}", sections, keys if equals else ())
        quoted = shlex.quote(f'{excerpt(path)}="{excerpt(escape(value))}"')
        node = read_value(value, override.where, f"To give it as text: --set {quoted}")
        if node is None:
            raise override.error("the value is missing; for an empty one write null or ''.")
        refuse_base(node)
        override.value = Node.of(node.plain(), SET)
        return override

    @property
    def origins(self) -> set[Origin]:
        """Origins of the values that it sets."""
        return _origins(self.value)

    def applied_to(self, root: Node) -> Node:
        """Return ``root`` with the value set."""
        return self._put(root, self.names, ())

    def _put(self, node: Node, names: Sequence[str], path: KeyPath) -> Node:
        """Return ``node``, located at ``path``, with the value set at ``names`` below it."""
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
            new = self.value if old is None else self._merged_onto(old, here)
        if isinstance(inside, list):
            return Node([*inside[:key], new, *inside[key + 1 :]], node.origin)
        alone = Node({key: new}, node.origin)
        if _another_component(Node(inside, node.origin), alone):
            return alone
        return Node({**inside, key: new}, node.origin)

    def _merged_onto(self, old: Node, path: KeyPath) -> Node:
        """Merge the value onto ``old`` at ``path``; raises if the merge changes nothing."""
        old = _written_out(old, self.value)
        new = merge(old, self.value, path)
        if isinstance(self.value.value, dict) and (self.from_command_line or not self.value.value):
            before, given = old.plain(), self.value.plain()
            if before != given and new.plain() == before:
                raise self.error(explain_no_effect(old, dotted(path)))
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
    def from_command_line(self) -> bool:
        """True for a command-line override, which must change something; a grid may repeat the base's value."""
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
