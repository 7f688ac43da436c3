"""Building from specs: a spec fits the constructor, or the message names the key that does not."""

from __future__ import annotations

import subprocess
import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest

import reidx
from reidx.errors import ConfigError
from reidx.registry.build import REQUIRED, build, fill_defaults, signature_of
from reidx.registry.discovery import registry_override
from reidx.registry.registry import Component, Entry, Registry

SOURCE = '''
from __future__ import annotations
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Literal, Optional, Union
from reidx.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

class Head:
    """A head."""

    def __init__(
        self,
        in_channels: int,
        parts: int,
        eps: float = 0.5,
        pool: Literal["avg", "max", 3] = "avg",
        size: tuple[int, int] = (256, 128),
        steps: tuple[int, ...] | None = None,
        names: Sequence[str] = (),
        weights: Mapping[str, float] | None = None,
        flag: bool = False,
        label: Optional[str] = None,
        either: Union[int, str] = 1,
        tuned: Annotated[float, "unit: pixel"] = 1.0,
        prior: Tensor | None = None,
        free=None,
        then: object = print,
        **rest,
    ) -> None:
        if eps < 0:
            raise ValueError(f"eps must not be negative, but is {eps}.")
        self.given = {name: value for name, value in locals().items() if name not in ("self", "rest")}
        self.rest = rest

class Child(Head):
    """Head with the inherited constructor."""

class Plain:
    """Class without a constructor."""

class Buggy:
    """Bug of the program, not of the spec."""
    def __init__(self) -> None:
        len(3)
'''


@pytest.fixture(autouse=True)
def heads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    module = types.ModuleType("fake_heads")
    exec(SOURCE, module.__dict__)
    monkeypatch.setitem(sys.modules, "fake_heads", module)
    registry = Registry()
    for name in ("Head", "Child", "Plain", "Buggy"):
        registry.add(Entry(Component("fusion", name, f"fake_heads:{name}"), "", "reidx 1"))
    with registry_override(registry):
        yield registry


def refusal(spec: Any, **context: Any) -> str:
    with pytest.raises(ConfigError) as error:
        build("fusion", spec, where="exp.yaml:12 model.fusion", **{"in_channels": 8, **context})
    assert "exp.yaml:12 model.fusion" in str(error.value)
    return str(error.value)


def test_values_defaults_and_context_reach_the_constructor():
    head = build("fusion", {"type": "Head", "parts": 3, "eps": 1}, in_channels=2048, device="cpu")
    assert head.given["in_channels"] == 2048
    assert head.given["parts"] == 3
    assert head.given["eps"] == 1
    assert head.given["size"] == (256, 128)
    assert head.rest == {}  # only context that the constructor names is passed, even with **rest


def test_plain_name_is_a_spec():
    assert type(build("fusion", "Plain", in_channels=8)).__name__ == "Plain"


def test_list_becomes_the_annotated_tuple():
    given = build(
        "fusion", {"type": "Head", "parts": 1, "size": [3, 4], "steps": [1, 2, 3]}, in_channels=8
    ).given
    assert given["size"] == (3, 4)
    assert given["steps"] == (1, 2, 3)


def test_inherited_constructor():
    assert build("fusion", {"type": "Child", "parts": 2}, in_channels=8).given["parts"] == 2


GOOD = [
    ("eps", 1), ("eps", 1e-3), ("pool", "max"), ("pool", 3), ("steps", None), ("steps", []), ("names", ["a", "b"]),
    ("weights", {"a": 1, "b": 0.5}), ("weights", None), ("flag", True), ("label", None), ("label", "x"), ("either", 2),
    ("either", "two"), ("tuned", 3), ("prior", "anything"), ("free", {"any": ["thing"]}), ("then", "anything"),
]  # fmt: skip
BAD = [
    ("parts", True, "True (bool); expected int"),
    ("parts", 2.0, "2.0 (float); expected int"),
    ("parts", None, "None (NoneType); expected int"),
    ("parts", "2", "'2' (str); expected int"),
    ("eps", "1e-3", "'1e-3' (str); expected float"),
    ("eps", False, "False (bool); expected float"),
    ("eps", [0.5], "[0.5] (list); expected float"),
    ("pool", "gem", """'gem' (str); expected Literal["avg", "max", 3]"""),
    ("pool", 3.0, "3.0 (float); expected Literal"),
    ("size", [256], "[256] (list); expected tuple[int, int]"),
    ("size", 256, "256 (int); expected tuple[int, int]"),
    ("size", [256, "128"], "[256, '128'] (list); expected tuple[int, int]"),
    ("steps", [1, None], "[1, None] (list); expected tuple[int, ...] | None"),
    ("names", "ab", "'ab' (str); expected Sequence[str]"),
    ("names", [1], "[1] (list); expected Sequence[str]"),
    ("weights", {"a": "1"}, "expected Mapping[str, float] | None"),
    ("weights", [1.0], "expected Mapping[str, float] | None"),
    ("flag", 1, "1 (int); expected bool"),
    ("flag", "no", "'no' (str); expected bool"),
    ("label", 3, "3 (int); expected Optional[str]"),
    ("either", 2.5, "2.5 (float); expected Union[int, str]"),
    ("tuned", "3", "'3' (str); expected Annotated[float, 'unit: pixel']"),
]


