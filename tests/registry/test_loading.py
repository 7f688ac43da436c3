"""Plugins whose import never returns: their name is shown, and the next start skips them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from reidx.registry import loading
from reidx.registry.loading import Loading
from reidx.testing.fake_plugins import HEALTHY, FakePlugins


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "notes"
    monkeypatch.setattr(loading, "NOTES", folder)
    return folder


def start(plugins: FakePlugins, cache: Path) -> subprocess.CompletedProcess[str]:
    """Run `reidx plugins` in a separate process."""
    return plugins.run("plugins", XDG_CACHE_HOME=str(cache))


FATAL = {
    "segmentation fault": ("import ctypes; ctypes.string_at(0)", "SIGSEGV"),
    "silent exit": ("import os; os._exit(7)", "exit code 7"),
    "abort": ("import os; os.abort()", "SIGABRT"),
}


@pytest.mark.parametrize(("source", "reason"), FATAL.values(), ids=FATAL)
def test_next_start_skips_a_fatal_import(fake_plugins, tmp_path, source, reason):
    fake_plugins.add("ill", source)
    fake_plugins.add("well")
    first = start(fake_plugins, tmp_path / "cache")
    assert first.returncode not in (0, 1)
    if "exit" not in reason:
        assert "<reidx: loading plugin ill (reidx-ill 0.1, module fake_reidx_ill)>" in first.stderr
    second = start(fake_plugins, tmp_path / "cache")
    assert second.returncode == 0, second.stderr
    row = next(line for line in second.stdout.splitlines() if line.startswith("ill "))
    assert "NOT IN USE: importing fake_reidx_ill ended the process" in row and reason in row
    assert "REIDX_PLUGINS=" in row and "well" in row
    fixed = HEALTHY.replace("{module}", "fake_reidx_ill").replace("{{", "{").replace("}}", "}")
    (fake_plugins.folder / "fake_reidx_ill.py").write_text(fixed)
    assert "NOT IN USE" not in start(fake_plugins, tmp_path / "cache").stdout


def test_slow_import_names_the_plugin(fake_plugins, notes, monkeypatch, capsys):
    monkeypatch.setattr(loading, "PATIENCE", 0.05)
    fake_plugins.add("slow", f"import time; time.sleep(0.5)\n{HEALTHY}")
    fake_plugins.add("well")
    _, found = fake_plugins.discover()
    assert not found["slow"][0].problem
    lines = capsys.readouterr().err.splitlines()
    shown = [line for line in lines if line.startswith("reidx: loading plugin slow (reidx-slow 0.1,")]
    assert len(shown) == 1
    assert "REIDX_PLUGINS=" in shown[0]
    assert "well" in shown[0].partition("REIDX_PLUGINS=")[2]
    assert not list(notes.glob("loading-*"))


MEDDLING = {
    "ignores Ctrl-C": ("import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)", "SIGINT"),
    "handles SIGTERM": ("import signal; signal.signal(signal.SIGTERM, lambda *_: None)", "SIGTERM"),
    "leaves the folder": ("import os; os.chdir('/')", "the working directory"),
}


@pytest.mark.parametrize(("source", "what"), MEDDLING.values(), ids=MEDDLING)
def test_import_changing_the_process_is_undone(fake_plugins, listening, notes, monkeypatch, source, what):
    monkeypatch.chdir(fake_plugins.folder)
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    fake_plugins.add("ill", f"{source}\n{HEALTHY}")
    fake_plugins.add("well")
    _, found = fake_plugins.discover()
    assert found["ill"][0].problem == f"importing it changes {what} for the whole program"
    assert not found["well"][0].problem
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert Path.cwd() == fake_plugins.folder


def test_import_prints_only_on_stderr(fake_plugins, notes, capsys):
    fake_plugins.add("loud", f"print('NOISE')\n{HEALTHY}")
    _, found = fake_plugins.discover()
    printed = capsys.readouterr()
    assert not found["loud"][0].problem
    assert "NOISE" in printed.err
    assert not printed.out


def dead() -> int:
    """Return the id of a process that has ended."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def left(notes: Path, module: str, origin: str) -> Path:
    """Write the note of a start that was killed during an import."""
    notes.mkdir(exist_ok=True)
    path = notes / f"loading-{os.uname().nodename}-{dead()}.json"
    path.write_text(json.dumps({"namespace": "ill", "module": module, "stamp": loading.stamp(module, origin)}))
    return path


def test_plugin_of_a_killed_start_is_retried(fake_plugins, notes):
    fake_plugins.add("ill")
    note = left(notes, "fake_reidx_ill", "reidx-ill 0.1")
    _, found = fake_plugins.discover()
    assert not found["ill"][0].problem
    assert not note.exists() and not list(notes.glob("kept-out-*"))


def test_endless_import_is_kept_out(fake_plugins, notes, monkeypatch):
    monkeypatch.setattr(loading, "TRIAL", 1.0)
    fake_plugins.add("ill", "while True: pass")
    left(notes, "fake_reidx_ill", "reidx-ill 0.1")
    _, found = fake_plugins.discover()
    assert "importing fake_reidx_ill did not end within 1 s" in found["ill"][0].problem
    monkeypatch.setattr(loading, "_try_import", lambda module: pytest.fail("a known plugin was imported again"))
    assert "did not end" in fake_plugins.discover()[1]["ill"][0].problem


def test_damaged_or_unwritable_notes_do_no_harm(fake_plugins, notes, monkeypatch, tmp_path):
    fake_plugins.add("well")
    notes.mkdir()
    (notes / f"loading-{os.uname().nodename}-{dead()}.json").write_text("[")
    (notes / "kept-out-well.json").write_text("\0")
    assert not fake_plugins.discover()[1]["well"][0].problem
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(loading, "NOTES", tmp_path / "file" / "notes")
    assert not fake_plugins.discover()[1]["well"][0].problem


def test_note_of_a_running_process_stays(notes):
    Loading(["a"])._write({"namespace": "a"})
    assert loading._notes_of_dead_processes() == []
