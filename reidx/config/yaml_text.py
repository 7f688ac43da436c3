"""Reading of YAML into nodes with line numbers, and writing of scalars that read back unchanged.

The dialect is YAML 1.2's core schema without surprises: ``1e-3`` is a float; ``on``, ``yes``, ``12:30``,
``1_000`` and dates are strings; duplicate keys, keys that are not strings and tags outside the core schema are
errors.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import yaml

from reidx.config.node import Node, Origin, kind_of
from reidx.errors import ConfigError, excerpt

MOST_NODES = 100_000  # nested aliases grow exponentially; real experiments stay far below this
DEEPEST = 60
MOST_DIGITS = 100  # of an integer: with more, Python refuses to write it, and no float can hold it


def _integer(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ValueError(f"it has {len(text):,} characters; an integer may have {MOST_DIGITS}")
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


def _real(text: str) -> float:
    named = text.lstrip("+-") in (".inf", ".nan")
    value = float(text.replace(".inf", "inf").replace(".nan", "nan"))
    if math.isinf(value) and not named:
        raise ValueError("it is larger than any number of 64 bits (1.8e308)")
    if value == 0 and re.search("[1-9]", text.partition("e")[0]):
        raise ValueError("it is smaller than any number of 64 bits (5e-324), and would be 0")
    return value


_CORE = "tag:yaml.org,2002:"
# tag -> pattern, value; the first match decides the type of a plain scalar
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
    """Return the core type of a plain scalar."""
    return next(tag for tag, (pattern, _) in _SCALARS.items() if re.fullmatch(pattern, text))


class _Loader(yaml.SafeLoader):
    """PyYAML's scanner and composer with the core schema's rules for plain scalars."""

    def fetch_flow_collection_start(self, TokenClass: type[yaml.Token]) -> None:
        if self.flow_level > DEEPEST:  # here, because the scanner would read through all nested levels first
            raise yaml.MarkedYAMLError(problem=f"nested more than {DEEPEST} levels deep", problem_mark=self.get_mark())
        super().fetch_flow_collection_start(TokenClass)

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> str:
        if kind is yaml.ScalarNode:
            return _CORE + (_scalar_tag(value) if implicit[0] else "str")
        return _CORE + ("map" if kind is yaml.MappingNode else "seq")


def read_yaml(text: str, source: str) -> Node | None:
    """Parse ``text`` and return its root node, or None if it holds only comments.

    ``source`` is the file name in origins and errors. Raises :class:`ConfigError`, one line that starts with
    ``source:line``.
    """
    return _read(text, _Reader(source, lines=True))


def read_value(text: str, source: str, as_text: str) -> Node | None:
    """Parse a value typed on a command line; returns None for blank text.

    Text in braces, brackets or quotes is YAML. Any other text is one scalar: a number, ``true``, ``false`` or ``null`` if
    the whole text is one, else a string. So a path or name is never cut at a YAML comment, alias or key. ``as_text`` is
    the advice for passing the text as a string. Raises :class:`ConfigError`, one line that starts with ``source``, also
    for spaces around a string and for a comment, which would be lost.
    """
    reader, stripped = _Reader(source, lines=False, advice=f" {as_text}"), text.strip()
    if not stripped:
        return None
    if stripped[0] in "{[\"'!":
        if _has_comment(text):
            raise ConfigError(f"{source}: YAML treats the text after ` #` as a comment, so it would be lost. {as_text}")
        return _read(text, reader)
    if odd := yaml.reader.Reader.NON_PRINTABLE.search(text):
        raise ConfigError(f"{source}: YAML does not allow the character U+{ord(odd.group()):04X}.")
    value = reader.scalar(yaml.ScalarNode(_CORE + _scalar_tag(stripped), stripped))
    if isinstance(value, str) and text != stripped:
        raise ConfigError(f"{source}: the value begins or ends with a space. Remove the space, or: {as_text}")
    return Node(value, Origin(source))


def _has_comment(text: str) -> bool:
    """Return True if ``text`` has a comment: a ``#`` outside every token."""
    left = list(text)
    try:
        for token in yaml.scan(text, Loader=_Loader):
            begin, end = token.start_mark.index, token.end_mark.index
            left[begin:end] = " " * (end - begin)
    except yaml.YAMLError:  # the reader reports it
        return False
    return "#" in left


