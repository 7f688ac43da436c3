"""Test-only data sets: evaluated, or combined with another training domain; training on them is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import reidx
from reidx.engine.experiment import run
from reidx.engine.experiment import test as evaluate
from reidx.errors import DataError
from reidx.testing.miniatures import MINIATURES
from reidx.testing.tiny import tiny_domain

BY_NAME = {miniature.name: miniature for miniature in MINIATURES}
FREE = {"domain": "target", "protocol": "NoCameraFilter"}


@pytest.fixture
def data(tmp_path: Path, domains_root: Path) -> dict[str, object]:
    """A tiny domain to train on, and a test-only set."""
    domains = {"source": tiny_domain(domains_root, "source"), "target": BY_NAME["Partial-REID"].at(tmp_path / "data")}
    return {"image_size": [48, 24], "domains": domains}


def test_test_only_set_is_evaluated(experiment: Callable[..., Path], data: dict[str, object]) -> None:
    """Its stream needs no training image for an evaluation."""
    result = evaluate(reidx.load_config(experiment(data=data, evaluate=FREE)), progress="quiet")
    assert result.card["data"]["target"]["train"] == {"images": 0, "ids": 0, "cameras": 0}
    assert 0 < result.stages[0].before["mAP"] <= 1


def test_training_on_a_test_only_set_is_refused(
    experiment: Callable[..., Path], data: dict[str, object], tmp_path: Path
) -> None:
    config = reidx.load_config(experiment(data=data, evaluate=FREE))
    with pytest.raises(DataError, match=r"'target' has no train images\. Partial-REID is test-only: train on another"):
        run(config, tmp_path / "run", progress="quiet")


def test_another_domain_is_trained_for_a_test_only_set(
    experiment: Callable[..., Path], data: dict[str, object], tmp_path: Path
) -> None:
    sampler = {"type": "PK", "identities": 4, "instances": 2}
    stream = {"domain": "source", "labels": "identity", "sampler": sampler}
    changes = {
        "streams": {"source": stream},
        "labels": {},
        "memories": {"ids": {"memory": "LinearClassifier", "labels": "identity"}},
        "objective": [{"loss": "CrossEntropy", "memory": "ids"}],
        "stages": [{"name": "pretrain", "epochs": 1, "iters": 1}],
    }
    result = run(reidx.load_config(experiment(data=data, evaluate=FREE, **changes)), tmp_path / "run", progress="quiet")
    assert result.card["data"]["target"]["query"] == {"images": 6, "ids": 3, "cameras": 0}
