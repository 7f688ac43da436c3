"""Both methods as whole experiments: refused changes, the terms of each epoch, and resuming."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import reidx
from reidx.config.config import Config
from reidx.errors import ConfigError, DataError
from reidx.testing.colours import coloured_people
from reidx.testing.runs import assert_resumes
from reidx.testing.tiny import load_experiment, tiny_recipe

Tiny = Callable[..., Config]


@pytest.fixture
def tiny(tmp_path: Path, domains_root: Path) -> Tiny:
    """Return a function that loads a recipe of this plugin at test size, with ``changes`` merged in per top-level key."""

    def make(recipe: str, epochs: int = 1, iters: int = 1, **changes: Any) -> Config:
        experiment = tiny_recipe(
            f"o2cap::{recipe}.yaml",
            domains_root,
            stages=[{"name": "adapt", "epochs": epochs, "iters": iters}],
            streams={"target": {"sampler": {"proxies": 8, "instances": 2}}},
            labels={"distance": None, "clusterer": {"type": "KMeans", "n_clusters": 12}, **changes.pop("labels", {})},
            **changes,
        )
        experiment["model"]["bn_group"] = 8
        return load_experiment(tmp_path, experiment)

    return make


def test_losses_need_a_memory_of_proxies(tiny: Tiny) -> None:
    term = {"loss": "o2cap.OnlineAssociation", "feature": "embed", "memory": "proxies"}
    with pytest.raises(ConfigError, match=r"o2cap\.OnlineAssociation needs 'proxies'.*o2cap\.ProxyMemory"):
        tiny("usl", objective=[term], memories={"proxies": {"memory": {"type": "LinearClassifier"}}})


def test_images_without_cameras_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    table = coloured_people(tmp_path / "people")
    head, *rows = [line.split(",") for line in table.read_text(encoding="utf-8").splitlines()]
    unknown = [",".join([path, person, "", split]) for path, person, _, split in rows]
    table.write_text("\n".join([",".join(head), *unknown]), encoding="utf-8")
    changes = {"evaluate": {"protocol": "NoCameraFilter"}, "data": {"domains": {"target": {"type": "CSV", "path": str(table)}}}}
    with pytest.raises(DataError, match=r"o2cap\.Proxy(PK|Memory) needs to know the cameras, but domain 'target' has none"):
        reidx.run(tiny("usl", **changes), tmp_path / "run", progress="quiet")


def test_cross_camera_term_of_cap_starts_at_epoch_five(tiny: Tiny, tmp_path: Path) -> None:
    result = reidx.run(tiny("cap", epochs=6), tmp_path / "run", progress="quiet")
    history = result.stages[0].history
    assert ["o2cap.OfflineAssociation" in epoch for epoch in history] == [False] * 5 + [True]
    assert all("o2cap.IntraCamera" in epoch for epoch in history)
    last = history[-1]
    assert last["loss"] == pytest.approx(last["o2cap.IntraCamera"] + 0.5 * last["o2cap.OfflineAssociation"], rel=1e-4)


def test_moved_proxies_survive_an_interruption(tiny: Tiny, tmp_path: Path) -> None:
    # labelled once: the second epoch continues with the proxies that the first one moved
    assert_resumes(tiny("usl", epochs=2, iters=2, labels={"relabel_every": 2}), tmp_path, steps=[4])
