"""A run resumes only with its own provenance: differences are refused and named key by key."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm

import reidx
from reidx.data.domains import Domains
from reidx.data.fingerprint import fingerprint
from reidx.errors import CheckpointError, ConfigError
from reidx.outline.source import source_digest
from reidx.runs import checkpoint as checkpoints
from reidx.runs.manifest import differences, provenance
from reidx.testing.runs import assert_same_run, unchanged

Whole = tuple[Path, Path]


def go(whole: Whole, folder: Path, resume: Any = True, overrides: tuple[str, ...] = ()) -> reidx.Result:
    return reidx.run(reidx.load_config(whole[0], list(overrides)), folder, resume=resume, progress="quiet")


def change_record(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    record = json.loads((folder / "experiment.json").read_text())
    change(record["provenance"])
    (folder / "experiment.json").write_text(json.dumps(record))


def refused(whole: Whole, folder: Path, overrides: tuple[str, ...] = ()) -> list[str]:
    """Return the lines of the refusal that name the differences, and assert that the folder is unchanged."""
    with unchanged(folder), pytest.raises(ConfigError) as error:
        go(whole, folder, overrides=overrides)
    first, *lines, last = str(error.value).splitlines()
    assert first == f"{folder} was started with different provenance:" and "--resume-anyway" in last
    return [line.strip() for line in lines]


def test_another_config_is_refused_key_by_key(whole: Whole, unfinished: Path) -> None:
    changes = ("seed=2", "labels.clusterer.eps=0.6", "stages.1.iters=4", "+clip_grad=1.0")
    assert set(refused(whole, unfinished, changes)) == {
        "config.seed: 1 → 2",
        "config.stages.0.labels.labellings.main.clusterer.eps: 0.7 → 0.6",
        "config.stages.1.labels.labellings.main.clusterer.eps: 0.7 → 0.6",
        "config.stages.1.iters: 3 → 4",
        "config.stages.0.clip_grad: null → 1.0",
        "config.stages.1.clip_grad: null → 1.0",
    }


def test_another_number_of_processes_is_refused(whole: Whole, unfinished: Path) -> None:
    change_record(unfinished, lambda then: then.update(processes=2))
    assert refused(whole, unfinished) == ["processes: 2 → 1"]


def test_other_code_is_refused(whole: Whole, unfinished: Path) -> None:
    now = f'"{reidx.__version__}, source {source_digest("reidx")}"'
    change_record(unfinished, lambda then: then["code"].update(reidx="0.0, source 0123"))
    assert refused(whole, unfinished) == [f'code.reidx: "0.0, source 0123" → {now}']


def test_the_code_of_the_plugins_in_use_counts(experiment: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    memories = {"bank": {"memory": "cluster_contrast.ClusterMemory"}}
    objective = [{"loss": "MemoryContrast", "memory": "bank"}]
    config = reidx.load_config(experiment(memories=memories, objective=objective))
    before = provenance(config, Domains(config.data["data"]))
    assert set(before["code"]) == {"reidx", "cluster_contrast"}
    new = {"reidx_cluster_contrast": "new"}
    monkeypatch.setattr("reidx.runs.manifest.source_digest", lambda module: new.get(module) or source_digest(module))
    changed = differences(before, provenance(config, Domains(config.data["data"])), "")
    assert list(changed) == [".code.cluster_contrast"]


def test_source_digests_follow_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "made_up").mkdir()
    module = tmp_path / "made_up" / "__init__.py"
    module.write_text("a = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    first = source_digest("made_up")
    assert first == source_digest("made_up") and len(first) == 12
    module.write_text("a = 2\n")
    assert source_digest("made_up") != first


def test_other_libraries_are_reported_not_refused(
    whole: Whole, unfinished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change_record(unfinished, lambda then: then.update(torch="1.0", timm="0.1"))
    reidx.run(reidx.load_config(whole[0]), unfinished, resume=True, progress="plain")
    shown = capsys.readouterr().err
    assert 'torch: "1.0" → ' in shown and f'timm: "0.1" → "{timm.__version__}"' in shown
    assert_same_run(unfinished, whole[1])


def test_changes_without_effect_are_accepted(whole: Whole, unfinished: Path, domains_root: Path, tmp_path: Path) -> None:
    moved_root, moved_run = tmp_path / "elsewhere", tmp_path / "another work dir"
    shutil.copytree(domains_root / "target", moved_root)
    unfinished.rename(moved_run)
    cheap = ("data.workers=1", "data.cache_gb=0", "name=renamed", "description=said otherwise", "log=[]")
    changes = (f"data.domains.target.root={moved_root}", *cheap)
    result = go(whole, moved_run, overrides=changes)
    assert_same_run(moved_run, whole[1])
    assert "resumed_anyway" not in result.card
    assert go(whole, moved_run, overrides=changes).metrics == result.metrics, "the record has the new values"


def test_a_moved_root_with_other_content_is_refused(
    whole: Whole, unfinished: Path, domains_root: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(domains_root / "target", tmp_path / "elsewhere"))
    image = sorted((folder / "bounding_box_train").glob("*.jpg"))[0]
    image.write_bytes(image.read_bytes() + b"\0")
    lines = refused(whole, unfinished, (f"data.domains.target.root={folder}",))
    assert lines == ["data.target.train: 144 images → 144 images, different sizes"]


def test_resume_anyway_is_recorded_on_the_card(whole: Whole, unfinished: Path) -> None:
    change_record(unfinished, lambda then: then.update(processes=2))
    result = go(whole, unfinished, resume="anyway", overrides=("optimizer.lr=0.001",))
    changed = {"config.stages.0.optimizer.lr", "config.stages.1.optimizer.lr", "processes"}
    assert [set(one) for one in result.card["resumed_anyway"]] == [changed]
    assert result.card["resumed_anyway"][0]["processes"] == "2 → 1"
    assert result.stages[1].history[1]["lr"] == 0.001
    again = go(whole, unfinished, overrides=("optimizer.lr=0.001",))
    assert again.card["resumed_anyway"] == result.card["resumed_anyway"]


def test_resume_anyway_adds_epochs_to_finished_stage(whole: Whole, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole[1], tmp_path / "run"))
    earlier = json.loads((folder / "2-adapt" / "done.json").read_text())["history"]
    result = go(whole, folder, resume="anyway", overrides=("stages.1.epochs=3",))
    assert [entry["epoch"] for entry in result.stages[1].history] == [1, 2, 3]
    assert result.stages[1].history[:2] == earlier and "mAP" in result.stages[1].last
    assert result.card["stages"]["adapt"]["epochs"] == 3 and result.card["sessions"] == 2


def test_change_before_a_finished_stage_is_refused(whole: Whole, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole[1], tmp_path / "run"))
    with pytest.raises(ConfigError, match=r"adapt is finished .* stage warm, .* Delete .*2-adapt to train it"):
        go(whole, folder, resume="anyway", overrides=("stages.0.epochs=3",))
    go(whole, folder)  # nothing has changed
    shutil.rmtree(folder / "2-adapt")
    result = go(whole, folder, resume="anyway", overrides=("stages.0.epochs=3",))
    assert [len(stage.history) for stage in result.stages] == [3, 2]



@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ("optimizer={type: SGD, lr: 0.01, momentum: 0.9}", False),
        ("optimizer={type: Adamax, lr: 0.001}", False),
        ("optimizer={type: Adam, lr: 0.001, amsgrad: true}", False),
        ("+optimization.layer_decay=0.7", False),
        ("+model.freeze=[backbone.model.conv1]", False),
        ("optimizer={type: AdamW, lr: 0.001}", True),
    ],
)
def test_resume_anyway_with_another_optimiser(
    whole: Whole, unfinished: Path, change: str, kept: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    config = reidx.load_config(whole[0], [change])
    result = reidx.run(config, unfinished, resume="anyway", progress="plain")
    assert len(result.stages[1].history) == 2
    assert ("it starts with empty state" in capsys.readouterr().err) == (not kept)
    state = checkpoints.load(unfinished / "2-adapt" / "epoch_2.pth")["optimizer"]["state"]
    steps = {int(moments["step"]) for moments in state.values() if "step" in moments}
    assert steps <= ({3, 6} if kept else {3})  # a memory's rows are new parameters in each epoch


def test_another_kind_of_optimiser_can_resume(whole: Whole, unfinished: Path) -> None:
    # from SGD to Adam, which reads its state as soon as it is loaded
    begun = reidx.load_config(whole[0], ["optimizer={type: SGD, lr: 0.01, momentum: 0.9}"])
    folder = unfinished.parent / "sgd"
    reidx.run(begun, folder, progress="quiet")
    result = go(whole, folder, resume="anyway", overrides=("stages.1.epochs=3",))
    assert len(result.stages[1].history) == 3


@pytest.mark.filterwarnings("error:Detected call of")
def test_resume_anyway_steps_through_a_new_schedule(whole: Whole, unfinished: Path) -> None:
    change = "+schedule=[{type: MultiStepLR, milestones: [1], gamma: 0.1}]"
    result = go(whole, unfinished, resume="anyway", overrides=(change, "optimizer.lr=0.001"))
    assert result.stages[1].last["lr"] == pytest.approx(1e-4)


def test_a_lost_record_is_refused(whole: Whole, unfinished: Path) -> None:
    for damage in (lambda path: path.write_text("{"), lambda path: path.unlink()):
        damage(unfinished / "experiment.json")
        message = r"experiment.json is (damaged|missing), so the checkpoints in .* cannot be identified"
        with pytest.raises(ConfigError, match=message):
            go(whole, unfinished)
    result = go(whole, unfinished, resume="anyway")
    assert_same_run(unfinished, whole[1])
    assert result.card["resumed_anyway"] == [{"experiment.json": "missing or damaged → recreated"}]


# ---- fingerprints of data sets


@pytest.fixture
def images(domains_root: Path, whole: Whole, tmp_path: Path) -> Path:
    return Path(shutil.copytree(domains_root / "target", tmp_path / "images"))


def of(folder: Path) -> dict[str, dict[str, Any]]:
    return fingerprint(reidx.build("dataset", {"type": "Market1501", "root": str(folder)}))


def test_a_moved_data_set_has_the_same_fingerprint(images: Path, tmp_path: Path) -> None:
    before = of(images)
    assert before["train"]["images"] == 144
    assert of(images.rename(tmp_path / "moved")) == before


def test_a_fingerprint_changes_with_the_files(images: Path) -> None:
    before = of(images)
    first, second = sorted((images / "bounding_box_train").glob("*.jpg"))[:2]
    first.write_bytes(first.read_bytes() + b"\0")
    grown = of(images)
    assert {key for key in before["train"] if grown["train"][key] != before["train"][key]} == {"sizes"}
    second.rename(second.with_name(second.name.replace("c1", "c6")))
    renamed = of(images)
    assert {key for key in grown["train"] if renamed["train"][key] != grown["train"][key]} >= {"files", "cameras"}
    assert (renamed["query"], renamed["gallery"]) == (before["query"], before["gallery"])
    first.unlink()
    assert of(images)["train"]["images"] == 143


def test_processes_in_a_checkpoint_are_checked_too(whole: Whole, unfinished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reidx.engine.runner.ReidRunner.world_size", 3)
    with pytest.raises(CheckpointError, match="written by 1 processes, this run has 3"):
        go(whole, unfinished)
