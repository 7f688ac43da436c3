"""Training on images alone: no identities, no cameras, no query and gallery; the run ends with its clusters."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import reidx
from reidx.checks.data import check_experiment, without_missing_tests
from reidx.cli.main import main
from reidx.contracts import LabelSet, RefinerContext
from reidx.data.datasets import Dataset, Split
from reidx.data.domains import Domains
from reidx.errors import ConfigError, DataError
from reidx.runs.result import Result, StageResult
from reidx.testing.tiny import load_experiment, tiny_domain, tiny_experiment, write_experiment


def photos(root: Path) -> dict[str, Any]:
    """The spec of unlabelled images: the training images of the tiny target domain."""
    return {"type": "ImageFolder", "root": f"{root}/target/bounding_box_train"}


def unlabelled(root: Path, **changes: Any) -> dict[str, Any]:
    data = {"image_size": [48, 24], "domains": {"target": photos(root)}}
    return tiny_experiment(root, **{"data": data, "evaluate": {"domain": None}, "log": [], **changes})


def read_labels(path: Path) -> list[tuple[str, int, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    assert head == ["path", "cluster", "labelling"]
    return [(name, int(cluster), labelling) for name, cluster, labelling in rows]


def test_unlabelled_run_ends_with_its_clusters(domains_root, tmp_path, capsys):
    path = write_experiment(tmp_path / "experiment.yaml", unlabelled(domains_root))
    folder = tmp_path / "run"
    assert main(["train", str(path), "--work-dir", str(folder), "--progress", "quiet"]) == 0
    out = capsys.readouterr().out
    rows = read_labels(folder / "1-adapt" / "labels.csv")
    assert [name for name, *_ in rows] == reidx.build("dataset", photos(domains_root)).train.paths
    log = [json.loads(line) for line in (folder / "1-adapt" / "log.jsonl").read_text().splitlines()]
    sizes = Counter(cluster for _, cluster, _ in rows)
    outliers = sizes.pop(-1, 0)
    assert (len(sizes), outliers, max(sizes.values())) == tuple(log[-1][key] for key in ("clusters", "outliers", "largest"))
    assert {labelling for *_, labelling in rows} == {"main"}
    head, line = out.splitlines()[:2]
    assert head.split() == ["clusters", "outliers", "largest", "median", "stability"]
    shown = [f"{count:.0f}" for count in (len(sizes), outliers, max(sizes.values()), log[-1]["median_size"])]
    assert line.startswith("adapt, epoch 2 ") and line.split()[3:] == [*shown, f"{log[-1]['stability']:.3f}"]
    assert out.endswith(f"Cluster of each training image: {folder / '1-adapt' / 'labels.csv'}\n")
    assert json.loads((folder / "result.json").read_text())["metrics"] == {}


def test_labels_survive_a_kill_after_the_last_epoch(domains_root, tmp_path):
    config = load_experiment(tmp_path, unlabelled(domains_root))
    reidx.run(config, tmp_path / "run", progress="quiet")
    table = tmp_path / "run" / "1-adapt" / "labels.csv"
    before = table.read_bytes()
    table.unlink()
    (tmp_path / "run" / "1-adapt" / "done.json").unlink()
    result = reidx.run(config, tmp_path / "run", resume=True, progress="quiet")
    assert table.read_bytes() == before and result.labels_file == table


def test_each_labelling_has_its_clusters(domains_root, tmp_path):
    distance, clusterer = {"type": "Jaccard", "k1": 8, "k2": 2}, {"type": "DBSCAN", "eps": 0.7}
    labelling = {"domain": "target", "distance": distance, "clusterer": clusterer, "relabel_every": 5}
    stream = {"domain": "target", "sampler": {"type": "PK", "identities": 4, "instances": 2}}
    memory = {"type": "LinearClassifier", "rows": "centroid"}
    experiment = unlabelled(
        domains_root,
        streams={name: {**stream, "labels": name} for name in "ab"},
        labels={"labellings": dict.fromkeys("ab", labelling)},
        memories={name: {"memory": memory, "labels": name} for name in "ab"},
        objective=[{"loss": "CrossEntropy", "stream": name, "memory": name} for name in "ab"],
    )
    result = reidx.run(load_experiment(tmp_path, experiment), tmp_path / "run", progress="quiet")
    rows = read_labels(tmp_path / "run" / "1-adapt" / "labels.csv")
    assert Counter(labelling for *_, labelling in rows) == {"a": 144, "b": 144}
    assert [name for name, _ in result.label_rows()] == ["adapt, a, epoch 1", "adapt, b, epoch 1"]  # labelled in epoch 1 alone


@pytest.mark.parametrize("monitor", [False, True])
def test_labels_of_each_epoch_are_saved(monitor, register, domains_root, tmp_path):
    class Halved:
        """Refiner that halves the weight of every second image."""

        provides = frozenset({"weights"})

        def __call__(self, labels: LabelSet, context: RefinerContext) -> LabelSet:
            return replace(labels, weights=np.where(np.arange(len(labels.labels)) % 2, 0.5, 1).astype(np.float32))

    register("refiner", Halved)
    parquet = pytest.importorskip("pyarrow.parquet")
    experiment = tiny_experiment(domains_root, log=[], evaluate={"domain": None})
    experiment["labels"] |= {"save": True, "monitor": monitor, "refiners": ["Halved"]}
    result = reidx.run(load_experiment(tmp_path, experiment), tmp_path / "run", progress="quiet")
    stage = tmp_path / "run" / "1-adapt"
    target = reidx.build("dataset", experiment["data"]["domains"]["target"]).train
    for epoch, report in enumerate(result.stages[0].history, start=1):
        saved = parquet.read_table(stage / f"labels_{epoch}.parquet").to_pydict()
        assert saved["path"] == target.paths and set(saved["labelling"]) == {"main"}
        assert saved["cluster"].count(-1) == report["outliers"] and len(set(saved["cluster"]) - {-1}) == report["clusters"]
        assert saved["weight"] == [0.5 if number % 2 else 1 for number in range(len(target))]
        assert saved["identity"] == (target.ids.tolist() if monitor else [None] * len(target))
    assert saved["cluster"] == [cluster for _, cluster, _ in read_labels(stage / "labels.csv")]  # those of the last epoch


def test_saving_labels_needs_pyarrow(domains_root, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    labels = {**unlabelled(domains_root)["labels"], "save": True}
    with pytest.raises(ConfigError, match=r"labels\.labellings\.main\.save: saving labels needs pyarrow: pip install 'reidx"):
        check(tmp_path, unlabelled(domains_root, labels=labels))


def test_table_of_clusters_has_the_last_labels():
    history = [
        {"epoch": 1, "clusters": 30.0, "outliers": 9.0, "largest": 7.0, "median_size": 4.0},
        {"epoch": 2, "clusters": 21.0, "outliers": 5.0, "largest": 8.0, "median_size": 4.5, "stability": 0.91},
        {"epoch": 3, "loss": 1.0},
    ]
    table = Result(Path("."), [StageResult("warm"), StageResult("adapt", {}, history)], {}).table()
    assert [line.split() for line in table.splitlines()] == [
        ["clusters", "outliers", "largest", "median", "stability"],
        ["adapt,", "epoch", "2", "21", "5", "8", "4", "0.910"],
    ]
    evaluated = {**history[1], "mAP": 0.5, "rank-1": 0.5, "rank-5": 0.5, "rank-10": 0.5, "mINP": 0.5}
    table = Result(Path("."), [StageResult("adapt", {}, [evaluated])], {}).table()
    assert table.splitlines()[0].split() == ["mAP", "rank-1", "rank-5", "rank-10", "mINP", "clusters", "outliers"]


def test_train_only_data_set_needs_no_test_splits(register, domains_root, tmp_path):
    class Photos(Dataset):
        """Images without a test, with a column."""

        name, columns = "Photos", ("clothes",)

        def __init__(self) -> None:
            paths = reidx.build("dataset", photos(domains_root)).train.paths
            self.root, self.dropped = str(domains_root), {}
            self.train = Split.of([(path, 0, 0, 0) for path in paths], "clothes").unlabelled()

    register("dataset", Photos)
    config = load_experiment(tmp_path, unlabelled(domains_root, data={"domains": {"target": {"type": "Photos"}}}))
    domains = Domains(config.data["data"])
    check_experiment(config, domains)
    assert domains.split("target", "query").columns.keys() == {"clothes"} and not len(domains.split("target", "query"))


def check(folder: Path, experiment: dict[str, Any], message: Callable[[str], None] = print) -> None:
    config = load_experiment(folder, experiment)
    check_experiment(config, Domains(config.data["data"], message=message))


def test_shipped_test_of_train_only_data_is_left_out(domains_root, tmp_path):
    """A recipe asks for the test, the user only chose the data; a test in the user's own file or words stays an error."""
    recipe, words = "cluster_contrast::market1501_small.yaml", [f"data.domains.target={json.dumps(photos(domains_root))}"]
    told: list[str] = []
    config = reidx.load_config(recipe, words)
    kept = without_missing_tests(config, Domains(config.data["data"], message=told.append))
    assert kept.experiment.stages[-1].evaluate.domain is None and kept.data == config.data
    assert told == ["target has no query and gallery images: stage adapt ends with its clusters"]
    for asked in (reidx.load_config(recipe, [*words, "evaluate.domain=target"]), load_experiment(tmp_path, unlabelled(
        domains_root, evaluate={"domain": "target"}
    ))):  # fmt: skip
        domains = Domains(asked.data["data"])
        assert without_missing_tests(asked, domains).experiment.stages == asked.experiment.stages
        with pytest.raises(DataError, match="domain 'target' has no query images"):
            check_experiment(asked, domains)


