"""Experiment files: the YAML dialect, bases, merging, overrides, origins, and writing a tree back."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import string
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, reject, settings
from hypothesis import strategies as st

from reidx.config.merge import Section, Sections, merge
from reidx.config.node import Node
from reidx.config.yaml_tree import Origin, Tree, dotted, load_tree, render, tree_hash
from reidx.errors import ConfigError, PluginError
from reidx.registry import discovery as plugins


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty working folder, so that display names are the short paths that a user types."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def packages(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two namespaces with configs, ``core`` and ``lf2``; no other exists."""

    def config_root(namespace: str) -> Path:
        if namespace not in ("core", "lf2"):
            raise PluginError(f"No plugin called {namespace!r} is installed.")
        return folder / "site" / namespace

    monkeypatch.setattr(plugins, "config_root", config_root)
    monkeypatch.setattr(plugins, "config_roots", lambda: {name: config_root(name) for name in ("core", "lf2")})
    write("site/core/data/market1501.yaml", "data:\n  name: market\n  size: [256, 128]\n")
    write("site/core/schedule.yaml", "epochs: 50\n")
    write("site/lf2/usl.yaml", "_base_: [parts/model.yaml, core::schedule.yaml]\nepochs: 80\n")
    write("site/lf2/parts/model.yaml", "model: {type: lf2.Net}\n")
    return folder


LISTED = "`reidx recipes` lists the installed configs."


def write(name: str, text: str | bytes) -> str:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return name


def load(text: str, *overrides: str, sections: Sections | None = None) -> Tree:
    return load_tree(write("exp.yaml", text), overrides, sections)


def error(text: str | bytes, *overrides: str) -> str:
    """Return the one-line message of the ConfigError that loading this file raises."""
    with pytest.raises(ConfigError) as caught:
        load_tree(write("exp.yaml", text), overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


# ---- scalars


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E5", 1e5),
        ("-2.5e+3", -2500.0),
        (".5", 0.5),
        ("3.", 3.0),
        ("+12", 12),
        ("012", 12),
        ("0o17", 15),
        ("0x1F", 31),
        (".inf", math.inf),
        ("-.Inf", -math.inf),
        ("true", True),
        ("False", False),
        ("~", None),
        ("null", None),
        ("", None),
        ("!!str 5", "5"),
        ("!!float 1", 1.0),
        ("!!int 0x10", 16),
    ],
)
def test_core_schema_values(folder: Path, text: str, value: Any) -> None:
    found = load(f"a: {text}").data["a"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "text",
    [
        "on", "off", "yes", "No", "y", "12:30", "1_000", "2024-01-31", "0b101", "1e", "e5", "tRUE", "inf",
        "nan", "=", "<<", "0o8", "1.2.3", "-x", "+", "reidx::a.yaml", "C:\\x",
    ],
)  # fmt: skip
def test_look_alikes_are_strings(folder: Path, text: str) -> None:
    assert load(f"a: {text}").data["a"] == text


def test_nan(folder: Path) -> None:
    assert math.isnan(load("a: .NaN").data["a"])


@pytest.mark.parametrize("quoted", ['"1e-3"', "'true'", '"~"', "'12'"])
def test_quoted_scalars_are_strings(folder: Path, quoted: str) -> None:
    assert load(f"a: {quoted}").data["a"] == quoted[1:-1]


def test_on_is_an_ordinary_key(folder: Path) -> None:
    assert load("objective:\n  - {loss: X, feature: global}\n").data == {
        "objective": [{"loss": "X", "feature": "global"}]
    }


# ---- anchors, merge keys


def test_aliases_are_copies(folder: Path) -> None:
    tree = load("a: &x {k: 1}\nb: *x\n")
    assert tree.data == {"a": {"k": 1}, "b": {"k": 1}}
    tree.data["a"]["k"] = 2
    assert tree.data["b"]["k"] == 1


def test_merge_key_yields_to_own_keys(folder: Path) -> None:
    tree = load("x: &x {p: 1, q: 1}\ny: &y {p: 2, r: 2}\na:\n  q: 9\n  <<: [*x, *y]\n")
    assert tree.data["a"] == {"p": 1, "q": 9, "r": 2}
    assert str(tree.origin(("a", "q"))) == "exp.yaml:4"
    assert str(tree.origin(("a", "r"))) == "exp.yaml:2"


def test_merge_key_of_a_scalar(folder: Path) -> None:
    assert error("a:\n  <<: 3\n") == "exp.yaml:2: << takes a mapping or a list of mappings."


def test_quoted_merge_key_is_a_key(folder: Path) -> None:
    assert load('"<<": 3').data == {"<<": 3}


@pytest.mark.parametrize("text", ["a: 1\nb: &x [*x]\n", "a: 1\nb: &x {<<: *x}\n"])
def test_value_inside_itself(folder: Path, text: str) -> None:
    assert error(text) == "exp.yaml:2: this value contains itself, by an alias."


def test_exploding_aliases_are_refused(folder: Path) -> None:
    text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    text += "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9))
    assert error(text) == "exp.yaml: its aliases expand to more than 100000 values."


