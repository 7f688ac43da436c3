"""One YAML text read into nodes that know their line, and scalars written so that they read back the same.

The dialect is YAML 1.2's core schema without surprises: ``1e-3`` is a float; ``on``, ``yes``, ``12:30``,
``1_000`` and dates are strings; a key given twice, a key that is no string and any tag beyond the core's are
errors.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import yaml

from reidx.config_node import Node, Origin, kind_of
from reidx.errors import ConfigError

MOST_NODES = 100_000  # aliases of aliases grow exponentially; no experiment comes near this
DEEPEST = 60


def _integer(text: str) -> int:
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


def _real(text: str) -> float:
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


_CORE = "tag:yaml.org,2002:"
# tag -> pattern, value; a plain scalar is of the first kind that fits
_SCALARS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "null": (r"null|Null|NULL|~|", lambda text: None),
    "bool": (r"true|True|TRUE|false|False|FALSE", lambda text: text.lower() == "true"),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", _integer),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        lambda text: _real(text.lower()),
    ),
    "str": (r"(?s:.*)", str),
}


def _scalar_tag(text: str) -> str:
    """The core type of a plain scalar."""
    return next(tag for tag, (pattern, _) in _SCALARS.items() if re.fullmatch(pattern, text))


class _Loader(yaml.SafeLoader):
    """PyYAML's scanner and composer with the core schema's idea of what a plain scalar is."""

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> str:
        if kind is yaml.ScalarNode:
            return _CORE + (_scalar_tag(value) if implicit[0] else "str")
        return _CORE + ("map" if kind is yaml.MappingNode else "seq")


def read_yaml(text: str, source: str, lines: bool = True) -> Node | None:
    """The root node of ``text``, or None if there is nothing in it but comments.

    ``source`` is the name put into origins and errors; ``lines=False`` leaves the line out of both, for a
    value given on the command line. Raises :class:`ConfigError`, one line that starts with ``source:line``.
    """
    reader = _Reader(source, lines)
    try:
        root = _Loader(text).get_single_node()
        return None if root is None else reader.node(root, Origin(source))
    except yaml.MarkedYAMLError as error:
        raise ConfigError(_syntax_message(error, text, reader)) from None
    except yaml.reader.ReaderError as error:
        where = f"{source}:{text.count(chr(10), 0, error.position) + 1}" if lines else source
        raise ConfigError(f"{where}: YAML has no place for the character U+{error.character:04X}.") from None
    except RecursionError:
        raise ConfigError(f"{source}: nested more than {DEEPEST} levels deep.") from None


class _Reader:
    """PyYAML's node graph made into a tree of :class:`Node`: aliases copied, merge keys resolved."""

    def __init__(self, source: str, lines: bool) -> None:
        self.source, self.lines = source, lines
        self.made = 0
        self.above: list[yaml.Node] = []  # the collections around the current node

    def place(self, mark: yaml.Mark, column: bool = False) -> str:
        if not self.lines:
            return self.source
        return f"{self.source}:{mark.line + 1}" + (f":{mark.column + 1}" if column else "")

    def origin(self, node: yaml.Node) -> Origin:
        return Origin(self.source, node.start_mark.line + 1 if self.lines else None)

    def node(self, node: yaml.Node, origin: Origin) -> Node:
        self.made += 1
        if self.made > MOST_NODES:
            raise ConfigError(f"{self.source}: its aliases expand to more than {MOST_NODES} values.")
        if isinstance(node, yaml.ScalarNode):
            return Node(self.scalar(node), origin)
        if any(node is outer for outer in self.above):
            raise ConfigError(f"{self.place(node.start_mark)}: this value contains itself, by an alias.")
        if len(self.above) >= DEEPEST:
            raise ConfigError(f"{self.place(node.start_mark)}: nested more than {DEEPEST} levels deep.")
        if node.tag != _CORE + ("map" if isinstance(node, yaml.MappingNode) else "seq"):
            raise self.bad_tag(node)
        self.above.append(node)
        value: Any
        if isinstance(node, yaml.MappingNode):
            value = self.mapping(node)
        else:
            value = [self.node(item, self.origin(item)) for item in node.value]
        self.above.pop()
        return Node(value, origin)

    def scalar(self, node: yaml.ScalarNode) -> Any:
        name = node.tag.removeprefix(_CORE)
        if name not in _SCALARS or name == node.tag:
            raise self.bad_tag(node)
        pattern, value = _SCALARS[name]
        try:
            if re.fullmatch(pattern, node.value):
                return value(node.value)
        except ValueError:  # Python refuses integers of thousands of digits
            pass
        raise ConfigError(f"{self.place(node.start_mark)}: {node.value[:40]!r} cannot be read as {name}.")

    def mapping(self, node: yaml.MappingNode) -> dict[str, Node]:
        own: dict[str, Node] = {}
        merged: dict[str, Node] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            place = self.place(key_node.start_mark)
            if not isinstance(key_node, yaml.ScalarNode):
                raise ConfigError(f"{place}: a key must be a string, not a list or a mapping.")
            key = self.scalar(key_node)
            if not isinstance(key, str):
                found = f"{key_node.value!r} is {kind_of(key)}"
                raise ConfigError(f"{place}: the key {found}, but keys are strings; put it in quotes.")
            if key in lines:
                raise ConfigError(f"{place}: the key {key!r} is given twice, first in line {lines[key]}.")
            lines[key] = key_node.start_mark.line + 1
            if key == "<<" and key_node.style is None:
                sources = value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
                for inherited in reversed(sources):  # the first one named wins
                    if not isinstance(inherited, yaml.MappingNode):
                        raise ConfigError(f"{place}: << takes a mapping or a list of mappings.")
                    merged.update(self.node(inherited, self.origin(inherited)).value)
            else:
                own[key] = self.node(value_node, self.origin(key_node))
        return {**merged, **own}

    def bad_tag(self, node: yaml.Node) -> ConfigError:
        tag = node.tag.replace(_CORE, "!!")
        return ConfigError(
            f"{self.place(node.start_mark)}: the tag {tag} is not allowed; configs hold plain data only "
            "(mappings, lists, strings, numbers, true, false, null)."
        )


