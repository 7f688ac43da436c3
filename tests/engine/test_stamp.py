"""Files of another run or seed are never used as a run's own, and edited records are never reported."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import reidx
from reidx.engine.experiment import run
from reidx.errors import CheckpointError, ReidxError
from reidx.runs import checkpoint as checkpoints
from reidx.runs.record_form import FORMAT
from reidx.runs.stamp import Stamp, read_sealed, sealed, stamp_of
from reidx.testing.runs import assert_same_run, unchanged

Whole = tuple[Path, Path]


@pytest.fixture(scope="session")
def other(whole: Whole, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the run with another seed, which tests must not change."""
    folder = tmp_path_factory.mktemp("other") / "run"
    run(reidx.load_config(whole[0], ["seed=77"]), folder, progress="quiet")
    return folder


def go(whole: Whole, folder: Path, resume: Any = True) -> reidx.Result:
    return run(reidx.load_config(whole[0]), folder, resume=resume, progress="quiet")


def refused(whole: Whole, folder: Path, resume: Any = True) -> str:
    """Return the one line of the refusal, and assert that the folder is unchanged."""
    with unchanged(folder), pytest.raises(ReidxError) as error:
        go(whole, folder, resume)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_every_file_names_its_run(whole: Whole) -> None:
    config, folder = reidx.load_config(whole[0]), whole[1]
    record = json.loads((folder / "experiment.json").read_text())
    assert record["begun"] == config.hash
    for name, stage in (("1-warm", "warm"), ("2-adapt", "adapt")):
        stamp = record["stages"][stage]
        assert (stamp["run"], stamp["seed"], stamp["stage"]) == (config.hash, 1, stage)
        assert json.loads((folder / name / "done.json").read_text())["stamp"] == stamp
        assert all(stamp_of(path) == stamp for path in (folder / name).glob("*.pth"))
        rows = [json.loads(line) for line in (folder / name / "log.jsonl").read_text().splitlines()]
        assert rows and all((row["run"], row["key"]) == (stamp["run"], stamp["key"]) for row in rows)
    assert json.loads((folder / "result.json").read_text())["run"] == config.hash


def stage(folder: Path, other: Path) -> None:
    """Replace the whole first stage by that of another seed."""
    shutil.rmtree(folder / "1-warm")
    shutil.copytree(other / "1-warm", folder / "1-warm")


def checkpoint(folder: Path, other: Path) -> None:
    for name in ("epoch_1.pth", "epoch_1.sha256"):
        shutil.copy(other / "2-adapt" / name, folder / "2-adapt" / name)


def newer_checkpoint(folder: Path, other: Path) -> None:
    for name in ("epoch_2.pth", "epoch_2.sha256"):
        shutil.copy(other / "2-adapt" / name, folder / "2-adapt" / name)


def checkpoint_of_another_stage(folder: Path, other: Path) -> None:
    for name in ("epoch_1.pth", "epoch_1.sha256"):
        shutil.copy(folder / "1-warm" / name, folder / "2-adapt" / name)


def finished(folder: Path, other: Path) -> None:
    shutil.copy(other / "2-adapt/done.json", folder / "2-adapt/done.json")


def weights_of_a_finished_stage(folder: Path, other: Path) -> None:
    for name in ("epoch_1.pth", "epoch_1.sha256"):
        shutil.copy(other / "1-warm" / name, folder / "1-warm" / name)


def log(folder: Path, other: Path) -> None:
    shutil.copy(other / "2-adapt/log.jsonl", folder / "2-adapt/log.jsonl")


def result(folder: Path, other: Path) -> None:
    shutil.copy(other / "result.json", folder / "result.json")


def unstamped(folder: Path, other: Path) -> None:
    path = folder / "2-adapt/epoch_1.pth"
    content = checkpoints.load(path)
    del content["reidx"]["stamp"]
    checkpoints.save(path, content)


def without_record(folder: Path, other: Path) -> None:
    """Leave only a finished stage of another seed in the folder."""
    for path in [*folder.glob("*.json"), *folder.rglob("*.pth")]:
        path.unlink()
    shutil.copy(other / "1-warm/done.json", folder / "1-warm/done.json")