# ---- forbidden content


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "exp.yaml:1: the file is empty; an experiment is a mapping (`key: value`)."),
        ("# only\n---\n", "exp.yaml:1: the file holds null; an experiment is a mapping (`key: value`)."),
        ("# only a comment\n", "exp.yaml:1: the file is empty; an experiment is a mapping (`key: value`)."),
        ("- a\n- b\n", "exp.yaml:1: the file holds a list; an experiment is a mapping (`key: value`)."),
        ("just text\n", "exp.yaml:1: the file holds a string; an experiment is a mapping (`key: value`)."),
        ("a: 1\nlr: 2\nb:\n  c: 3\nlr: 4\n", "exp.yaml:5: the key 'lr' is given twice, first in line 2."),
        ("a:\n  b: 1\n  b: 1\n", "exp.yaml:3: the key 'b' is given twice, first in line 2."),
        ("a: 1\n2: b\n", "exp.yaml:2: the key '2' is a number, but keys are strings; put it in quotes."),
        ("true: b\n", "exp.yaml:1: the key 'true' is a boolean, but keys are strings; put it in quotes."),
        ("~: b\n", "exp.yaml:1: the key '~' is null, but keys are strings; put it in quotes."),
        ("? [a, b]\n: c\n", "exp.yaml:1: a key must be a string, not a list or a mapping."),
        ("a: !!int x\n", "exp.yaml:1: 'x' cannot be read as int."),
        ("a: 1\nb:\n\tc: 2\n", "exp.yaml:3:1: a tab in the indentation; YAML allows only spaces."),
        ("a: 1\nb: {c: 2\nd: 3\n", "exp.yaml:3:2: not valid YAML: "),
        ("a: [1, 2\n", "exp.yaml:2:1: not valid YAML: "),
        ("a: *nowhere\n", "exp.yaml:1:4: not valid YAML: found undefined alias 'nowhere'."),
        ("a: 1\n---\nb: 2\n", "exp.yaml:2:1: not valid YAML: "),
        ("a: @x\n", "exp.yaml:1:4: not valid YAML: "),
        ("a: 1\nb: \x07\n", "exp.yaml:2: YAML does not allow the character U+0007."),
        (b"a: 1\nb: \xff\n", "exp.yaml:2: not UTF-8 text (byte 0xff)."),
    ],
)
def test_bad_files(folder: Path, text: str | bytes, message: str) -> None:
    found = error(text)
    assert found == message or (message.endswith(" ") and found.startswith(message))


@pytest.mark.parametrize(
    ("value", "tag"),
    [
        ("!!python/object/apply:os.system ['touch owned']", "!!python/object/apply:os.system"),
        ("!!python/name:os.system ''", "!!python/name:os.system"),
        ("!!python/tuple [1, 2]", "!!python/tuple"),
        ("!!set {x}", "!!set"),
        ("!!binary aGk=", "!!binary"),
        ("!!timestamp 2024-01-31", "!!timestamp"),
        ("!env HOME", "!env"),
        ("!<null> x", "null"),
        ("!Thing {x: 1}", "!Thing"),
    ],
)
def test_tags_are_refused(folder: Path, value: str, tag: str) -> None:
    message = error(f"a: 1\nb: {value}\n")
    assert message.startswith(f"exp.yaml:2: the tag {tag} is not allowed; configs hold plain data only")
    assert not Path("owned").exists()


def test_tag_on_a_key_is_refused(folder: Path) -> None:
    assert error("!env A: 1\n").startswith("exp.yaml:1: the tag !env is not allowed")


@pytest.mark.parametrize("depth", [61, 5000])
def test_too_deep(folder: Path, depth: int) -> None:
    assert error("a: " + "[" * depth + "]" * depth).endswith("nested more than 60 levels deep.")


def test_an_integer_python_will_not_read(folder: Path) -> None:
    for digits in ("9" * 5000, "-" + "9" * 5000, "0x" + "f" * 5000, "0o" + "7" * 5000):
        assert "exp.yaml:1: '" in error(f"a: {digits}") and "an integer may have 100." in error(f"a: {digits}")


def test_byte_order_mark_and_windows_lines(folder: Path) -> None:
    tree = load_tree(write("exp.yaml", b"\xef\xbb\xbfa: 1\r\nb: x\r\n"))
    assert tree.data == {"a": 1, "b": "x"}
    assert str(tree.origin(("b",))) == "exp.yaml:2"


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from([*"ab:-?[]{},&*!|>'\"%@`#=<~1.\n\t\\", "  ", "\n  ", ": ", "- ", "<<: ", "&a ", "*a"])
    )
)
def test_any_text_loads_or_raises_config_error(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[str]
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_text("".join(["a", ":", *pieces]))
    try:
        tree = load_tree(file)
    except ConfigError as caught:
        assert str(caught).startswith(f"{file}")
        assert "\n" not in str(caught)
    else:
        file.write_text(render(tree))
        assert typed(load_tree(file).data) == typed(tree.data)


# ---- files that cannot be read


def test_missing_file_with_near_match(folder: Path) -> None:
    write("runs/market_usl.yaml", "a: 1")
    write("runs/duke.yaml", "a: 1")
    with pytest.raises(ConfigError) as caught:
        load_tree("runs/market_uls.yaml")
    assert str(caught.value) == "runs/market_uls.yaml does not exist. Did you mean runs/market_usl.yaml?"


def test_missing_file_without_near_match(folder: Path) -> None:
    write("runs/duke.yaml", "a: 1")
    write("runs/notes.txt", "")
    with pytest.raises(ConfigError) as caught:
        load_tree(Path("runs/market_usl.yaml"))
    assert str(caught.value) == "runs/market_usl.yaml does not exist. Configs there: runs/duke.yaml."


def test_missing_file_in_empty_or_missing_folder(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"^a\.yaml does not exist\. Configs there: none\.$"):
        load_tree("a.yaml")
    with pytest.raises(
        ConfigError, match=r"^no/a\.yaml does not exist\. The folder no does not exist either\.$"
    ):
        load_tree("no/a.yaml")


def test_long_listing_is_cut(folder: Path) -> None:
    for i in range(23):
        write(f"c{i:02}.yaml", "a: 1")
    with pytest.raises(ConfigError, match=r"Configs there: c00\.yaml, .*, c19\.yaml and 3 more\.$"):
        load_tree("something-else.yaml")


def test_folder_given(folder: Path) -> None:
    write("runs/duke.yaml", "a: 1")
    with pytest.raises(ConfigError) as caught:
        load_tree("runs")
    assert str(caught.value) == "runs is a folder, not a file. Configs there: runs/duke.yaml."


def test_unreadable_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> str:  # root, who may run the tests, can read any file
        raise PermissionError(13, "Permission denied", "a.yaml")

    write("a.yaml", "a: 1")
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ConfigError, match=r"^a\.yaml cannot be read: Permission denied\.$"):
        load_tree("a.yaml")


