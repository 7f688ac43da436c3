"""An argument that no config could set: its component is refused by name, wherever it is first looked at."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

import pytest
import torch

from reidx.cli import list as listing
from reidx.config import components as config_parts
from reidx.config import schema
from reidx.config.node import Node, Origin
from reidx.errors import ConfigError, PluginError
from reidx.outline.source import arguments
from reidx.registry.constructor import unusable
from reidx.registry.discovery import check, installed
from reidx.registry.registry import CONTEXT, KINDS
from reidx.testing import conformance

WIRED = {
    "loss": {"type", "loss", *(field.name for field in dataclasses.fields(schema.Term))},
    "memory": {"type", *(field.name for field in dataclasses.fields(schema.MemoryWiring))},
    "alignment": {"type", *(field.name for field in dataclasses.fields(schema.Alignment))},
}
TAKEN = [(kind, key) for kind in KINDS for key in sorted(WIRED.get(kind, {"type"}))]

PLUGIN = '''
from reidx import Component, PluginInfo, hookimpl

@hookimpl
def reidx_plugin():
    return PluginInfo(title="A plugin", api=1, licence="MIT")

@hookimpl
def reidx_components():
    return [Component("KIND", "Own", "{module}:Own")]

class Own:
    """What it is."""

    def __init__(self, ARGUMENTS) -> None:
        pass

    def forward(self, scores, targets):
        return scores.sum()
'''


def context_of(kind: str) -> dict[str, Any]:
    return {name: CONTEXT[name] for name in KINDS[kind].context}


def test_engine_keys_are_those_of_the_slots():
    for kind in KINDS:
        assert set(schema.engine_keys(kind)) == WIRED.get(kind, {"type"}), kind
    rates = {field.name for field in dataclasses.fields(schema.OptimizerWiring)}
    assert set(schema.engine_keys("optimizer")) == {"type", *rates}


@pytest.mark.parametrize(("kind", "key"), TAKEN)
def test_argument_named_like_an_engine_key_is_refused(fake_plugins, kind, key):
    fake_plugins.add("mine", PLUGIN.replace("KIND", kind).replace("ARGUMENTS", f"margin=0.3, {key}=1.0"))
    registry, found = fake_plugins.discover()
    with pytest.raises(PluginError) as error:
        registry.find(kind, "mine.Own").load()
    said = str(error.value)
    assert f"{kind} mine.Own (from reidx-mine 0.1, fake_reidx_mine:Own)" in said
    assert f"'{key}'" in said and f"rename the argument, for example to {kind}_{key}" in said
    assert f"{fake_plugins.folder / 'fake_reidx_mine.py'}:15" in said
    assert check(found["mine"][0]) == [said]
    entry = registry.find(kind, "mine.Own")
    with pytest.raises(PluginError, match=f"'{key}'"):
        conformance.checks_for(kind)[0](entry)


@pytest.mark.parametrize(("kind", "key"), TAKEN)
def test_list_says_so_without_importing(fake_plugins, capsys, kind, key):
    fake_plugins.add("mine", PLUGIN.replace("KIND", kind).replace("ARGUMENTS", f"*, {key}=1.0"))
    known, _ = fake_plugins.discover()
    with installed(known):
        listing.run(argparse.Namespace(kind=kind))
    rows = capsys.readouterr().out.splitlines()
    mine = next(row for row in rows if row.startswith("mine.Own"))
    assert "CANNOT BE USED" in mine and f"'{key}'" in mine and "fake_reidx_mine.py:15" in mine
    assert not any("CANNOT" in row for row in rows if not row.startswith("mine."))


def test_config_with_such_a_component_is_refused(register, experiment):
    from reidx.checks.load import load_config

    class Weighted:
        def __init__(self, weight: float = 1.0) -> None: ...

        def forward(self, scores, targets): ...

    register("loss", Weighted)
    path = experiment(objective=[{"loss": "Weighted", "memory": "rows", "weight": 7.0}])
    with pytest.raises(PluginError, match=r"'weight' .*Term\.weight.*loss_weight.*test_constructor\.py:"):
        load_config(path)


class Parent:
    def __init__(self, weight: float = 1.0) -> None: ...


class Child(Parent):
    """Its constructor is the parent's."""


class Passes(Parent):
    def __init__(self, margin: float = 0.3, **rest: Any) -> None: ...


@dataclasses.dataclass
class Made:
    weight: float = 1.0


def factory(weight: float = 1.0) -> Parent:
    return Parent(weight)


@pytest.mark.parametrize("component", [Parent, Child, Passes, Made, factory])
def test_however_the_constructor_comes_about(component):
    assert "test_constructor.py" in unusable("loss", component, {})
    assert not unusable("clusterer", component, {})  # that slot is the component's alone
    names, any_other, _ = arguments(f"{__name__}:{component.__name__}")
    assert "weight" in names or any_other


def test_module_without_a_constructor_takes_nothing():
    class Bare(torch.nn.Module): ...

    assert not unusable("loss", Bare, {})


def test_module_without_a_constructor_takes_nothing_once_torch_compiles(monkeypatch):
    class Bare(torch.nn.Module): ...

    def patched(self: torch.nn.Module, *args: object, **kwargs: object) -> None: ...

    monkeypatch.setattr(torch.nn.Module, "__init__", patched)  # as torch.compile does
    assert not unusable("loss", Bare, {})


def test_argument_before_a_slash_is_refused():
    class Slash:
        def __init__(self, margin: float, /) -> None: ...

    assert "before `/`" in unusable("loss", Slash, {})


def conflicting(name: str) -> type:
    """A class whose argument of that name is one of two words."""
    made: dict[str, Any] = {}
    exec(f"from typing import Literal\nclass Own:\n    def __init__(self, {name}: Literal['a', 'b'] = 'a'): ...", made)
    return made["Own"]


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in KINDS for name in KINDS[kind].context])
def test_argument_that_cannot_take_what_is_supplied_under_its_name(kind, name):
    assert repr(name) in unusable(kind, conflicting(name), context_of(kind))


def test_every_context_has_an_example():
    assert {name for kind in KINDS.values() for name in kind.context} == set(CONTEXT)


def test_optimiser_with_a_setting_named_like_an_engine_key(monkeypatch, tmp_path):
    (tmp_path / "odd_optimiser.py").write_text("class Odd:\n    def __init__(self, params, lr=1.0, rates=None) -> None: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(config_parts, "_catalogue", lambda name: {"Odd": "odd_optimiser:Odd"})
    meta = {"catalogue": "optimizer", "wiring": schema.OptimizerWiring}
    with pytest.raises(ConfigError, match="Odd has a setting 'rates'"):
        spec = Node.of({"type": "Odd"}, Origin("a.yaml", 1))
        config_parts.called(meta, spec, ("optimizer",), lambda _, node, __: Node({"rates": node}, node.origin))
