"""Whole experiments: modalities that learn from each other in turn, resuming, and data without modalities."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

import reidx
from reidx.config.config import Config
from reidx.errors import ConfigError
from reidx.testing.colours import coloured_people
from reidx.testing.runs import assert_resumes
from reidx.testing.tiny import load_experiment, tiny_recipe

BACKBONE = {"type": "usl_vi.TwoStem", "of": {"type": "Timm", "name": "test_resnet"}}
CROSS = ["usl_vi.CrossModalityContrast", "usl_vi.CrossModalityContrast#2"]


def tables(folder: Path) -> dict[str, Any]:
    """Write the people of three cameras, the third of which counts as infrared; return the domains of a recipe."""
    table = coloured_people(folder / "people", casts=((1, 1, 1), (1, 1, 1), (0.7, 0.8, 1.2)), noise=(10, 20))
    with table.open(encoding="utf-8") as file:
        rows = [{**row, "modality": int(row["camid"] == "2")} for row in csv.DictReader(file)]
    domains = {}
    for name, kept in (("visible", (0,)), ("infrared", (1,)), ("target", (0, 1))):
        path = table.with_name(f"{name}.csv")
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(row for row in rows if row["split"] != "train" or row["modality"] in kept)
        domains[name] = {"type": "CSV", "path": str(path), "columns": ["modality"]}
    return domains


def tiny(folder: Path, epochs: int, **changes: Any) -> Config:
    """Return PGM at test size on two modalities; ``changes`` are merged over its top-level keys."""
    small = {"identities": 4, "instances": 2}
    experiment = tiny_recipe(
        "usl_vi::pgm.yaml",
        folder,
        epochs=epochs,
        iters=2,
        streams={"visible": {"sampler": small}, "infrared": {"sampler": {**small, "identities": 8}}},
        labels={"distance": None, "clusterer": {"type": "KMeans", "n_clusters": 10}, "monitor": True},
        evaluate={"domain": "target", "protocol": "NoCameraFilter"},
        schedule=[],
        **changes,
    )
    experiment["model"] = {"backbone": BACKBONE, "bn_group": 16}
    experiment["data"]["domains"] = tables(folder)
    return load_experiment(folder, experiment)


def test_modalities_learn_from_each_other_in_turn(tmp_path: Path) -> None:
    first, second = reidx.run(tiny(tmp_path, epochs=3), tmp_path / "run", progress="quiet").stages
    assert not any(name in epoch for name in CROSS for epoch in first.history)
    for number, epoch in enumerate(second.history):
        assert epoch[CROSS[number % 2]] > 0 and epoch[CROSS[1 - number % 2]] == 0
        assert "idle_terms" not in epoch  # the term whose turn it is not
        own = epoch["MemoryContrast"] + epoch["MemoryContrast#2"]
        assert epoch["loss"] == pytest.approx(own + 0.25 * (epoch[CROSS[0]] + epoch[CROSS[1]]), rel=1e-4)


def test_matches_survive_an_interruption(tmp_path: Path) -> None:
    assert_resumes(tiny(tmp_path, epochs=2), tmp_path, steps=[6, 1])


def test_stems_need_modalities(tmp_path: Path, domains_root: Path) -> None:
    config = tiny_recipe("usl_vi::usl.yaml", domains_root, domains=("source", "target"))
    config["data"]["domains"] = {
        name: config["data"]["domains"][domain]
        for name, domain in (("visible", "source"), ("infrared", "target"), ("target", "target"))
    }
    config["evaluate"] = {"domain": "target"}
    config["model"]["backbone"] = BACKBONE
    with pytest.raises(ConfigError, match=r"usl_vi\.TwoStem.*forward takes 'modality'"):
        load_experiment(tmp_path, config)
