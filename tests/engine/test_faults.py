"""Faults of the machine at several moments of a run: each gives one message with a remedy, nothing is lost, and
``--resume`` ends bit for bit like an undisturbed run. ``docs/faults.md`` has the table."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.utils.data import get_worker_info

import reidx
from reidx.cli.main import main
from reidx.data.images import CorruptImage
from reidx.data.loading import LabelledView
from reidx.engine import loop
from reidx.engine.stage import StageRun
from reidx.engine.step import StageModel
from reidx.errors import CheckpointError, RunError, Terminated
from reidx.runs import checkpoint as checkpoints
from reidx.runs.failure_note import noted_failure
from reidx.testing.runs import assert_same_run, unchanged
from reidx.testing.tiny import write_experiment

Struck = Callable[[str, Callable[..., object]], Any]
Whole = tuple[Path, Path]

PLACES = {
    "extraction": "stage adapt, epoch 2/2, relabelling, extracting features",
    "clustering": "stage adapt, epoch 2/2, relabelling, clustering",
    "step": "stage adapt, epoch 2/2, training",
    "save": "stage adapt, epoch 2/2, saving",
    "evaluation": "stage adapt, epoch 2/2, evaluation",
    "between stages": "",
}


def go(config: Path, folder: Path, resume: bool = False, images: bool = False) -> None:
    reidx.run(reidx.load_config(config), folder, resume=resume, progress="quiet", images=images)


def assert_kept(folder: Path, moment: str) -> None:
    """Assert that the checkpoints committed before the fault are whole, and that nothing else is there."""
    names = {str(path.relative_to(folder)) for path in folder.glob("*/*.pth")}
    assert names == {"1-warm/epoch_1.pth"} | (set() if moment == "between stages" else {"2-adapt/epoch_1.pth"})
    assert all(checkpoints.newest(folder / name) for name in {Path(n).parent for n in names})
    assert not list(folder.rglob("*.partial"))


def raises(error: BaseException) -> Callable[..., None]:
    def strike(*args: object, **kwargs: object) -> None:
        if len(args) > 1 and str(args[1]).endswith(".partial"):
            Path(str(args[1])).write_bytes(b"half a checkpoint")
        raise error

    return strike


def test_the_comparison_notices_one_bit(whole: Whole, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole[1], tmp_path / "run"))
    assert_same_run(folder, whole[1])
    path = folder / "2-adapt/epoch_2.pth"
    state = checkpoints.load(path)
    name, weights = next((k, v) for k, v in state["state_dict"].items() if v.is_floating_point())
    first = (0,) * weights.dim()
    weights[first] = torch.nextafter(weights[first], torch.tensor(9.0))
    torch.save(state, path)
    with pytest.raises(AssertionError, match=f"{name} differs"):
        assert_same_run(folder, whole[1])
    path.unlink()
    with pytest.raises(AssertionError, match="keeps"):
        assert_same_run(folder, whole[1])


@pytest.mark.parametrize("change", [Path.touch, lambda path: path.with_name("old").unlink()], ids=["added", "removed"])
def test_changed_folder_is_noticed(change: Callable[[Path], object], tmp_path: Path) -> None:
    (tmp_path / "old").touch()
    with unchanged(tmp_path):
        pass
    with pytest.raises(AssertionError, match=r"changed in .*: (new|old)$"), unchanged(tmp_path):
        change(tmp_path / "new")


# ---- SIGTERM


@pytest.mark.parametrize("moment", PLACES)
def test_sigterm(moment: str, whole: Whole, struck: Struck, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def terminate(*args: object, **kwargs: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)  # the signal arrives during the sleep

    with struck(moment, terminate), pytest.raises(Terminated) as ended:
        go(whole[0], tmp_path)
    assert ended.value.code == 143
    place = f" in {PLACES[moment]}" if PLACES[moment] else ""
    message = f"terminated (SIGTERM){place}; epochs saved in {tmp_path} are kept: continue with --resume\n"
    assert capsys.readouterr().err == message
    assert_kept(tmp_path, moment)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    go(whole[0], tmp_path, resume=True)
    assert_same_run(tmp_path, whole[1])


def test_second_sigterm_changes_nothing(
    whole: Whole, tmp_path: Path, struck: Struck, capsys: pytest.CaptureFixture[str]
) -> None:
    def terminate(*args: object, **kwargs: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)  # as launchers do while the first is being handled

    with struck("save", terminate), pytest.raises(Terminated):
        go(whole[0], tmp_path)
    assert capsys.readouterr().err.count("terminated (SIGTERM) in stage adapt, epoch 2/2, saving") == 1
    assert_kept(tmp_path, "save")


def test_sigterm_ends_the_command_with_143(whole: Whole, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "reidx", "train", str(whole[0]), "--work-dir", str(tmp_path), "--progress", "quiet"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}  # sums in the same order as in the whole run
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (tmp_path / "1-warm/epoch_1.pth").exists():
        time.sleep(0.01)
    process.terminate()
    out, err = process.communicate()
    assert (process.returncode, out) == (143, ""), err
    assert err.startswith("terminated (SIGTERM)")
    assert err.endswith("continue with --resume\n")
    assert err.count("\n") == 1
    go(whole[0], tmp_path, resume=True)
    assert_same_run(tmp_path, whole[1])


def test_ctrl_c_ends_the_command_with_130(
    whole: Whole, struck: Struck, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", str(whole[0]), "--work-dir", str(tmp_path), "--progress", "quiet"]
    with struck("step", raises(KeyboardInterrupt())):
        assert main(words) == 130
    message = capsys.readouterr().err.strip()
    assert message.startswith("interrupted; resume from the last checkpoint with: ") and message.endswith("--resume")
    assert_kept(tmp_path, "step")
    assert main([*words, "--resume"]) == 0
    assert_same_run(tmp_path, whole[1])


@pytest.mark.parametrize("moment", PLACES)
def test_sigkill(moment: str, whole: Whole, struck: Struck, tmp_path: Path) -> None:
    def die(*args: object, **kwargs: object) -> None:
        if moment == "save":
            Path(str(args[1])).write_bytes(b"half a checkpoint")
        os.kill(os.getpid(), signal.SIGKILL)

    def run() -> None:
        torch.set_num_threads(1)  # a forked process must not use the thread pool of its parent
        with struck(moment, die):
            go(whole[0], tmp_path)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    go(whole[0], tmp_path, resume=True)
    assert_same_run(tmp_path, whole[1])
    assert not list(tmp_path.rglob("*.partial"))


# ---- memory

LOWER = {
    "extraction": "Lower data.image_size.",
    "clustering": "Lower k1 of the distance, or set feature_dtype: fp16.",
    "step": "A step takes 8 images of target: take fewer (streams.NAME.sampler), lower data.image_size, or",
    "between stages": "Lower data.image_size, data.cache_gb or data.workers.",
}


@pytest.mark.parametrize("moment", LOWER)
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError, "out of memory. "),
        (lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore"),
         "out of GPU memory (CUDA out of memory. Tried to allocate 2 GiB). "),
    ],
    ids=["host", "device"],
)  # fmt: skip
def test_out_of_memory(
    error: Callable[[], Exception], message: str, moment: str, whole: Whole, struck: Struck, tmp_path: Path
) -> None:
    with struck(moment, raises(error())), pytest.raises(RunError) as ended:
        go(whole[0], tmp_path)
    place = f"{PLACES[moment]}: " if PLACES[moment] else ""
    assert str(ended.value).startswith(f"{place}{message}{LOWER[moment]}")
    assert "--resume" in str(ended.value)
    assert_kept(tmp_path, moment)
    go(whole[0], tmp_path, resume=True)
    assert_same_run(tmp_path, whole[1])


# ---- disk and folder


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_disk_that_refuses_a_write(code: int, whole: Whole, struck: Struck, tmp_path: Path) -> None:
    with struck("save", raises(OSError(code, os.strerror(code)))), pytest.raises(RunError) as ended:
        go(whole[0], tmp_path)
    message = str(ended.value)
    assert f"{tmp_path / '2-adapt' / 'epoch_2.pth'} cannot be written: {os.strerror(code)}" in message
    assert (f" MB are free in {tmp_path / '2-adapt'})" in message) == (code in (errno.ENOSPC, errno.EDQUOT))
    assert message.startswith("stage adapt, epoch 2/2, saving: ") and message.endswith("continue with --resume.")
    assert_kept(tmp_path, "save")
    go(whole[0], tmp_path, resume=True)
    assert_same_run(tmp_path, whole[1])


def test_disk_that_is_full_between_stages(whole: Whole, tmp_path: Path) -> None:
    def full(path: Path, *args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("PIL.Image.Image.save", full)
        with pytest.raises(RunError, match=r"1-warm/ranked.png cannot be written: No space left on device \(.* MB are free"):
            go(whole[0], tmp_path, images=True)
    assert "No space left on device" in str(noted_failure(tmp_path))
    assert_kept(tmp_path, "between stages")
    go(whole[0], tmp_path, resume=True)
    assert noted_failure(tmp_path) is None
    assert_same_run(tmp_path, whole[1])


@pytest.mark.parametrize("moment", ["extraction", "step", "between stages"])
def test_a_folder_that_vanishes(moment: str, whole: Whole, struck: Struck, tmp_path: Path) -> None:
    folder, away = tmp_path / "run", tmp_path / "away"
    with struck(moment, lambda *args, **kwargs: folder.rename(away)), pytest.raises(RunError) as ended:
        go(whole[0], folder)
    assert str(folder) in str(ended.value)
    assert "Restore it" in str(ended.value)
    assert "--resume" in str(ended.value)
    assert not folder.exists(), "nothing may be written in place of the folder"
    away.rename(folder)
    assert_kept(folder, moment)
    go(whole[0], folder, resume=True)
    assert_same_run(folder, whole[1])


# ---- a loss that is NaN


@pytest.mark.parametrize(("step", "every", "message"), [(2, 1, "steps 2 to 2 of 3"), (1, 2, "steps 1 to 2 of 3"),
                                                     (3, 50, "steps 1 to 3 of 3")])  # fmt: skip
def test_a_loss_that_is_nan(
    step: int, every: int, message: str, whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = StageModel.forward, []

    def forward(self: StageModel, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        losses = original(self, *args, **kwargs)
        calls.append(1)
        return {k: v * float("nan") for k, v in losses.items()} if len(calls) == 5 + step else losses

    with monkeypatch.context() as patch:
        patch.setattr(loop, "LOOKED_AT", every)
        patch.setattr(StageModel, "forward", forward)
        with pytest.raises(RunError) as ended:
            go(whole[0], tmp_path)
    start = "stage adapt, epoch 2/2, training: loss became nan, CrossEntropy became nan in "
    assert str(ended.value).startswith(start + message)
    assert "nothing of this epoch was saved" in str(ended.value)
    assert len(calls) == 5 + min(3, -(-step // every) * every), "found at the next check, not at the end of the epoch"
    assert_kept(tmp_path, "step")
    go(whole[0], tmp_path, resume=True)
    assert_same_run(tmp_path, whole[1])


def test_losses_are_read_back_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    assert loop.LOOKED_AT >= 20
    waits: list[int] = []
    tolist = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: waits.append(1) or tolist(self))
    loop.refuse_not_finite({"loss": torch.ones(()), "a": torch.ones(()), "b": torch.ones(())}, "steps 1 to 2 of 2")
    assert len(waits) == 1, "all terms need one wait"


def test_weights_that_are_nan_after_the_last_step(whole: Whole, tmp_path: Path, struck: Struck) -> None:
    def poison(model: StageModel) -> None:
        with torch.no_grad():
            next(model.networks["student"].parameters()).fill_(float("nan"))

    with struck("last step", poison), pytest.raises(RunError) as ended, pytest.MonkeyPatch.context() as patch:
        due = StageRun._evaluate_if_due  # an evaluation would find the NaN first
        patch.setattr(StageRun, "_evaluate_if_due", lambda self, epoch: {} if epoch else due(self, epoch))
        go(whole[0], tmp_path)
    assert "became NaN or infinite and were not saved" in str(ended.value)
    assert str(ended.value).startswith("stage adapt, epoch 2/2, saving: networks.student.")
    assert_kept(tmp_path, "save")
    go(whole[0], tmp_path, resume=True)
    assert_same_run(tmp_path, whole[1])


# ---- data


@pytest.fixture
def images(domains_root: Path, whole: Whole, tmp_path: Path) -> Path:
    """Return a copy of the images, from which a test may remove some."""
    return Path(shutil.copytree(domains_root / "target", tmp_path / "images"))


def on_copies(whole: Whole, images: Path, tmp_path: Path) -> Path:
    """Write the experiment on copied images, uncached, and return its path."""
    content = yaml.safe_load(whole[0].read_text())
    content["data"].update(cache_gb=0)
    content["data"]["domains"]["target"]["root"] = str(images)
    return write_experiment(tmp_path / "copies.yaml", content)


@pytest.mark.parametrize("how", ["vanished", "truncated"])
@pytest.mark.parametrize("moment", ["extraction", "step"])
def test_images_that_are_lost(how: str, moment: str, whole: Whole, images: Path, struck: Struck, tmp_path: Path) -> None:
    config, saved = on_copies(whole, images, tmp_path), tmp_path / "saved"
    shutil.copytree(images / "bounding_box_train", saved)

    def lose(*args: object, **kwargs: object) -> None:
        for path in (images / "bounding_box_train").glob("*.jpg"):
            path.unlink() if how == "vanished" else path.write_bytes(path.read_bytes()[:100])

    with struck(moment, lose), pytest.raises(CorruptImage) as ended:
        go(config, tmp_path / "run")
    assert str(images / "bounding_box_train") in str(ended.value) and ".jpg cannot be read as an image" in str(ended.value)
    note = f"This happened in {PLACES[moment]}. Saved epochs are kept: continue with --resume."
    assert ended.value.__notes__ == [note]
    assert_kept(tmp_path / "run", moment)
    shutil.copytree(saved, images / "bounding_box_train", dirs_exist_ok=True)
    go(config, tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", whole[1])


@pytest.mark.parametrize("labelled", [False, True], ids=["extraction", "step"])
def test_a_data_worker_that_dies(labelled: bool, whole: Whole, images: Path, tmp_path: Path) -> None:
    config, folder = on_copies(whole, images, tmp_path), tmp_path / "run"
    original = LabelledView.__getitems__

    def deadly(self: LabelledView, positions: list[int]) -> Any:
        if get_worker_info() and (self.targets is not None) == labelled and (folder / "2-adapt/epoch_1.pth").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, positions)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LabelledView, "__getitems__", deadly)
        with pytest.raises(RunError, match=r"a process that loads .* died .*DataLoader worker.*data\.workers") as ended:
            reidx.run(reidx.load_config(config, ["data.workers=1"]), folder, progress="quiet")
    assert str(ended.value).startswith(PLACES["step" if labelled else "extraction"]) and "--resume" in str(ended.value)
    assert_kept(folder, "step")
    go(config, folder, resume=True)  # without workers, which do not change the numbers
    assert_same_run(folder, whole[1])


# ---- checkpoints


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "one bit": flip,
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:1000]),
    "checksum gone": lambda path: path.with_suffix(".sha256").unlink(),
    "checksum garbled": lambda path: path.with_suffix(".sha256").write_bytes(b"\xff\xfe\x00"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint(damage: str, whole: Whole, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(shutil.copytree(whole[1], tmp_path / "run"))
    (folder / "2-adapt/done.json").unlink()
    DAMAGES[damage](folder / "2-adapt/epoch_2.pth")
    reidx.run(reidx.load_config(whole[0]), folder, resume=True, progress="plain")
    message = f"epoch_2.pth in {folder / '2-adapt'}: damaged, or missing its checksum; continuing from epoch_1.pth\n"
    assert message in capsys.readouterr().err
    assert_same_run(folder, whole[1])


def test_no_whole_checkpoint_is_left(whole: Whole, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole[1], tmp_path / "run"))
    (folder / "2-adapt/done.json").unlink()
    for path in (folder / "2-adapt").glob("*.pth"):
        flip(path)
    before = {path: path.read_bytes() for path in folder.rglob("*.pth")}
    with pytest.raises(CheckpointError, match=r"epoch_1.pth and epoch_2.pth in .*2-adapt.* delete them to train the stage"):
        go(whole[0], folder, resume=True)
    assert {path: path.read_bytes() for path in folder.rglob("*.pth")} == before
    for path in before:
        if path.parent.name == "2-adapt":
            path.unlink()
    go(whole[0], folder, resume=True)
    assert_same_run(folder, whole[1])


def test_the_last_two_checkpoints_are_kept(tmp_path: Path) -> None:
    for epoch in range(1, 5):
        checkpoints.save(tmp_path / f"epoch_{epoch}.pth", {"epoch": epoch})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"epoch_{epoch}.{end}" for epoch in (3, 4) for end in ("pth", "sha256")
    ]


@pytest.mark.parametrize("name", ["1-warm/done.json", "2-adapt/done.json"])
def test_a_damaged_record_of_a_stage(name: str, whole: Whole, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole[1], tmp_path / "run"))
    (folder / name).write_text('{"history": [')
    with pytest.raises(CheckpointError, match=rf"{name} cannot be read .*Delete it .*--resume"):
        go(whole[0], folder, resume=True)
    (folder / name).unlink()
    go(whole[0], folder, resume=True)
    assert_same_run(folder, whole[1])
