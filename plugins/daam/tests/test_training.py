"""Whole runs of both stages on tiny domains: their logs, resuming, and the training of each variant."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import reidx
from reidx.config.config import Config
from reidx.errors import ConfigError
from reidx.testing.runs import assert_resumes

Tiny = Callable[..., Config]


def history(folder: Path, stage: str) -> list[dict[str, Any]]:
    return json.loads((folder / stage / "done.json").read_text(encoding="utf-8"))["history"]


def state(folder: Path, stage: str) -> dict[str, torch.Tensor]:
    newest = max((folder / stage).glob("epoch_*.pth"), key=lambda path: int(path.stem.removeprefix("epoch_")))
    return torch.load(newest, weights_only=True)["state_dict"]


def test_both_stages_train(tiny: Tiny, tmp_path: Path) -> None:
    reidx.run(tiny("daam::uda.yaml"), tmp_path, progress="quiet")
    warmup, adapt = history(tmp_path, "1-source_warmup"), history(tmp_path, "2-adapt")
    assert (len(warmup), len(adapt)) == (2, 3)
    for entry in (*warmup, *adapt):
        assert 0 < entry["daam.NominalDomain.sim"] < 4
        assert 0 < entry["daam.NominalDomain.sp"] < 4
        assert all(0 < entry[f"{side}.{name}"] < 1 for side in ("source", "target") for name in ("mask", "share"))
        assert entry["source.mask"] != entry["target.mask"]
    assert "clusters" not in warmup[0]
    assert "CrossEntropy#2" not in warmup[0]
    assert all(entry["CrossEntropy#2"] > 0 for entry in adapt)
    # labelled in the first and the third epoch
    assert [("clusters" in entry) for entry in adapt] == [True, False, True]
    total = sum(adapt[-1][name] for name in ("CrossEntropy", "Triplet", "CrossEntropy#2"))
    total += 0.1 * (adapt[-1]["daam.NominalDomain.sim"] + adapt[-1]["daam.NominalDomain.sp"])
    assert adapt[-1]["loss"] == pytest.approx(total, rel=1e-4)
    for last in (warmup[-1], adapt[-1]):
        assert 0 < last["mAP"] <= 1
        assert 0 <= last["domain_probe"] <= 1


def test_adaptation_continues_from_warmup_with_new_classifiers(tiny: Tiny, tmp_path: Path) -> None:
    reidx.run(tiny("daam::uda.yaml", "stages.adapt.optimizer.lr=0", "stages.adapt.epochs=1"), tmp_path, progress="quiet")
    before, after = state(tmp_path, "1-source_warmup"), state(tmp_path, "2-adapt")
    weights = [n for n in before if n.startswith("networks.student") and n.endswith(("weight", "bias"))]
    assert len(weights) > 20
    assert all(torch.equal(before[name], after[name]) for name in weights)
    assert "memories.clusters.weight" not in before
    norms = after["memories.identities.weight"].norm(dim=1)
    assert torch.allclose(norms, torch.ones(12), atol=1e-5)  # centroids of the source's people


@pytest.mark.parametrize("kind", ["kind: nominal_softmax", "kind: svdd, centre_momentum: 0.9"])
def test_interrupted_run_resumes_to_the_same_end(tiny: Tiny, tmp_path: Path, kind: str) -> None:
    config = tiny("daam::uda.yaml", f"alignment=[{{alignment: {{type: daam.NominalDomain, {kind}}}, weight: 0.1}}]")
    # stop in the second epoch of the warm-up, resume there, and stop again in the third of the adaptation
    assert_resumes(config, tmp_path, steps=[5, 2 + 5 + 1])


def test_stage_start_places_the_centre(tiny: Tiny, tmp_path: Path) -> None:
    asked = "alignment=[{alignment: {type: daam.NominalDomain, kind: domain_mean}}]"
    config = tiny("daam::base.yaml", asked, "stages.adapt.epochs=1")
    reidx.run(config, tmp_path, progress="quiet")
    first, second = (
        next(value for name, value in state(tmp_path, stage).items() if name.endswith("alignment.centre"))
        for stage in ("1-source_warmup", "2-adapt")
    )
    assert first.norm().item() == pytest.approx(1.0, abs=1e-5) == pytest.approx(second.norm().item(), abs=1e-5)
    assert not torch.allclose(first, second, atol=1e-3)  # from different features


@pytest.mark.parametrize(("bias", "times"), [(6.0, 1), (0.5, 0)])
def test_log_reports_collapsed_mask_once(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], bias: float, times: int
) -> None:
    settings = [f"model.fusion.bias_init={bias}", "stages.adapt.epochs=0", "iters=1", "evaluate.domain_probe=null"]
    reidx.run(tiny("daam::base.yaml", *settings), tmp_path, progress="plain")
    assert capsys.readouterr().err.count("the mean of the mask is above 0.98") == times


VARIANTS = {
    "no loss on the target": ("daam::base.yaml", []),
    "triplet": ("daam::triplet.yaml", []),
    "exemplar": ("daam::exemplar.yaml", ["stages.adapt.objective.3.from_epoch=1"]),
    "regularised": ("daam::regularised.yaml", []),
    "adversarial": ("daam::uda.yaml", ["alignment=[{alignment: {type: GradientReversal, feature: shared}, weight: 0.1}]"]),
    "discrepancy": ("daam::uda.yaml", ["alignment=[{alignment: {type: MMD, feature: shared}, weight: 0.1}]"]),
    "soft residual, detached": ("daam::uda.yaml", ["model.fusion.split=soft_residual", "model.fusion.detach_backbone_sp=true"]),
    "similar clusters": ("daam::uda.yaml", ["stages.adapt.labels.refiners=[{type: daam.SoftLabel, mode: similarity}]"]),
    "separate passes and norms per domain": ("daam::uda.yaml", ["joint=false", "model.domain_bn=true"]),
    "gradient caching": ("daam::uda.yaml", ["grad_cache_chunks=2"]),
    "identities of the specific branch": (
        "daam::base.yaml",
        ["+memories.own={memory: LinearClassifier, feature: specific, labels: identity}",
         "objective=[{loss: CrossEntropy, stream: source, feature: neck, memory: identities}, "
         "{loss: CrossEntropy, stream: source, feature: specific, memory: own}]"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("address", "changes"), VARIANTS.values(), ids=VARIANTS)
def test_variant_trains(tiny: Tiny, tmp_path: Path, address: str, changes: list[str]) -> None:
    settings = ["stages.source_warmup.epochs=1", "stages.adapt.epochs=2", "iters=2", *changes]
    result = reidx.run(tiny(address, *settings), tmp_path, progress="quiet")
    for stage in result.stages:
        assert all(math.isfinite(entry["loss"]) and entry["loss"] > 0 for entry in stage.history)
    assert 0 < result.metrics["mAP"] <= 1


BACKBONES = {
    "ViT": ["model.backbone={type: Timm, name: test_vit}", "model.fusion.branch=conv"],
    "ConvNeXt": ["model.backbone={type: Timm, name: test_convnext}", "model.fusion.branch=conv", "model.fusion.branch_dim=16"],
    "OSNet": ["model.backbone={type: osnet.OSNet, width: 0.25}"],
}


@pytest.mark.parametrize("changes", BACKBONES.values(), ids=BACKBONES)
def test_other_backbones_train(tiny: Tiny, tmp_path: Path, changes: list[str]) -> None:
    settings = ["stages.source_warmup.epochs=1", "stages.adapt.epochs=1", "iters=2", "data.image_size=[96,48]", *changes]
    result = reidx.run(tiny("daam::uda.yaml", *settings), tmp_path, progress="quiet")
    assert all(math.isfinite(stage.last["loss"]) for stage in result.stages)
    assert 0 < result.metrics["mAP"] <= 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["model.backbone={type: Timm, name: test_vit}", "data.image_size=[96,48]"], "cannot be cut"),
        (["model.fusion={type: GlobalPool}"], "no feature 'neck'.*daam.AttentionSplit"),
        (["model.fusion.branch_dim=8"], "branch_dim is for branch: conv"),
        (["alignment=[{alignment: {type: daam.NominalDomain, kind: svdd, nu: 0}}]"], "nu is 0"),
    ],
)
def test_mismatch_is_refused_before_training(
    tiny: Tiny, tmp_path: Path, changes: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        reidx.run(tiny("daam::uda.yaml", *changes), tmp_path, progress="quiet")


def test_bce_without_negatives_is_refused_at_load(tiny: Tiny) -> None:
    plain = [
        "model.fusion={type: GlobalPool}",
        "memories.identities.feature=embed",
        "objective=[{loss: CrossEntropy, stream: source, memory: identities}]",
        "evaluate.domain_probe=embed",
    ]
    asked = "alignment=[{alignment: {type: daam.NominalDomain, kind: %s, feature: embed}}]"
    with pytest.raises(ConfigError, match=r"needs 'specific'.*daam\.AttentionSplit"):
        tiny("daam::base.yaml", *plain, asked % "bce")
    assert tiny("daam::base.yaml", *plain, asked % "domain_mean")
