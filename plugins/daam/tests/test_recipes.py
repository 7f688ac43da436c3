"""The shipped recipes match their snapshots and the interpretations in the README; each ablation of the README loads."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import reidx
from reidx.registry.discovery import config_root
from reidx.testing import snapshots
from reidx.testing.snapshots import Stated

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
LINES = re.search(r"## Ablations.*?```text\n(.*?)```", README, re.DOTALL)
RECIPE = "daam::market1501_to_duke.yaml"

PAIRS = {  # source, target, steps for one pass over the target
    "market1501_to_duke": ("Market1501", "DukeMTMC", 258),
    "duke_to_market1501": ("DukeMTMC", "Market1501", 202),
    "market1501_to_msmt17": ("Market1501", "MSMT17", 510),
}
CLASSIFIED = [{"loss": {"type": "CrossEntropy", "smoothing": 0.1}}, {"loss": {"type": "Triplet", "margin": 0.3}}]
STATED = [
    Stated(
        "the table of interpretations in the README",
        [f"daam::{name}.yaml" for name in PAIRS],
        {
            "data.image_size": [256, 128],
            "stages.*": {
                "epochs": 60,
                "joint": True,
                "model": {"backbone.name": "resnet50.tv_in1k", "fusion.branch": "clone_stage"},
                "streams.source.sampler": {"identities": 16, "instances": 4},  # 64 images
                "alignment": [{"alignment": {"kind": "nominal_softmax", "sp_weight": 1.0}, "weight": 0.1}],
                "evaluate": {"domain": "target", "domain_probe": "shared"},
            },
            "stages.source_warmup": {
                "labels.labellings": {},
                "streams": {"target.labels": None, "*.transform.erase": 0},
                "objective": CLASSIFIED,
                "optimizer.type": "SGD",
            },
            "stages.adapt": {
                "init": "stage:source_warmup",
                "streams": {"target.labels": "main", "*.transform.erase": 0.5},
                "labels.labellings.main": {
                    "feature": "shared",
                    "relabel_every": 2,  # 30 labellings
                    "distance": {"k1": 20, "k2": 6},
                    "clusterer": {"type": "AdaptiveDBSCAN", "share": 1.6e-3, "min_samples": 4},
                    "refiners": [{"type": "daam.SoftLabel", "mode": "lsr", "eps": 0.1}],
                },
                "objective": [*CLASSIFIED, {"loss": {"type": "CrossEntropy"}, "stream": "target"}],
                "optimizer": {"type": "Adam", "lr": 3.5e-4},
            },
        },
    ),
    *(
        Stated(
            "one pass over the target per epoch",
            [f"daam::{name}.yaml"],
            {"data.domains": {"source.type": source, "target.type": target}, "stages.*.iters": iters},
        )
        for name, (source, target, iters) in PAIRS.items()
    ),
    *(
        Stated(
            "the share of pairs for the number of identities",  # half of the identities, all of them
            [f"daam::{name}.yaml"],
            {
                "stages.*.model": {"backbone.type": "osnet.OSNet", "fusion.branch": "clone_stage"},
                "stages.adapt.labels.labellings.main.clusterer.share": share,
            },
        )
        for name, share in (("market1501_c123_to_c456_small", 4.2e-3), ("synthetic_to_market1501_small", 1.6e-3))
    ),
]


@pytest.mark.parametrize("address", snapshots.recipes("daam"))
def test_recipe_matches_snapshot(address: str) -> None:
    snapshots.check(address)


@pytest.mark.parametrize("stated", STATED, ids=str)
def test_recipe_keeps_stated_values(stated: Stated) -> None:
    stated.check()


def overrides(line: str) -> list[str]:
    """Return the overrides of a line, split at each blank before a key."""
    return re.split(r" (?=[\w.]+=)", line)


def test_readme_names_every_config() -> None:
    there = {path.stem for path in config_root("daam").glob("*.yaml")}
    named = set(re.findall(r"daam::(\w+)\.yaml", README)) - {"RECIPE"}
    assert named == there


@pytest.mark.parametrize("line", LINES[1].splitlines() if LINES else [])
def test_ablation_of_readme_changes_the_stages(line: str) -> None:
    changed, plain = (reidx.load_config(RECIPE, asked) for asked in (overrides(line), []))
    assert changed.experiment.stages != plain.experiment.stages


def test_readme_sets_rates_of_new_branches() -> None:
    rates = "stages.source_warmup.optimization.rates={fusion.shared: 1, fusion.specific: 1}"
    assert rates.replace("{", "'{").replace("}", "}'") in README
    asked = ["model.backbone={type: Timm, name: vit_small_patch16_224}", "model.fusion.branch=conv", rates]
    warmup = reidx.load_config(RECIPE, asked).experiment.stages[0]
    assert warmup.optimization.rates == {"backbone": 0.1, "fusion.shared": 1, "fusion.specific": 1}