FOREIGN = {
    stage: "1-warm/done.json belongs to another run (stage warm, seed 77, ",
    checkpoint: "2-adapt/epoch_1.pth belongs to another run (stage adapt, seed 77, ",
    newer_checkpoint: "2-adapt/epoch_2.pth belongs to another run (stage adapt, seed 77, ",
    checkpoint_of_another_stage: "2-adapt/epoch_1.pth belongs to another run (stage warm, seed 1, ",
    finished: "2-adapt/done.json belongs to another run (stage adapt, seed 77, ",
    weights_of_a_finished_stage: "1-warm/epoch_1.pth belongs to another run (stage warm, seed 77, ",
    log: "2-adapt/log.jsonl belongs to another run (",
    result: "result.json belongs to another run (config ",
    unstamped: "2-adapt/epoch_1.pth does not name its run",
}


@pytest.mark.parametrize("resume", [True, "anyway"])
@pytest.mark.parametrize("put", FOREIGN, ids=lambda put: put.__name__)
def test_file_of_another_run_is_refused(
    put: Callable[[Path, Path], None], resume: Any, whole: Whole, unfinished: Path, other: Path
) -> None:
    put(unfinished, other)
    assert refused(whole, unfinished, resume).startswith(f"{unfinished}/{FOREIGN[put]}")


def test_finished_stage_without_a_record_is_refused(whole: Whole, unfinished: Path, other: Path) -> None:
    without_record(unfinished, other)
    with pytest.raises(CheckpointError, match=r"1-warm/done\.json belongs to another run \(stage warm, seed 77"):
        go(whole, unfinished)


def test_resume_with_another_config_keeps_stamps(whole: Whole, unfinished: Path) -> None:
    config = reidx.load_config(whole[0], ["stages.adapt.optimizer.lr=1e-4", "name=other"])
    run(config, unfinished, resume="anyway", progress="quiet")
    run(config, unfinished, resume=True, progress="quiet")
    begun = json.loads((whole[1] / "experiment.json").read_text())["stages"]
    assert json.loads((unfinished / "experiment.json").read_text())["stages"] == begun
    assert stamp_of(unfinished / "2-adapt/epoch_2.pth") == begun["adapt"]


def test_files_survive_a_lost_record(whole: Whole, unfinished: Path) -> None:
    (unfinished / "experiment.json").unlink()
    go(whole, unfinished, "anyway")
    assert_same_run(unfinished, whole[1])
    go(whole, unfinished)


# ---- records


def edit(change: Callable[[dict[str, Any]], object]) -> Callable[[str], str]:
    def edited(text: str) -> str:
        content = json.loads(text)
        change(content)
        return json.dumps(content)

    return edited


def with_text(text: str) -> Callable[[str], str]:
    return lambda _: text


RECORDS: dict[str, Callable[[str], str]] = {
    "{}": with_text("{}"),
    "[]": with_text("[]"),
    "null": with_text("null"),
    "1": with_text("1"),
    "text": with_text('"x"'),
    "empty": with_text(""),
    "truncated": with_text('{"history": ['),
    "zeros": with_text("\0" * 100),
    "deeply nested": with_text("[" * 100_000),
    "no history": with_text('{"before": {}, "card": {}}'),
    "history of empty rows": with_text('{"history": [{}, {}], "before": {}, "card": {}}'),
    "other numbers": edit(lambda content: content["history"][0].update(mAP=0.99)),
    "one digit": edit(lambda content: content["history"][0].update(loss=content["history"][0]["loss"] + 1e-12)),
    "one more epoch": edit(lambda content: content["history"].append(content["history"][0])),
    "another card": edit(lambda content: content["card"].update(precision="fp64")),
    "another stamp": edit(lambda content: content["stamp"].update(seed=2)),
    "no checksum": edit(lambda content: content.pop("sha256")),
}


@pytest.mark.parametrize("name", ["1-warm/done.json", "2-adapt/done.json"])
@pytest.mark.parametrize("kind", RECORDS)
def test_edited_or_damaged_record_is_refused(kind: str, name: str, whole: Whole, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole[1], tmp_path / "run"))
    (folder / name).write_text(RECORDS[kind]((folder / name).read_text()))
    message = refused(whole, folder)
    assert message.startswith(f"{folder / name} cannot be read (") and "Delete it" in message