def _syntax_message(error: yaml.MarkedYAMLError, text: str, reader: _Reader) -> str:
    mark = error.problem_mark or error.context_mark
    assert mark is not None  # every error of PyYAML's scanner, parser and composer has one
    place = reader.place(mark, column=True)
    rows = text.splitlines()
    row = rows[mark.line] if mark.line < len(rows) else ""
    if "\t" in row[: len(row) - len(row.lstrip())]:
        return f"{place}: a tab in the indentation; YAML wants spaces."
    context = error.context or ""
    if error.context_mark is not None and reader.lines and context.startswith("while"):
        context += f" begun in line {error.context_mark.line + 1}"
    return f"{place}: not valid YAML: {error.problem}{f' ({context})' if context else ''}."


_PLAIN = re.compile(r"(\.{0,2}/)?[A-Za-z_][A-Za-z0-9_./@+-]*((::|:| )[A-Za-z0-9_./@+-]+)*")


def write_scalar(value: Any) -> str:
    """``value`` as YAML on one line that reads back as the same value; strings are quoted if need be."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    if isinstance(value, (int, float)):
        return repr(value)
    return value if _PLAIN.fullmatch(value) and _scalar_tag(value) == "str" else f'"{escape(value)}"'


def escape(text: str) -> str:
    """``text`` with what YAML's double quotes, or a comment, cannot hold on one line escaped."""

    def one(c: str) -> str:
        if c in '"\\':
            return "\\" + c
        if c.isprintable():
            return c
        return f"\\u{ord(c):04x}" if ord(c) < 0x10000 else f"\\U{ord(c):08x}"

    return "".join(map(one, text))
