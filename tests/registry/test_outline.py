"""Outlines: the facts about a class, read from its source, equal those of the class; uncertain source has no outline."""

from __future__ import annotations

import importlib
import inspect
import json
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm.optim
import torch
from mmengine.optim.scheduler import lr_scheduler, param_scheduler

from reidx.contracts import contract_of
from reidx.outline.outline import outline
from reidx.registry import library as libraries
from reidx.registry.constructor import parameters_of, place_of
from reidx.registry.discovery import registry
from reidx.registry.library import library
from reidx.registry.registry import Entry

CHECKED = """
import contextlib, io, json, sys
from reidx.cli.main import main
from reidx.outline.outline import outline
from reidx.registry.discovery import registry
outcomes = []
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stderr(io.StringIO()) as text, contextlib.redirect_stdout(text):
        code = main(words)
    outcomes.append([code, text.getvalue(), [name for name in ("torch", "mmengine", "timm", "scipy") if name in sys.modules]])
open_ones = [entry.name for entry in registry().entries() if outline(entry.component.target) is None]
print(json.dumps([outcomes, open_ones, "torch" in sys.modules]))
"""

WRONG = {
    "epocs=3": "no key 'epocs'",
    "labels.clusterer.esp=0.5": "Did you mean eps?",
    "labels.clusterer.eps=much": "expected float",
    "labels.clusterer=DBSCANN": "Did you mean DBSCAN",
    "optimizer={type: SGDD}": "Did you mean SGD",
    "optimizer.lr=-1": "it must be at least 0",
    "+optimizer.momentun=1": "has no setting 'momentun'",
    "+schedule=[{type: MultiStepLR, milestone: [1]}]": "has no setting 'milestone'",
    "evaluate.domain=elsewhere": "no domain in data.domains called 'elsewhere'",
    "objective.0.feature=parts": "has no feature 'parts'",
    "objective.0.loss=lp.FeatureDistil": "compares with a teacher",
}


def facts(component: type, entry: Entry) -> dict[str, Any]:
    """Return every fact about a class that the checks of a config use."""
    own = {"keys": [(p.name, p.annotation, repr(p.default)) for p in parameters_of(component).values()]}
    own["contract"] = contract_of(component, entry.component.example)
    for name in ("parts", "detached"):
        value = getattr(component, name, None)  # some fusions have a method of that name
        own[name] = value if not inspect.isfunction(value) else value.__qualname__
    own["images"] = hasattr(component, "images")
    for name in ("forward", "update"):
        method = getattr(component, name, None)
        own[name] = method and (method.__module__, method.__qualname__, list(inspect.signature(method).parameters))
    return own


@pytest.mark.parametrize("entry", list(registry().entries()), ids=lambda entry: f"{entry.kind} {entry.name}")
def test_outline_equals_the_class(entry: Entry) -> None:
    sketch = outline(entry.component.target)
    assert sketch is not None, "this component must be imported to read its keys"
    assert facts(sketch, entry) == facts(entry.load(), entry)


def test_config_mistakes_are_found_without_torch(experiment: Callable[..., Path]) -> None:
    """Every installed component has an outline, so that its keys and contract are known without an import."""
    path = str(experiment())
    asked = [["config", path, "--set", wrong] for wrong in WRONG] + [["train", path, "--set", wrong] for wrong in WRONG]
    asked += [["test", path, "--set", "epocs=3"], ["list"], ["plugins"], ["--help"], ["config", f"{path}.yml"]]
    program = [sys.executable, "-c", CHECKED, json.dumps(asked)]
    ran = subprocess.run(program, capture_output=True, text=True, check=True)
    outcomes, open_ones, torch_is_there = json.loads(ran.stdout)
    for wrong, (code, text, _) in zip([*WRONG, *WRONG], outcomes):
        assert code == 1 and WRONG[wrong] in text, text
    assert [imported for _, _, imported in outcomes] == [[]] * len(asked)
    assert (open_ones, torch_is_there) == ([], False)


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Return a function that writes a module and returns its unique name."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(text: str) -> str:
        name = f"outlined_{uuid.uuid4().hex}"
        (tmp_path / f"{name}.py").write_text(f"import elsewhere\nfrom torch import nn, Tensor\n{text}", encoding="utf-8")
        return name

    return write


