"""A killed and resumed run gives the same weights, labels, memories and metrics, bit for bit."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import reidx
from reidx.engine.loop import StageLoop
from reidx.errors import CheckpointError, ConfigError, RunError
from reidx.runs import checkpoint as checkpoints
from reidx.runs.epoch_log import EpochLog
from reidx.testing.runs import assert_same_run
from reidx.testing.tiny import tiny_experiment, write_experiment

STAGES = [{"name": "adapt", "epochs": 3, "iters": 3}]


def logged(folder: Path) -> list[dict[str, float]]:
    """Return the rows of the log of the run's only stage."""
    rows = [json.loads(line) for line in (folder / "1-adapt" / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in ("run", "key")} for row in rows]


def metrics(folder: Path) -> list[dict[str, float]]:
    """Return the history of the run's only stage, without times."""
    history = json.loads((folder / "1-adapt" / "done.json").read_text())["history"]
    return [{k: v for k, v in entry.items() if not k.startswith("seconds")} for entry in history]


@pytest.fixture
def uninterrupted(experiment: Callable[..., Path], tmp_path: Path) -> tuple[Path, Path]:
    """Return the config and the folder of an uninterrupted run that relabels every second epoch."""
    path = experiment(stages=STAGES, labels=_labels(every=2))
    folder = tmp_path / "whole"
    reidx.run(reidx.load_config(path), folder, progress="quiet")
    return path, folder


def _labels(every: int) -> dict[str, object]:
    return {
        "domain": "target",
        "distance": {"type": "Jaccard", "k1": 8, "k2": 2},
        "clusterer": {"type": "DBSCAN", "eps": 0.7, "min_samples": 2},
        "relabel_every": every,
    }


MOMENTS = {
    "extracting": "reidx.engine.extract:extract",
    "clustering": "reidx.labels.clusterers.dbscan:DBSCAN.__call__",
    "in a step": "reidx.engine.step:StageModel.after_step",
    "evaluating": "reidx.evaluation.ranking:evaluate",
    "saving": "torch:save",
    "after saving": "reidx.runs.checkpoint:_numbered",
}

