"""Constructor arguments that no config could set: their component is refused by name at first use."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

import pytest

import reidx
from reidx.cli import list as listing
from reidx.config import components as config_parts
from reidx.config import schema
from reidx.config.config import _fill
from reidx.config.node import Node, Origin
from reidx.errors import PluginError
from reidx.outline.source import arguments
from reidx.registry.constructor import constructor_fault
from reidx.registry.discovery import check, registry_override
from reidx.registry.registry import CONTEXT, KINDS
from reidx.testing import conformance

SECTIONS = [section for section in vars(schema).values() if dataclasses.is_dataclass(section)]
ENGINE_KEYS = sorted({field.name for section in SECTIONS for field in dataclasses.fields(section)})

PLUGIN = '''
from reidx import Component, PluginInfo, hookimpl

@hookimpl
def reidx_plugin():
    return PluginInfo(title="A plugin", api=1, licence="MIT")

@hookimpl
def reidx_components():
    return [Component("KIND", "Own", "{module}:Own")]

class Own:
    """A component."""

    def __init__(self, ARGUMENTS) -> None:
        pass

    def forward(self, scores, targets):
        return scores.sum()
'''


def context_of(kind: str) -> dict[str, Any]:
    return {name: CONTEXT[name] for name in KINDS[kind].context}


@pytest.mark.parametrize("kind", KINDS)
def test_argument_called_type_is_refused(fake_plugins, kind):
    fake_plugins.add("mine", PLUGIN.replace("KIND", kind).replace("ARGUMENTS", "margin=0.3, type=1.0"))
    registry, found = fake_plugins.discover()
    with pytest.raises(PluginError) as error:
        registry.find(kind, "mine.Own").load()
    message = str(error.value)
    assert f"{kind} mine.Own (from reidx-mine 0.1, fake_reidx_mine:Own)" in message
    assert "'type'" in message and f"rename the argument, for example to {kind}_type" in message
    assert f"{fake_plugins.folder / 'fake_reidx_mine.py'}:15" in message
    assert check(found["mine"][0]) == [message]
    entry = registry.find(kind, "mine.Own")
    with pytest.raises(PluginError, match="'type'"):
        conformance.checks_for(kind)[0](entry)


def test_list_reports_it_without_importing(fake_plugins, capsys):
    fake_plugins.add("mine", PLUGIN.replace("KIND", "loss").replace("ARGUMENTS", "*, type=1.0"))
    known, _ = fake_plugins.discover()
    with registry_override(known):
        listing.run(argparse.Namespace(kind="loss"))
    rows = capsys.readouterr().out.splitlines()
    mine = next(row for row in rows if row.split()[:1] == ["mine.Own"])
    assert "CANNOT BE USED" in mine
    assert "'type'" in mine
    assert "fake_reidx_mine.py:15" in mine
    assert not any("CANNOT" in row for row in rows if row != mine)


@pytest.mark.parametrize("kind", KINDS)
def test_every_engine_key_reaches_the_component(register, kind):
    """An argument named like any key of the schema gets exactly the value written with the component."""
    names = [name for name in ENGINE_KEYS if name not in {"type", *KINDS[kind].context}]
    arguments = ", ".join(f"{name}: float = 1.0" for name in names)
    made: dict[str, Any] = {}
    exec(f"class Keyed:\n    def __init__(self, {arguments}):\n        self.got = dict(locals())", made)
    made["Keyed"].__doc__ = "Keep the arguments."
    register(kind, made["Keyed"])
    given = {name: float(number) for number, name in enumerate(names, start=2)}
    spec = Node.of({"type": "Keyed", **given}, Origin("here"))
    if kind in schema.SLOTS:
        resolved = _fill(schema.SLOTS[kind], Node({kind: spec}, Origin("here")), ("at",)).plain()[kind]
    else:
        resolved = config_parts.component_node(kind, spec, ("at",)).plain()
    assert resolved == {"type": "Keyed", **given}
    got = reidx.build(kind, resolved).got
    assert {name: got[name] for name in names} == given


class Parent:
    def __init__(self, type: float = 1.0) -> None: ...


class Child(Parent):
    """Parent with the inherited constructor."""


class Passes(Parent):
    def __init__(self, type: float = 0.3, **rest: Any) -> None: ...


@dataclasses.dataclass
class Made:
    type: float = 1.0


def factory(type: float = 1.0) -> Parent:
    return Parent(type)


@pytest.mark.parametrize("component", [Parent, Child, Passes, Made, factory])
def test_type_is_found_in_any_constructor(component):
    assert "test_constructor.py" in constructor_fault("loss", component, {})
    names, any_other, _ = arguments(f"{__name__}:{component.__name__}")
    assert "type" in names or any_other


def test_argument_before_a_slash_is_refused():
    class Slash:
        def __init__(self, margin: float, /) -> None: ...

    assert "before `/`" in constructor_fault("loss", Slash, {})


def conflicting(name: str) -> type:
    """Return a class whose argument of that name is one of two words."""
    made: dict[str, Any] = {}
    exec(f"from typing import Literal\nclass Own:\n    def __init__(self, {name}: Literal['a', 'b'] = 'a'): ...", made)
    return made["Own"]


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in KINDS for name in KINDS[kind].context])
def test_argument_that_cannot_take_its_context(kind, name):
    assert repr(name) in constructor_fault(kind, conflicting(name), context_of(kind))


def test_every_context_has_an_example():
    assert {name for kind in KINDS.values() for name in kind.context} == set(CONTEXT)
