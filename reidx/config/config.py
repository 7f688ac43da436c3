"""The resolved experiment: YAML tree checked against the schema, with every default filled in."""

from __future__ import annotations

import dataclasses
import functools
import math
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reidx.config import schema
from reidx.config.components import arguments_of, component_node, library_component_node, need_mapping
from reidx.config.merge import SET, Override, merge
from reidx.config.node import KeyPath, Node, Origin, dotted, kind_of
from reidx.config.renamed import RENAMED
from reidx.config.sections import key_of, section_at, section_of
from reidx.config.yaml_tree import Tree, render, tree_hash, tree_of
from reidx.errors import ConfigError, excerpt, suggest
from reidx.registry.constructor import annotation_text, bad_number, fits, quoting_advice

DEFAULT = Origin("default")

Step = tuple[KeyPath, Node]


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    """Return the field types of a schema class."""
    return typing.get_type_hints(cls)


def experiment_hash(data: Mapping[str, Any]) -> str:
    """Hash a resolved experiment without its ``log`` section, which does not affect results."""
    return tree_hash({key: value for key, value in data.items() if key != "log"})


@dataclass(frozen=True)
class Config:
    """A checked experiment: typed (``experiment``), as plain data with all defaults (``data``), with origins (``tree``)."""

    experiment: schema.Experiment
    tree: Tree
    path: str

    @property
    def data(self) -> dict[str, Any]:
        return self.tree.data

    @property
    def hash(self) -> str:
        """The identifier of the experiment, twelve hex digits (:func:`experiment_hash`)."""
        return experiment_hash(self.data)

    def place(self, path: KeyPath) -> str:
        """Return file and line of the value at ``path``; for a default, those of the section around it."""
        places = (self.tree.origin(path[:length]) for length in range(len(path), -1, -1))
        return str(next((o for o in places if not o.source.startswith("default")), Origin(self.path)))

    def render(self, origins: bool = True, changed: bool = False) -> str:
        """Write the resolved experiment as YAML that loads to the same one, with the origin of each value as a comment.

        With ``changed``, default values of the schema and of components are left out.
        """
        if not changed:
            return render(self.tree, origins)
        own = _without_defaults(_node(self.tree, ()), ()) or Node({}, Origin(self.path))
        return render(Tree(own.plain(), dict(_origins(own, ()))), origins)


def resolve(root: Node, overrides: Sequence[Override], path: str) -> Config:
    """Resolve a tree of values and overrides into an experiment with every default filled in.

    ``path`` is the name of the experiment in messages. The fit between components is checked later
    (:mod:`reidx.checks`). Raises :class:`ConfigError` for an unknown key or component and for a value of the wrong type.
    """
    tree = tree_of(root, overrides)
    whole = _experiment(_node(tree, ()), set().union(*(override.origins for override in overrides)))
    resolved = Tree(whole.plain(), dict(_origins(whole, ())))
    return Config(_typed(schema.Experiment, resolved.data), resolved, path)


# ---- from the tree to nodes and back


def _node(tree: Tree, path: KeyPath) -> Node:
    value = tree.get(path)
    if isinstance(value, dict):
        return Node({key: _node(tree, (*path, key)) for key in value}, tree.origin(path))
    if isinstance(value, list):
        return Node([_node(tree, (*path, i)) for i in range(len(value))], tree.origin(path))
    return Node(value, tree.origin(path))


def _origins(node: Node, path: KeyPath) -> typing.Iterator[tuple[KeyPath, Origin]]:
    yield path, node.origin
    for key, child in node.children():
        yield from _origins(child, (*path, key))


def _without_defaults(node: Node, path: KeyPath) -> Node | None:
    """Remove the defaults from ``node``, located at ``path``; returns None if nothing remains.

    List items keep their positions and mapping items their names, so that the result loads to the same experiment.
    """
    if node.origin.source.startswith("default"):
        return None
    if isinstance(node.value, list):
        items = (_without_defaults(item, (*path, i)) or Node({}, item.origin) for i, item in enumerate(node.value))
        return Node(list(items), node.origin)
    if not isinstance(node.value, dict):
        return node
    own = {key: found for key, child in node.children() if (found := _without_defaults(child, (*path, key))) is not None}
    named = bool(path) and section_at(path[:-1]).checked
    return Node(own, node.origin) if own or named or not node.value else None


def _typed(cls: type, data: Mapping[str, Any]) -> Any:
    """Build an instance of a schema class from resolved plain data."""
    hints = _hints(cls)
    values: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        value, hint = data[key_of(field)], hints[field.name]
        inner = next((a for a in typing.get_args(hint) if dataclasses.is_dataclass(a)), None)
        if (section := section_of(hint)) is not None:
            value = _typed(section, value) if isinstance(value, dict) else value
        elif field.name == "labels" and inner is schema.Labelling:
            value = {name: _typed(schema.Labelling, level) for name, level in value["labellings"].items()}
        elif inner is not None and isinstance(value, dict):
            value = {name: _typed(inner, item) for name, item in value.items()}  # type: ignore[arg-type]
        elif inner is not None:
            value = [_typed(inner, item) for item in value]  # type: ignore[arg-type]
        elif typing.get_origin(hint) is tuple:
            value = tuple(value)
        values[field.name] = value
    return cls(**values)


