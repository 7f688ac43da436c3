"""The infrared cameras: equal channels, columns, splits by modality, the same bytes, no recognition by colour."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from reidx_synthetic.appearance import WARDROBES, Appearance, Fabric, sample_appearance
from reidx_synthetic.domain import render_domain
from reidx_synthetic.infrared import OPAQUE, in_infrared
from reidx_synthetic.visible_infrared import VisibleInfrared

import reidx
from reidx.errors import ConfigError, DataError
from reidx.evaluation.colour_control import colour_histogram
from reidx.evaluation.ranking import evaluate
from reidx.registry.build import contract
from reidx.testing.tiny import load_experiment, tiny_experiment

SMALL: dict[str, Any] = {"identities": (16, 4), "images_per_camera": 2, "cameras": 3, "infrared_cameras": 2, "size": (64, 32)}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pair")
    VisibleInfrared(str(folder), **SMALL)
    return folder


@pytest.fixture(scope="module")
def pair(root: Path) -> VisibleInfrared:
    return VisibleInfrared(str(root), **SMALL)


def pixels(path: str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_infrared_images_have_three_equal_channels(pair: VisibleInfrared) -> None:
    for split in (pair.train, pair.query, pair.gallery):
        for path, modality in zip(split.paths, split.columns["modality"], strict=True):
            red, green, blue = np.moveaxis(pixels(path), 2, 0)
            assert (np.array_equal(red, green) and np.array_equal(green, blue)) == (modality == 1), path


def test_test_split_has_infrared_queries_and_visible_gallery(pair: VisibleInfrared) -> None:
    assert pair.train.columns["modality"].tolist() == (pair.train.cameras >= 3).tolist()
    assert set(pair.query.columns["modality"]) == {1} and set(pair.query.cameras) == {3, 4}
    assert set(pair.gallery.columns["modality"]) == {0} and set(pair.gallery.cameras) == {0, 1, 2}
    assert (len(pair.train), len(pair.query), len(pair.gallery)) == (16 * 2 * 5, 4 * 2 * 2, 4 * 2 * 3 + 2)
    assert set(pair.query.ids) == set(pair.gallery.ids) - {0}


def test_modality_selects_the_training_images(root: Path, pair: VisibleInfrared) -> None:
    visible, infrared = (VisibleInfrared(str(root), **SMALL, modality=one) for one in ("visible", "infrared"))  # type: ignore[arg-type]
    assert set(visible.train.columns["modality"]) == {0} and set(infrared.train.columns["modality"]) == {1}
    assert sorted(chain(visible.train.paths, infrared.train.paths)) == sorted(pair.train.paths)
    assert set(visible.train.ids) == set(infrared.train.ids) == set(pair.train.ids)
    assert visible.query.paths == infrared.query.paths == pair.query.paths
    assert infrared.card()["train_modality"] == "infrared" and infrared.card()["train"]["cameras"] == 2


def test_single_modality_has_the_test_split_of_plain_people(root: Path, pair: VisibleInfrared, tmp_path: Path) -> None:
    """The visible test images are those of `People`, and each of the infrared ones is on one side."""
    visible, infrared = (VisibleInfrared(str(root), **SMALL, test=one) for one in ("visible", "infrared"))  # type: ignore[arg-type]
    plain = render_domain(tmp_path / "plain", **{**SMALL, "infrared_cameras": 0})
    for split, folder in ((visible.query, "query"), (visible.gallery, "bounding_box_test")):
        assert [Path(path).name for path in split.paths] == sorted(path.name for path in (plain / folder).iterdir())
    assert (len(infrared.query), len(infrared.gallery)) == (4 * 2, 4 * 2)
    assert sorted(infrared.query.paths + infrared.gallery.paths) == sorted(pair.query.paths)
    assert all(path.endswith("00_00.jpg") for path in infrared.query.paths), "the picture with index 0"
    assert set(infrared.query.columns["modality"]) == set(infrared.gallery.columns["modality"]) == {1}
    assert infrared.train.paths == pair.train.paths and infrared.name != pair.name


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"infrared_cameras": 7}, DataError, "infrared_cameras=7; give 0 to 6"),
        ({"infrared_cameras": 0}, ConfigError, "infrared_cameras is 0; a pair needs 1 or more"),
        ({"modality": "thermal"}, ConfigError, "thermal"),
    ],
)
def test_impossible_pairs_are_refused(
    arguments: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        reidx.build("dataset", {"type": "synthetic.VisibleInfrared", "root": str(tmp_path), **SMALL, **arguments})
    assert not list(tmp_path.iterdir())


def test_visible_pictures_are_those_of_the_plain_domain(root: Path, tmp_path: Path) -> None:
    plain = render_domain(tmp_path / "plain", **{**SMALL, "infrared_cameras": 0, "identities": (2, 1)})
    names = sorted(path.name for path in (plain / "bounding_box_train").iterdir())
    assert len(names) == 2 * 2 * 3
    for name in names:
        written = (root / "source-infrared-seed0/bounding_box_train" / name).read_bytes()
        assert written == (plain / "bounding_box_train" / name).read_bytes()
    assert "infrared" not in (plain / "synthetic.json").read_text()


def test_infrared_pictures_do_not_depend_on_visible_cameras(root: Path, tmp_path: Path) -> None:
    again = render_domain(tmp_path / "again", **{**SMALL, "cameras": 2, "infrared_cameras": 1, "identities": (2, 1)})
    first, second = again / "bounding_box_train/0001_c3s1_000100_00.jpg", "0001_c4s1_000100_00.jpg"
    assert first.read_bytes() == (root / "source-infrared-seed0/bounding_box_train" / second).read_bytes()


def test_base_config_has_a_domain_for_each_modality(tmp_path: Path) -> None:
    experiment = {key: value for key, value in tiny_experiment("nowhere").items() if key not in ("data", "evaluate")}
    config = load_experiment(tmp_path, {"_base_": "reidx::small/synthetic_infrared.yaml", **experiment})
    specs = config.data["data"]["domains"]
    assert {name: spec.pop("modality") for name, spec in specs.items()} == {
        "visible": "visible", "infrared": "infrared", "target": "both",
    }  # fmt: skip
    assert specs["visible"] == specs["infrared"] == specs["target"], "all three are the same pictures"
    assert contract("dataset", specs["target"]).columns == {"modality"}
    assert config.data["stages"][0]["evaluate"]["domain"] == "target"


def look_of(seed: int) -> Appearance:
    return sample_appearance(np.random.default_rng(seed), WARDROBES["source"])


def level(colour: tuple[float, float, float]) -> float:
    assert colour[0] == colour[1] == colour[2]
    return colour[0]


def test_opaque_dyes_keep_their_brightness() -> None:
    looks = [look_of(seed) for seed in range(400)]
    dark = [in_infrared(look, np.random.default_rng(seed)) for seed, look in enumerate(looks)]
    brightness = [sum(look.upper_fabric.colour) / 3 for look in looks]
    levels = [level(look.upper_fabric.colour) for look in dark]
    kept = np.isclose(brightness, levels)
    assert abs(kept.mean() - OPAQUE) < 0.07
    transparent = np.array([brightness, levels])[:, ~kept]
    assert transparent[1].min() >= 0.5 and abs(np.corrcoef(transparent)[0, 1]) < 0.3
    assert np.std(levels) > 0.15 and 0 < min(levels) < max(levels) < 1
    assert min(level(look.skin) for look in dark) > 0.8 and min(level(look.hair_colour) for look in dark) >= 0.5
    assert dark[3] == in_infrared(looks[3], np.random.default_rng(3)), "the same person has the same levels"
    assert (dark[3].height, dark[3].bag, dark[3].upper_fabric.pattern) == (
        looks[3].height, looks[3].bag, looks[3].upper_fabric.pattern,
    )  # fmt: skip


def test_pattern_may_vanish_in_infrared() -> None:
    contrasts = []
    for seed in range(100):
        fabric: Fabric = in_infrared(look_of(seed), np.random.default_rng(seed)).upper_fabric
        contrasts.append(abs(level(fabric.colour) - level(fabric.accent)))
    assert min(contrasts) < 0.05 and max(contrasts) > 0.5


def test_colours_recognise_nobody_across_modalities(pair: VisibleInfrared) -> None:
    """Between two cameras of different modalities, colour histograms rank as a random order does: mAP 0.17."""
    train = pair.train
    features = torch.from_numpy(colour_histogram(map(Path, train.paths), stripes=6))
    assert train.ids is not None

    def mean_ap(*cameras: tuple[int, int]) -> float:
        found = []
        for one, other in cameras:
            query, gallery = train.cameras == one, train.cameras == other
            arrays = (features, train.ids, train.cameras)
            found.append(evaluate(*(array[side] for array in arrays for side in (query, gallery))).mAP)
        return float(np.mean(found))

    assert mean_ap((3, 0), (3, 1), (3, 2), (4, 0), (4, 1), (4, 2)) < 0.2
    assert mean_ap((0, 1), (1, 2), (2, 0)) > 0.3 and mean_ap((3, 4), (4, 3)) > 0.3
