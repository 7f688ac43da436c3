"""The list of recipes: each is ready to train, and its description matches its config."""

from __future__ import annotations

from pathlib import Path

import pytest

from reidx.cli.main import main
from reidx.config.config import resolve
from reidx.config.recipes import Recipe, recipes
from reidx.config.yaml_tree import load_node
from reidx.registry.discovery import config_roots


@pytest.fixture(scope="module")
def found() -> dict[str, Recipe]:
    return {recipe.address: recipe for recipe in recipes()}


def test_recipes_resolve_to_what_is_listed(found):
    assert len(found) > 50
    for address, recipe in found.items():
        data = resolve(load_node(address), [], address).data
        assert recipe.epochs == {stage["name"]: stage["epochs"] for stage in data["stages"]}, address
        assert set(recipe.data) == set(data["data"]["domains"]), address
        backbones = [stage["model"]["backbone"] for stage in data["stages"]]
        files = {backbone["weights"] for backbone in backbones if backbone.get("weights")}
        assert files <= set(recipe.weights), address


def test_bases_and_grids_are_no_recipes(found):
    assert {"lp::market1501.yaml", "reidx::demo.yaml", "lf2::market1501_to_duke.yaml"} <= set(found)
    assert not {"lp::usl.yaml", "reidx::data/market1501.yaml", "reidx::ablations/lp_market1501.yaml"} & set(found)
    assert all((config_roots()["lf2"] / name).is_file() for name in ("uda.yaml", "variants/paper.yaml"))
    assert not {"lf2::uda.yaml", "lf2::variants/paper.yaml"} & set(found)


def test_recipe_names_data_epochs_and_weights(found):
    recipe = found["lp::market1501.yaml"]
    assert (recipe.data, recipe.epochs) == ({"target": "Market1501"}, {"teacher": 50, "warmup": 1, "student": 50})
    assert recipe.weights == ("resnet50.tv_in1k of timm",)
    split = found["lf2::market1501_c123_to_c456_small.yaml"]
    assert split.data == {"source": "Market1501 cameras 1,2,3", "target": "Market1501 cameras 4,5,6"}
    assert found["lf2::market1501.yaml"].weights == ("weights/resnet50_source.pth",)


@pytest.mark.parametrize("width", [80, 120])
def test_list_of_recipes_fits_the_width(capsys, monkeypatch, found, width):
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(["recipes"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= width
    assert all(f"  {address}" in out for address in found)


def test_recipes_of_one_method(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["recipes", "lp"]) == 0
    out = capsys.readouterr().out
    assert "lp::market1501.yaml" in out and "spcl::" not in out
    assert "Market1501; epochs: teacher 50, warmup 1, student 50; weights: resnet50.tv_in1k of timm" in out
    assert main(["recipes", "mtt"]) == 1
    assert capsys.readouterr().err == "error: There is no method 'mtt'. Did you mean mmt?\n"


def test_faulty_config_hides_no_other(monkeypatch, tmp_path: Path):
    (tmp_path / "broken.yaml").write_text("name: [", encoding="utf-8")
    (tmp_path / "odd.yaml").write_text("stages: [3]\ndata: {domains: {target: 7}}\n", encoding="utf-8")
    text = "name: whole\ndata: {domains: {target: CSV}}\nmodel: {backbone: Timm}\nstages: [{name: only}]\n"
    (tmp_path / "whole.yaml").write_text(text, encoding="utf-8")
    monkeypatch.setattr("reidx.registry.discovery.config_roots", lambda: {"mine": tmp_path})
    assert list(recipes()) == [Recipe("mine", "mine::whole.yaml", {"target": "CSV"}, {"only": 50}, ())]