# ---- checking


def _experiment(root: Node, overridden: set[Origin]) -> Node:
    """Resolve the experiment: move stage keys from the top level into every stage and write out all defaults."""
    own = {field.name for field in dataclasses.fields(schema.Experiment)}
    shared_keys = {field.name for field in dataclasses.fields(schema.Stage)} - {"name"}
    _refuse_unknown(root, (), own | shared_keys)
    shared = Node({key: node for key, node in root.value.items() if key in shared_keys}, root.origin)
    stages = root.value.get("stages")
    if stages is None or not isinstance(stages.value, list) or not stages.value:
        where = root.origin if stages is None else stages.origin
        raise ConfigError(f"{where}: stages must be a list of at least one stage, each with a name.")
    for position, stage in enumerate(stages.value):
        need_mapping(stage, ("stages", position))
    merged = [merge(shared, stage) for stage in stages.value]
    _refuse_idle(shared, merged, overridden)
    data = {key: node for key, node in root.value.items() if key in own}
    data["stages"] = Node(merged, stages.origin)
    return _fill(schema.Experiment, Node(data, root.origin), ())


def _refuse_idle(shared: Node, stages: list[Node], overridden: set[Origin]) -> None:
    """Raise if every stage overrules a default that an override sets at the top level."""
    for path, node in _leaves(shared, ()):
        if node.origin in overridden and all(_at(stage, path) is not node for stage in stages):
            names = ", ".join(str(s.value["name"].value) for s in stages if "name" in s.value)
            key, typed = dotted(path), node.origin == SET
            where, advice = ("--set", f"--set stages.NAME.{key}=…") if typed else (f"{node.origin}:", f"stages.NAME.{key}")
            raise ConfigError(
                f"{where} {key}: has no effect, as each stage ({names}) sets its own. Address the stage: {advice}"
            )


def _leaves(node: Node, path: KeyPath) -> typing.Iterator[Step]:
    children = list(node.children())
    if not children:
        yield path, node
    for key, child in children:
        yield from _leaves(child, (*path, key))


def _at(node: Node, path: KeyPath) -> Node | None:
    for key in path:
        try:
            node = node.value[key]
        except (KeyError, IndexError, TypeError):
            return None
    return node


def _fill(cls: type, node: Node, path: KeyPath) -> Node:
    """Check ``node`` against a schema class and fill in the defaults of missing keys."""
    need_mapping(node, path)
    fields = {key_of(field): field for field in dataclasses.fields(cls)}
    _refuse_unknown(node, path, set(fields), cls)
    hints = _hints(cls)
    filled: dict[str, Node] = {}
    for name, field in fields.items():
        child = node.value.get(name)
        if child is None:
            child = _default(field, node, path)
        elif (default := _adjusted_default(field, child)) is not None:
            given = field.default is not dataclasses.MISSING  # the mapping asks for the component, which is no default
            child = merge(Node.of(default, child.origin if given else DEFAULT), child)
        filled[name] = _value(field, hints[field.name], child, (*path, name))
    return Node(filled, node.origin)


def _adjusted_default(field: dataclasses.Field[Any], node: Node) -> dict[str, Any] | None:
    """Return the spec of the schema's default component if ``node`` sets arguments without naming a component."""
    adjusts = isinstance(node.value, dict) and "type" not in node.value
    return field.metadata.get("component") if adjusts else None


def _default(field: dataclasses.Field[Any], node: Node, path: KeyPath) -> Node:
    if field.default is not dataclasses.MISSING:
        return Node.of(field.default, DEFAULT)
    if field.default_factory is not dataclasses.MISSING:
        make = field.default_factory
        # a section with missing required keys is not built here: `_fill` reports them
        return Node({}, node.origin) if dataclasses.is_dataclass(make) else Node.of(make(), DEFAULT)
    what = field.metadata.get("kind", "value")
    raise ConfigError(f"{node.origin}: {dotted((*path, field.name))} is missing: a {what} must be given.")