def test_paths_the_system_refuses(folder: Path) -> None:
    write("a.yaml", "a: 1")
    with pytest.raises(ConfigError, match=r"^a\.yaml/b\.yaml cannot be read: Not a directory\.$"):
        load_tree("a.yaml/b.yaml")
    with pytest.raises(ConfigError, match=r"cannot be read: .*embedded null (byte|character in path)\.$"):
        load_tree("a\0.yaml")


def test_symlink_loop(folder: Path) -> None:
    Path("a.yaml").symlink_to("a.yaml")
    with pytest.raises(ConfigError, match=r"^a\.yaml cannot be read: "):
        load_tree("a.yaml")


# ---- bases


def test_later_bases_and_the_file_win(folder: Path) -> None:
    write("parts/a.yaml", "x: a\ny: a\nz: a\n")
    write("parts/b.yaml", "y: b\nz: b\n")
    tree = load("_base_: [parts/a.yaml, parts/b.yaml]\nz: own\n")
    assert tree.data == {"x": "a", "y": "b", "z": "own"}
    assert [str(tree.origin((key,))) for key in "xyz"] == ["parts/a.yaml:1", "parts/b.yaml:1", "exp.yaml:2"]


def test_mapping_changes_named_items_of_a_list(folder: Path) -> None:
    write("base.yaml", "stages: [{name: a, epochs: 1}, {name: b, epochs: 2, optimizer: {lr: 1}}]\nplain: [1, 2]")
    over = write("over.yaml", "_base_: base.yaml\nstages: {b: {optimizer: {lr: 3}, iters: 4}}\nplain: {x: 1}")
    assert load_tree(over).data == {
        "stages": [{"name": "a", "epochs": 1}, {"name": "b", "epochs": 2, "optimizer": {"lr": 3}, "iters": 4}],
        "plain": {"x": 1},
    }
    wrong = write("wrong.yaml", "_base_: base.yaml\nstages:\n  c: {epochs: 1}")
    with pytest.raises(ConfigError, match=r"wrong.yaml:3: there is no 'c' to change. It has: a, b."):
        load_tree(wrong)
    for names in ("{name: a}, {name: a}", "{name: 1}", "{name: [x]}"):
        write("twice.yaml", f"stages: [{names}]")
        with pytest.raises(ConfigError, match=r"changes items by name, but the names at twice.yaml:1 are not unique"):
            load_tree(write("over.yaml", "_base_: twice.yaml\nstages: {a: {epochs: 3}}"))


def test_bases_are_relative_to_their_file(folder: Path) -> None:
    write("shared/root.yaml", "r: 1\n")
    write("runs/usl/base.yaml", "_base_: ../../shared/root.yaml\n")
    tree = load_tree(write("runs/usl/exp.yaml", "_base_: base.yaml\n"))
    assert tree.data == {"r": 1}
    assert str(tree.origin(("r",))) == "shared/root.yaml:1"


def test_an_absolute_base(folder: Path) -> None:
    write("elsewhere/a.yaml", "x: 1\n")
    tree = load(f"_base_: {folder}/elsewhere/a.yaml\n")
    assert str(tree.origin(("x",))) == f"{folder}/elsewhere/a.yaml:1"


def test_a_base_may_be_reached_twice(folder: Path) -> None:
    write("root.yaml", "x: 1\n")
    write("a.yaml", "_base_: root.yaml\na: 1\n")
    write("b.yaml", "_base_: root.yaml\nb: 1\n")
    assert load("_base_: [a.yaml, b.yaml]").data == {"x": 1, "a": 1, "b": 1}


def test_base_key_disappears_even_when_empty(folder: Path) -> None:
    assert load("_base_: []\na: 1\n").data == {"a": 1}


def test_circle_of_bases(folder: Path) -> None:
    write("a.yaml", "\n_base_: sub/b.yaml\n")
    write("sub/b.yaml", "_base_:\n  - ../a.yaml\n")
    with pytest.raises(ConfigError) as caught:
        load_tree("a.yaml")
    assert str(caught.value) == "sub/b.yaml:2: _base_ is circular: a.yaml -> sub/b.yaml -> a.yaml."


def test_file_that_is_its_own_base(folder: Path) -> None:
    assert error("_base_: ./exp.yaml\n") == "exp.yaml:1: _base_ is circular: exp.yaml -> exp.yaml."


