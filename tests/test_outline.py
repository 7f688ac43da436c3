"""What a class says of itself, read from its source: as the class itself says it, and nothing where that is not certain."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.optim.scheduler import lr_scheduler, param_scheduler

from reidx import config_parts
from reidx.constructor import parameters_of, place_of
from reidx.contracts import contract_of
from reidx.outline import outline
from reidx.plugins import registry
from reidx.registry import Entry

CHECKED = """
import contextlib, io, json, sys
from reidx.cli.main import main
from reidx.outline import outline
from reidx.plugins import registry
said = []
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stderr(io.StringIO()) as text, contextlib.redirect_stdout(text):
        code = main(words)
    said.append([code, text.getvalue(), [name for name in ("torch", "mmengine", "timm", "scipy") if name in sys.modules]])
open_ones = [entry.name for entry in registry().entries() if outline(entry.component.target) is None]
print(json.dumps([said, open_ones, "torch" in sys.modules]))
"""

WRONG = {
    "epocs=3": "no key 'epocs'",
    "labels.clusterer.esp=0.5": "did you mean 'eps'?",
    "labels.clusterer.eps=much": "expected float",
    "labels.clusterer=DBSCANN": "Did you mean DBSCAN",
    "optimizer={type: SGDD}": "Did you mean SGD",
    "+optimizer.momentun=1": "has no setting 'momentun'",
    "+schedule=[{type: MultiStepLR, milestone: [1]}]": "has no setting 'milestone'",
    "evaluate.domain=elsewhere": "no domain in data.domains called 'elsewhere'",
    "objective.0.on=parts": "has no feature 'parts'",
    "objective.0.loss=lp.FeatureDistil": "compares with a teacher",
}


def facts(component: type, entry: Entry) -> dict[str, Any]:
    """All that the checks of a config ask of a class."""
    own = {"keys": [(p.name, p.annotation, repr(p.default)) for p in parameters_of(component).values()]}
    own["contract"] = contract_of(component, entry.component.example)
    for name in ("parts", "detached"):
        value = getattr(component, name, None)  # of the fusions some have a method of that name
        own[name] = value if not inspect.isfunction(value) else value.__qualname__
    own["images"] = hasattr(component, "images")
    for name in ("forward", "update"):
        method = getattr(component, name, None)
        own[name] = method and (method.__module__, method.__qualname__, list(inspect.signature(method).parameters))
    return own


@pytest.mark.parametrize("entry", list(registry().entries()), ids=lambda entry: f"{entry.kind} {entry.name}")
def test_outline_says_what_the_class_says(entry: Entry) -> None:
    sketch = outline(entry.component.target)
    assert sketch is not None, "a component of ours that has to be imported for its keys"
    assert facts(sketch, entry) == facts(entry.load(), entry)


def test_mistakes_of_a_config_are_found_without_torch(experiment: Callable[..., Path]) -> None:
    """Also: no component that is installed has to be imported to look at its keys and its contract."""
    path = str(experiment())
    asked = [["config", path, "--set", wrong] for wrong in WRONG] + [["train", path, "--set", wrong] for wrong in WRONG]
    asked += [["test", path, "--set", "epocs=3"], ["list"], ["plugins"], ["--help"], ["config", f"{path}.yml"]]
    program = [sys.executable, "-c", CHECKED, json.dumps(asked)]
    ran = subprocess.run(program, capture_output=True, text=True, check=True)
    said, open_ones, torch_is_there = json.loads(ran.stdout)
    for wrong, (code, text, _) in zip([*WRONG, *WRONG], said):
        assert code == 1 and WRONG[wrong] in text, text
    assert [imported for _, _, imported in said] == [[]] * len(asked)
    assert (open_ones, torch_is_there) == ([], False)


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Writes a module and gives its name, which no other test has."""
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
    "a condition in its body": "class Part(nn.Module):\n    if elsewhere.there():\n        needs = 'graph'",
    "a metaclass": "class Part(nn.Module, metaclass=elsewhere.Meta):\n    pass",
    "a contract that asks another package": (
        "class Part(nn.Module):\n    @classmethod\n    def contract(cls, **_): return {'needs': elsewhere.NEEDS}"
    ),
    "a contract that calls a method": (
        "class Part(nn.Module):\n    @classmethod\n    def needed(cls): return 'graph'\n"
        "    @classmethod\n    def contract(cls, **_):\n        return {'needs': cls.needed()}"
    ),
    "a mistake in its syntax": "class Part(nn.Module:\n    pass",
    "another name": "class Other(nn.Module):\n    pass",
    "a base that is itself": "class Part(Part):\n    pass",
}


@pytest.mark.parametrize("text", OPEN.values(), ids=OPEN)
def test_source_that_leaves_something_open_has_no_outline(text: str, written: Callable[[str], str]) -> None:
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
    file, _, line = place_of(sketch.forward).rpartition(":")  # those of the source, for messages
    assert Path(file).read_text(encoding="utf-8").splitlines()[int(line) - 1].startswith("    def forward")
    assert list(inspect.signature(sketch.forward).parameters) == ["self", "features", "teacher"]


def test_catalogues_are_those_of_torch_and_mmengine() -> None:
    optimizers = {name for name, thing in vars(torch.optim).items() if inspect.isclass(thing)}
    assert set(config_parts._catalogue("optimizer")) == optimizers - {"Optimizer", "LBFGS", "SparseAdam"}
    rates = {n for n, c in vars(lr_scheduler).items() if inspect.isclass(c) and issubclass(c, param_scheduler._ParamScheduler)}
    assert set(config_parts._catalogue("schedule")) == {name for name in rates if name.endswith("LR")}


@pytest.mark.parametrize("catalogue", ["optimizer", "schedule", "log back-end"])
def test_settings_of_a_catalogue_are_those_of_its_classes(catalogue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def settings() -> list[tuple[str, str, Any]]:
        known = [config_parts._settings(target).values() for target in config_parts._catalogue(catalogue).values()]
        return [(p.name, repr(p.default), p.required) for own in known for p in own]

    assert all(outline(target) for target in config_parts._catalogue(catalogue).values())
    sketched = settings()
    monkeypatch.setattr(config_parts, "outline", lambda target: None)
    assert sketched == settings()
