"""Grids: experiment files whose section ``ablate`` lists the variations, read into the changes of each combination."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reidx.config.merge import Override, Section
from reidx.config.node import KeyPath, Node, kind_of
from reidx.config.parts import places
from reidx.config.sections import section_at
from reidx.config.yaml_tree import load_node, tree_of
from reidx.errors import ConfigError, suggest

SECTION = "ablate"
KEYS = ("design", "axes", "runs", "seeds")
DESIGNS = ("full", "one-at-a-time", "list")
SHORT = {
    key.rpartition(".")[2]: key
    for key in (place.removesuffix(".0") for place in places().values())
    if "." in key and "NAME" not in key and not key.split(".")[-2].isdigit()
}
"""Short names of keys that hold components, alone or before a dot: ``backbone.name`` means ``model.backbone.name``."""


@dataclass(frozen=True)
class Value:
    """One value of an axis: its label in the tables, and its changes to the config."""

    label: str
    changes: tuple[Override, ...]


@dataclass(frozen=True)
class Axis:
    """A dimension of variation; its first value belongs to the base."""

    name: str
    values: tuple[Value, ...]


Combination = tuple[Value, ...]
"""One value per axis."""


@dataclass(frozen=True)
class Grid:
    """An ablation: the base experiment, the axes, the design that combines them, and the seeds of each combination."""

    path: str
    root: Node
    overrides: tuple[Override, ...]
    design: str
    axes: tuple[Axis, ...]
    seeds: tuple[int, ...]
    left_out: tuple[str, ...] = ()
    """Axes, named values and runs that the grid sets to null."""

    @property
    def name(self) -> str:
        """Name of the grid: the stem of its file."""
        return Path(self.path.rpartition("::")[2]).stem

    @property
    def base(self) -> Combination:
        """Reference combination: the first value of each axis."""
        return tuple(axis.values[0] for axis in self.axes)

    def combinations(self) -> Iterator[Combination]:
        """Iterate over all combinations, the base first."""
        if self.design == "full":
            yield from itertools.product(*(axis.values for axis in self.axes))
            return
        yield self.base
        for place, axis in enumerate(self.axes):
            for value in axis.values[1:]:
                yield (*self.base[:place], value, *self.base[place + 1 :])

    def changes(self, combination: Combination) -> list[Override]:
        """Overrides that turn the root into the config of a combination."""
        return [*self.overrides, *(change for value in combination for change in value.changes)]

    def called(self, combination: Combination) -> str:
        """Name of a combination: ``base``, or its differences from the base: ``fusion=lp.MultiView, eps=0.5``."""
        parts = [
            value.label if self.design == "list" else f"{axis.name}={value.label}"
            for axis, value, own in zip(self.axes, combination, self.base)
            if value is not own
        ]
        return ", ".join(parts) or (self.base[0].label if self.design == "list" else "base")


def read_grid(path: str | Path, overrides: Sequence[str] = ()) -> Grid:
    """Read a grid from a file (or ``namespace::file.yaml``).

    ``overrides`` (``key.path=value``) change the base experiment, or the grid itself if they start with ``ablate.``. An axis,
    a named value or a run that is null is omitted.

    Raises :class:`ConfigError` with file and line for an invalid grid: no section ``ablate``, an unknown key or design, an
    axis without values or with duplicate names, an axis over seeds, seeds that are not numbers or are duplicates.
    """
    whole = load_node(path)
    given_by_user = [_override(text, whole.value.get(SECTION)) for text in overrides]
    of_grid = [override for override in given_by_user if override.names[0] == SECTION]
    for override in of_grid:
        whole = override.applied_to(whole)
    section = whole.value.get(SECTION)
    if section is None:
        raise ConfigError(f"{path}:1: there is no section {SECTION!r}, which lists the variations (docs/ablations.md).")
    _mapping(section, SECTION)
    section = _without_nulls(section)
    root = Node({key: node for key, node in whole.value.items() if key != SECTION}, whole.origin)
    for key, node in section.value.items():
        if key not in KEYS:
            raise ConfigError(f"{node.origin}: unknown key {SECTION}.{key}. {_hint(key, KEYS)}")
    design = section.value.get("design", Node("one-at-a-time", section.origin))
    if design.value not in DESIGNS:
        raise ConfigError(f"{design.origin}: there is no design {design.plain()!r}. {_hint(str(design.plain()), DESIGNS)}")
    wanted, other = ("runs", "axes") if design.value == "list" else ("axes", "runs")
    if wanted not in section.value or other in section.value:
        raise ConfigError(f"{design.origin}: the design {design.value} takes {SECTION}.{wanted}, not {SECTION}.{other}.")
    _mapping(section.value[wanted], f"{SECTION}.{wanted}")
    given = _without_nulls(section.value[wanted])
    if not given.value:
        raise ConfigError(f"{given.origin}: {SECTION}.{wanted} is empty; there is nothing to vary.")
    axes = [_sets("run", given)] if design.value == "list" else [_axis(name, node) for name, node in given.value.items()]
    from_user = tuple(override for override in given_by_user if override not in of_grid)
    if "seeds" in section.value and (one := next((given for given in from_user if given.names == ["seed"]), None)):
        raise one.error(f"the grid lists its seeds; write {SECTION}.seeds=[{one.value.plain()}].")
    seeds = _seeds(section, tree_of(root, from_user).data)
    grid = Grid(str(path), root, from_user, design.value, tuple(axes), seeds, tuple(_nulls(section)))
    for place, axis in enumerate(grid.axes):
        for value in axis.values:  # a change that fits no config is an error of the grid, not a refused combination
            tree_of(root, grid.changes((*grid.base[:place], value, *grid.base[place + 1 :])))
    return grid


def _override(text: str, section: Node | None) -> Override:
    """Parse an override from the command line; names of axes and runs may contain dots and equals signs."""
    given = section.value if section is not None and isinstance(section.value, dict) else {}
    named = [(SECTION, kind, str(name)) for kind in ("axes", "runs") if kind in given for name, _ in given[kind].children()]
    begun = [keys for keys in named if text.startswith((f"{'.'.join(keys)}=", f"{'.'.join(keys)}."))]
    return Override.read(text, _section_at, max(begun, key=lambda keys: len(keys[-1]), default=()))


def _nulls(section: Node) -> Iterator[str]:
    for kind in ("axes", "runs"):
        for name, node in section.value[kind].value.items() if kind in section.value else ():
            inner = node.value if kind == "axes" and isinstance(node.value, dict) else {}
            yield from [name] if node.value is None else [f"{name}={label}" for label in inner if inner[label].value is None]


def _section_at(path: KeyPath) -> Section:
    """The keys of a grid's file: those of the experiment, and of its section ``ablate``."""
    if path[:1] == (SECTION,):
        return Section(frozenset(KEYS)) if len(path) == 1 else Section(free=True)
    section = section_at(path)
    return section if path else replace(section, keys=section.keys | {SECTION})


