"""Finished runs on their own and on other data sets: cells, conditions, files, and failures that lose no other cell."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import reidx
from reidx.cli.main import main
from reidx.data.packs import Pack, write_pack
from reidx.engine import cross_test
from reidx.errors import ConfigError, ReidxError
from reidx.runs.cross_table import Cell, conditions, failures, table, write_table
from reidx.runs.result import Result, StageResult
from reidx.testing.miniatures import MINIATURES
from reidx.testing.tiny import tiny_domain

STAGE = [{"name": "adapt", "epochs": 1, "iters": 1}]


def test_runs_are_tested_on_several_sets(
    experiment: Callable[..., Path], domains_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(domains_root / "target", tmp_path / "data")
    config = reidx.load_config(experiment(
        data={"image_size": [48, 24], "domains": {"target": {"type": "Market1501", "root": "data"}}},
        evaluate={"domain": "target", "network": "mean"}, teachers={"mean": {"type": "EMA"}}, stages=STAGE,
    ))  # fmt: skip
    trained = reidx.run(config, tmp_path / "runs/a", progress="quiet")
    own = cross_test.test_runs(["runs/a", "runs/a"], {}, progress="quiet")
    assert [(cell.run, cell.on, cell.reason) for cell in own] == [("runs/a", "target", "")]
    assert own[0].result is not None and own[0].result.metrics == trained.metrics, "the numbers of the run"

    shutil.copytree("runs/a", "runs/b")
    shutil.rmtree("data")  # the data of the training need not be there
    source = tiny_domain(domains_root, "source")["root"]
    words = ["test", "runs/a", "runs/b", "--on", f"market1501={source}", "--on", "PersonX=nowhere"]
    capsys.readouterr()
    assert main([*words, "--set", "evaluate.flip=true", "--out", "found.json", "--progress", "quiet"]) == 1
    shown = capsys.readouterr().out
    assert "not tested: runs/a on PersonX: " in shown and "not tested: runs/b on PersonX: " in shown
    assert "protocol market1501 1 (own camera ignored)" in shown and "· flip ·" in shown and "no re-ranking" in shown
    found = json.loads(Path("found.json").read_text(encoding="utf-8"))
    assert [(one["run"], one["set"], one["state"]) for one in found] == [
        (f"runs/{run}", *cell) for run in "ab" for cell in (("market1501", "tested"), ("PersonX", "failed"))
    ]
    assert found[1]["reason"] and found[1]["card"] == {} and found[0]["protocol_version"] == "1" and found[0]["flip"] is True
    assert found[0]["weights"] == "runs/a/1-adapt/epoch_1.pth" and found[0]["card"]["data"].keys() == {"target"}
    assert found[0]["mAP"] == found[2]["mAP"] != trained.metrics["mAP"]


def test_domain_norms_are_those_of_the_tested_domain(
    experiment: Callable[..., Path], domains_root: Path, tmp_path: Path
) -> None:
    model = {"backbone": {"type": "Timm", "name": "test_resnet"}, "domain_bn": True}
    reidx.run(reidx.load_config(experiment(model=model, stages=STAGE)), tmp_path / "run", progress="quiet")
    source = tiny_domain(domains_root, "source")["root"]
    (cell,) = cross_test.test_runs([tmp_path / "run"], {"Market1501": source}, ["evaluate.protocol=OpenSet"], progress="quiet")
    assert cell.result is not None and "DIR@0.1" in cell.result.metrics, cell.reason
    (tmp_path / "run/1-adapt/epoch_1.pth").unlink()
    (cell,) = cross_test.test_runs([tmp_path / "run"], {}, progress="quiet")
    assert cell.result is None and "is not finished: there is no" in cell.reason


def test_random_splits_are_averaged(
    experiment: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The means and the deviation over the halves of VIPeR, each tested separately; a run that was trained on it is refused."""
    reidx.run(reidx.load_config(experiment(stages=STAGE)), tmp_path / "run", progress="quiet")
    (viper,) = (miniature for miniature in MINIATURES if miniature.spec["type"] == "VIPeR")
    root = viper.at(tmp_path / "viper")["root"]
    monkeypatch.setattr("reidx.data.datasets.single_shot.TRIALS", range(1, 4))
    (cell,) = cross_test.test_runs([tmp_path / "run"], {"viper": root}, progress="quiet")
    chosen = [[f"data.domains.target.trial={trial}"] for trial in (1, 2, 3)]
    each = [cross_test.test_runs([tmp_path / "run"], {"viper": root}, one, progress="quiet")[0].result for one in chosen]
    values = [result.metrics["mAP"] for result in each if result is not None]
    assert cell.result is not None and len(set(values)) > 1, cell.reason
    assert cell.result.metrics["mAP"] == pytest.approx(np.mean(values))
    assert cell.result.metrics["mAP_sd"] == pytest.approx(np.std(values, ddof=1))
    assert "VIPeR trial 1 to 3" in " ".join(conditions([cell])) and "mean over 3 splits" in " ".join(conditions([cell]))
    assert table([cell])[1][1][1] == "  s.d."
    config = (tmp_path / "run/config.yaml").read_text(encoding="utf-8")
    (tmp_path / "run/config.yaml").write_text(config.replace("type: Market1501", "type: VIPeR"), encoding="utf-8")
    (cell,) = cross_test.test_runs([tmp_path / "run"], {"viper": root}, progress="quiet")
    assert cell.result is None and "is the mean over trial 1 to 3, but the run's domain" in cell.reason