def same(text: str) -> str:
    return text.replace('"', "'")


@pytest.mark.parametrize("key, value", GOOD)
def test_fitting_value(key, value):
    fitted = build("fusion", {"type": "Head", "parts": 1, key: value}, in_channels=8).given[key]
    assert fitted == (tuple(value) if isinstance(value, list) and key == "steps" else value)


@pytest.mark.parametrize("key, value, message", BAD)
def test_value_of_a_wrong_type(key, value, message):
    text = refusal({"type": "Head", "parts": 1, key: value})
    assert text.startswith(f"fusion Head (exp.yaml:12 model.fusion): {key!r} is ")
    assert same(message) in same(text)


def test_unknown_key_names_the_nearest_and_all():
    text = refusal({"type": "Head", "parts": 1, "lable": "x"})
    assert "unknown key 'lable'. Did you mean label?" in text
    assert "It accepts: parts, eps, pool," in text
    assert "in_channels" not in text and "rest" not in text
    assert "It accepts: no keys." in refusal({"type": "Plain", "x": 1})


def test_missing_key():
    assert "'parts' (int) is missing." in refusal("Head")
    with pytest.raises(ConfigError, match=r"'in_channels' \(int\) is missing"):
        build("fusion", {"type": "Head", "parts": 1})


def test_key_of_the_context_cannot_be_set():
    assert "'in_channels' is supplied by the experiment itself; remove it." in refusal(
        {"type": "Head", "parts": 1, "in_channels": 4}
    )


def test_all_mistakes_are_reported_at_once():
    text = refusal({"type": "Head", "esp": 1, "flag": "no"})
    assert all(fault in text for fault in ("3 faults", "'esp'", "'flag'", "'parts'"))


@pytest.mark.parametrize("spec", [None, 3, ["Head"], {}, {"typ": "Head"}, {"type": None}, {"type": ["Head"]}])
def test_not_a_spec(spec):
    assert "a fusion is written as a name or as {type: name, …}" in refusal(spec)


def test_unknown_type_names_the_place():
    assert "There is no fusion called 'Haed'. Did you mean Head?" in refusal("Haed")


def test_constructor_refusal_is_a_config_error():
    assert "eps must not be negative, but is -1." in refusal({"type": "Head", "parts": 1, "eps": -1})


def test_constructor_bug_is_no_config_error():
    with pytest.raises(TypeError):
        build("fusion", "Buggy")


def test_fill_defaults_returns_plain_data():
    filled = fill_defaults(
        "fusion", {"flag": True, "type": "Head", "parts": 2, "size": [2, 1]}, ("in_channels",)
    )
    assert filled == {
        "type": "Head", "parts": 2, "eps": 0.5, "pool": "avg", "size": [2, 1], "steps": None, "names": [],
        "weights": None, "flag": True, "label": None, "either": 1, "tuned": 1.0, "prior": None, "free": None,
    }  # fmt: skip
    assert list(filled)[:3] == ["type", "parts", "eps"]
    assert fill_defaults("fusion", filled, ("in_channels",)) == filled
    assert build("fusion", filled, in_channels=8).given["size"] == (2, 1)


def test_fill_defaults_checks():
    with pytest.raises(ConfigError, match=r"\(a.yaml:1\): unknown key 'x'"):
        fill_defaults("fusion", {"type": "Head", "parts": 1, "x": 1}, ("in_channels",), where="a.yaml:1")


def test_signature(heads):
    signature = signature_of(heads.find("fusion", "Head"))
    assert list(signature)[:3] == ["in_channels", "parts", "eps"]
    assert "rest" not in signature
    assert signature["parts"].required and signature["parts"].default is REQUIRED
    assert signature["eps"].annotation == "float" and signature["eps"].default == 0.5
    assert not signature["free"].required and signature["free"].annotation == ""
    assert signature_of(heads.find("fusion", "Plain")) == {}


def test_no_module_hides_a_public_name():
    """A module of the package with the name of a public function would replace it when imported."""
    assert callable(reidx.build)
    from pathlib import Path

    modules = {path.stem for path in Path(reidx.__file__).parent.iterdir()}
    assert not modules & set(reidx.__all__)


def test_import_reidx_is_light():
    code = "import sys, reidx; print(sorted({'torch', 'numpy', 'yaml', 'rich', 'pluggy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert {"build", "load_config", "run", "Result", "hookimpl"} <= set(dir(reidx))
    with pytest.raises(AttributeError, match="no attribute 'biuld'"):
        _ = reidx.biuld