KILLER = """
import importlib, os, signal, sys
import reidx, reidx.engine.stage

def die_in(target, call):
    module, _, path = target.partition(":")
    owner = importlib.import_module(module)
    *outer, name = path.split(".")
    for part in outer:
        owner = getattr(owner, part)
    original, calls = getattr(owner, name), 0

    def deadly(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == call:
            if target == "torch:save":
                # half a checkpoint on the disk, then the kill
                args[1].write(b"half")
                args[1].flush()
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(owner, name, deadly)
    for user in (reidx.engine.stage, reidx.engine.relabel):
        if getattr(user, name, None) is original:
            setattr(user, name, deadly)

config = sys.argv[1]
for target, call, folder in zip(*[iter(sys.argv[2:])] * 3):
    child = os.fork()  # the parent only imports: no thread and no lock of a library is copied
    if not child:
        die_in(target, int(call))
        reidx.run(reidx.load_config(config), folder, resume=True, progress="quiet")
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""

KILLS = [("extracting", 1), ("extracting", 3), ("clustering", 2), ("in a step", 5), ("evaluating", 1), ("saving", 2),
         ("after saving", 2)]  # fmt: skip


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, domains_root: Path) -> tuple[Path, dict[tuple[str, int], Path], Path]:
    """Return the config, the folder of a run killed at each moment, and that of the uninterrupted run."""
    home = tmp_path_factory.mktemp("killed")
    config = write_experiment(home / "experiment.yaml", tiny_experiment(domains_root, stages=STAGES, labels=_labels(every=2)))
    reidx.run(reidx.load_config(config), home / "whole", progress="quiet")
    folders = {kill: home / f"run {number}" for number, kill in enumerate(KILLS)}
    words = [word for (moment, call), folder in folders.items() for word in (MOMENTS[moment], str(call), str(folder))]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    script = [sys.executable, "-c", KILLER, str(config), *words]
    ran = subprocess.run(script, env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == [str(-signal.SIGKILL)] * len(KILLS), ran.stderr
    return config, folders, home / "whole"


@pytest.mark.parametrize("kill", KILLS, ids=lambda kill: f"{kill[0]}, call {kill[1]}")
def test_killed_run_resumes_exactly(
    killed: tuple[Path, dict[tuple[str, int], Path], Path], kill: tuple[str, int]
) -> None:
    config, folders, whole = killed
    folder = folders[kill]
    assert not (folder / "result.json").exists()
    reidx.run(reidx.load_config(config), folder, resume=True, progress="quiet")
    assert_logged_once(folder)
    assert_same_run(folder, whole)


def assert_logged_once(folder: Path) -> None:
    """Assert that, after one interruption, the log has each epoch once and the card the times of both sessions."""
    history = json.loads((folder / "1-adapt" / "done.json").read_text())["history"]
    assert [entry["epoch"] for entry in history] == [1, 2, 3]
    assert logged(folder) == history
    card = json.loads((folder / "result.json").read_text())["card"]
    assert card["sessions"] == 2
    seconds = sum(value for entry in history for name, value in entry.items() if name.startswith("seconds_"))
    assert card["seconds"] == pytest.approx(seconds, abs=0.051)


def test_log_is_rebuilt_from_the_checkpoint(uninterrupted: tuple[Path, Path]) -> None:
    """A torn line, an uncommitted line, a missing line: afterwards the log has exactly the epochs of the checkpoint."""

    def interrupted(loop: StageLoop) -> None:
        raise KeyboardInterrupt

    config, folder = uninterrupted
    log = folder / "1-adapt" / "log.jsonl"
    first, second, _ = log.read_text().splitlines(keepends=True)
    for name in ("epoch_3.pth", "epoch_3.sha256", "done.json"):
        (folder / "1-adapt" / name).unlink()
    for torn in (first, first + second + second, first + second + '{"epoch": 3, "lo'):
        log.write_text(torn)
        with pytest.MonkeyPatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(StageLoop, "run_epoch", interrupted)
            reidx.run(reidx.load_config(config), folder, resume=True, progress="quiet")
        assert log.read_text() == first + second
    result = reidx.run(reidx.load_config(config), folder, resume=True, progress="quiet")
    assert log.read_text().startswith(first + second) and logged(folder) == result.stages[0].history
    assert result.card["sessions"] == 5  # the first, three interrupted ones, and this one


def test_killed_from_outside_at_any_moment(uninterrupted: tuple[Path, Path], tmp_path: Path) -> None:
    config, whole = uninterrupted
    folder = tmp_path / "killed"
    command = [sys.executable, "-m", "reidx", "train", str(config), "--work-dir", str(folder), "--resume"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and checkpoints.newest(folder / "1-adapt") is None:
        time.sleep(0.01)
    process.kill()
    process.wait()
    reidx.run(reidx.load_config(config), folder, resume=True, progress="quiet")
    assert_same_run(folder, whole)


def test_a_folder_of_another_run_is_not_touched(uninterrupted: tuple[Path, Path]) -> None:
    config, folder = uninterrupted
    before = (folder / "config.yaml").read_text()
    with pytest.raises(ConfigError, match="--resume"):
        reidx.run(reidx.load_config(config), folder, progress="quiet")
    other = reidx.load_config(config, ["seed=2"])
    with pytest.raises(ConfigError, match=r"config\.seed: 1 → 2"):
        reidx.run(other, folder, resume=True, progress="quiet")
    assert (folder / "config.yaml").read_text() == before


def test_resuming_a_finished_run_gives_its_result(uninterrupted: tuple[Path, Path]) -> None:
    config, folder = uninterrupted
    card = json.loads((folder / "result.json").read_text())["card"]
    assert card["sessions"] == 1
    again = reidx.run(reidx.load_config(config), folder, resume=True, progress="quiet")
    assert again.card == card, "resuming a finished run starts no session"
    assert again.stages[0].last["mAP"] == metrics(folder)[-1]["mAP"]


def test_damaged_checkpoint_is_skipped(
    uninterrupted: tuple[Path, Path], tmp_path: Path
) -> None:
    _, folder = uninterrupted
    stage = folder / "1-adapt"
    assert checkpoints.newest(stage) == stage / "epoch_3.pth"
    whole = (stage / "epoch_3.pth").read_bytes()
    (stage / "epoch_3.pth").write_bytes(whole[: len(whole) // 2])
    assert checkpoints.newest(stage) == stage / "epoch_2.pth"
    assert not (stage / "epoch_1.pth").exists(), "only the last two are kept"
    with pytest.raises(CheckpointError, match="epoch_3"):
        checkpoints.load(stage / "epoch_3.pth")


def test_a_full_disk_leaves_the_old_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "epoch_1.pth"
    checkpoints.save(path, {"epoch": 1})
    original = path.read_bytes()

    def full(*args: object, **kwargs: object) -> None:
        Path(str(args[1])).write_bytes(b"partial")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(RunError, match="No space left") as error:
        checkpoints.save(path, {"epoch": 1})
    assert "untouched" in str(error.value) and "--resume" in str(error.value)
    assert path.read_bytes() == original
    assert checkpoints.newest(tmp_path) == path
    assert {p.name for p in tmp_path.iterdir()} == {"epoch_1.pth", "epoch_1.sha256"}


def test_log_that_cannot_be_written_recovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def torn(journal: EpochLog, entry: dict[str, float]) -> None:
        with open(journal.path, "a", encoding="utf-8") as handle:
            handle.write('{"epoch": 2, "lo')
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    messages: list[str] = []
    handed: list[float] = []
    journal = EpochLog(tmp_path / "log.jsonl", lambda entry: handed.append(entry["epoch"]), messages.append)
    journal.begin([{"epoch": 1}])
    with monkeypatch.context() as patched:
        patched.setattr(EpochLog, "_append", torn)
        journal.add({"epoch": 2})
        patched.setattr(checkpoints, "write_text", lambda path, text: (_ for _ in ()).throw(RunError("full")))
        journal.add({"epoch": 3})
    journal.add({"epoch": 4})
    journal.add({"epoch": 5})
    assert journal.path.read_text() == "".join(f'{{"epoch": {epoch}}}\n' for epoch in (1, 2, 3, 4, 5))
    assert handed == [1, 2, 3, 4, 5]
    first, second = messages
    assert "is missing epoch 2" in first
    assert "No space left" in first
    assert "is missing epoch 3" in second
