"""A plugin written from the template installs, loads, and passes its own tests and reidx's lint."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from reidx.cli.main import main

ROOT = Path(__file__).parents[2]


def test_new_plugin_installs_and_passes_its_tests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new-plugin", "made_up", "--into", str(tmp_path / "a b")]) == 0
    home = tmp_path / "a b/reidx-made-up"
    assert f"pip install -e '{home}[test]'\nreidx show made_up.Focal\n" in capsys.readouterr().out
    assert not [path for path in home.rglob("*") if path.is_file() and "${" in path.read_text(encoding="utf-8")]

    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(site), str(home)], check=True)
    chosen = {"REIDX_PLUGINS": "made_up,synthetic", "REIDX_STRICT_PLUGINS": "1"}
    paths = os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, **chosen, "PYTHONPATH": paths}

    def ran(*words: str) -> str:
        command = [sys.executable, "-m", *words]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "Everything loads." in ran("reidx", "plugins", "--check")
    passed = ran("pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", str(home / "tests"))
    assert " passed" in passed
    assert "skipped" not in passed
    assert "failed" not in passed
    ran("ruff", "check", "--config", str(ROOT / "ruff.toml"), str(home))


def test_build_file_equals_that_of_reidx() -> None:
    assert (ROOT / "reidx/template/pyproject.toml.in").read_text() == (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Mine", "'Mine' is not a valid plugin name"),
        ("two words", "'two words' is not a valid plugin name"),
        ("", "'' is not a valid plugin name"),
        ("reidx", "The name reidx is taken by reidx "),
        ("cluster_contrast", "The name cluster_contrast is taken by reidx-cluster-contrast "),
        ("configs", "The name configs is taken by a package reidx_configs"),  # the installed name of the core's configs
    ],
)
def test_invalid_names_are_refused(
    name: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["new-plugin", name, "--into", str(tmp_path)]) == 1
    assert reason in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_no_file_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["new-plugin", "made_up", "--into", str(tmp_path)]
    assert main(words) == 0
    (tmp_path / "reidx-made-up/reidx_made_up/losses.py").write_text("# mine")
    assert main(words) == 1
    assert "already exists; nothing was written." in capsys.readouterr().err
    assert (tmp_path / "reidx-made-up/reidx_made_up/losses.py").read_text() == "# mine"
    shutil.rmtree(tmp_path / "reidx-made-up")
    assert main(words) == 0