OPEN = {
    "a base of another package": "class Part(elsewhere.Layer):\n    pass",
    "a decorated class": "@elsewhere.changed\nclass Part(nn.Module):\n    pass",
    "a decorated constructor": "class Part(nn.Module):\n    @elsewhere.changed\n    def __init__(self, a=1): pass",
    "a default of another package": "class Part(nn.Module):\n    def __init__(self, kind=elsewhere.KIND): pass",
    "an attribute of another package": "class Part(nn.Module):\n    provides = frozenset(elsewhere.NAMES)",
    "an attribute set later": "class Part(nn.Module):\n    pass\nPart.requires = frozenset({'a'})",
    "one of two definitions": "class Part(nn.Module):\n    pass\nif elsewhere.there():\n    class Part: pass",
    "a condition in its body": "class Part(nn.Module):\n    if elsewhere.there():\n        clusterer_input = 'graph'",
    "a metaclass": "class Part(nn.Module, metaclass=elsewhere.Meta):\n    pass",
    "a contract that calls another package": (
        "class Part(nn.Module):\n    @classmethod\n    def contract(cls, **_): return {'clusterer_input': elsewhere.INPUT}"
    ),
    "a contract that calls a method": (
        "class Part(nn.Module):\n    @classmethod\n    def needed(cls): return 'graph'\n"
        "    @classmethod\n    def contract(cls, **_):\n        return {'clusterer_input': cls.needed()}"
    ),
    "a mistake in its syntax": "class Part(nn.Module:\n    pass",
    "another name": "class Other(nn.Module):\n    pass",
    "a base that is itself": "class Part(Part):\n    pass",
    "an instance of a local class": (
        "class Names:\n    def of(self, name): return frozenset({name})\nNAMES = Names()\n"
        "class Part:\n    requires = NAMES.of('a')"
    ),
    "a method of a local class": (
        "class Names:\n    @staticmethod\n    def all(): return frozenset({'a'})\nclass Part:\n    requires = Names.all()"
    ),
    "a descriptor": "class Late:\n    def __get__(self, *_): return 'used'\nclass Part:\n    cameras = Late()",
    "a function that calls a method": (
        "class Mode:\n    def __init__(self, name): self.name = name\n    def names(self): return {self.name}\n"
        "def wanted(mode): return frozenset(Mode(mode).names())\n"
        "class Part:\n    @classmethod\n    def contract(cls, mode='a'): return {'requires': wanted(mode)}"
    ),
    "a property of an enumeration's members": (
        "import enum\nclass Mode(enum.Enum):\n    A = 'a'\n    @property\n    def names(self): return frozenset({self.value})\n"
        "class Part:\n    requires = Mode.A.names"
    ),
    "a contract that gets a method by its name": (
        "class Part:\n    @classmethod\n    def needed(cls): return 'graph'\n"
        "    @classmethod\n    def contract(cls, **_): return {'clusterer_input': getattr(cls, 'needed')()}"
    ),
    "a contract that passes the class on": (
        "def ask(part): return part.needed()\nclass Part:\n    @classmethod\n    def needed(cls): return 'graph'\n"
        "    @classmethod\n    def contract(cls, **_): return {'clusterer_input': ask(cls)}"
    ),
    "a contract that is no method": (
        "class Part:\n    @classmethod\n    def needed(cls): return 'graph'\n"
        "    contract = classmethod(lambda cls, **_: {'clusterer_input': cls.needed()})"
    ),
    "an inherited contract that calls a method": (
        "class Base:\n    needed = str\n    @classmethod\n"
        "    def contract(cls, **_): return {'clusterer_input': cls.needed()}\n"
        "class Part(Base):\n    @classmethod\n    def needed(cls): return 'graph'"
    ),
    "a local class decorator": (
        "def marked(part):\n    part.cameras = part.seen()\n    return part\n"
        "@marked\nclass Part:\n    @staticmethod\n    def seen(): return 'used'"
    ),
    "a local decorator with a known name": (
        "def no_grad(function):\n    return lambda self, other=1: None\n"
        "class Part:\n    @no_grad\n    def __init__(self, size=1): pass"
    ),
    "a local metaclass with a known name": (
        "class ABCMeta(type):\n    def __call__(cls, size=1): pass\nclass Part(metaclass=ABCMeta):\n    pass"
    ),
    "a class that a call changes": "class Part:\n    cameras = 'unused'\n_ = setattr(Part, 'cameras', 'used')",
    "a class passed to the decorator of another": (
        "def changing(part): return lambda other: setattr(part, 'cameras', 'used') or other\n"
        "class Part:\n    cameras = 'unused'\n@changing(Part)\nclass Other: pass"
    ),
    "a number that a function changes": (
        "SIZE = 1\ndef widen():\n    global SIZE\n    SIZE = 5\nwiden()\nclass Part:\n    def __init__(self, size=SIZE): pass"
    ),
    "a list that a function fills": (
        "NAMES = []\ndef add(part):\n    NAMES.append('a')\n    return part\n@add\ndef other(): pass\n"
        "class Part:\n    requires = frozenset(NAMES)"
    ),
    "a table within a table that a function fills": (
        "SIZES = {'a': {}}\ndef fill(): SIZES['a']['b'] = 2\nfill()\n"
        "class Part:\n    def __init__(self, size=SIZES['a'].get('b', 1)): pass"
    ),
    "a number that an expression assigns": "SIZE = 1\n_ = (SIZE := 5)\nclass Part:\n    def __init__(self, size=SIZE): pass",
    "a number except for type checkers": (
        "from typing import TYPE_CHECKING\nSIZE = 1\nif TYPE_CHECKING:\n    import another\nelse:\n    SIZE = 5\n"
        "class Part:\n    def __init__(self, size=SIZE): pass"
    ),
    "a name from a star import": "from math import *\nclass Part:\n    def __init__(self, size=pow(2, 3)): pass",
    "the modules imported so far": "import sys\nclass Part:\n    cameras = 'used' if 'torch' in sys.modules else 'unused'",
    "a hidden class variable": (
        "from dataclasses import dataclass\nfrom typing import *\n"
        "@dataclass\nclass Part:\n    size: int = 1\n    cameras: ClassVar[str] = 'used'"
    ),
}