def _read(text: str, reader: _Reader) -> Node | None:
    source, lines = reader.source, reader.lines
    try:
        root = _Loader(text).get_single_node()
        return None if root is None else reader.node(root, Origin(source))
    except yaml.MarkedYAMLError as error:
        raise ConfigError(_syntax_message(error, text, reader)) from None
    except yaml.reader.ReaderError as error:
        where = f"{source}:{text.count(chr(10), 0, error.position) + 1}" if lines else source
        raise ConfigError(f"{where}: YAML does not allow the character U+{error.character:04X}.") from None
    except RecursionError:
        raise ConfigError(f"{source}: nested more than {DEEPEST} levels deep.") from None


class _Reader:
    """Converter of PyYAML's node graph to a tree of :class:`Node`: copies aliases, resolves merge keys."""

    def __init__(self, source: str, lines: bool, advice: str = "") -> None:
        self.source, self.lines, self.advice = source, lines, advice
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
        why = ""
        try:
            if re.fullmatch(pattern, node.value):
                return value(node.value)
        except ValueError as error:
            why = f": {error}"
        raise ConfigError(f"{self.place(node.start_mark)}: {excerpt(node.value, 40)!r} cannot be read as {name}{why}.")

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
                found = f"{excerpt(key_node.value)!r} is {kind_of(key)}"
                raise ConfigError(f"{place}: the key {found}, but keys are strings; put it in quotes.")
            if key in lines:
                raise ConfigError(f"{place}: the key {excerpt(key)!r} is given twice, first in line {lines[key]}.")
            lines[key] = key_node.start_mark.line + 1
            if key == "<<" and key_node.style is None:
                sources = value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
                for inherited in reversed(sources):  # the first mapping wins
                    if not isinstance(inherited, yaml.MappingNode):
                        raise ConfigError(f"{place}: << takes a mapping or a list of mappings.")
                    merged.update(self.node(inherited, self.origin(inherited)).value)
            else:
                own[key] = self.node(value_node, self.origin(key_node))
        return {**merged, **own}

    def bad_tag(self, node: yaml.Node) -> ConfigError:
        tag = node.tag.replace(_CORE, "!!")
        return ConfigError(
            f"{self.place(node.start_mark)}: the tag {excerpt(tag)} is not allowed; configs hold plain data only "
            f"(mappings, lists, strings, numbers, true, false, null).{self.advice}"
        )


def _syntax_message(error: yaml.MarkedYAMLError, text: str, reader: _Reader) -> str:
    mark = error.problem_mark or error.context_mark
    assert mark is not None  # every error of PyYAML's scanner, parser and composer has one
    place = reader.place(mark, column=True)
    rows = text.splitlines()
    row = rows[mark.line] if mark.line < len(rows) else ""
    if "\t" in row[: len(row) - len(row.lstrip())]:
        return f"{place}: a tab in the indentation; YAML allows only spaces."
    context = error.context or ""
    if error.context_mark is not None and reader.lines and context.startswith("while"):
        context += f" begun in line {error.context_mark.line + 1}"
    return f"{place}: not valid YAML: {excerpt(str(error.problem))}{f' ({context})' if context else ''}.{reader.advice}"


_PLAIN = re.compile(r"(\.{0,2}/)?[A-Za-z_][A-Za-z0-9_./@+-]*((::|:| )[A-Za-z0-9_./@+-]+)*")


def write_scalar(value: Any) -> str:
    """Write ``value`` as one line of YAML that reads back unchanged; strings are quoted where necessary."""
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
    """Escape characters of ``text`` that a double-quoted YAML string or a comment cannot hold on one line."""

    def one(c: str) -> str:
        if c in '"\\':
            return "\\" + c
        if c.isprintable():
            return c
        return f"\\u{ord(c):04x}" if ord(c) < 0x10000 else f"\\U{ord(c):08x}"

    return "".join(map(one, text))
