"""Base configs of the data sets with further columns: their domains, protocols and image sizes."""

from __future__ import annotations

from pathlib import Path

import pytest

import reidx

MODALITIES = {"target": "both", "visible": "visible", "infrared": "infrared"}


@pytest.mark.parametrize(
    ("config", "kind", "domains", "protocol", "size"),
    [
        ("sysu_mm01", "SYSUMM01", MODALITIES, "SYSUMM01", (288, 144)),
        ("regdb", "RegDB", MODALITIES, "NoCameraFilter", (288, 144)),
        ("ltcc", "LTCC", {"target": None}, "Market1501", (384, 192)),
        ("prcc", "PRCC", {"target": None}, "ClothChanging", (384, 192)),
        ("cuhk03", "CUHK03", {"target": None}, "Market1501", (256, 128)),
        ("occluded_duke", "OccludedDuke", {"target": None}, "Market1501", (256, 128)),
        ("partial_reid", "PartialREID", {"target": None}, "NoCameraFilter", (256, 128)),
        ("partial_ilids", "PartialILIDS", {"target": None}, "NoCameraFilter", (256, 128)),
        ("occluded_reid", "OccludedREID", {"target": None}, "NoCameraFilter", (256, 128)),
        ("viper", "VIPeR", {"target": None}, "Market1501", (256, 128)),
        ("grid", "GRID", {"target": None}, "Market1501", (256, 128)),
        ("prid2011", "PRID2011", {"target": None}, "Market1501", (256, 128)),
        ("mars", "MARS", {"target": None}, "Grouped", (256, 128)),
        ("market1501_multi_query", "Market1501", {"target": None}, "Grouped", (256, 128)),
        ("veri776_tracks", "VeRi776", {"target": None}, "Grouped", (224, 224)),
        ("vehicleid", "VehicleID", {"target": None}, "SingleGalleryShot", (224, 224)),
        ("veri_wild", "VERIWild", {"target": None}, "Market1501", (224, 224)),
        ("mlr_cuhk03", "MLRCUHK03", {"target": None}, "SingleGalleryShot", (256, 128)),
    ],
)
def test_config_has_its_domains_and_protocol(
    tmp_path: Path, config: str, kind: str, domains: dict[str, str | None], protocol: str, size: tuple[int, int]
) -> None:
    text = f"_base_: reidx::data/{config}.yaml\nname: mine\nmodel: {{backbone: {{type: Timm, name: test_vit}}}}\n"
    (tmp_path / "mine.yaml").write_text(text + "stages: [{name: only, epochs: 0}]\n", encoding="utf-8")
    loaded = reidx.load_config(tmp_path / "mine.yaml").experiment  # checks that the columns fit the protocol
    assert loaded.data.image_size == size
    assert {name: spec.get("modality") for name, spec in loaded.data.domains.items()} == domains
    assert {spec["type"] for spec in loaded.data.domains.values()} == {kind}
    evaluate = loaded.stages[0].evaluate
    assert (evaluate.domain, evaluate.protocol["type"]) == ("target", protocol)
