"""The protocol of SYSU-MM01: ranks of people, ignored cameras, galleries, and a run on two modalities."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import reidx
from reidx.data.datasets import SYSUMM01 as DataSet
from reidx.errors import DataError
from reidx.evaluation import SYSUMM01, evaluate

SEARCH = {"all": (0, 1, 3, 4), "indoor": (0, 1)}


def test_rank_counts_each_person_once():
    """Ranking: person 8 twice, then the query's person 7: the second of two people, and the third of three images."""
    query, gallery = torch.tensor([[0.0]]), torch.tensor([[1.0], [2.0], [3.0]])
    known = np.array([7]), np.array([8, 8, 7]), np.array([5]), np.array([0, 1, 3])
    result = evaluate(query, gallery, *known, SYSUMM01(trials=1))
    assert result.mAP == pytest.approx(1 / 3) and result.cmc[:3].tolist() == [0, 0, 1]
    measured = SYSUMM01().measure(np.array([[1.0, 2, 3]]), np.zeros((1, 3), bool), *known)
    assert [values.tolist() for values in measured.values()] == [[0], [1], [1], [1]]
    near = SYSUMM01().measure(np.array([[1.0, 2, 3]]), np.array([[True, True, False]]), *known)
    assert near["rank-1"].tolist() == [1]


def test_camera_2_is_ignored_by_camera_3_alone():
    cams = np.array([2, 5]), np.array([0, 1, 3, 4])
    skip = SYSUMM01().ignored(np.array([1, 1]), np.array([1, 2, 1, 2]), *cams)
    assert skip.tolist() == [[False, True, False, False], [False] * 4]


def test_gallery_without_visible_cameras_is_refused():
    known = np.array([7]), np.array([7, 8]), np.array([5]), np.array([2, 4])
    with pytest.raises(DataError, match=r"no image of a person from the visible cameras 1, 2\. .*another evaluate\.protocol"):
        evaluate(torch.zeros(1, 1), torch.zeros(2, 1), *known, SYSUMM01("indoor"))


def test_a_trial_has_one_image_of_each_person_and_camera(tmp_path):
    for camera in range(1, 7):
        for person in (1, 2, 3):
            folder = tmp_path / f"cam{camera}" / f"{person:04d}"
            folder.mkdir(parents=True)
            for number in range(1, 13):
                (folder / f"{number:04d}.jpg").touch()
    (tmp_path / "exp").mkdir()
    for split, people in (("train", "1"), ("val", ""), ("test", "2,3")):
        (tmp_path / "exp" / f"{split}_id.txt").write_text(people or "4", encoding="utf-8")
    data = DataSet(str(tmp_path))
    known = data.query.ids, data.gallery.ids, data.query.cameras, data.gallery.cameras
    for search, shots, count in (("all", "single", 8), ("indoor", "single", 4), ("all", "multi", 80)):
        trials = list(SYSUMM01(search, shots).draw_trials(*known))
        assert len(trials) == 10 and len({tuple(trial.gallery.tolist()) for trial in trials}) == 10
        for trial in trials:
            pairs = {(data.gallery.ids[g], data.gallery.cameras[g]) for g in trial.gallery}
            assert len(trial.gallery) == len(set(trial.gallery.tolist())) == count
            assert pairs == {(who, camera) for who in (2, 3) for camera in SEARCH[search]}


def test_modalities_train_as_two_domains(experiment: Callable[..., Path], tmp_path: Path) -> None:
    """Two domains of one data set are trained on together, and a third is evaluated by the protocol."""
    generator, root = np.random.default_rng(0), tmp_path / "sysu"
    for camera in range(1, 7):
        for person in range(1, 5):
            folder = root / f"cam{camera}" / f"{person:04d}"
            folder.mkdir(parents=True)
            for number in (1, 2):
                Image.fromarray(generator.integers(0, 256, (48, 24, 3), np.uint8)).save(folder / f"{number:04d}.jpg")
    (root / "exp").mkdir()
    for split, people in (("train", "1"), ("val", "2"), ("test", "3,4")):
        (root / "exp" / f"{split}_id.txt").write_text(people, encoding="utf-8")
    kinds = ("visible", "infrared")
    domains = {name: {"type": "SYSUMM01", "root": str(root), "modality": name} for name in (*kinds, "both")}
    labelling = {"distance": {"type": "Jaccard", "k1": 4, "k2": 2}, "clusterer": {"type": "KMeans", "n_clusters": 2}}
    config = reidx.load_config(experiment(
        data={"image_size": [48, 24], "domains": domains},
        streams={name: {"domain": name, "labels": name, "sampler": {"type": "PK", "identities": 2, "instances": 2}}
                 for name in kinds},
        labels={"labellings": {name: {"domain": name, **labelling} for name in kinds}},
        memories={},
        objective=[{"loss": "Triplet", "feature": "embed", "stream": name} for name in kinds],
        evaluate={"domain": "both", "protocol": {"type": "SYSUMM01", "search": "indoor", "trials": 3}},
        stages=[{"name": "adapt", "epochs": 1, "iters": 1}],
    ))  # fmt: skip
    result = reidx.run(config, tmp_path / "run", progress="quiet")
    assert result.metrics["rank-20"] == 1 and 0 <= result.metrics["rank-1"] <= 1
    assert "rank-20_sd" in result.metrics, "the mean over trials"