@pytest.mark.parametrize("text", ["{}", "[]", '"x"', '{"mAP": "x"}', '{"mAP": 0.9}', "{"])
def test_edited_scores_before_training_are_refused(text: str, whole: Whole, unfinished: Path, tmp_path: Path) -> None:
    (unfinished / "2-adapt/before.json").write_text(text)
    assert "2-adapt/before.json cannot be read (" in refused(whole, unfinished)


@pytest.mark.parametrize("text", ["{}", "[]", '{"trained_in": 3}', '{"trained_in": "elsewhere"}'])
def test_edited_origin_of_a_stage_is_refused(text: str, whole: Whole, unfinished: Path) -> None:
    (unfinished / "1-warm/shared.json").write_text(text)
    assert "1-warm/shared.json cannot be read (" in refused(whole, unfinished)


@pytest.mark.parametrize(
    "text",
    ["{}", "[]", "null", '{"hash": 1}', '{"hash": "H"', '{"hash": "H", "provenance": []}', '{"hash": "H", "resumed": 3}',
     '{"hash": "H", "resumed": [3]}', '{"hash": "H", "sessions": "x"}', '{"hash": "H", "stages": {"warm": 1}}', "[" * 100_000,
     '{"hash": "H", "stages": {"warm": {"run": "a"}}}', '{"hash": "H", "provenance": {"data": {"target": {"train": 1}}}}',
     '{"hash": "H", "provenance": {"files": ["a"]}}', '{"hash": "H", "begun": 3}'],
)  # fmt: skip
def test_damaged_record_of_a_run_is_refused(text: str, whole: Whole, unfinished: Path) -> None:
    own = json.dumps(reidx.load_config(whole[0]).hash)
    (unfinished / "experiment.json").write_text(text.replace('"H"', f'{own}, "format": {FORMAT}'))
    message = f"{unfinished / 'experiment.json'} is damaged, so the checkpoints in {unfinished} cannot be identified."
    assert refused(whole, unfinished).startswith(message)
    go(whole, unfinished, "anyway")
    assert_same_run(unfinished, whole[1])


def test_seal_and_stamp_of_a_record(tmp_path: Path) -> None:
    stamp = Stamp("a", 1, "adapt", "k")
    (tmp_path / "done.json").write_text(sealed({"x": [1.5, None]}, stamp))
    assert read_sealed(tmp_path / "done.json", stamp) == {"x": [1.5, None]}
    assert read_sealed(tmp_path / "done.json", Stamp("b", 2, "other", "k")), "the same stage by another run"
    with pytest.raises(CheckpointError, match="belongs to another run"):
        read_sealed(tmp_path / "done.json", Stamp("a", 1, "adapt", "l"))


# ---- shared stages and features