@pytest.mark.parametrize(
    ("value", "given"),
    [
        ("3", "a number"),
        ("null", "null"),
        ("{a: b}", "a mapping"),
        ("[a.yaml, [b]]", "a list"),
        ("''", "an empty one"),
    ],
)
def test_base_of_the_wrong_kind(folder: Path, value: str, given: str) -> None:
    write("a.yaml", "a: 1")
    assert error(f"x: 1\n_base_: {value}\n") == (
        "exp.yaml:2: _base_ takes a path or a list of paths "
        "(relative to this file, or namespace::path.yaml), "
        f"not {given}."
    )


def test_missing_base(folder: Path) -> None:
    write("parts/schedule.yaml", "a: 1\n")
    assert error("a: 1\n_base_:\n- parts/shedule.yaml\n") == (
        "exp.yaml:3: _base_: parts/shedule.yaml does not exist. Did you mean parts/schedule.yaml?"
    )


def test_error_inside_a_base_names_the_base(folder: Path) -> None:
    write("parts/a.yaml", "a: 1\na: 2\n")
    assert error("_base_: parts/a.yaml").startswith("parts/a.yaml:2: the key 'a' is given twice")


def test_base_below_the_top_level(folder: Path) -> None:
    assert error("a:\n  - b: 1\n    _base_: x.yaml\n") == (
        "exp.yaml:3: _base_ may only stand at the top level of a file."
    )


# ---- namespaces


def test_namespaced_bases(packages: Path) -> None:
    tree = load("_base_: [core::data/market1501.yaml, lf2::usl.yaml]\n")
    assert tree.data == {
        "data": {"name": "market", "size": [256, 128]},
        "epochs": 80,
        "model": {"type": "lf2.Net"},
    }
    assert str(tree.origin(("data", "size"))) == "core::data/market1501.yaml:3"
    assert str(tree.origin(("model", "type"))) == "lf2::parts/model.yaml:1"
    assert str(tree.origin(("epochs",))) == "lf2::usl.yaml:2"


def test_namespaced_file_given(packages: Path) -> None:
    tree = load_tree("lf2::usl.yaml")
    assert tree.data["epochs"] == 80


def test_relative_base_stays_inside_its_namespace(packages: Path) -> None:
    write("site/core/data/up.yaml", "_base_: ../schedule.yaml\n")
    assert str(load_tree("core::data/up.yaml").origin(("epochs",))) == "core::schedule.yaml:1"
    write("site/core/data/out.yaml", "_base_: ../../lf2/usl.yaml\n")
    with pytest.raises(ConfigError) as caught:
        load_tree("core::data/out.yaml")
    assert str(caught.value) == (
        "core::data/out.yaml:1: _base_: 'core::data/../../lf2/usl.yaml' leads out of the configs of 'core'."
    )


@pytest.mark.parametrize("address", ["core::../x.yaml", "core::/etc/passwd", "core::a/../../x.yaml"])
def test_address_outside_the_namespace(packages: Path, address: str) -> None:
    with pytest.raises(ConfigError, match="leads out of the configs of 'core'"):
        load_tree(address)


@pytest.mark.parametrize("address", ["::x.yaml", "core::"])
def test_half_an_address(packages: Path, address: str) -> None:
    with pytest.raises(ConfigError, match="is not an address; write namespace::path"):
        load_tree(address)


@pytest.mark.parametrize(
    "wrong",
    [
        "core::data/market1502.yaml", "core::market1501.yaml", "core::data/market1501",
        "core::data/Market1501.yaml",
    ],
)  # fmt: skip
def test_missing_config_of_a_namespace(packages: Path, wrong: str) -> None:
    assert error(f"_base_: {wrong}\n") == (
        f"exp.yaml:1: _base_: {wrong} does not exist. Did you mean core::data/market1501.yaml? {LISTED}"
    )


