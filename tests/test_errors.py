"""Suggestions for an unknown name: only close names."""

from __future__ import annotations

import pytest

from reidx.errors import suggest

COMPONENTS = ["DBSCAN", "HDBSCAN", "InfoMap", "Cosine", "gp.GSL", "lf2.FusionModule", "osnet.OSNet", "Triplet", "Timm", "PK"]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("Triplett", "Triplet"),
        ("triplet", "Triplet"),
        ("dbscan", "DBSCAN"),
        ("DBSCANN", "DBSCAN"),
        ("GSL", "gp.GSL"),
        ("spcl.FusionModule", "lf2.FusionModule"),
        ("fusionmodul", "lf2.FusionModule"),
        ("Tim", "Timm"),
    ],
)
def test_close_name_is_suggested(name, found):
    assert suggest(name, COMPONENTS).startswith(f"Did you mean {found}")


@pytest.mark.parametrize("name", ["nope", "", "Focal", "hooks", "x" * 10_000, "resnet50"])
def test_distant_name_gets_no_suggestion(name):
    assert suggest(name, COMPONENTS) == ""


def test_suggestions_are_the_closest_few():
    assert suggest("epoch", ["epochs", "iters", "epoch_s"]) == "Did you mean epochs?"
    assert suggest("sede", ["schedule", "seed"]) == "Did you mean seed?"
    assert suggest("layer", [f"layer{number}" for number in range(9)]).count("layer") == 3
    assert suggest("esp", ["eps", "min_samples"]) == "Did you mean eps?"
    assert suggest("anything", []) == ""