def test_packed_images_give_the_same_numbers(
    experiment: Callable[..., Path], domains_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reidx.run(reidx.load_config(experiment(stages=STAGE)), tmp_path / "run", progress="quiet")
    data = reidx.build("dataset", tiny_domain(domains_root, "target"))
    write_pack(data, tmp_path / "shared/packs", "target", (48, 24), "bilinear")
    opened: list[str] = []
    read = Pack.images
    monkeypatch.setattr(Pack, "images", lambda self, split: (opened.append(split), read(self, split))[1])
    words = ["data.image_size=[48,24]", "data.interpolation=bilinear"]
    plain, packed = (
        cross_test.test_runs([tmp_path / "run"], {}, words, progress="quiet", share=share)[0]
        for share in (None, tmp_path / "shared")
    )
    assert sorted(opened) == ["gallery", "query"], (plain.reason, packed.reason)
    assert plain.result is not None and packed.result is not None and plain.result.metrics == packed.result.metrics


def test_base_configs_and_data_sets_are_targets() -> None:
    prcc = cross_test.target_of("prcc", "x")
    assert prcc["dataset"]["root"] == "x" and prcc["evaluate"] == {"protocol": {"type": "ClothChanging", "trials": 0}}
    assert cross_test.target_of("market1501_c123_to_c456", "x")["dataset"]["of"]["root"] == "x"
    assert cross_test.target_of("CSV", "mine.csv") == {"dataset": {"type": "CSV", "path": "mine.csv"}, "evaluate": {}}
    with pytest.raises(ConfigError, match=r"--on market=x: there is no base config or data set 'market'. Did you mean"):
        cross_test.target_of("market", "x")
    assert cross_test.sets_of(["a=b=c"]) == {"a": "b=c"}
    for wrong, message in ((["a"], "write NAME=PATH"), (["=b"], "write NAME=PATH"), (["a=b", "a=c"], 'twice, also as "b"')):
        with pytest.raises(ConfigError, match=message):
            cross_test.sets_of(wrong)


def test_folders_without_a_run_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name, message in ((".", "it has no record"), ("file", "it is a file"), ("none", "there is no such folder")):
        with pytest.raises(ReidxError, match=f"is not a run: {message}"):
            cross_test.test_runs([tmp_path / name], {})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["reidx::demo.yaml", "--out", "a.md"], "--on and --out test finished runs"),
        ([".", "--weights", "a.pth"], "--weights belongs to a config"),
        ([".", "--out", "a.txt"], "the suffix sets the form; use .md, .json, .csv"),
        ([".", "--out", "none/a.md"], "there is no folder none"),
        ([".", "--on", "market1501"], "write NAME=PATH"),
    ],
)
def test_wrong_command_lines_are_refused(words: list[str], message: str, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["test", *words]) == 1
    assert message in capsys.readouterr().err


# ---- the table, from invented results


def cell(run: str, on: str, metric: str = "euclidean", protocol: str = "market1501", **report: float) -> Cell:
    evaluation = {"protocol": protocol, "protocol_version": "1", "camera_filter": True, "metric": metric}
    card = {"evaluation": evaluation, "tested": run}
    result = Result(Path("."), [StageResult("adapt", {"mAP": 0.5, "rank-1": 0.75, **report})], {"stages": {"adapt": card}})
    return Cell(run, on, result)


def test_conditions_name_sets_and_runs() -> None:
    cells = [cell(run, on, metric, on) for run, metric in (("x/a", "cosine"), ("x/b", "euclidean")) for on in ("p", "q")]
    lines = conditions([*cells, Cell("x/c", "p", None, "no data")])
    assert lines == [
        "by set: protocol p 1 (own camera ignored) (p); protocol q 1 (own camera ignored)",
        "  (q)",
        "by run: cosine distance (a); euclidean distance (b)",
        "by run: weights x/a (a); weights x/b (b)",
    ]


def test_table_has_rows_for_reranking_deviations_and_failures() -> None:
    cells = [cell("x/a", "p", mAP_sd=0.01, reranked_mAP=0.6, **{"metric_DIR@0.1": 0.25}), Cell("x/b", "p", None, "no data")]
    head, rows = table(cells)
    assert head == ["run", "set", "mAP", "rank-1", "rank-5", "rank-10", "mINP", "DIR@0.1"]
    assert rows == [
        ["a", "p", "50.00", "75.00", "–", "–", "–", "25.00"],
        ["", "  s.d.", "±1.00", "", "", "", "", ""],
        ["", "  re-ranked", "60.00", "–", "–", "–", "–", "–"],
        ["b", "p", *["–"] * 6],
    ]
    assert failures(cells) == ["not tested: x/b on p: no data"]
    assert [row[0] for row in table([cell("x/a", "p"), cell("y/a", "p")])[1]] == ["x/a", "y/a"]


def test_files_hold_every_cell(tmp_path: Path) -> None:
    cells = [cell("x/a", "p", reranked_mAP=0.6), Cell("x/b", "p|q", None, "no data")]
    for suffix in (".csv", ".json", ".md"):
        write_table(tmp_path / f"found{suffix}", cells)
    first, second = csv.DictReader((tmp_path / "found.csv").read_text(encoding="utf-8").splitlines())
    assert (first["mAP"], first["reranked_mAP"], first["state"]) == ("0.5", "0.6", "tested")
    assert (second["mAP"], second["reason"], second["state"]) == ("", "no data", "failed")
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert found[0]["card"]["stages"]["adapt"]["tested"] == "x/a" and [one["set"] for one in found] == ["p", "p|q"]
    page = (tmp_path / "found.md").read_text(encoding="utf-8").splitlines()
    assert page[0].startswith("* protocol market1501 1 (own camera ignored)")
    assert "| a | p | 50.00 | 75.00 | – | – | – |" in page and "| b | p\\|q | – | – | – | – | – |" in page
    assert page[-1] == "* not tested: x/b on p|q: no data"
