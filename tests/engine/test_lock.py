"""Only one process may train in a folder; the lock of a dead process is free."""

from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import reidx
from reidx.engine import profile
from reidx.errors import ConfigError
from reidx.runs.lock import InUse, exclusive_folder, locked
from reidx.testing.runs import assert_same_run, unchanged

Whole = tuple[Path, Path]

FORK = multiprocessing.get_context("fork")


def go(config: Path, folder: Path, resume: bool = False) -> None:
    reidx.run(reidx.load_config(config), folder, resume=resume, progress="quiet")


@pytest.mark.parametrize("resume", [False, True])
def test_second_training_in_a_folder_is_refused(resume: bool, whole: Whole, unfinished: Path) -> None:
    with exclusive_folder(unfinished, "being trained in"), unchanged(unfinished), pytest.raises(ConfigError) as refused:
        go(whole[0], unfinished, resume)
    assert str(refused.value).startswith(f"{unfinished} is being trained in (process {os.getpid()} on ")
    assert "\n" not in str(refused.value)
    go(whole[0], unfinished, resume=True)
    assert_same_run(unfinished, whole[1])


def test_second_start_in_a_new_folder_is_refused(whole: Whole, tmp_path: Path) -> None:
    with exclusive_folder(tmp_path / "run", "being trained in"), pytest.raises(ConfigError, match="is being trained in"):
        go(whole[0], tmp_path / "run")
    assert os.listdir(tmp_path / "run") == [".lock"], "the folder of the other process must not change"


def test_two_resumes_at_once_write_each_epoch_once(whole: Whole, unfinished: Path) -> None:
    command = [sys.executable, "-m", "reidx", "train", str(whole[0]), "--work-dir", str(unfinished), "--resume"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    both = [
        subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate()[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 1], outputs
    assert sum("is being trained in (process " in text for text in outputs) == 1
    rows = [json.loads(line) for line in (unfinished / "2-adapt/log.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_lock_of_a_killed_process_is_free(end: signal.Signals, tmp_path: Path) -> None:
    def hold() -> None:
        with exclusive_folder(tmp_path, "being trained in"):
            # this worker outlives its parent
            worker = FORK.Process(target=time.sleep, args=(20,))
            worker.start()
            (tmp_path / "worker").write_text(str(worker.pid))
            time.sleep(20)

    holder = FORK.Process(target=hold)
    holder.start()
    while not (tmp_path / "worker").exists() or not (tmp_path / "worker").read_text():
        time.sleep(0.01)
    with pytest.raises(InUse, match=f"process {holder.pid} on "), exclusive_folder(tmp_path, "being trained in"):
        pass
    assert holder.pid is not None
    os.kill(holder.pid, end)
    holder.join()
    worker = int((tmp_path / "worker").read_text())
    try:
        os.kill(worker, 0)
        with exclusive_folder(tmp_path, "being trained in"):
            pass
    finally:
        os.kill(worker, signal.SIGKILL)


def test_lock_is_free_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError), exclusive_folder(tmp_path, "being trained in"):
        raise ValueError
    with exclusive_folder(tmp_path, "being trained in"):
        pass
    assert (tmp_path / ".lock").read_text() == ""


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_file_system_without_locks_is_reported(
    code: int, whole: Whole, unfinished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    reidx.run(reidx.load_config(whole[0]), unfinished, resume=True, progress="plain")
    assert f"{unfinished}: the file system has no locks. Make sure" in capsys.readouterr().err
    assert_same_run(unfinished, whole[1])


def link(path: Path) -> None:
    path.symlink_to(path.with_name("experiment.json"))


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, link])
def test_lock_file_of_another_kind_is_refused(make: Callable[[Path], object], whole: Whole, unfinished: Path) -> None:
    (unfinished / ".lock").unlink(missing_ok=True)
    make(unfinished / ".lock")
    record = (unfinished / "experiment.json").read_bytes()
    with pytest.raises(ConfigError, match="cannot be used as the run's folder: "):
        go(whole[0], unfinished, resume=True)
    assert (unfinished / "experiment.json").read_bytes() == record


def test_profile_of_one_folder_is_made_once(whole: Whole, tmp_path: Path) -> None:
    with exclusive_folder(tmp_path / "profile", "being profiled in"), pytest.raises(ConfigError, match="is being profiled in"):
        profile.profile(reidx.load_config(whole[0]), tmp_path, "quiet")


def test_waiting_for_a_lock_ends_with_its_holder(tmp_path: Path) -> None:
    def hold() -> None:
        with locked(tmp_path / "lock"):
            (tmp_path / "held").touch()
            time.sleep(0.3)

    holder = FORK.Process(target=hold)
    holder.start()
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    with locked(tmp_path / "lock", wait=True):
        assert not holder.is_alive() or holder.join(5) is None
