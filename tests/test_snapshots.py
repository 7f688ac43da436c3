"""Recipes of the core match their snapshots; a comparison names each key that differs."""

from __future__ import annotations

from pathlib import Path

import pytest

from reidx.testing import snapshots
from reidx.testing.snapshots import Stated, differences


@pytest.mark.parametrize("address", snapshots.recipes("reidx"))
def test_recipe_matches_snapshot(address: str) -> None:
    snapshots.check(address)


# ---- the comparison

BEFORE = {"name": "a", "stages": [{"name": "adapt", "epochs": 5, "objective": [{"loss": {"type": "Triplet"}}], "schedule": []}]}


def test_differences_are_named_by_stage_and_key() -> None:
    objective = [{"loss": {"type": "Triplet"}}, {"loss": {"type": "GSL"}}]
    stage = {"name": "adapt", "epochs": 6, "objective": objective, "schedule": []}
    lines = differences(BEFORE, {"name": "a", "seed": 1, "stages": [stage]})
    assert lines == [
        "stages.adapt.epochs: 5 -> 6",
        "seed: nothing -> 1",
        "stages.adapt.objective.1.loss.type: nothing -> 'GSL'",
    ]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stages.adapt.epochs": 6}, r"stages\.adapt\.epochs is 5, not 6"),
        ({"stages.*.epochs": 6}, r"stages\.adapt\.epochs is 5, not 6"),
        ({"stages.adapt": {"objective": [{"loss": "GSL"}]}}, r"objective\.0\.loss\.type is 'Triplet', not 'GSL'"),
        ({"stages.adapt": {"objective": [{"loss": {"type": "GSL"}}]}}, r"objective\.0\.loss\.type is 'Triplet', not 'GSL'"),
        ({"stages.adapt": {"objective": [{"loss": "Triplet"}] * 2}}, r"objective is \[.*\], not \["),
        ({"stages.adapt.iters": 6}, r"stages\.adapt has no iters"),
        ({"stages.pretrain.epochs": 5}, r"stages has no pretrain"),
        ({"name.first": "a"}, r"name has no first"),
        ({"stages.adapt.objective": {}}, r"objective is \[.*\], not \{\}"),
        ({"stages.adapt": {"objective": [{"loss": "Triplet"}], "schedule": []}, "name": "a"}, ""),
        ({"stages.*": {"objective.*.loss": "Triplet"}}, ""),
    ],
)
def test_stated_values_must_match_the_experiment(
    values: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "resolved", lambda address: BEFORE)
    stated = Stated("a paper", ["a::b.yaml"], values)
    if message:
        with pytest.raises(AssertionError, match=rf"(?s)by a paper:.*a::b\.yaml: .*{message}"):
            stated.check()
    else:
        stated.check()


# ---- the files


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Project with one recipe, its base and a grid, all under the namespace ``mine``."""
    (tmp_path / "package/configs").mkdir(parents=True)
    (tmp_path / "setup.cfg").touch()
    texts = {"whole": "_base_: part.yaml\nname: a\nstages: []", "part": "seed: 1", "grid": "name: a\nstages: []\nablate: {}"}
    for name, text in texts.items():
        (tmp_path / "package/configs" / f"{name}.yaml").write_text(text)
    monkeypatch.setattr(snapshots, "config_root", lambda namespace: tmp_path / "package/configs")
    monkeypatch.setattr(snapshots, "resolved", lambda address: BEFORE)
    return tmp_path


def test_command_writes_only_differences(project: Path) -> None:
    kept, stale = project / "tests/snapshots/whole.yaml", project / "tests/snapshots/old.yaml"
    with pytest.raises(AssertionError, match=r"mine::whole\.yaml has no snapshot"):
        snapshots.check("mine::whole.yaml")
    assert snapshots.write("mine") == ["added mine::whole.yaml"]
    assert snapshots.write("mine") == []
    snapshots.check("mine::whole.yaml")
    kept.write_text(kept.read_text().replace("epochs: 5", "epochs: 7"))
    with pytest.raises(AssertionError, match=r"(?s)whole\.yaml differs.*python -m.*adapt\.epochs: 7 -> 5"):
        snapshots.check("mine::whole.yaml")
    stale.touch()
    assert snapshots.recipes("mine") == ["mine::old.yaml", "mine::whole.yaml"]
    assert snapshots.write("mine") == ["changed mine::whole.yaml", f"removed {stale}"]
    snapshots.check("mine::whole.yaml")
    assert not stale.exists()