def test_command_that_lists_configs_is_named(packages: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_tree("core::zzz.yaml")
    assert str(caught.value) == f"core::zzz.yaml does not exist. {LISTED}"


@pytest.mark.parametrize("wrong", ["core::lf2/usl.yaml", "core::usl.yaml", "lf2::ulsl.yaml", "runs/lf2/usl.yaml", "usl.yaml"])
def test_config_of_another_namespace_is_suggested(packages: Path, wrong: str) -> None:
    with pytest.raises(ConfigError, match=r"Did you mean lf2::usl\.yaml\?"):
        load_tree(wrong)


def test_unknown_namespace_error_gains_the_line(packages: Path) -> None:
    write("exp.yaml", "a: 1\n_base_: nope::x.yaml\n")
    with pytest.raises(PluginError) as caught:
        load_tree("exp.yaml")
    assert str(caught.value) == "exp.yaml:2: _base_: No plugin called 'nope' is installed."


# ---- merging


def over(base: str, file: str) -> Any:
    write("base.yaml", base)
    return load("_base_: base.yaml\n" + file).data


def test_mappings_merge_key_by_key(folder: Path) -> None:
    assert over("a: {x: 1, y: {p: 1, q: 2}}", "a: {y: {q: 3}, z: 4}") == {
        "a": {"x": 1, "y": {"p": 1, "q": 3}, "z": 4}
    }


def test_lists_and_scalars_replace(folder: Path) -> None:
    assert over("a: [1, 2, 3]\nb: 1\nc: {x: 1}\nd: 5", "a: [4]\nb: [1]\nc: 3\nd: {y: 1}") == {
        "a": [4],
        "b": [1],
        "c": 3,
        "d": {"y": 1},
    }


def test_null_replaces_a_mapping(folder: Path) -> None:
    assert over("a: {type: X, p: 1}", "a: null") == {"a": None}


def test_another_type_replaces_whole(folder: Path) -> None:
    assert over("c: {type: DBSCAN, eps: 0.6}", "c: {type: KMeans, k: 9}") == {"c": {"type": "KMeans", "k": 9}}


def test_same_or_unnamed_type_merges(folder: Path) -> None:
    assert over("c: {type: DBSCAN, eps: 0.6}", "c: {type: DBSCAN, k: 4}")["c"] == {
        "type": "DBSCAN",
        "eps": 0.6,
        "k": 4,
    }
    assert over("c: {type: DBSCAN, eps: 0.6}", "c: {eps: 0.5}")["c"] == {"type": "DBSCAN", "eps": 0.5}
    assert over("c: {eps: 0.6}", "c: {type: DBSCAN}")["c"] == {"type": "DBSCAN", "eps": 0.6}


def test_another_loss_replaces_whole(folder: Path) -> None:
    assert over("t: {loss: {type: Triplet, margin: 0.3}}", "t: {loss: Soft}") == {"t": {"loss": "Soft"}}


def test_section_called_loss_is_no_component(folder: Path) -> None:
    assert over("s: {loss: {type: A}, x: 1}", "s: {loss: {type: B}}")["s"] == {"loss": {"type": "B"}, "x": 1}


def test_type_rule_keeps_the_other_keys(folder: Path) -> None:
    assert over("m: {b: {type: A, p: 1}, f: {type: F, q: 2}}", "m: {b: {type: B}}") == {
        "m": {"b": {"type": "B"}, "f": {"type": "F", "q": 2}}
    }


def test_stages_are_replaced_whole(folder: Path) -> None:
    assert over("stages: [{name: a, epochs: 1}, {name: b}]", "stages: [{name: a}]") == {
        "stages": [{"name": "a"}]
    }


# ---- origins


def test_keys_and_items_have_their_key_line(folder: Path) -> None:
    tree = load("\na:\n  b: 1\n  c:\n    - x\n    -\n      y: 2\nd: {e: [1,\n  2]}\n")
    lines = {dotted(path): origin.line for path, origin in tree.origins.items()}
    assert lines == {
        "": None, "a": 2, "a.b": 3, "a.c": 4, "a.c.0": 5, "a.c.1": 7, "a.c.1.y": 7,
        "d": 8, "d.e": 8, "d.e.0": 8, "d.e.1": 9,
    }  # fmt: skip
    assert {origin.source for origin in tree.origins.values()} == {"exp.yaml"}


def test_origins_after_a_merge_are_the_winners(folder: Path) -> None:
    write("base.yaml", "a:\n  p: 1\n  q: [1, 2]\n  t: {type: X, deep: 1}\n")
    tree = load("_base_: base.yaml\na:\n  q: [3]\n  t: {type: Y}\n", "a.p=7", "+a.n={k: [5]}")
    assert {dotted(path): str(origin) for path, origin in tree.origins.items() if path} == {
        "a": "exp.yaml:2",
        "a.p": "--set",
        "a.q": "exp.yaml:3",
        "a.q.0": "exp.yaml:3",
        "a.t": "exp.yaml:4",
        "a.t.type": "exp.yaml:4",
        "a.n": "--set",
        "a.n.k": "--set",
        "a.n.k.0": "--set",
    }


def test_origin_of_the_nearest_known(folder: Path) -> None:
    tree = load("a:\n  b: 1\n")
    assert str(tree.origin(("a", "b"))) == "exp.yaml:2"
    assert str(tree.origin(("a", "missing", 3, "x"))) == "exp.yaml:1"
    assert str(tree.origin(("missing",))) == "exp.yaml"
    assert str(Tree().origin(("a",))) == "unknown origin"


def test_origin_as_text() -> None:
    assert str(Origin("reidx::data/market1501.yaml", 7)) == "reidx::data/market1501.yaml:7"
    assert str(Origin("default of GlobalPool")) == "default of GlobalPool"


# ---- reading and setting by path


def test_get_and_set(folder: Path) -> None:
    tree = load("m: {f: {type: A, deep: {x: 1}}}\nl: [{n: 1}]\n")
    assert tree.get(("m", "f", "deep", "x")) == 1
    assert tree.get(()) is tree.data
    with pytest.raises(KeyError):
        tree.get(("m", "g"))
    given = {"type": "B", "size": (1, 2)}
    tree.set(("m", "f"), given, Origin("default of B"))
    tree.set(("l", 0, "n"), 5, Origin("elsewhere"))
    assert tree.data == {"m": {"f": {"type": "B", "size": [1, 2]}}, "l": [{"n": 5}]}
    assert str(tree.origin(("m", "f", "size", 1))) == "default of B"
    assert ("m", "f", "deep", "x") not in tree.origins
    assert str(tree.origin(("l", 0, "n"))) == "elsewhere"
    assert str(tree.origin(("m",))) == "exp.yaml:1"
    given["type"] = "C"
    assert tree.get(("m", "f", "type")) == "B"


def test_set_converts_python_values(folder: Path) -> None:
    class Mode(str, Enum):
        FAST = "fast"

    tree = load("a: 1")
    tree.set(("a",), [np.float64(0.5), Mode.FAST, True], Origin("default of X"))
    assert [type(item) for item in tree.data["a"]] == [float, str, bool]
    assert load(render(tree)).data == {"a": [0.5, "fast", True]}


@pytest.mark.parametrize("value", [object(), {1: 2}, [1, {"x": b"raw"}], {3}])
def test_set_refuses_what_yaml_cannot_hold(folder: Path, value: Any) -> None:
    tree = load("a: {b: 1}")
    before = copy.deepcopy(tree)
    with pytest.raises(ConfigError, match=r"^default of X: a\.b.* is .*; a config holds plain data only\.$"):
        tree.set(("a", "b"), value, Origin("default of X"))
    assert tree == before


# ---- overrides

STAGES = "seed: 1\nmodel:\n  backbone: {type: Timm, name: resnet50, last_stride: 1}\n"
STAGES += "stages:\n  - {name: source, epochs: 5}\n  - {name: adapt, epochs: 50, milestones: [10, 20]}\n"


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("seed=3", ("seed",), 3),
        ("seed=1e-3", ("seed",), 0.001),
        ("seed=yes", ("seed",), "yes"),
        ("seed=null", ("seed",), None),
        ("seed=''", ("seed",), ""),
        ("seed=[a, 2]", ("seed",), ["a", 2]),
        ("seed={type: X}", ("seed",), {"type": "X"}),
        ("seed=a=b", ("seed",), "a=b"),
        ("stages.0.epochs=3", ("stages", 0, "epochs"), 3),
        ("stages.adapt.epochs=3", ("stages", 1, "epochs"), 3),
        ("stages.adapt.milestones.1=30", ("stages", 1, "milestones"), [10, 30]),
        ("stages.adapt.milestones=[]", ("stages", 1, "milestones"), []),
        ("stages.source={epochs: 9}", ("stages", 0), {"name": "source", "epochs": 9}),
        ("+stages.2={name: late}", ("stages", 2), {"name": "late"}),
        ("+stages.adapt.lr=0.1", ("stages", 1, "lr"), 0.1),
        ("+a.b.c=1", ("a",), {"b": {"c": 1}}),
        (
            "model.backbone={name: vit}",
            ("model", "backbone"),
            {"type": "Timm", "name": "vit", "last_stride": 1},
        ),
        ("model.backbone={type: X, k: 1}", ("model", "backbone"), {"type": "X", "k": 1}),
        ("model.backbone.type=X", ("model", "backbone"), {"type": "X"}),
        ("model.backbone.type=Timm", ("model", "backbone", "type"), "Timm"),
    ],
)
def test_overrides(folder: Path, override: str, path: tuple[str | int, ...], value: Any) -> None:
    before = load(STAGES).data
    tree = load(STAGES, override)
    assert tree.get(path) == value
    assert "--set" in {str(origin) for known, origin in tree.origins.items() if known[: len(path)] == path}
    # nothing else has changed
    parent: Any = before
    for key in path[:-1]:
        parent = parent[key]
    if isinstance(parent, list) and path[-1] == len(parent):
        parent.append(value)
    else:
        parent[path[-1]] = value
    assert tree.data == before