@pytest.mark.parametrize("text", OPEN.values(), ids=OPEN)
def test_uncertain_source_has_no_outline(text: str, written: Callable[[str], str]) -> None:
    assert outline(f"{written(text)}:Part") is None


TOLD = """
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
if TYPE_CHECKING:
    from another import Thing
Mode = Literal["a", "b"]
LIMIT = 2 * math.pi
def wanted(mode): return frozenset({mode}) if mode != "a" else none()
def none(): return frozenset()
@dataclass(frozen=True)
class Base:
    size: int = 3
    mode: Mode = "a"
    cameras = "used"
class Part(Base):
    tricks = tuple(range(2))
    @classmethod
    def contract(cls, mode="a", **others):
        def given(name):
            try: return cls.cameras if name else ""
            except ValueError as error: return error
        return {"requires": wanted(mode), "cameras": given("x")}
    @elsewhere.no_grad()
    def forward(self, features: Tensor, teacher: Thing = None): return elsewhere.zeros(1)
"""


def test_outline_follows_bases_constants_and_helpers(written: Callable[[str], str]) -> None:
    sketch: Any = outline(f"{written(TOLD)}:Part")
    assert [(p.name, p.annotation, p.default) for p in parameters_of(sketch).values()] == [
        ("size", "int", 3),
        ("mode", "Mode", "a"),
    ]
    assert parameters_of(sketch)["mode"].hint.__args__ == ("a", "b")
    assert contract_of(sketch, {"mode": "b"}).requires == {"b"} and contract_of(sketch, {}).requires == frozenset()
    assert contract_of(sketch, {}).cameras == "used" and sketch.tricks == (0, 1)
    file, _, line = place_of(sketch.forward).rpartition(":")  # the place in the source, for messages
    assert Path(file).read_text(encoding="utf-8").splitlines()[int(line) - 1].startswith("    def forward")
    assert list(inspect.signature(sketch.forward).parameters) == ["self", "features", "teacher"]


