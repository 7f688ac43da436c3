"""The recipes and what they share; every ablation that the README names is one that can be asked for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import reidx
from reidx.registry.discovery import config_root

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
LINES = re.search(r"## Ablations.*?```text\n(.*?)```", README, re.DOTALL)
RECIPE = "daam::market1501_to_duke.yaml"


def overrides(line: str) -> list[str]:
    """The overrides of a line as a shell would part them, had they quotes: at blanks before another key."""
    return re.split(r" (?=[\w.]+=)", line)


@pytest.mark.parametrize(
    ("name", "source", "target", "iters"),
    [
        ("market1501_to_duke", "Market1501", "DukeMTMC", 258),
        ("duke_to_market1501", "DukeMTMC", "Market1501", 202),
        ("market1501_to_msmt17", "Market1501", "MSMT17", 510),
    ],
)
def test_the_settings_of_a_recipe(name: str, source: str, target: str, iters: int) -> None:
    experiment = reidx.load_config(f"daam::{name}.yaml").experiment
    warmup, adapt = experiment.stages
    assert (experiment.data.domains["source"]["type"], experiment.data.domains["target"]["type"]) == (source, target)
    assert experiment.data.image_size == (256, 128)
    for stage in (warmup, adapt):
        assert (stage.epochs, stage.iters, stage.joint) == (60, iters, True)
        assert stage.evaluate.domain == "target" and stage.evaluate.domain_probe == "shared"
        assert stage.model.backbone["name"] == "resnet50.tv_in1k" and stage.model.fusion["branch"] == "clone_stage"
        (alignment,) = stage.alignment
        assert (alignment["kind"], alignment["weight"], alignment["sp_weight"]) == ("nominal_softmax", 0.1, 1.0)
        source_ce, source_triplet = stage.objective[:2]
        assert source_ce["smoothing"] == 0.1 and source_triplet["margin"] == 0.3
        assert stage.streams["source"].sampler["identities"] * stage.streams["source"].sampler["instances"] == 64
    assert len(warmup.objective) == 2 and not warmup.labels and warmup.streams["target"].labels is None
    assert {s.transform["erase"] for s in warmup.streams.values()} == {0}
    assert {s.transform["erase"] for s in adapt.streams.values()} == {0.5}
    assert adapt.init == "stage:source_warmup" and adapt.streams["target"].labels == "main"
    level = adapt.labels["main"]
    assert level.on == "shared" and adapt.epochs // level.relabel_every == 30
    assert level.distance is not None and (level.distance["k1"], level.distance["k2"]) == (20, 6)
    assert (level.clusterer["type"], level.clusterer["share"], level.clusterer["min_samples"]) == ("AdaptiveDBSCAN", 1.6e-3, 4)
    assert [(r["type"], r["mode"], r["eps"]) for r in level.refiners] == [("daam.SoftLabel", "lsr", 0.1)]
    assert (warmup.optimizer["type"], adapt.optimizer["type"], adapt.optimizer["lr"]) == ("SGD", "Adam", 3.5e-4)


def test_what_the_readme_names_is_there() -> None:
    there = {path.stem for path in config_root("daam").glob("*.yaml")}
    named = set(re.findall(r"daam::(\w+)\.yaml", README)) - {"RECIPE"}
    assert named == there


@pytest.mark.parametrize("line", LINES[1].splitlines() if LINES else [])
def test_an_ablation_of_the_readme_can_be_asked_for(line: str) -> None:
    changed, plain = (reidx.load_config(RECIPE, asked) for asked in (overrides(line), []))
    assert changed.experiment.stages != plain.experiment.stages


def test_light_branches_behind_any_backbone_are_new_and_learn_as_such() -> None:
    rates = "stages.source_warmup.optimizer.rates={fusion.shared: 1, fusion.specific: 1}"
    assert rates.replace("{", "'{").replace("}", "}'") in README
    asked = ["model.backbone={type: Timm, name: vit_small_patch16_224}", "model.fusion.branch=conv", rates]
    warmup = reidx.load_config(RECIPE, asked).experiment.stages[0]
    assert warmup.optimizer["rates"] == {"backbone": 0.1, "fusion.shared": 1, "fusion.specific": 1}


def test_the_small_recipe_sees_as_many_images_a_stage_as_those_of_other_methods() -> None:
    shares = {"market1501_c123_to_c456_small": 4.2e-3, "synthetic_to_market1501_small": 1.6e-3}  # half of the people, all
    for name, share in shares.items():
        stages = reidx.load_config(f"daam::{name}.yaml").experiment.stages
        for stage in stages:
            assert stage.epochs * stage.iters * (64 + 64) == 51_200
            assert stage.model.backbone["type"] == "osnet.OSNet" and stage.model.fusion["branch"] == "clone_stage"
        assert stages[1].labels["main"].clusterer["share"] == share
    for stage in reidx.load_config("daam::synthetic_small.yaml").experiment.stages:
        assert stage.model.fusion["branch"] == "conv" and stage.optimizer["type"] == "Adam"