def _axis(name: str, node: Node) -> Axis:
    """Read an axis: a config key with a list of values, or a free name with named sets of changes."""
    if isinstance(node.value, dict):
        return _sets(name, node)
    if not isinstance(node.value, list):
        found = kind_of(node.plain())
        raise ConfigError(
            f"{node.origin}: the axis {name} is {found}; write a list of values of the key {name}, or a mapping of names to "
            "changes ({name: {key: value, …}})."
        )
    return _distinct(name, node, [(label_of(v.plain()), [_change(name, v, name)]) for v in node.value])


def _sets(name: str, node: Node) -> Axis:
    values = []
    for label, changes in _without_nulls(node).value.items():
        if not isinstance(changes.value, dict):
            raise ConfigError(
                f"{changes.origin}: {name}.{label} is {kind_of(changes.plain())}; it must be a mapping of config keys to "
                "values ({} changes nothing)."
            )
        values.append((label, [_change(key, value, name) for key, value in changes.value.items()]))
    return _distinct(name, node, values)


def _distinct(name: str, node: Node, values: list[tuple[str, list[Override]]]) -> Axis:
    if not values:
        raise ConfigError(f"{node.origin}: the axis {name} has no values.")
    labels = [label for label, _ in values]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise ConfigError(f"{node.origin}: the axis {name} has the value {twice} twice.")
    return Axis(name, tuple(Value(label, tuple(changes)) for label, changes in values))


def _change(key: str, value: Node, axis: str) -> Override:
    first, dot, rest = key.removeprefix("+").partition(".")
    path = f"{SHORT.get(first, first)}{dot}{rest}"
    if path == "seed":
        raise ConfigError(
            f"{value.origin}: axis {axis}: seeds cannot be an axis; list the seeds of every combination in "
            f"{SECTION}.seeds: [1, 2, 3]."
        )
    return Override(f"+{path}" if key.startswith("+") else path, value, f"{value.origin}: axis {axis}", section_at)


def _seeds(section: Node, base: dict[str, Any]) -> tuple[int, ...]:
    node = section.value.get("seeds")
    if node is None:
        return (base.get("seed", 1),)
    seeds = node.plain()
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int and 0 <= seed < 2**32 for seed in seeds):
        raise ConfigError(f"{node.origin}: {SECTION}.seeds must be a list of non-negative whole numbers: [1, 2, 3].")
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"{node.origin}: {SECTION}.seeds has a number twice.")
    return tuple(seeds)


def label_of(value: Any) -> str:
    """Label of a value in the tables: a name, ``GlobalPool(pool=gem)``, ``A + B`` for a list of parts, ``none``."""
    if value is None or value == []:
        return "none"
    if isinstance(value, list):
        labels = list(map(label_of, value))
        return f"[{', '.join(labels)}]" if all(isinstance(item, (int, float)) for item in value) else " + ".join(labels)
    if isinstance(value, dict) and value:
        head, settings = _named(value)
        rest = ", ".join(f"{key}={label_of(setting)}" for key, setting in settings.items())
        return f"{head}({rest})" if rest else head
    return str(value).lower() if isinstance(value, bool) else str(value)


def _named(value: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name of the component in a mapping (itself, a term's or an alignment's), and all other settings."""
    key = next((key for key in ("type", "loss", "alignment", "matcher") if key in value), None)
    rest = {name: setting for name, setting in value.items() if name != key}
    if key is None:
        return "", rest
    if isinstance(value[key], dict):
        name, settings = _named(value[key])
        return name, {**settings, **rest}
    return str(value[key]), rest


def _without_nulls(node: Node) -> Node:
    """Copy of a mapping without null values."""
    return Node({key: child for key, child in node.value.items() if child.value is not None}, node.origin)


def shortened(name: str, width: int) -> str:
    """Shorten a name to ``width`` characters in its middle, because its end distinguishes combinations."""
    left = width // 3
    return name if len(name) <= width else f"{name[:left]}…{name[len(name) - (width - left - 1) :]}"


def _mapping(node: Node, name: str) -> None:
    if not isinstance(node.value, dict):
        raise ConfigError(f"{node.origin}: {name} is {kind_of(node.plain())}; it must be a mapping.")


def _hint(word: str, offered: Sequence[str]) -> str:
    return suggest(word, offered) or f"There are: {', '.join(offered)}."