def _value(field: dataclasses.Field[Any], hint: Any, node: Node, path: KeyPath) -> Node:
    meta = field.metadata
    arguments = [a for a in typing.get_args(hint) if dataclasses.is_dataclass(a)]
    container = meta.get("container")
    if "kind" in meta and container is not None:
        return _each(container, node, path, lambda n, p: component_node(meta["kind"], n, p))
    if "kind" in meta:
        return node if meta.get("optional") and node.value is None else component_node(meta["kind"], node, path)
    if "catalogue" in meta:
        return _each(list, node, path, lambda n, p: library_component_node(meta["catalogue"], n, p))
    if arguments and arguments[0] is schema.Labelling:
        return _labellings(node, path)
    if (section := section_of(hint)) is not None:
        if section is hint or isinstance(node.value, dict):
            return _fill(section, node, path)
        (hint,), arguments = (other for other in typing.get_args(hint) if other is not section), []
    if arguments:
        kind = dict if typing.get_origin(hint) is dict else list
        return _each(kind, node, path, lambda n, p: _fill(typing.cast(type, arguments[0]), n, p))
    if typing.get_origin(hint) is dict:
        node = _each(dict, node, path, lambda n, p: n)
    value = node.plain()
    where = f"{node.origin}: {dotted(path)} is"
    if (fault := bad_number(value)) is not None:
        raise ConfigError(f"{node.origin}: {dotted(path)} {fault}")
    if not fits(value, hint):
        found = "null" if value is None else f"{excerpt(repr(value))} ({kind_of(value)})"
        raise ConfigError(f"{where} {found}; expected {_expected(hint)}.{quoting_advice(value, hint)}")
    least, most = meta.get("least"), meta.get("most")
    numbers = [number for number in (value if isinstance(value, list) else [value]) if number is not None]
    if least is not None and not all(least <= number <= (math.inf if most is None else most) for number in numbers):
        wanted = f"at least {least}" if most is None else f"from {least} to {most}"
        raise ConfigError(f"{where} {excerpt(str(value))}; it must be {wanted}.")
    return node


def _expected(hint: Any) -> str:
    """Describe the expected type for an error message."""
    if typing.get_origin(hint) is typing.Literal:
        return f"one of {', '.join(map(str, typing.get_args(hint)))}"
    return annotation_text(hint)


def _each(container: type, node: Node, path: KeyPath, check: Callable[[Node, KeyPath], Node]) -> Node:
    """Check each item of a list or of a mapping of names; a name set to null (to remove a base's item) is left out."""
    if node.value is None:
        node = Node(container(), node.origin)
    if not isinstance(node.value, container):
        wanted = "a mapping of names" if container is dict else "a list"
        raise ConfigError(f"{node.origin}: {dotted(path)} is {kind_of(node.plain())}; it must be {wanted}.")
    there = [(key, child) for key, child in node.children() if container is list or child.value is not None]
    checked = [(key, check(child, (*path, key))) for key, child in there]
    return Node(dict(checked) if container is dict else [child for _, child in checked], node.origin)


def _labellings(node: Node, path: KeyPath) -> Node:
    """Resolve ``labels``, whose keys are the defaults of each of its ``labellings``.

    Without ``labellings`` there is one, ``main``. ``labels: null`` means no labels: a stage drops those that the
    top level gives to every stage.
    """
    if node.value is None:
        node = Node({}, node.origin)
    need_mapping(node, path)
    _refuse_unknown(node, path, {"labellings", *_hints(schema.Labelling)}, schema.Labelling)
    shared = Node({key: child for key, child in node.value.items() if key != "labellings"}, node.origin)
    levels = node.value.get("labellings")
    if levels is None:
        levels = Node({"main": Node({}, node.origin)} if shared.value else {}, node.origin)

    def check(level: Node, at: KeyPath) -> Node:
        need_mapping(level, at)
        return _fill(schema.Labelling, merge(shared, level), at)

    return Node({"labellings": _each(dict, levels, (*path, "labellings"), check)}, node.origin)


def _refuse_unknown(node: Node, path: KeyPath, known: set[str], cls: type = schema.Stage) -> None:
    for key, child in node.value.items():
        if key not in known:
            at = excerpt(dotted((*path, key)))
            if (new := RENAMED.get(cls.__name__, {}).get(key)) is not None:
                raise ConfigError(f"{child.origin}: {at} is now {dotted((*path, new))}.")
            if (slot := _slot_of(cls)) is not None:
                raise ConfigError(f"{child.origin}: unknown key {at!r}. {_slot_hint(node, path, key, slot, known)}")
            hint = suggest(key, known) or f"Known here: {', '.join(sorted(known))}."
            raise ConfigError(f"{child.origin}: unknown key {at!r}. {hint}")


def _slot_of(cls: type) -> str | None:
    """The key of a slot under which its component stands; None for a section that is no slot."""
    return next((kind for kind, slot in schema.SLOTS.items() if slot is cls), None)


def _slot_hint(node: Node, path: KeyPath, key: str, slot: str, known: set[str]) -> str:
    """Advise on an argument or ``type`` written into the slot instead of into its component."""
    found = node.value.get(slot) or node.value.get("type")
    named = found.value.get("type") if found is not None and isinstance(found.value, dict) else found
    name = named.value if named is not None and isinstance(named.value, str) else "NAME"
    if key == "type":
        return f"Name the {slot} by {dotted((*path, slot))}: {name}, or {{type: {name}, …}} with its arguments."
    argument = f"Write an argument of the {slot} as {dotted((*path, slot))}: {{type: {name}, {key}: …}}."
    similar = "" if key in arguments_of(slot, name) else suggest(key, known)
    return f"{similar} {argument}".lstrip()