def test_unlabelled_data_name_the_remedy(domains_root, tmp_path):
    stream = {"domain": "target", "labels": "identity", "sampler": {"type": "PK", "identities": 4, "instances": 2}}
    with pytest.raises(DataError, match=r"domain 'target' has no query images\. Set evaluate\.domain: null to train without"):
        check(tmp_path, unlabelled(domains_root, evaluate={"domain": "target"}))
    with pytest.raises(DataError, match="domain 'target' has no identities; label it by clustering"):
        memories = {"rows": {"memory": "LinearClassifier", "labels": "identity"}}
        check(tmp_path, unlabelled(domains_root, streams={"target": stream}, memories=memories))
    said: list[str] = []
    labels = {**unlabelled(domains_root)["labels"], "monitor": True}
    check(tmp_path, unlabelled(domains_root, labels=labels), said.append)
    assert said == ["target: no identities are known, so labels.monitor compares nothing"]


def test_sampler_by_cameras_names_the_remedy(register, domains_root, tmp_path):
    from reidx.data.samplers import PK

    class Proxies(PK):
        """Batches by camera."""

        @classmethod
        def contract(cls, **_: object) -> dict[str, str]:
            return {"cameras": "required"}

    register("sampler", Proxies)
    stream = {"domain": "target", "labels": "main", "sampler": {"type": "Proxies", "identities": 4, "instances": 2}}
    message = r"Proxies needs to know the cameras, but domain 'target' has none\. Set sampler: PK, or Shuffle, which need none"
    with pytest.raises(DataError, match=message):
        check(tmp_path, unlabelled(domains_root, streams={"target": stream}))


def test_tiny_domain_writes_labels_with_its_evaluation(domains_root, tmp_path):
    data = {"image_size": [48, 24], "domains": {"target": tiny_domain(domains_root)}}
    config = load_experiment(tmp_path, unlabelled(domains_root, data=data, evaluate={"domain": "target"}))
    result = reidx.run(config, tmp_path / "run", progress="quiet")
    assert len(read_labels(result.labels_file)) == 144 and "mAP" in result.table() and "stability" not in result.table()
