"""The recipe trains on a folder of unlabelled images, and ends with their clusters."""

from __future__ import annotations

from pathlib import Path

import reidx
from reidx.testing.tiny import load_experiment, tiny_recipe


def test_unlabelled_folder_is_clustered(domains_root: Path, tmp_path: Path) -> None:
    photos = {"type": "ImageFolder", "root": str(domains_root / "target" / "bounding_box_train")}
    experiment = tiny_recipe(
        "cluster_contrast::usl.yaml",
        domains_root,
        data={"domains": {"target": photos}},
        epochs=2,
        iters=2,
        streams={"target": {"sampler": {"identities": 4, "instances": 2}}},
        labels={"distance": {"k1": 8, "k2": 2}, "clusterer": {"eps": 0.7, "min_samples": 2}},
        evaluate={"domain": None},
    )
    result = reidx.run(load_experiment(tmp_path, experiment), tmp_path / "run", progress="quiet")
    assert result.labels_file is not None
    head, *rows = result.labels_file.read_text(encoding="utf-8").splitlines()
    assert head == "path,cluster,labelling" and len(rows) == 144
    assert result.table().splitlines()[1].startswith("adapt, epoch 2") and result.metrics == {}
