"""Comparison of runs: differences key by key, and one sentence for a folder that is no run."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from reidx.ablation import comparison
from reidx.ablation.comparison import compare
from reidx.ablation.plan import Plan, Run
from reidx.cli.main import main
from reidx.errors import ReidxError


@pytest.fixture
def runs(planned: Callable[..., Plan], finish: Callable[..., None]) -> list[Run]:
    """Two runs that differ in a key, in the code, and in their metrics."""
    found = planned(axes={"clusterer.eps": [0.7, 0.6]}).runs
    finish(found[0], {"code": {"reidx": "a"}, "torch": "2"}, mAP=0.5, **{"rank-1": 0.75})
    finish(found[1], {"code": {"reidx": "b"}, "torch": "2"}, mAP=0.525, **{"rank-1": 0.7})
    return found


def test_differences_by_key_and_metrics_by_stage(runs: list[Run], capsys: pytest.CaptureFixture[str]) -> None:
    found = compare([run.folder for run in runs])
    assert found.names == [run.hash for run in runs]
    assert found.config == [("stages.adapt.labels.labellings.main.clusterer.eps", "0.7", "0.6")]
    assert found.provenance == [("code.reidx", "a", "b")]
    assert ("adapt, last epoch", "mAP", "50.00", "52.50 (+2.50)") in found.metrics
    assert ("adapt, last epoch", "rank-1", "75.00", "70.00 (-5.00)") in found.metrics
    assert main(["compare", *(str(run.folder) for run in runs)]) == 0
    output = capsys.readouterr().out
    assert "52.50 (+2.50)" in output and "clusterer.eps" in output


def test_formats_have_numbers_and_differences(runs: list[Run], capsys: pytest.CaptureFixture[str]) -> None:
    outputs = {}
    for form in ("json", "csv", "md"):
        assert main(["compare", *(str(run.folder) for run in runs), "--format", form]) == 0
        outputs[form] = capsys.readouterr().out
    one, two = (run.hash for run in runs)
    found = json.loads(outputs["json"])
    assert [run["state"] for run in found["runs"]] == ["done", "done"]
    assert found["config"] == {"stages.adapt.labels.labellings.main.clusterer.eps": {one: "0.7", two: "0.6"}}
    assert found["provenance"] == {"code.reidx": {one: "a", two: "b"}}
    assert found["metrics"]["adapt, last epoch"]["mAP"] == {one: 0.5, two: 0.525}
    rows = list(csv.reader(io.StringIO(outputs["csv"])))
    assert rows[0] == ["part", "key", one, two] and {len(row) for row in rows} == {4}
    assert ["metric of adapt, last epoch", "mAP", "0.5", "0.525"] in rows and ["run", "state", "done", "done"] in rows
    assert ["config", "stages.adapt.labels.labellings.main.clusterer.eps", "0.7", "0.6"] in rows
    assert "| adapt, last epoch | mAP | 50.00 | 52.50 (+2.50) |" in outputs["md"].splitlines()


def test_deviations_and_own_metrics_are_shown(planned: Callable[..., Plan], finish: Callable[..., None]) -> None:
    runs = planned(axes={"clusterer.eps": [0.7, 0.6]}).runs
    finish(runs[0], mAP=0.5, mAP_sd=0.01, **{"metric_rank-2": 0.75, "reranked_metric_rank-2": 0.8, "reranked_mAP": 0.6})
    finish(runs[1], mAP=0.525, **{"metric_rank-2": 0.7, "metric_rank-2_sd": 0.02})
    rows = [row[1:] for row in compare([run.folder for run in runs]).metrics if row[0] == "adapt, last epoch"]
    assert rows == [
        ("mAP", "50.00 ± 1.00", "52.50 (+2.50)"),
        ("rank-2", "75.00", "70.00 ± 2.00 (-5.00)"),
        ("reranked_mAP", "60.00", "–"),
        ("reranked_rank-2", "80.00", "–"),
        ("clusters", "7", "7 (+0)"),
    ]


def test_conditions_stand_above_the_metrics(
    runs: list[Run], evaluated: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    evaluated(runs[0])
    evaluated(runs[1], metric="cosine")
    assert main(["compare", *(str(run.folder) for run in runs)]) == 0
    metrics = capsys.readouterr().out.partition("\nmetrics in percent")[2].splitlines()
    one, two = (run.hash for run in runs)
    assert metrics[1] == "protocol market1501 (own camera ignored) · no flip · last epoch · fp32"
    assert metrics[2] == f"differs by run: euclidean distance ({one}); cosine distance"
    assert metrics[3:5] == [f"  ({two})", ""]
    assert metrics[5].split() == ["adapt,", "last", "epoch", one, two]


def test_conditions_are_listed_by_stage_and_run() -> None:
    def found(pretrain: dict[str, str], adapt: dict[str, str]) -> comparison._Found:
        return comparison._Found(Path(), {}, {}, {}, {}, {"pretrain": pretrain, "adapt": adapt})

    one, two = {"flip": "no flip", "weights": "random"}, {"flip": "no flip", "weights": "stage pretrain"}
    assert comparison._conditions(["a", "b"], [found(one, two), found(one, two)]) == [
        "no flip",
        "by stage: random (pretrain); stage pretrain (adapt)",
    ]
    flipped = [{**facts, "flip": "flip"} for facts in (one, two)]
    by_stage = "by stage: random (pretrain); stage pretrain (adapt)"
    assert comparison._conditions(["a", "b"], [found(one, two), found(*flipped)]) == [
        by_stage,
        "differs by run: no flip (a); flip (b)",
    ]
    assert comparison._conditions(["a", "b"], [found(one, two), found(one, flipped[1])]) == [
        by_stage,
        "pretrain:",
        "no flip",
        "adapt:",
        "differs by run: no flip (a); flip (b)",
    ]


def test_conditions_of_an_unfinished_stage_are_not_known(runs: list[Run], evaluated: Callable[..., None]) -> None:
    evaluated(runs[0])
    (runs[1].folder / "result.json").unlink()
    assert compare([run.folder for run in runs]).conditions[-1] == f"conditions not known: {runs[1].hash}"


def test_unfinished_run_is_compared_so_far(runs: list[Run]) -> None:
    (runs[1].folder / "result.json").unlink()
    (runs[1].folder / "1-adapt/done.json").unlink()
    found = compare([run.folder for run in runs])
    assert [row[-1] for row in found.about] == ["done", "unfinished"]
    assert ("versions.torch", '"2"', "not known yet") in found.provenance
    assert ("adapt, last epoch", "mAP", "50.00", "–") in found.metrics


def test_text_differs_from_a_number(runs: list[Run]) -> None:
    for run, torch in zip(runs, ("2", 2)):
        record = {"hash": run.hash, "provenance": {"torch": torch, "data": {}}}
        (run.folder / "experiment.json").write_text(json.dumps(record))
    assert ("torch", '"2"', "2") in compare([run.folder for run in runs]).provenance


def test_epochs_of_an_unfinished_stage_count(runs: list[Run]) -> None:
    for run, epoch, score in zip(runs, (2, 3), (0.4, 0.45)):
        (run.folder / "result.json").unlink()
        (run.folder / "1-adapt/done.json").unlink()
        lines = [{"epoch": epoch - 1, "mAP": 0.1}, {"epoch": epoch, "mAP": score}]
        torn = '{"epoch": 4, "mA'  # a line cut off by a kill
        (run.folder / "1-adapt/log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + torn)
    assert compare([run.folder for run in runs]).metrics == [
        ("adapt, epoch 2 so far", "mAP", "40.00", "–"),
        ("adapt, epoch 3 so far", "mAP", "–", "45.00"),
    ]


def test_folder_that_is_no_run_is_refused(runs: list[Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = (run.folder for run in runs)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for folders, message in (
        ([one], "Name at least two runs"),
        ([one, one], "is named twice"),
        ([one, tmp_path / "no"], "no is not a run: there is no such folder"),
        ([one, tmp_path / "file"], "file is not a run: it is a file"),
        ([one, tmp_path / "empty"], r"empty is not a run: it has no experiment\.json\.$"),
        ([one, one.parent], f"It contains runs: .*{one.name}"),
        ([one, one.parent.parent], f"It contains runs: .*{one.name}"),
    ):
        with pytest.raises(ReidxError, match=message):
            compare(folders)
    (two / "notes").mkdir()
    (two / "notes/done.json").touch()
    assert compare([one, two]).metrics  # other folders are ignored
    whole = (two / "experiment.json").read_text()
    damaged = {"1-adapt/done.json": '{"before": {}, "history": [null]}', "result.json": '{"card": []}'}
    for name, text in {"experiment.json": json.dumps({"name": "x"}), **damaged}.items():
        (two / "experiment.json").write_text(whole)
        (two / name).write_text(text)
        with pytest.raises(ReidxError, match="is not a complete run"):
            compare([one, two])
    (two / "experiment.json").write_text('{"hash": "a", "provenance": []}')
    with pytest.raises(ReidxError, match="is not a complete run"):
        compare([one, two])
    assert main(["compare", str(one), str(tmp_path / "no")]) == 1
    assert "no is not a run" in capsys.readouterr().err
