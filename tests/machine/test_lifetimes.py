"""Traces of a killed process: its helpers end with it, and the next process removes its partial folders."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reidx.ablation.workers import Workers
from reidx.machine.lifetimes import PARENT, remove_partial_files, replacement_folder
from reidx.runs.manifest import RunManifest

HELPER = """
import sys, time
sys.platform = {platform!r}
from reidx.machine.lifetimes import end_with
end_with({parent}, {by})
print("ready", flush=True)
time.sleep(60)
"""

PARENT_OF = """
import os, subprocess, sys, time
code = sys.argv[1].replace("PARENT", str(os.getpid()))
helper = subprocess.Popen([sys.executable, "-c", code], stdout=-1, text=True)
print(helper.pid, helper.stdout.readline(), flush=True)
time.sleep(60)
"""


def lives(process: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def gone(processes: list[int], seconds: float = 20.0) -> bool:
    until = time.monotonic() + seconds
    while any(map(lives, processes)) and time.monotonic() < until:
        time.sleep(0.05)
    return not any(map(lives, processes))


needs_proc = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="reads /proc")


@needs_proc
@pytest.mark.parametrize("platform", ["linux", "another"])
@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM])
def test_helper_ends_with_its_parent(platform: str, by: signal.Signals) -> None:
    code = HELPER.format(platform=platform, parent="PARENT", by=int(by))
    with subprocess.Popen([sys.executable, "-c", PARENT_OF, code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        helper = int(parent.stdout.readline().split()[0])
        assert lives(helper)
        parent.kill()
        parent.stdout.close()
    assert gone([helper])


def test_helper_without_its_parent_ends_at_once() -> None:
    # the id of the grandparent, as if the parent had ended
    code = HELPER.format(platform=sys.platform, parent=os.getppid(), by=int(signal.SIGKILL))
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL


def test_run_of_a_grid_ends_with_the_grid(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with open(tmp_path / "lock", "w", encoding="utf-8") as lock:
        given = Workers(1, lock)._environment(0)
    assert given[PARENT] == str(os.getpid())
    own = {**os.environ, PARENT: str(os.getppid())}
    assert subprocess.run([sys.executable, "-m", "reidx", "list"], env=own, check=False).returncode == -signal.SIGTERM
    own[PARENT] = given[PARENT]
    assert subprocess.run([sys.executable, "-m", "reidx", "--version"], env=own, check=False).returncode == 0


def test_draft_of_a_living_process_stays(tmp_path: Path) -> None:
    root = tmp_path / "a[b]*c"
    for name in (".a[b]*c.11111111.partial", ".axb.c.11111111.partial", ".a[b]*c.partial"):
        (tmp_path / name / "inside").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".a[b]*c.22222222.partial").symlink_to(tmp_path / "elsewhere")
    with replacement_folder(root) as first:
        (first / "picture").touch()
        with replacement_folder(root) as second:
            assert first != second and (first / "picture").is_file()
        assert first.is_dir() and not second.exists()
        first.rename(root)
    assert (root / "picture").is_file() and (tmp_path / "elsewhere").is_dir()
    # only folders with the name of a draft of this folder were removed
    assert sorted(path.name for path in tmp_path.glob(".*.partial") if not path.is_symlink()) == [
        ".a[b]*c.partial",
        ".axb.c.11111111.partial",
    ]


def test_failed_draft_is_removed(tmp_path: Path) -> None:
    with pytest.raises(KeyError), replacement_folder(tmp_path / "domain"):
        raise KeyError
    assert not list(tmp_path.iterdir())


def test_only_a_runs_partial_files_are_removed(tmp_path: Path) -> None:
    stage = tmp_path / "1-adapt"
    kept = [tmp_path / "mine" / ".x.partial", stage / "epoch_1.pth", stage / ".folder.partial" / "x"]
    left = [tmp_path / ".result.json.partial", tmp_path / "1-adapt" / ".epoch_2.pth.partial"]
    for path in [*kept, *left]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    remove_partial_files(tmp_path, ".*.partial", "[0-9]*-*/.*.partial")
    assert [path.exists() for path in [*kept, *left]] == [True] * 3 + [False] * 2
    assert "remove_partial_files" in RunManifest.open.__code__.co_names
