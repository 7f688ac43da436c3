"""Runs that must give equal results: LP without one of its parts, and the method that remains.

The results are compared bit for bit. This works for two runs of one seed because the parts of LP draw no random numbers: the
backbone is built first, heads and memories start at constants, and each epoch has its own seed, from the seed of the run and
the numbers of stage and epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import reidx
from reidx.config.config import Config
from reidx.engine.experiment import Result
from reidx.runs import checkpoint as checkpoints
from reidx.testing.runs import assert_same

Tiny = Callable[..., Config]

NO_VIEWS = ["labels.distance.lambda1=0.0"] + [f"objective.{i}.weight={w}" for i, w in enumerate((1.0, 0.0, 0.0))]
NO_DISTILLATION = [f"objective.{i}.weight=0.0" for i in (3, 4, 5)]


def last(folder: Path, stage: str) -> dict[str, Any]:
    """The last checkpoint of a stage."""
    (path,) = folder.glob(f"*-{stage}")
    newest = checkpoints.newest(path)
    assert newest is not None
    return checkpoints.load(newest)


def weights(checkpoint: Mapping[str, Any], network: str = "student") -> dict[str, torch.Tensor]:
    return checkpoints.strip_prefix(checkpoint["state_dict"], f"networks.{network}.")


def history(result: Result, stage: str) -> list[dict[str, float]]:
    """The log of each epoch without seconds, single terms and the number of idle terms (terms of weight 0 are idle)."""
    entries = next(s.history for s in result.stages if s.name == stage)
    left_out = ("seconds", "MemoryContrast", "lp.", "idle_terms")
    return [{k: v for k, v in entry.items() if not k.startswith(left_out)} for entry in entries]


@pytest.fixture(scope="module")
def without_views(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, dict[str, Any]]:
    """The result and the last checkpoint of a teacher with lambda1 = lambda2 = 0."""
    folder = tmp_path_factory.mktemp("without_views") / "run"
    return reidx.run(tiny("lp::teacher.yaml", *NO_VIEWS), folder, progress="quiet"), last(folder, "teacher")


def test_teacher_without_views_is_cluster_contrast(
    tiny: Tiny, tmp_path: Path, without_views: tuple[Result, dict[str, Any]]
) -> None:
    config = tiny("cluster_contrast::usl.yaml", "stages.adapt.epochs=2", "stages.adapt.iters=3")
    other = reidx.run(config, tmp_path / "run", progress="quiet")
    result, ours = without_views
    theirs = last(tmp_path / "run", "adapt")
    assert history(result, "teacher") == history(other, "adapt")
    assert history(result, "teacher")[0]["clusters"] > 3
    assert "mAP" in history(result, "teacher")[1]

    whole = {k.replace("views.global.", ""): v for k, v in weights(ours).items() if "upper" not in k and "lower" not in k}
    assert_same(whole, weights(theirs), "weights")
    assert_same(ours["reidx"]["memories"]["global"], theirs["reidx"]["memories"]["centroids"], "memory")
    assert_same(ours["reidx"]["labels"], theirs["reidx"]["labels"], "labels")


def test_halves_without_weight_only_decay(without_views: tuple[Result, dict[str, Any]]) -> None:
    # six steps of Adam on the gradient decay · w, from 3 (exponents) and 1 (norms)
    found = weights(without_views[1])
    for name, start in (("pool.p", 3.0), ("neck.weight", 1.0)):
        w, first, second = start, 0.0, 0.0
        for step in range(1, 7):
            gradient = 5e-4 * w
            first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
            w -= 3.5e-4 * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)) ** 0.5 + 1e-8)
        for view in ("upper", "lower"):
            value = found[f"fusion.views.{view}.{name}"]
            assert torch.allclose(value, torch.full_like(value, w), atol=1e-6)
        assert (found[f"fusion.views.global.{name}"] - w).abs().max() > 1e-4


def test_student_without_purification_is_second_teacher(tiny: Tiny, tmp_path: Path) -> None:
    one = reidx.run(tiny("lp::distil_only.yaml", *NO_DISTILLATION), tmp_path / "student", progress="quiet")
    other = reidx.run(tiny("lp::twice.yaml"), tmp_path / "twice", progress="quiet")
    student, again = last(tmp_path / "student", "student"), last(tmp_path / "twice", "again")
    assert history(one, "student") == history(other, "again")
    assert_same(weights(student), weights(again), "weights")
    assert_same(student["reidx"]["memories"], again["reidx"]["memories"], "memories")
    assert_same(student["reidx"]["labels"], again["reidx"]["labels"], "labels")
    # the distillation was still computed, and the second training differs from the first
    assert one.stages[1].last["lp.FeatureDistil"] > 0.1
    first = weights(last(tmp_path / "twice", "teacher"))
    assert not torch.equal(weights(again)["fusion.views.global.neck.weight"], first["fusion.views.global.neck.weight"])