@pytest.fixture(scope="session")
def share(whole: Whole, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which the run shares its stages, which tests must not change."""
    folder = tmp_path_factory.mktemp("share")
    run(reidx.load_config(whole[0]), folder / "a", progress="quiet", share=folder / "shared")
    return folder / "shared"


def bank(change: Callable[[torch.Tensor], Any]) -> Callable[[Path], None]:
    def changed(shared: Path) -> None:
        for path in (shared / "features").glob("*.pth"):
            content = checkpoints.load(path)
            checkpoints.save(path, {**content, "bank": change(content["bank"])})

    return changed


def one_bit(shared: Path) -> None:
    for path in (shared / "features").glob("*.pth"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)


def swapped(shared: Path) -> None:
    """Give each file of features the name of another."""
    paths = sorted((shared / "features").glob("*.pth"))
    contents = [(path.read_bytes(), path.with_suffix(".sha256").read_bytes()) for path in paths]
    for path, (content, checksum) in zip(paths, contents[1:] + contents[:1]):
        path.write_bytes(content)
        path.with_suffix(".sha256").write_bytes(checksum)


FEATURES: dict[str, Callable[[Path], object]] = {
    "one bit": one_bit,
    "fewer rows": bank(lambda rows: rows[:3]),
    "one axis": bank(lambda rows: rows[:, 0]),
    "whole numbers": bank(lambda rows: (rows * 10).long()),
    "text": bank(lambda rows: "rows"),
    "no checksum": lambda shared: [path.unlink() for path in (shared / "features").glob("*.sha256")],
    "list": lambda shared: [checkpoints.save(path, [1]) for path in (shared / "features").glob("*.pth")],  # type: ignore[arg-type]
    "swapped": swapped,
    "folders": lambda shared: [(path.unlink(), path.mkdir()) for path in (shared / "features").glob("*.pth")],
    "lock is a folder": lambda shared: [(path.unlink(), path.mkdir()) for path in (shared / "features").glob("*.lock")],
}


@pytest.mark.parametrize("kind", FEATURES)
def test_changed_features_are_extracted_again(
    kind: str, whole: Whole, share: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = Path(shutil.copytree(share, tmp_path / "shared"))
    shutil.rmtree(shared / "stages")
    FEATURES[kind](shared)
    run(reidx.load_config(whole[0]), tmp_path / "run", progress="plain", share=shared)
    assert_same_run(tmp_path / "run", whole[1])
    output = capsys.readouterr().err
    assert "the features are extracted again" in output or "features cannot be shared" in output


def edited(stage: Path) -> None:
    (stage / "done.json").write_text(RECORDS["other numbers"]((stage / "done.json").read_text()))


def edited_and_sealed(stage: Path) -> None:
    """Remove the last epoch from the history, with a matching checksum."""
    content = json.loads((stage / "done.json").read_text())
    stamp = Stamp(**content.pop("stamp"))
    content.pop("sha256")
    content["history"] = content["history"][:-1]
    (stage / "done.json").write_text(sealed(content, stamp))


def of_another_stage(stage: Path) -> None:
    """Swap the checkpoints of both stages, and keep the names."""
    if not stage.name.startswith("adapt"):
        return  # changed together with adapt
    other = next(stage.parent.glob("warm-*"))
    last = {folder: max(folder.glob("*.pth"), key=lambda path: path.stat().st_mtime_ns) for folder in (stage, other)}
    content = {folder: [last[folder].with_suffix(end).read_bytes() for end in (".pth", ".sha256")] for folder in last}
    for folder, foreign in ((stage, other), (other, stage)):
        for path in folder.glob("*.pth"):
            for end, data in zip((".pth", ".sha256"), content[foreign]):
                path.with_suffix(end).write_bytes(data)


def not_a_checkpoint(stage: Path) -> None:
    """Replace the checkpoints by other files, with matching checksums."""
    for path in stage.glob("*.pth"):
        path.unlink()  # a hard link to the file of the run that shared it
        path.write_bytes(b"no checkpoint")
        path.with_suffix(".sha256").write_text(checkpoints.digest(path))


STAGES: dict[str, Callable[[Path], object]] = {
    "edited": edited,
    "edited and sealed": edited_and_sealed,
    "garbage": lambda stage: (stage / "done.json").write_text("[1]"),
    "not finished": lambda stage: (stage / "done.json").unlink(),
    "origin": lambda stage: (stage / "shared.json").write_text("[]"),
    "another stage's": of_another_stage,
    "another file with its checksum": not_a_checkpoint,
}


@pytest.mark.parametrize("kind", STAGES)
def test_changed_stage_is_trained_again(
    kind: str, whole: Whole, share: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = Path(shutil.copytree(share, tmp_path / "shared"))
    for folder in (shared / "stages").iterdir():
        STAGES[kind](folder)
    run(reidx.load_config(whole[0]), tmp_path / "run", progress="plain", share=shared)
    assert_same_run(tmp_path / "run", whole[1])
    assert capsys.readouterr().err.count("is damaged; the stage is trained again") == 2
    assert "taken_over" not in json.loads((tmp_path / "run/result.json").read_text())["card"]


def test_links_pipes_and_folders_are_ignored(whole: Whole, share: Path, tmp_path: Path) -> None:
    shared = Path(shutil.copytree(share, tmp_path / "shared"))
    for folder in (shared / "stages").iterdir():
        (folder / "loop").symlink_to(folder)
        (folder / "secret").symlink_to("/etc/passwd")
        os.mkfifo(folder / "pipe")
    result = run(reidx.load_config(whole[0]), tmp_path / "run", progress="quiet", share=shared)
    assert set(result.card["taken_over"]) == {"warm", "adapt"}
    assert not {"loop", "secret", "pipe"} & {path.name for path in (tmp_path / "run").rglob("*")}