def test_overrides_apply_in_order(folder: Path) -> None:
    tree = load(
        STAGES,
        "model.backbone.type=X",
        "+model.backbone.depth=3",
        "model.backbone.depth=4",
        "seed=2",
        "seed=3",
    )
    assert tree.data["model"]["backbone"] == {"type": "X", "depth": 4}
    assert tree.data["seed"] == 3
    assert load(STAGES, "+model.backbone.depth=3", "model.backbone.type=X").data["model"]["backbone"] == {
        "type": "X"
    }


def test_override_into_null_needs_the_plus(folder: Path) -> None:
    assert error("f: null\n", "f.type=X").startswith("--set f.type=X: f has no key 'type'.")
    assert load("f: null\n", "+f.type=X").data == {"f": {"type": "X"}}


def test_key_of_the_schema_may_be_set(folder: Path) -> None:
    asked = []

    def sections(path: tuple[str | int, ...]) -> Section:
        asked.append(path)
        return {("stages", 1): Section(frozenset({"lr"})), (): Section(frozenset({"fusion"}))}.get(path, Section(checked=True))

    assert load(STAGES, "stages.adapt.lr=0.1", sections=sections).data["stages"][1]["lr"] == 0.1
    assert asked == [("stages", 1)]
    assert load("a: 1", "fusion.type=X", sections=sections).data == {"a": 1, "fusion": {"type": "X"}}
    load("a: 1", "a=2", sections=lambda path: pytest.fail("called for a key that exists"))