def test_library_has_the_classes_of_torch_and_mmengine() -> None:
    optimizers = {name for name, thing in vars(torch.optim).items() if inspect.isclass(thing)}
    offered = {name for name in library("optimizer") if not name.startswith("timm.")}
    assert offered == optimizers - {"Optimizer", "LBFGS", "SparseAdam", "Muon"}
    rates = {n for n, c in vars(lr_scheduler).items() if inspect.isclass(c) and issubclass(c, param_scheduler._ParamScheduler)}
    assert set(library("schedule")) == {name for name in rates if name.endswith("LR")} - {"ReduceOnPlateauLR"}


def test_library_has_own_optimisers_of_timm() -> None:
    classes = {name: thing for name, thing in vars(timm.optim).items() if inspect.isclass(thing)}
    own = {n for n, c in classes.items() if issubclass(c, torch.optim.Optimizer) and c.__module__.startswith("timm.")}
    left_out = {"Adahessian", "Lookahead", "AdamWLegacy", "NAdamLegacy", "RAdamLegacy"}
    assert {name for name in library("optimizer") if "." in name} == {f"timm.{name}" for name in own - left_out}
    assert {"Lion", "Lamb", "AdaBelief", "Muon"} <= own


@pytest.mark.parametrize("kind", ["optimizer", "schedule", "log back-end"])
def test_library_keywords_equal_the_classes(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def settings() -> list[tuple[str, str, Any]]:
        known = [libraries.keywords_of(target).values() for target in library(kind).values()]
        return [(p.name, repr(p.default), p.required) for own in known for p in own]

    opaque = {name for name, target in library(kind).items() if outline(target) is None}
    assert not {name for name in opaque if not name.startswith("timm.")} and len(opaque) < 5
    sketched = settings()
    monkeypatch.setattr(libraries, "outline", lambda target: None)
    assert sketched == settings()


@pytest.mark.parametrize("future", ["", "from __future__ import annotations\n"])
def test_quoted_annotations_equal_the_class(future: str, written: Callable[[str], str], tmp_path: Path) -> None:
    text = (
        "from typing import Literal\nclass Part:\n"
        "    def __init__(self, mode: \"Literal['a', 'b']\" = 'a', size: 'int' = 1): pass\n"
    )
    module = written("")
    (tmp_path / f"{module}.py").write_text(future + text, encoding="utf-8")
    sketch: Any = outline(f"{module}:Part")
    hints = {name: parameter.hint for name, parameter in parameters_of(sketch).items()}
    assert hints == {name: p.hint for name, p in parameters_of(importlib.import_module(module).Part).items()}
    assert (hints["size"] is int) is not bool(future)


def test_attributes_and_dataclass_instances_are_outlined(written: Callable[[str], str]) -> None:
    """Attributes of a class, its constructor, and an instance of a class that has only fields."""
    module = written(
        "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass Name:\n    text: str\nNAME = Name('b')\n"
        "class Base(nn.Module):\n    requires = frozenset({'a'})\n    def forward(self, scores): pass\n"
        "class Part(nn.Module):\n    requires = Base.requires | {NAME.text}\n    forward = Base.forward\n"
    )
    sketch: Any = outline(f"{module}:Part")
    assert contract_of(sketch, {}).requires == {"a", "b"}
    assert list(inspect.signature(sketch.forward).parameters) == ["self", "scores"]
