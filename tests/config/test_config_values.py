"""Values of a config at their limits: text on a command line, overrides without effect, numbers
and enormous sizes."""

from __future__ import annotations

import os
import shlex
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import reidx
from reidx.config.merge import Override
from reidx.config.node import Node, Origin
from reidx.config.yaml_tree import load_tree
from reidx.errors import ConfigError, ReidxError
from reidx.registry.constructor import bad_number

EXPERIMENT = """\
name: small
data:
  domains:
    target: {type: Market1501, root: images}
model:
  backbone: {type: Timm, name: test_resnet}
streams:
  target: {domain: target, labels: main}
labels:
  domain: target
memories:
  rows: {memory: LinearClassifier}
objective:
  - {loss: CrossEntropy, memory: rows}
optimizer: {type: Adam, lr: 0.001}
optimization: {rates: {backbone: 0.1, memories.rows: 10}}
stages:
  - {name: first, epochs: 3}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load(*overrides: str, text: str = EXPERIMENT) -> dict[str, Any]:
    Path("exp.yaml").write_text(text, encoding="utf-8")
    return reidx.load_config("exp.yaml", overrides).data


def refused(*overrides: str, text: str = EXPERIMENT) -> str:
    """Return the one-line message that refuses the config."""
    with pytest.raises(ConfigError) as error:
        load(*overrides, text=text)
    message = str(error.value)
    assert "\n" not in message and len(message) < 5000
    return message


def given_value(text: str) -> Any:
    return Override.read(f"a={text}").value.plain()


# ---- text after --set


@pytest.mark.parametrize(
    "text",
    ["data #2", "data\t#2", "#data", "a: b", "a:", "a:\tb", "::", "*x", "*.jpg", "&x", "&x y", "%x", "@x", "`x`", "- a",
     "-", "---",
     "...", "? a", "?", "|", ">x", "]", "}", ",", "a, b", "a=b", "=", "a\nb", "a\n#b", "a\rb", "a\tb", r"C:\data",
     r"C:\new x\y",
     r"\\server\x", "yes", "no", "on", "off", "y", "2024-01-31", "12:30", "1_000", "1,5", "~/data", "<<", "a'b", 'a"b',
     "a ' #b",
     "é #ü", "reidx::x.yaml", "x" * 5000, "a {b} [c]", "nan", "inf"],
)  # fmt: skip
def test_text_after_set_is_taken_whole(text):
    assert given_value(text) == text
    assert load(f"data.domains.target.root={text}")["data"]["domains"]["target"]["root"] == text


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("-3", -3), ("1e3", 1000.0), ("1e-3", 0.001), (".5", 0.5), (" 0.1 ", 0.1), ("012", 12), ("0x10", 16),
     ("true", True),
     ("null", None), ("~", None), ("[a, 2]", ["a", 2]), ("{a: {b: 1}}", {"a": {"b": 1}}), ("'3'", "3"), ('"a #b"', "a #b"),
     ("'a: b'", "a: b"), ("[]", []), ("''", ""), ("!!str 5", "5"), ("['a #b', c#d]", ["a #b", "c#d"])],
)  # fmt: skip
def test_numbers_booleans_and_brackets_keep_their_type(text, value):
    assert given_value(text) == value and type(given_value(text)) is type(value)


@pytest.mark.parametrize(
    "text",
    [" data", "data ", "data\t", "data\n", "'a' #2", '"a" b', "'tis", "[a] #2", "[a", "[a #2]", "{a: b #2}", "{a",
     "{a: *x}", "[*]",
     "!x", "!!str data #2", "[a, b]#2 #3", r'"C:\data"', "''a"],
)  # fmt: skip
def test_ambiguous_text_is_refused_with_working_quotes(text):
    message = refused(f"data.domains.target.root={text}")
    assert message.startswith("--set data.domains.target.root=")
    (advised,) = shlex.split(message.split("--set ")[-1])
    assert load(advised)["data"]["domains"]["target"]["root"] == text


@settings(deadline=None)
@given(st.text(max_size=12))
def test_no_part_of_a_text_is_lost(text):
    """No part of a string is lost: the value is the whole text, unless the text has brackets or quotes."""
    try:
        value = given_value(text)
    except ConfigError:
        return
    if isinstance(value, str) and text.strip()[0] not in "{['\"!":
        assert value == text


@pytest.mark.parametrize("value", ["012", "1e3", "0x10", "true", "2024", "null"])
def test_number_in_place_of_text_advises_quotes(value):
    assert "If it is text, put it into quotes" in refused(f"data.domains.target.root={value}")
    assert "If it is text, put it into quotes" in refused(text=EXPERIMENT.replace("name: small", f"name: {value}"))
    assert load(f'name="{value}"')["name"] == value


# ---- overrides without effect


@pytest.mark.parametrize(
    "override",
    ["optimization.rates={}", "optimizer={}", "optimization={}", "optimization={rates: {}}", "optimizer={type: Adam}",
     "optimization.rates={backbone: 0.1}",
     "optimization={rates: {backbone: 0.1}}",
     "stages.first.optimization.rates={}", "stages.first={}", "stages.first={epochs: 3}",
     "stages.0={name: first}", "stages={}", "stages={first: {}}", "stages={first: {epochs: 3}}", "model={}",
     "model.backbone={}",
     "streams={}", "streams.target={}", "memories={}", "memories={rows: {}}",
     "memories.rows.memory={}", "objective.0.loss={}", "data={}", "labels={}"],
)  # fmt: skip
def test_mapping_without_effect_is_refused(override):
    message = refused(override)
    assert message.startswith("--set") and "has no effect" in message


def test_refusal_of_empty_rates_names_alternatives():
    message = refused("optimization.rates={}")
    assert message == (
        "--set optimization.rates={}: has no effect, as mappings merge key by key: optimization.rates keeps backbone, "
        "memories.rows. "
        "To empty it: optimization.rates=null; to take out one name: optimization.rates={backbone: null}."
    )
    overrides = "optimization.rates=null", "optimization.rates={backbone: null}"
    rates = [load(override)["stages"][0]["optimization"]["rates"] for override in overrides]
    assert rates == [{}, {"memories.rows": 10}]


@pytest.mark.parametrize(
    "override",
    ["optimization.rates={backbone: 0.1, memories.rows: 10}", "optimizer.lr=0.001", "stages.first.epochs=3", "teachers={}",
     "model.fusion={}",
     "labels={domain: target}", "optimizer={type: Adam, lr: 0.002}", "alignment=[]", "evaluate={}"],
)  # fmt: skip
def test_existing_values_may_be_repeated(override):
    load(override)


def test_empty_rates_in_files_are_refused():
    Path("base.yaml").write_text(EXPERIMENT)
    message = refused(text="_base_: base.yaml\noptimization: {rates: {}}\n")
    assert message.startswith("exp.yaml:2: optimization.rates: {} has no effect")
    stage = EXPERIMENT.replace("epochs: 3}", "epochs: 3, optimization: {rates: {}}}")
    assert refused(text=stage).startswith("exp.yaml:18: optimization.rates: {} has no effect")
    # an empty section changes nothing and is accepted
    load(text="_base_: base.yaml\nlabels: {}\ndata: {domains: {}}\noptimizer: {}\noptimization: {}\n")
    assert load(text="_base_: base.yaml\noptimization: {rates: null}\n")["stages"][0]["optimization"]["rates"] == {}


def test_axis_value_may_repeat_the_base():
    base = Node.of({"optimizer": {"type": "Adam"}, "optimization": {"rates": {"backbone": 0.1}}}, Origin("base.yaml", 1))

    def put(path: str, value: Any) -> Any:
        return Override(path, Node.of(value, Origin("grid.yaml", 3)), "grid.yaml:3: axis a").applied_to(base).plain()

    assert put("optimizer", {"type": "Adam"}) == base.plain()
    with pytest.raises(ConfigError, match=r"^grid\.yaml:3: axis a: has no effect"):
        put("optimization.rates", {})


# ---- numbers


@pytest.mark.parametrize(
    "value",
    ["1" * 20_000, "-" + "1" * 20_000, "1" * 4400, "1" * 90, "0x" + "f" * 20_000, "-1", "4294967296", "1.5", "1e3",
     "1e999", "-1e999",
     ".nan", ".inf", "-.inf", "true", "'1'", "[1]", "{a: 1}"],
)  # fmt: skip
def test_invalid_seed_is_refused_in_one_line(value):
    assert refused(text=f"{EXPERIMENT}seed: {value}\n").startswith("exp.yaml:19: ")
    assert refused(f"seed={value}").startswith("--set")


@pytest.mark.parametrize("value", ["1e999", "-1e999", "1e-999", "-1.5e-400", ".inf", "-.inf", "+.inf", ".nan", ".NaN",
"9" * 90, "9" * 400])
@pytest.mark.parametrize(
    "key",
    ["optimizer.lr", "optimizer.weight_decay", "clip_grad", "data.cache_gb", "objective.0.weight", "objective.0.loss.smoothing",
     "memories.rows.memory.scale",
     "labels.clusterer.eps", "labels.distance.k1", "streams.target.transform.erase", "iters", "epochs", "seed"],
)  # fmt: skip
def test_non_finite_numbers_are_refused_everywhere(key, value):
    assert refused(f"{key}={value}", text=EXPERIMENT.replace(", epochs: 3", "")).count("--set") >= 1


@pytest.mark.parametrize(
    ("text", "place"),
    [("lr: 0.001", "lr: .inf"), ("backbone: 0.1,", "backbone: .nan,"), ("lr: 0.001", "lr: 0.001, betas: [0.9, .nan]"),
     ("memory: rows}", "memory: rows, weight: 1e999}"), ("epochs: 3", "schedule: [{type: StepLR, step_size: 2, "
      "gamma: .nan}]")],
)  # fmt: skip
def test_nested_non_finite_numbers_are_refused(text, place):
    line = next(n for n, row in enumerate(EXPERIMENT.splitlines(), 1) if text in row)
    message = refused(text=EXPERIMENT.replace(text, place))
    assert f"exp.yaml:{line}: " in message and ("it must be a finite number" in message or "larger than any" in message)


def test_valid_numbers_are_kept():
    for value, found in (("1e-3", 0.001), ("1E-3", 0.001), ("1.e-3", 0.001), (".5", 0.5), ("0e999", 0.0), ("1e-300", 1e-300)):
        assert load(f"optimizer.lr={value}")["stages"][0]["optimizer"]["lr"] == found
    assert load("seed=4294967295")["seed"] == 2**32 - 1


def test_bad_number_finds_infinity_and_overflow():
    assert bad_number(float("inf"))
    assert bad_number([1, {"a": float("nan")}])
    assert bad_number(2**63)
    assert bad_number([1, "x", None, True, {"a": -(2**63)}]) is None


# ---- sizes


def test_millions_of_epochs_load_quickly():
    assert load("epochs=10000000", text=EXPERIMENT.replace(", epochs: 3", ""))["stages"][0]["epochs"] == 10_000_000
    assert refused("stages.first.epochs=1000000001").endswith("it must be from 0 to 1000000000.")
    for key in ("iters", "calibrate", "grad_cache_chunks", "data.workers"):
        assert "it must be from" in refused(f"{key}=1000000000000000000")
    assert "it must be from 1 to 10000" in refused("data.image_size=[1000000, 128]")


def test_repeated_bases_are_read_once():
    for level in range(40):
        Path(f"{level}.yaml").write_text(f"_base_: [{level + 1}.yaml, ./{level + 1}.yaml]\nname: n{level}\nk{level}: 1\n")
    Path("40.yaml").write_text("a: 1\n")
    tree = load_tree("0.yaml")
    assert tree.data == {"a": 1, "name": "n0", **{f"k{level}": 1 for level in range(40)}}


def test_too_many_bases_are_refused():
    for level in range(70):
        Path(f"{level}.yaml").write_text(f"_base_: {level + 1}.yaml\n")
    Path("70.yaml").write_text("a: 1\n")
    with pytest.raises(ConfigError, match=r"^59\.yaml:1: _base_: bases of bases are nested more than 60 levels deep\.$"):
        load_tree("0.yaml")
    Path("wide.yaml").write_text(f"_base_: [{'70.yaml, ' * 1001}]\n")
    with pytest.raises(ConfigError, match=r"^wide\.yaml:1: _base_: more than 1000 bases in one experiment\.$"):
        load_tree("wide.yaml")


@pytest.mark.parametrize(
    ("name", "kind"),
    [("/dev/zero", "is a device, not a file"), ("pipe", "is a pipe, not a file"), ("socket", "is a socket, not a file"),
     ("folder", "is a folder, not a file"), ("large.yaml", "is larger than 250 kB, the limit for a config"),
     ("exp.yaml", "is circular")],
)  # fmt: skip
def test_special_file_as_base_is_not_read(name, kind):
    os.mkfifo("pipe")
    Path("folder").mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
    with open("large.yaml", "wb") as file:
        file.truncate(5 * 2**30)  # a sparse file: it takes no space
    message = refused(text=f"_base_: {name}\n")
    assert message.startswith("exp.yaml:1: _base_") and kind in message
    if name != "exp.yaml":
        with pytest.raises(ConfigError, match=kind):
            load_tree(name)


@pytest.mark.parametrize(
    "text",
    ["a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a,
     b in zip("abcdefgh", "bcdefghi")),
     "a: &a {x: 1}\n" + "".join(f"{b}: &{b} {{<<: [{', '.join([f'*{a}'] * 9)}]}}\n" for a, b in zip("abcdefgh", "bcdefghi"))],
)  # fmt: skip
def test_aliases_of_aliases_are_refused(text):
    assert "expand to more than" in refused(text=text)


@pytest.mark.parametrize("opening", ["[", "{", "{a: ", "[{a: [", "- "])
def test_tens_of_thousands_of_levels_are_refused(opening):
    assert "nested more than 60 levels deep" in refused(text="a:\n  " + opening * 40_000)


@pytest.mark.parametrize(
    "text",
    ["x" * 200_000 + ": 1", f"precision: {'x' * 200_000}", f"init: stage:{'x' * 200_000}", f"seed: {'x' * 200_000}",
     f"labels: {{clusterer: {{type: {'x' * 900}}}}}", f"evaluate: {{{'x' * 900}: 1}}", f"init: [{'x, ' * 9000}]"],
)  # fmt: skip
def test_messages_shorten_long_values(text):
    changed = "".join(row for row in EXPERIMENT.splitlines(keepends=True) if not row.startswith(("labels",
    "  domain: target")))
    refused(text=f"{changed}{text if text[0] != 'x' else f'? {text[:-3]}{chr(10)}: 1'}\n")
    assert len(str(ReidxError("x" * 10**6))) < 5000