@pytest.mark.parametrize("sign", ["", "+"])
def test_key_outside_the_schema_is_never_advised(folder: Path, sign: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load("seed: 1", f"{sign}sede=2", sections=lambda path: Section(frozenset({"seed", "schedule"})))
    assert str(caught.value) == f"--set {sign}sede=2: the experiment has no key 'sede'. Did you mean seed?"


def test_free_name_takes_a_plus(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no key 'b'\. It has: a\. To add a new key, write \+rates\.b=\.\.\.$"):
        load("rates: {a: 1}", "rates.b=2", sections=lambda path: Section(free=True))
    assert load("rates: {a: 1}", "+rates.b=2", sections=lambda path: Section(free=True)).data == {"rates": {"a": 1, "b": 2}}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.backbon.type=X", "model has no key 'backbon'. Did you mean backbone? "
         "To add a new key, write +model.backbon.type=..."),
        ("zzz=1", "the experiment has no key 'zzz'. It has: seed, model, stages. "
         "To add a new key, write +zzz=..."),
        ("+seed=2", "seed exists already; drop the +."),
        ("+stages.1={a: b}", "stages.1 exists already; drop the +."),
        ("seed.x=1", "seed is a number and has nothing inside."),
        ("stages.2.epochs=1", "stages has 2 items, counted from 0."),
        ("stages.2={name: x}", "stages has 2 items, counted from 0."),
        ("+stages.3={name: x}", "stages has 2 items, counted from 0."),
        ("stages.adpt.epochs=1", "stages has no item named 'adpt'. Did you mean adapt? "
         "Positions count from 0."),
        ("stages.1.milestones.x=1", "stages.1.milestones has no item named 'x'. It has: none. "
         "Positions count from 0."),
        ("+model.list.0=1", "model.list is not a list, so it has no item 0; set model.list as a whole."),
        ("model.0=1", "model is not a list, so it has no item 0; set model as a whole."),
        ("seed", "write key.path=value, with no spaces in key.path."),
        ("=3", "write key.path=value, with no spaces in key.path."),
        ("model..x=3", "write key.path=value, with no spaces in key.path."),
        ("seed =3", "write key.path=value, with no spaces in key.path."),
        ("seed=", "the value is missing; for an empty one write null or ''."),
        ("_base_=x.yaml", "_base_ cannot be set; it belongs at the top of a file."),
        ("seed={a: 1, a: 2}", "the key 'a' is given twice, first in line 1."),
        ("seed=!!python/name:os.system ''", "the tag !!python/name:os.system is not allowed; "
         "configs hold plain data only (mappings, lists, strings, numbers, true, false, null). "
         """To give it as text: --set 'seed="!!python/name:os.system '"'"''"'"'"'"""),
        ("seed=[*x]", "not valid YAML: found undefined alias 'x'. To give it as text: --set 'seed=\"[*x]\"'"),
        ("+" + ".".join("a" * 61) + "=1", "more than 60 levels deep."),
    ],
)  # fmt: skip
def test_bad_overrides(folder: Path, override: str, message: str) -> None:
    assert error(STAGES, override) == f"--set {override}: {message}"


def test_base_inside_an_override_value(folder: Path) -> None:
    assert error(STAGES, "seed={_base_: x}").endswith("_base_ may only stand at the top level of a file.")


def test_two_items_of_one_name(folder: Path) -> None:
    assert error("l: [{name: a}, 3, {name: a}]", "l.a.x=1") == (
        "--set l.a.x=1: l has 2 items named 'a'; say which: l.0 or l.2."
    )


def test_override_does_not_change_aliases(folder: Path) -> None:
    """An alias is a copy: an override of one must not change the other."""
    assert load("a: &x {k: [1]}\nb: *x\n", "a.k.0=2").data == {"a": {"k": [2]}, "b": {"k": [1]}}


# ---- rendering


def test_render_looks_like_this(folder: Path) -> None:
    write("base.yaml", "model:\n  backbone: {type: Timm, name: resnet50}\n  fusion: {}\n")
    tree = load(
        "_base_: base.yaml\nsize: [256, 128]\nrefiners: []\nobjective:\n"
        "- {loss: A, feature: global, weight: 0.8}\n- {loss: B}\nnested: [[1, 2], [3]]\n",
        "size.0=384",
        'model.backbone.name="1e3"',
    )
    assert render(tree) == (
        "model:\n"
        "  backbone:\n"
        "    type: Timm       # base.yaml:2\n"
        '    name: "1e3"      # --set\n'
        "  fusion: {}         # base.yaml:3\n"
        "size:\n"
        "  - 384              # --set\n"
        "  - 128              # exp.yaml:2\n"
        "refiners: []         # exp.yaml:3\n"
        "objective:\n"
        "  - loss: A          # exp.yaml:5\n"
        "    feature: global  # exp.yaml:5\n"
        "    weight: 0.8      # exp.yaml:5\n"
        "  - loss: B          # exp.yaml:6\n"
        "nested:\n"
        "  - [1, 2]           # exp.yaml:7\n"
        "  - [3]              # exp.yaml:7\n"
    )
    assert "#" not in render(tree, origins=False)
    assert load(render(tree)).data == load(render(tree, origins=False)).data == tree.data


def test_render_of_nothing_loads(folder: Path) -> None:
    assert load(render(load("{}"))).data == {}


def test_long_value_does_not_shift_comments(folder: Path) -> None:
    tree = load(f"a: 1\nb: {'x' * 200}\nc: 2\n")
    rows = render(tree).splitlines()
    assert rows[0] == "a: 1  # exp.yaml:1"
    assert rows[1] == f"b: {'x' * 200}  # exp.yaml:2"


def test_source_with_odd_characters_remains_comment(folder: Path) -> None:
    tree = load("a: 1")
    tree.set(("a",), 2, Origin("two\nb: lines\x07"))
    assert load(render(tree)).data == {"a": 2}


TRICKY = [
    "", " ", "true", "Null", "~", "1e-3", "1_000", "012", "0o17", "0x1f", ".inf", "-.INF", ".nan", "on",
    "yes", "12:30", "2024-01-31", "- a", "a: b", "a:", ":a", "a #b", "#a", "a,b", "[a]", "{a}", "*a", "&a",
    "!a", "|", ">", "%a", "@a", "`a", "?", "? a", "---", "...", "<<", "=", "'", '"', "\\", "a\nb", "a\tb",
    "\r", "\x00", "\x7f", "\x85", "\u2028", "\ufeff", "\ud800", "\U0001f600", "é", "a ", " a", "../x",
    "./x", "reidx::data/market1501.yaml", "a b", "a  b", "null ", "1.2.3", "resnet50", "lp.MultiView",
    "a::", "::a", "x - y", "a ?b", "e5", "/abs/path with space/x.yaml",
]  # fmt: skip

