"""Shell completion, in a real bash."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from reidx.cli.completion import SHELLS
from reidx.cli.main import COMMANDS, main, parser_of
from reidx.config.recipes import recipes
from reidx.registry.discovery import registry

bash = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")

ASK = """
source "$1"; shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_LINE="$*" COMP_POINT=${#COMP_LINE}
_reidx reidx "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}" 2>/dev/null
printf '%s\\n' "${COMPREPLY[@]}"
"""
"""Sources a script and calls its function as bash does after a TAB."""


@pytest.fixture
def completed(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Returns the completions of the last word of a command line; bash has split the words at colons."""
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "script"
    script.write_text(capsys.readouterr().out, encoding="utf-8")
    program = tmp_path / "reidx"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m reidx "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    work = tmp_path / "work"
    work.mkdir()
    (work / "mine.yaml").touch()
    (work / "notes.txt").touch()
    (work / "folder").mkdir()

    def complete(*words: str) -> set[str]:
        command = ["bash", "--norc", "-c", ASK, "bash", str(script), str(program), *words]
        done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=True)
        assert done.stderr == ""
        return set(done.stdout.split())

    return complete


@bash
def test_commands_are_completed(completed):
    assert completed("tr") == {"train"}
    assert completed("") == set(COMMANDS)


@bash
def test_options_are_completed(completed):
    options = {option for action in parser_of("train")._actions for option in action.option_strings}
    assert completed("train", "-") == options
    assert completed("train", "--res") == {"--resume", "--resume-anyway"}
    assert completed("train", "mine.yaml", "--progress", "") == {"rich", "plain", "json", "quiet"}


@bash
def test_configs_are_recipes_and_files(completed):
    addresses = {recipe.address for recipe in recipes()}
    assert completed("train", "") == {*addresses, "mine.yaml", "folder/"}
    assert completed("train", "mi") == {"mine.yaml"}


@bash
def test_colons_do_not_disturb(completed):
    names = {recipe.address.partition("::")[2] for recipe in recipes() if recipe.namespace == "reidx"}
    assert completed("train", "reidx", "::") == names
    assert completed("train", "reidx", "::", "de") == {"demo.yaml"}
    assert completed("train", "reidx", "::", "demo.yaml", "--prof") == {"--profile"}


@bash
def test_components_are_completed(completed):
    assert completed("show", "DBS") == {entry.name for entry in registry().entries() if entry.name.startswith("DBS")}


@pytest.mark.parametrize("shell", SHELLS)
def test_scripts_name_every_command(shell, capsys):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert [name for name in COMMANDS if name not in script] == []
