"""Snapshots of shipped recipes: the experiment that each resolves to, and the values that its sources state.

    from reidx.testing import snapshots

    @pytest.mark.parametrize("address", snapshots.recipes("lf2"))
    def test_recipe_matches_snapshot(address):
        snapshots.check(address)

    @pytest.mark.parametrize("stated", STATED, ids=str)
    def test_recipe_keeps_stated_values(stated):
        stated.check()

A snapshot is the file ``tests/snapshots/RECIPE.yaml`` of the project that ships the recipe. After an intended change,
``python -m reidx.testing.snapshots`` rewrites the snapshots; review the changes before you commit them.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from reidx.checks.load import load_config
from reidx.config.yaml_tree import load_node
from reidx.registry.discovery import CORE, config_root, plugins

WRITE = "python -m reidx.testing.snapshots"


def recipes(namespace: str) -> list[str]:
    """Return the addresses of a namespace's recipes, those that have a snapshot and no config among them.

    A recipe is a config with a name and stages. Other configs are parts of recipes, or grids of them.
    """
    root, recorded = config_root(namespace), folder(namespace)
    names = {file.relative_to(root).as_posix() for file in root.rglob("*.yaml") if _is_recipe(file)}
    names |= {file.relative_to(recorded).as_posix() for file in recorded.rglob("*.yaml")}
    return [f"{namespace}::{name}" for name in sorted(names)]


def _is_recipe(file: Path) -> bool:
    keys = load_node(file).value.keys()
    return {"name", "stages"} <= keys and "ablate" not in keys


def folder(namespace: str) -> Path:
    """Return the folder of a namespace's snapshots, below the nearest setup.cfg or pyproject.toml above its configs."""
    root = config_root(namespace)
    for parent in root.resolve().parents:
        if (parent / "setup.cfg").is_file() or (parent / "pyproject.toml").is_file():
            return parent / "tests" / "snapshots"
    raise FileNotFoundError(f"No setup.cfg or pyproject.toml above {root}: {namespace} is not installed from its sources.")


def snapshot(address: str) -> Path:
    """Return the file of a recipe's snapshot."""
    namespace, _, name = address.partition("::")
    return folder(namespace) / name


@functools.cache
def resolved(address: str) -> dict[str, Any]:
    """Return the resolved experiment of a recipe as plain data, which callers must not change."""
    return load_config(address).data


def render(experiment: Mapping[str, Any]) -> str:
    """Return the text of a snapshot: YAML with a line for each innermost mapping."""
    return yaml.safe_dump(dict(experiment), sort_keys=False, default_flow_style=None, width=120, allow_unicode=True)


def check(address: str) -> None:
    """Raise :class:`AssertionError` with each key of a recipe whose value differs from its snapshot."""
    file, experiment = snapshot(address), resolved(address)
    assert file.is_file(), f"{address} has no snapshot. Run {WRITE}"
    text = file.read_text(encoding="utf-8")
    if text != render(experiment):
        lines = differences(yaml.safe_load(text), experiment) or ["the same values in another order or layout"]
        raise AssertionError("\n  ".join([f"{address} differs from its snapshot (if intended, run {WRITE}):", *lines]))


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return a line for each dotted key whose value differs; a stage's keys begin with ``stages.NAME``."""
    old, new = dict(_leaves(before)), dict(_leaves(after))
    lines = []
    for key in dict.fromkeys([*old, *new]):
        if key not in old or key not in new or old[key] != new[key]:
            sides = [repr(values[key]) if key in values else "nothing" for values in (old, new)]
            lines.append(f"{key}: {sides[0]} -> {sides[1]}")
    return lines


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted keys of the values; an empty container, and a list of plain values, is one value."""
    children = _children(value)
    if not children:
        yield path, value
    for key, child in children.items():
        yield from _leaves(child, f"{path}.{key}" if path else key)


def _children(value: Any) -> dict[str, Any]:
    """Return the children by key: stages by name, other items of a list by number."""
    if isinstance(value, Mapping):
        return {str(key): child for key, child in value.items()}
    if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        staged = all({"name", "epochs"} <= item.keys() for item in value)
        return {item["name"] if staged else str(number): item for number, item in enumerate(value)}
    return {}


# ---- what a source states


@dataclass(frozen=True)
class Stated:
    """The values that a source states for recipes, as a part of the experiment in which dotted keys are allowed.

    A key addresses a stage by its name, an item of another list by its number, and ``*`` addresses all of them. A mapping
    states the keys that it has, a list all items, and a name alone the type of a component.
    """

    source: str
    """The section of a paper, the file of released code, or the decision, as words for a message."""
    recipes: Sequence[str]
    values: Mapping[str, Any]

    def __str__(self) -> str:
        return self.source

    def check(self) -> None:
        """Raise :class:`AssertionError` with each key of a recipe that is missing or has another value."""
        wrong = [f"{address}: {line}" for address in self.recipes for line in _conflicts(self.values, resolved(address))]
        assert not wrong, "\n  ".join([f"Not as stated by {self.source}:", *wrong])


def _conflicts(stated: Any, found: Any, path: str = "") -> Iterator[str]:
    """Yield a line for each stated value that is missing or differs."""
    itemised = isinstance(stated, list) and any(isinstance(item, Mapping) for item in stated)
    if itemised and isinstance(found, list) and len(stated) == len(found):
        stated = _children(stated)
    if isinstance(stated, str) and isinstance(found, Mapping):
        stated = {"type": stated}
    if not isinstance(stated, Mapping) or not stated:
        if stated != found:
            yield f"{path.removeprefix('.')} is {found!r}, not {stated!r}"
        return
    children = _children(found)
    for key, value in stated.items():
        first, _, rest = key.partition(".")
        addressed = [name for name in children if first in (name, "*")]
        if not addressed:
            yield f"{path.removeprefix('.')} has no {first}"
        for name in addressed:
            yield from _conflicts({rest: value} if rest else value, children[name], f"{path}.{name}")


# ---- rewriting


def write(namespace: str) -> list[str]:
    """Rewrite the snapshots of a namespace's recipes; return a line for each that was added, changed or removed."""
    there, lines = set(folder(namespace).rglob("*.yaml")), []
    shipped = [address for address in recipes(namespace) if (config_root(namespace) / address.partition("::")[2]).is_file()]
    for address in shipped:
        file, text = snapshot(address), render(resolved(address))
        if file not in there or file.read_text(encoding="utf-8") != text:
            file.parent.mkdir(parents=True, exist_ok=True)
            lines.append(f"{'changed' if file in there else 'added'} {address}")
            file.write_text(text, encoding="utf-8")
    for file in sorted(there - {snapshot(address) for address in shipped}):
        file.unlink()
        lines.append(f"removed {file}")
    return lines


def main() -> None:
    """Rewrite the snapshots of the namespaces named in the command line, or of all that ship configs."""
    parser = argparse.ArgumentParser(prog=WRITE, description="Rewrite the snapshots of shipped recipes.")
    parser.add_argument("namespaces", nargs="*", metavar="NAMESPACE", help="reidx is the core; default: all that ship configs")
    shipping = [plugin.namespace or CORE for plugin in plugins() if plugin.configs is not None and not plugin.problem]
    for namespace in parser.parse_args().namespaces or shipping:
        print("\n".join(write(namespace) or [f"unchanged {namespace}"]))


if __name__ == "__main__":
    main()
