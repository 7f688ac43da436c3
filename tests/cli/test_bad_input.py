"""Bad input: an exit code, one message that names file or line, and no lost work."""

from __future__ import annotations

import csv
import json
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

from reidx.cli.main import main
from reidx.labels.clusterers.dbscan import DBSCAN
from reidx.runs import checkpoint as checkpoints

STAGES = [{"name": "adapt", "epochs": 2, "iters": 2}]

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run ``reidx …`` in this process; returns exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([*words, "--progress", "quiet"] if words[0] in ("train", "test") else words)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def refusal(run: Run) -> Callable[..., str]:
    """Return the message of a command that must fail without leaving partial files."""

    def refusal(*words: str, code: int = 1, lines: int = 1) -> str:
        found, out, err = run(*words)
        assert (found, out) == (code, ""), err
        assert err.startswith("error: "), err
        assert err.count("error: ") == 1, err
        assert err.count("\n") == lines, err
        assert "Traceback" not in err
        assert_whole(Path("."))
        return err.removeprefix("error: ").strip()

    return refusal


def assert_whole(folder: Path) -> None:
    """Assert that no file is partial: checkpoints load and match their checksums, JSON parses."""
    assert not list(folder.rglob("*.partial"))
    for path in folder.rglob("epoch_*.pth"):
        checkpoints.load(path)
        assert path.with_suffix(".sha256").read_text() == checkpoints.digest(path)
    for path in folder.rglob("*.json"):
        if path.parent.name != "vis_data":  # mmengine's own log holds a line of JSON for each epoch
            json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture
def images(domains_root: Path, tmp_path: Path) -> Path:
    """Copy of the tiny target domain, for damage."""
    return Path(shutil.copytree(domains_root / "target", tmp_path / "images"))


def market(root: Path | str) -> dict[str, Any]:
    return {"image_size": [48, 24], "domains": {"target": {"type": "Market1501", "root": str(root)}}}


def table(images: Path, path: Path, cameras: bool = True, other_ids: bool = False) -> dict[str, Any]:
    """Return the data section of an experiment on the same images, listed in a CSV table."""
    splits = {"bounding_box_train": "train", "query": "query", "bounding_box_test": "gallery"}
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "pid", "camid", "split"))
        for folder, split in splits.items():
            for image in sorted((images / folder).glob("*.jpg")):
                pid, camera = image.name.split("_")[:2]
                shift = 1000 if other_ids and split == "gallery" else 0
                if int(pid) >= 0:
                    writer.writerow((image, int(pid) + shift, camera[1] if cameras else "", split))
    return {"image_size": [48, 24], "domains": {"target": {"type": "CSV", "path": str(path)}}}


def truncate(folder: Path) -> Path:
    path = sorted(folder.glob("*.jpg"))[3]
    path.write_bytes(path.read_bytes()[:200])
    return path


# ---- the command line and the config


def test_missing_or_invalid_config(refusal, tmp_path):
    assert refusal("train", "nowhere.yaml").startswith("nowhere.yaml does not exist.")
    (tmp_path / "broken.yaml").write_text("name: x\nmodel: {backbone: {type: Timm\n", encoding="utf-8")
    assert refusal("train", "broken.yaml").startswith("broken.yaml:3:1: not valid YAML: ")
    (tmp_path / "tabs.yaml").write_text("name: x\nmodel:\n\tbackbone: Timm\n", encoding="utf-8")
    assert refusal("config", "tabs.yaml") == "tabs.yaml:3:1: a tab in the indentation; YAML allows only spaces."
    assert "No plugin called 'nobody' is installed" in refusal("test", "nobody::usl.yaml")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model.backbone.type=Tim", "stages.0.model.backbone: There is no backbone called 'Tim'."),
        ("model.backbone.nane=x",
         "experiment.yaml:{line}: stages.0.model.backbone): unknown key 'nane' (--set). Did you mean name?"),
        ("itres=3", "--set itres=3: the experiment has no key 'itres'."),
        ("iters=many", "--set: stages.0.iters is 'many' (a string); expected int."),
        ("labels.clusterer.eps=high", "'eps' (--set) is 'high' (str); expected float."),
        ("model.backbone.name=resnet5", ": stages.0.model.backbone): Timm: timm"),
        ("model.backbone.weights=none.pth", ": stages.0.model.backbone): weights: there is no file none.pth."),
        ("init=none.pth", "--set: stages.0.init: there is no file none.pth (relative to "),
        ("model.fusion.pool=mean", ": stages.0.model.fusion): There is no pooling 'mean'; there are"),
        ("streams.target.sampler.identities=0", ": stages.0.streams.target.sampler): PK: batches (2) and their size (0)"),
    ],
)  # fmt: skip
def test_wrong_values(experiment, refusal, override, said):
    path = experiment(stages=[{"name": "adapt"}], iters=2, epochs=1)
    line = next(i for i, row in enumerate(path.read_text().splitlines(), 1) if "backbone:" in row)
    message = refusal("train", str(path), "--set", override, "--work-dir", "run")
    assert said.format(line=line) in message
    assert not Path("run", "experiment.json").exists()  # a corrected config may use the folder


