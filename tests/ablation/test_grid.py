"""Grid files: their combinations and runs, and one message with file and line for each mistake."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

import reidx
from reidx.ablation.grid import label_of, read_grid
from reidx.ablation.plan import Plan, held_by, plan_of
from reidx.errors import ConfigError
from reidx.runs.stage_cache import ORIGIN

Planned = Callable[..., Plan]
STAGES = [{"name": "warm", "epochs": 1, "iters": 2}, {"name": "adapt", "epochs": 2, "iters": 2, "init": "stage:warm"}]
PARTS = {"fusion": [{"pool": "avg"}, {"pool": "gem"}], "clusterer.eps": [0.7, 0.6, 0.5]}


def test_designs(planned: Planned) -> None:
    full = planned(design="full", axes=PARTS)
    assert [list(row.labels.values()) for row in full.rows] == [
        [pool, eps] for pool in ("(pool=avg)", "(pool=gem)") for eps in ("0.7", "0.6", "0.5")
    ]
    single = planned(axes=PARTS)
    assert [row.name for row in single.rows] == ["base", "fusion=(pool=gem)", "clusterer.eps=0.6", "clusterer.eps=0.5"]
    listed = planned(design="list", runs={"plain": {}, "both": {"fusion.pool": "gem", "labels.clusterer.eps": 0.5}})
    assert [row.name for row in listed.rows] == ["plain", "both"]
    both = listed.rows[1].runs[1].config.experiment.stages[0]
    assert both.model.fusion["pool"] == "gem" and both.labels["main"].clusterer["eps"] == 0.5
    # equal configs are the same run, however they are written
    assert listed.rows[0].runs[1].hash == single.rows[0].runs[1].hash == full.rows[0].runs[1].hash


def test_value_with_several_changes_and_seeds(planned: Planned) -> None:
    axes = {"recipe": {"short": {}, "long": {"epochs": 3, "stages": {"adapt": {"iters": 9}}}}}
    changes = {"stages": [{"name": "adapt"}], "epochs": 1, "iters": 2}
    plan = planned(changes, axes=axes, seeds=[4, 5])
    assert [row.name for row in plan.rows] == ["base", "recipe=long"] and list(plan.rows[1].runs) == [4, 5]
    long = plan.rows[1].runs[5].config
    assert (long.experiment.seed, long.experiment.stages[0].epochs, long.experiment.stages[0].iters) == (5, 3, 9)


def test_the_written_config_is_the_planned_one(planned: Planned, tmp_path: Path) -> None:
    for run in planned(axes={"fusion": ["GlobalPool", "pplr.Stripes"]}, seeds=[1, 2]).runs:
        path = tmp_path / f"{run.hash}.yaml"
        path.write_text(run.config.render(), encoding="utf-8")
        loaded = reidx.load_config(path)
        assert loaded.hash == run.hash and loaded.experiment == run.config.experiment


def test_incompatible_parts_are_refused_with_reason(planned: Planned) -> None:
    axes = {"fusion": ["GlobalPool", "pplr.Stripes"], "refiners": [[], [{"type": "pplr.CrossAgreement", "k": 5}]]}
    rows = {row.name: row for row in planned(design="full", axes=axes, seeds=[1, 2]).rows}
    refused = rows["refiners=pplr.CrossAgreement(k=5)"]
    assert not refused.runs
    assert "parts" in (refused.refused or "")
    assert "grid.yaml:" in (refused.refused or "")
    assert rows["fusion=pplr.Stripes, refiners=pplr.CrossAgreement(k=5)"].refused is None
    assert sum(len(row.runs) for row in rows.values()) == 6


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({}, r"takes ablate\.axes, not ablate\.runs"),
        ({"axes": {}}, r"ablate\.axes is empty"),
        ({"axes": {"fusion": []}}, "the axis fusion has no values"),
        ({"axes": {"fusion": "GlobalPool"}}, "the axis fusion is a string; write a list of values"),
        ({"axes": {"fusoin": ["GlobalPool"]}}, "axis fusoin: the experiment has no key 'fusoin'"),
        ({"axes": {"views": {"one": {}, "two": {"memries": {}}}}}, "axis views: the experiment has no key 'memries'"),
        ({"axes": {"views": {"one": {}, "two": 3}}}, "views.two is a number; it must be a mapping of config keys"),
        ({"axes": {"epochs": [1, 1]}}, "the axis epochs has the value 1 twice"),
        ({"axes": {"epochs": [1]}, "design": "ful"}, r"there is no design 'ful'\. Did you mean full\?"),
        ({"axes": {"epochs": [1]}, "design": "list"}, r"the design list takes ablate\.runs"),
        ({"axes": {"epochs": [1]}, "sedes": [1]}, r"unknown key ablate\.sedes\. Did you mean seeds\?"),
        ({"axes": {"epochs": [1]}, "seeds": [1, "x"]}, r"ablate\.seeds must be a list of non-negative whole numbers"),
        ({"axes": {"epochs": [1]}, "seeds": [1, 1]}, r"ablate\.seeds has a number twice"),
        ({"axes": {"seed": [1, 2]}}, r"axis seed: seeds cannot be an axis; list the seeds .* in ablate\.seeds"),
        ({"axes": {"+seed": [1, 2]}}, r"axis \+seed: seeds cannot be an axis"),
        ({"axes": {"luck": {"one": {}, "two": {"seed": 2}}}}, r"axis luck: seeds cannot be an axis"),
        ({"runs": {"one": {}, "two": {"seed": 2}}, "design": "list"}, r"axis run: seeds .* in ablate\.seeds"),
    ],
)
def test_mistakes_are_reported_with_file_and_line(written: Callable[..., Path], section: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        read_grid(written(**section))
    assert re.match(r"\S*grid\.yaml:\d+: ", str(error.value))


def test_broken_base_and_missing_grid_are_refused(planned: Planned, written: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"The base of the grid cannot be run\. .*no fusion called 'GlobalPol'"):
        planned(axes={"fusion": ["GlobalPol"]})
    path = written(axes={"epochs": [1]})
    path.write_text(path.read_text().partition("ablate:")[0])
    with pytest.raises(ConfigError, match="there is no section 'ablate'"):
        read_grid(path)


def test_change_without_effect_is_refused(planned: Planned) -> None:
    rows = planned({"iters": 2}, axes={"recipe": {"own": {}, "idle": {"iters": 5}}}).rows  # its stage sets iters: 3
    assert re.search(r"grid\.yaml:\d+: iters: has no effect.*Address the stage: stages\.NAME\.iters", rows[1].refused or "")


def test_overrides_change_the_base(written: Callable[..., Path], tmp_path: Path) -> None:
    grid = read_grid(written(axes={"clusterer.eps": [0.7, 0.6]}), ["stages.adapt.epochs=1", "labels.clusterer.eps=0.1"])
    stages = [row.runs[1].config.experiment.stages[0] for row in plan_of(grid, tmp_path).rows]
    assert [(s.epochs, s.labels["main"].clusterer["eps"]) for s in stages] == [(1, 0.7), (1, 0.6)]


def test_overrides_change_or_drop_parts_of_grid(written: Callable[..., Path]) -> None:
    path = written(axes={"epochs": [1, 2], "iters": [3, 4], "views": {"one": {}, "two": {"epochs": 5}, "three": {"epochs": 6}}})
    grid = read_grid(path, ["ablate.seeds=[7]", "ablate.axes.iters=null", "ablate.axes.views.two=null"])
    assert grid.seeds == (7,)
    assert {axis.name: [value.label for value in axis.values] for axis in grid.axes} == {
        "epochs": ["1", "2"],
        "views": ["one", "three"],
    }
    with pytest.raises(ConfigError, match=r"ablate\.axes is empty; there is nothing"):
        read_grid(path, [f"ablate.axes.{name}=null" for name in ("epochs", "iters", "views")])
    with pytest.raises(ConfigError, match=r"--set ablate\.axes\.itres=null: .*Did you mean iters"):
        read_grid(path, ["ablate.axes.itres=null"])
    assert grid.left_out == ("iters", "views=two")


def test_overrides_address_names_with_dots(written: Callable[..., Path]) -> None:
    axes = {"clusterer.eps": [0.7, 0.6], "clusterer.eps of": {"k=5, one": {}, "two": {"epochs": 2}}}
    grid = read_grid(written(axes=axes), ["ablate.axes.clusterer.eps=null"])
    assert [axis.name for axis in grid.axes] == ["clusterer.eps of"]
    grid = read_grid(written(axes=axes), ["ablate.axes.clusterer.eps=[0.5, 0.4]", "ablate.axes.clusterer.eps of.two.epochs=7"])
    assert [value.label for value in grid.axes[0].values] == ["0.5", "0.4"]
    assert grid.axes[1].values[1].changes[0].value.plain() == 7
    with pytest.raises(ConfigError, match=r"write \+ablate\.axes\.clusterer\.eps of\.three=\.\.\."):
        read_grid(written(axes=axes), ["ablate.axes.clusterer.eps of.three=1"])
    runs = written(design="list", runs={"k=5": {}, "k=5.5, x": {"epochs": 2}, "other": {"epochs": 3}})
    assert [value.label for value in read_grid(runs, ["ablate.runs.k=5.5, x=null"]).axes[0].values] == ["k=5", "other"]
    assert read_grid(written(axes=axes), ["ablate.design=full"]).design == "full"


def test_seed_beyond_grid_seeds_is_refused(written: Callable[..., Path]) -> None:
    path = written(axes={"epochs": [1, 2]}, seeds=[1, 2])
    with pytest.raises(ConfigError, match=r"--set seed=9: the grid lists its seeds; write ablate\.seeds=\[9\]"):
        read_grid(path, ["seed=9"])
    assert read_grid(written(axes={"epochs": [1, 2]}), ["seed=9"]).seeds == (9,)


def test_grid_can_shrink_its_base_grid(written: Callable[..., Path], tmp_path: Path) -> None:
    base = written(design="list", runs={"all": {}, "short": {"epochs": 1}, "long": {"epochs": 9}})
    over = tmp_path / "less.yaml"
    over.write_text(f"_base_: {base}\nablate: {{runs: {{long: null}}, seeds: [2]}}\n")
    grid = read_grid(over)
    assert ([value.label for value in grid.axes[0].values], grid.seeds) == (["all", "short"], (2,))


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (None, "none"),
        ([], "none"),
        ("lp.MultiView", "lp.MultiView"),
        ({"type": "GlobalPool"}, "GlobalPool"),
        ({"type": "GlobalPool", "pool": "gem"}, "GlobalPool(pool=gem)"),
        ([{"type": "A", "k": 1}, "B"], "A(k=1) + B"),
        ({"loss": {"type": "A", "k": 1}, "memory": "m"}, "A(k=1, memory=m)"),
        ([{"loss": "A"}, {"alignment": "B", "weight": 0.1}], "A + B(weight=0.1)"),
        ({"type": "A", "betas": [0.9, 0.999]}, "A(betas=[0.9, 0.999])"),
        ({}, "{}"),
        (True, "true"),
        (1e-3, "0.001"),
    ],
)
def test_labels(value: object, label: str) -> None:
    assert label_of(value) == label


def test_runs_wait_for_shared_stages(planned: Planned) -> None:
    plan = planned({"stages": STAGES}, axes={"recipe": {"own": {}, "more": {"stages.adapt.iters": 3}}}, seeds=[1, 2])
    first, other_seed, second, _ = (row.runs[seed] for row in plan.rows for seed in (1, 2))
    assert plan.shared() == {"warm": 2}
    assert held_by(second, [first]) is first
    assert held_by(other_seed, [first]) is None
    assert held_by(second, []) is None
    done = first.folder / "1-warm" / ORIGIN
    done.parent.mkdir(parents=True)
    done.write_text("{}")
    assert held_by(second, [first]) is None
