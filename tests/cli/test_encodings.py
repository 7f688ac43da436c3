"""A stdout that is not UTF-8 or is closed: commands still print everything, and files are always UTF-8."""

from __future__ import annotations

import ast
import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from reidx.cli.main import COMMANDS, main

ENCODINGS = ("ascii", "latin-1", "cp1252", "cp437", "shift_jis", "utf-8", "utf-16")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    """Run a command with a stdout of an encoding; returns its exit code and output."""

    def run(encoding: str, *words: str) -> tuple[int, str]:
        sink = io.BytesIO()
        stdout = io.TextIOWrapper(sink, encoding=encoding, write_through=True)
        monkeypatch.setattr(sys, "stdout", stdout)
        try:
            code = main(words)
        except SystemExit as end:  # argparse, after --help
            code = int(end.code or 0)
        return code, sink.getvalue().decode(encoding)

    return run


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_commands_print_on_any_encoding(encoding: str, printed, experiment: Callable[..., Path], tmp_path: Path) -> None:
    path = str(experiment(description="Straße, 人物 – 🎉", name="größe"))
    commands = [["--help"], ["list"], ["show", "Jaccard"], ["show", "Market1501"], ["plugins"], ["config", path]]
    commands += [[name, "--help"] for name in COMMANDS]
    commands += [["new-plugin", "überall"], ["new-plugin", "tried", "--into", str(tmp_path)]]
    for words in commands:
        code, text = printed(encoding, *words)
        assert code == (1 if "überall" in words else 0) and (text.strip() or code), words
    _, text = printed(encoding, "config", path)
    if encoding in ("ascii", "utf-8"):  # the escapes are YAML's
        assert yaml.safe_load(text)["description"] == "Straße, 人物 – 🎉"


def test_result_reaches_an_ascii_stdout(printed, experiment: Callable[..., Path]) -> None:
    stage = {"name": "größe", "epochs": 0, "evaluate": {"domain": "target"}}
    code, text = printed("ascii", "test", str(experiment(stages=[stage])), "--progress", "quiet")
    row = text.splitlines()[-1]
    assert code == 0 and row.startswith(r"gr\xf6\xdfe ")
    assert len(row.split()) == 6
    assert all(0 <= float(cell) <= 100 for cell in row.split()[1:6])


def test_undecodable_file_names_are_printed(printed, tmp_path: Path) -> None:
    code, text = printed("utf-8", "new-plugin", "odd", "--into", str(tmp_path / "a\udcffb"))
    assert code == 0 and r"a\udcffb" in text


def test_closed_stdout_takes_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["list", "protocol"]) == 0


def test_every_text_file_is_opened_as_utf_8() -> None:
    """Otherwise its encoding would depend on the user's locale."""
    calls = []
    for path in [*ROOT.glob("reidx/**/*.py"), *ROOT.glob("plugins/*/reidx_*/**/*.py"), *ROOT.glob("benchmarks/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and _opens_text(node) and not any(k.arg == "encoding" for k in node.keywords):
                calls.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert calls == []


def _opens_text(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name in ("read_text", "write_text"):
        # `checkpoints.write_text` is a function of reidx that writes UTF-8
        return isinstance(call.func, ast.Attribute) and ast.unparse(call.func.value) != "checkpoints"
    modes = [arg.value for arg in call.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
    modes += [k.value.value for k in call.keywords if k.arg == "mode" and isinstance(k.value, ast.Constant)]
    binary = any(set(mode) <= set("rwaxbt+") and "b" in mode for mode in modes)
    return name == "open" and isinstance(call.func, ast.Name) and not binary