def test_debug_shows_the_traceback_too(experiment, run):
    path = experiment()
    for words in (["--debug", "train", str(path)], ["train", str(path), "--debug"]):
        code, _, err = run(*words, "--set", "seed=many")
        assert code == 1
        assert err.startswith("Traceback (most recent call last)")
        assert err.endswith("\nerror: --set: seed is 'many' (a string); expected int.\n")


def test_separate_process_prints_one_message(experiment, tmp_path):
    command = [sys.executable, "-m", "reidx", "train", str(experiment()), "--set", "seed=many"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: --set: seed is 'many' (a string); expected int.\n"


# ---- data


def test_missing_empty_or_partial_data_folder(experiment, refusal, images):
    def message(root: Path | str) -> str:
        return refusal("train", str(experiment(data=market(root))), "--work-dir", "run")

    assert message("nowhere").startswith("dataset Market1501 (data.domains.target): Market-1501 is not at nowhere.")
    for image in (images / "query").glob("*.jpg"):
        image.unlink()
    assert f"Market-1501: {images / 'query'} has no .jpg image." in message(images)
    (images / "query").rmdir()
    assert f"Market-1501 at {images} is incomplete: it lacks query." in message(images)
    assert not Path("run", "experiment.json").exists()


def test_corrupt_image_while_training(experiment, refusal, images):
    bad = truncate(images / "bounding_box_train")
    message = refusal("train", str(experiment(data=market(images))), "--work-dir", "run")
    assert message.startswith(f"{bad} cannot be read as an image: ")
    data = {**market(images), "workers": 1, "cache_gb": 0}
    assert refusal("train", str(experiment(data=data)), "--work-dir", "run").startswith(f"{bad} cannot be read as an image: ")


def test_corrupt_image_while_evaluating_costs_one_epoch(experiment, run, refusal, images, tmp_path):
    shutil.copytree(images, tmp_path / "whole")
    bad = truncate(images / "query")
    path = str(experiment(data=market(images), stages=STAGES))
    message = refusal("train", path, "--work-dir", "run")
    assert message.startswith(f"{bad} cannot be read as an image: ")
    assert "This happened in stage adapt, epoch 2/2, evaluation, extracting features. Saved epochs are kept: " in message
    assert message.endswith("continue with --resume.")
    assert checkpoints.newest(Path("run/1-adapt")) == Path("run/1-adapt/epoch_1.pth")
    shutil.copy(tmp_path / "whole" / "query" / bad.name, bad)
    message = refusal("train", path, "--work-dir", "run", "--resume", lines=3)  # it was damaged when the run started
    assert "data.target.query: 18 images → 18 images, different sizes" in message
    code, out, err = run("train", path, "--work-dir", "run", "--resume-anyway")
    assert (code, err) == (0, "") and "adapt, epoch 2 " in out


def test_protocol_refuses_data_without_cameras(experiment, refusal, run, images, tmp_path):
    data = table(images, tmp_path / "people.csv", cameras=False)
    path = str(experiment(data=data, stages=[{"name": "adapt", "epochs": 1, "iters": 1}]))
    message = refusal("train", path, "--work-dir", "run")
    assert "experiment.yaml:" in message
    assert message.endswith(
        "stages.0.evaluate.protocol: Market1501 needs to know the cameras, but domain 'target' has none. "
        "For evaluation without cameras, set protocol: NoCameraFilter."
    )
    assert refusal("test", path) == message
    assert run("train", path, "--work-dir", "run", "--set", "evaluate.protocol=NoCameraFilter")[0] == 0


def test_missing_matches_are_found_before_training(experiment, refusal, images, tmp_path):
    data = table(images, tmp_path / "people.csv", other_ids=True)
    message = refusal("train", str(experiment(data=data)), "--work-dir", "run")
    assert "stages.0.evaluate: domain 'target': evaluate: no query has a match in the gallery." in message
    assert "No identity is on both sides" in message
    assert not list(Path("run").rglob("*.pth"))


def test_data_changed_during_a_run(experiment, run, refusal, images, monkeypatch):
    labels = {"domain": "target", "distance": {"type": "Jaccard", "k1": 8, "k2": 2}, "relabel_every": 5}
    labels["clusterer"] = {"type": "DBSCAN", "eps": 0.7, "min_samples": 2}
    path = str(experiment(data=market(images), stages=STAGES, labels=labels))
    with monkeypatch.context() as patch:
        patch.setattr("reidx.engine.stage.StageRun.evaluate", _interrupt)
        assert run("train", path, "--work-dir", "run")[0] == 130
    sorted((images / "bounding_box_train").glob("*.jpg"))[0].unlink()
    message = refusal("train", path, "--work-dir", "run", "--resume", lines=3)
    assert "data.target.train: 144 images → 143 images, different files, sizes, ids, cameras" in message
    message = refusal("train", path, "--work-dir", "run", "--resume-anyway")
    assert message.startswith("The checkpoint has labels of 144 images (main), but there are 143 now.")


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


# ---- during a run


def test_no_cluster_in_the_first_epoch(experiment, refusal):
    path = str(experiment(stages=STAGES))
    message = refusal("train", path, "--work-dir", "run", "--set", "labels.clusterer.min_samples=100")
    assert message.startswith("Epoch 1: DBSCAN found no cluster among 144 images, all are outliers. The nearest pairs are at ")
    assert "a smaller min_samples), or start from better weights. This happened in stage adapt, epoch 1" in message


def test_no_cluster_later_keeps_earlier_epochs(experiment, refusal, monkeypatch):
    calls, cluster = [], DBSCAN.__call__

    def fading(self: DBSCAN, graph: Any) -> Any:
        calls.append(self)
        labels = cluster(self, graph)
        return labels if len(calls) == 1 else labels * 0 - 1

    monkeypatch.setattr(DBSCAN, "__call__", fading)
    message = refusal("train", str(experiment(stages=STAGES)), "--work-dir", "run")
    assert message.startswith("Epoch 2: DBSCAN found no cluster")
    assert checkpoints.newest(Path("run/1-adapt")) == Path("run/1-adapt/epoch_1.pth")


def test_loss_becomes_nan(experiment, refusal):
    words = ["train", str(experiment(stages=STAGES)), "--work-dir", "run", "--set", "optimizer={type: SGD, lr: 1e+30}"]
    message = refusal(*words)
    assert message.startswith("stage adapt, epoch 1/2, training: loss became nan, CrossEntropy became nan in steps 1 to ")


# ---- the work directory


FULL_DISK = """
import resource, sys
from reidx.cli.main import main
from reidx.runs import checkpoint

save, calls = checkpoint.save, []

def filling_up(path, content):
    calls.append(path)
    if len(calls) == 2:  # limit the file size, which looks like a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    save(path, content)

checkpoint.save = filling_up
sys.exit(main(sys.argv[1:]))
"""


def test_full_disk_while_saving_loses_nothing(experiment, run, tmp_path):
    path = str(experiment(stages=STAGES))
    words = ["train", path, "--work-dir", "run"]
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, *words, "--progress", "quiet"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    why = "epoch_2.pth cannot be written: File too large. No partial file was left behind."
    assert done.stderr.startswith("error: stage adapt, epoch 2/2, saving: ") and why in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Allow larger files (ulimit -f) and continue with --resume." in done.stderr
    assert_whole(tmp_path)
    assert checkpoints.newest(tmp_path / "run/1-adapt") == tmp_path / "run/1-adapt/epoch_1.pth"
    assert not (tmp_path / "run/1-adapt/epoch_2.sha256").exists()
    code, out, err = run(*words, "--resume")
    assert (code, err) == (0, "") and "adapt, epoch 2 " in out


def test_unwritable_work_dir(experiment, refusal, tmp_path):
    path = str(experiment())
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    for folder in ("file", "file/run"):
        message = refusal("train", path, "--work-dir", folder)
        assert message.startswith(f"{folder} cannot be used as the run's folder: ") and "--work-dir" in message
    assert (tmp_path / "file").read_text() == "mine"
    if os.geteuid() == 0:
        return  # root can write to every folder
    (tmp_path / "closed").mkdir(mode=0o500)
    assert "it is not writable" in refusal("train", path, "--work-dir", "closed")


def test_work_dir_with_a_run(experiment, run, refusal):
    path = str(experiment(stages=[{"name": "adapt", "epochs": 1, "iters": 1}]))
    assert run("train", path, "--work-dir", "run")[0] == 0
    before = {p: p.read_bytes() for p in Path("run").rglob("*") if p.is_file()}
    assert refusal("train", path, "--work-dir", "run") == (
        "run already holds a run. Resume it (--resume), or name another folder (--work-dir)."
    )
    message = refusal("train", path, "--work-dir", "run", "--resume", "--set", "seed=2", lines=3)
    assert message.startswith("run was started with different provenance:\n  config.seed: 1 → 2\n")
    assert {p: p.read_bytes() for p in Path("run").rglob("*") if p.is_file()} == before


# ---- weights


def test_weights_that_do_not_fit(experiment, run, refusal, tmp_path):
    path = str(experiment(stages=[{"name": "adapt", "epochs": 1, "iters": 1}]))
    assert run("train", path, "--work-dir", "run")[0] == 0
    good = "run/1-adapt/epoch_1.pth"
    assert run("test", path, "--weights", good)[0] == 0
    assert refusal("test", path, "--weights", "none.pth") == "--weights: there is no file none.pth."
    (tmp_path / "text.pth").write_text("no weights", encoding="utf-8")
    assert refusal("test", path, "--weights", "text.pth") == (
        "text.pth is not a readable checkpoint. It is damaged, or holds pickled objects, which are not loaded."
    )
    Path("half.pth").write_bytes(Path(good).read_bytes()[:100_000])
    assert refusal("test", path, "--weights", "half.pth").startswith("half.pth is not a readable checkpoint.")
    torch.save({"conv1.weight": torch.zeros(3)}, "plain.pth")
    assert "plain.pth is not a checkpoint of a stage" in refusal("test", path, "--weights", "plain.pth")
    other = ["--set", "model.backbone.name=test_efficientnet"]
    message = refusal("test", path, "--weights", good, *other)
    assert message.startswith(f"{good} does not fit the model: ")
    assert "backbone." in message
    assert "more)" in message
    for weights in ("text.pth", "plain.pth"):
        assert weights in refusal("train", path, "--work-dir", "next", "--set", f"init={weights}")
    assert run("train", path, "--work-dir", "next", "--set", f"init={good}")[0] == 0


# ---- interrupts


# background jobs of a shell ignore SIGINT, and so do their children
LISTENING = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from reidx.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def test_ctrl_c_prints_a_working_resume_command(experiment, run, tmp_path):
    path = str(experiment(stages=[{"name": "adapt", "epochs": 12, "iters": 40}]))
    words = ["train", path, "--work-dir", "run"]
    process = subprocess.Popen(
        [sys.executable, "-c", LISTENING, *words],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None and checkpoints.newest(tmp_path / "run/1-adapt") is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert (process.returncode, out) == (130, ""), err
    *_, last = err.splitlines()
    assert last == f"interrupted; resume from the last checkpoint with: reidx {' '.join(words)} --resume"
    assert "Traceback" not in err
    assert_whole(tmp_path)
    code, out, err = run(*words, "--resume")
    assert (code, err) == (0, "") and "adapt, epoch 12 " in out