texts = st.one_of(
    st.sampled_from(TRICKY),
    st.text(max_size=12),
    st.text(alphabet=string.ascii_letters + string.digits + " .:-_/+#,&*!|>'\"%@[]{}~=<?\\", max_size=10),
    st.from_regex(r"[-+.0-9eExo_:]{1,8}", fullmatch=True),
)
scalars = st.one_of(
    texts,
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(10**20, 10**30),
    st.floats(allow_nan=False),
    st.just(-0.0),
)
keys = texts.filter(lambda key: key != "_base_")
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)
roots = st.dictionaries(keys, values, max_size=5)


@settings(max_examples=300, deadline=None)
@given(roots, st.booleans())
def test_rendering_and_loading_gives_the_same_tree(
    tmp_path_factory: pytest.TempPathFactory, data: Any, show: bool
) -> None:
    tree = Tree()
    for i, (key, value) in enumerate(data.items()):
        tree.set((key,), value, Origin(f"file{i}.yaml", i))
    file = tmp_path_factory.getbasetemp() / "rendered.yaml"
    file.write_text(render(tree, show), encoding="utf-8")
    again = load_tree(file)
    assert typed(again.data) == typed(data)
    assert list(again.data) == list(data)
    assert tree_hash(again.data) == tree_hash(data)


def typed(value: Any) -> Any:
    """Return ``value`` in a form in which 1, 1.0 and True differ, and so do 0.0 and -0.0."""
    if isinstance(value, dict):
        return {key: typed(child) for key, child in value.items()}
    if isinstance(value, list):
        return [typed(child) for child in value]
    return type(value).__name__, repr(value)


@settings(max_examples=60, deadline=None)
@given(roots)
def test_an_override_can_give_any_value(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    """JSON is YAML: any JSON after ``--set`` gives the same value as in a file."""
    text = json.dumps(data, ensure_ascii=False)
    assume(text.isprintable() and "Infinity" not in text)
    file = tmp_path_factory.getbasetemp() / "short.yaml"
    file.write_text("a: 1\n")
    assert typed(load_tree(file, [f"a={text}"]).data["a"]) == typed(data)


# ---- laws of merging


def laid(*layers: Any) -> Any:
    """Merge the layers from the left with the module."""
    nodes = [Node.of(layer, Origin("x")) for layer in layers]
    result = nodes[0]
    for node in nodes[1:]:
        result = merge(result, node)
    return result.plain()


def naive(base: Any, over: Any) -> Any:
    """Merge by a second derivation: all paths to leaves, the later ones over the earlier ones."""
    table: dict[tuple[str, ...], Any] = {}

    def leaves(value: Any, path: tuple[str, ...]) -> None:
        if not isinstance(value, dict) or not value:
            table[path] = value
            return
        for key, child in value.items():
            leaves(child, (*path, key))

    leaves(base, ())
    leaves(over, ())
    result: dict[str, Any] = {}
    for path, value in table.items():
        place = result
        for key in path[:-1]:
            place = place.setdefault(key, {})
        place[path[-1]] = value
    return result


def shaped(draw: Any, depth: int) -> Any:
    """Draw trees without components in which a key's name decides between mapping and leaf."""
    names = draw(st.sets(st.sampled_from(["a", "b", "M", "N"] if depth else ["a", "b"]), min_size=1))
    return {
        name: shaped(draw, depth - 1)
        if name.isupper()
        else draw(st.integers(0, 9) | st.lists(st.integers(0, 2), max_size=2))
        for name in sorted(names)
    }


same_shape = st.composite(lambda draw: shaped(draw, 3))()


@settings(deadline=None)
@given(same_shape, same_shape, same_shape)
def test_merging_is_associative_where_shapes_agree(a: Any, b: Any, c: Any) -> None:
    assert laid(laid(a, b), c) == laid(a, laid(b, c))


@settings(deadline=None)
@given(same_shape, same_shape)
def test_merging_is_the_union_of_leaves(a: Any, b: Any) -> None:
    assert laid(a, b) == naive(a, b)


@settings(deadline=None)
@given(roots, roots)
def test_merging_any_trees(a: Any, b: Any) -> None:
    try:
        both = laid(a, b)
    except ConfigError as error:  # an empty mapping over a table of numbers
        assert "has no effect" in str(error)
        reject()
    assert typed(laid(a, a)) == typed(a)
    assert typed(laid(both, b)) == typed(both)
    assert typed(laid({}, a)) == typed(laid(a, {})) == typed(a)
    before = copy.deepcopy((a, b))
    laid(a, b)
    assert typed(list(before)) == typed([a, b])


# ---- hash


def test_hash_ignores_the_order_of_keys_only() -> None:
    assert tree_hash({"a": 1, "b": {"c": [1, 2], "d": None}}) == tree_hash(
        {"b": {"d": None, "c": [1, 2]}, "a": 1}
    )
    others: list[Any] = [
        {"a": 1},
        {"a": 1.0},
        {"a": "1"},
        {"a": True},
        {"a": [1]},
        {"a": None},
        {"b": 1},
        {"a": [1, 2]},
        {"a": [2, 1]},
    ]
    assert len({tree_hash(data) for data in others}) == len(others)


def test_hash_never_changes() -> None:
    """Runs store the hash, so no version of Python or of this module may change it."""
    assert (
        tree_hash({"b": [1, None], "a": "é"})
        == hashlib.sha256(rb'{"a":"\u00e9","b":[1,null]}').hexdigest()[:12]
    )
    assert len(tree_hash({})) == 12
