"""MLR-CUHK03: down-sampling of CUHK03, its official test sets, and prepared copies."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reidx.data.datasets import MLRCUHK03
from reidx.data.decode import decode
from reidx.errors import ConfigError, DataError
from reidx.registry.build import build

PEOPLE = [(1, 1), (1, 2), (2, 1), (5, 3)]
TESTED = [[(1, 1)], [(1, 2), (5, 3)]]
"""Test people of two splits."""
SIZE = (12, 24)


def write_cuhk03(base: Path, boxes: str = "labeled") -> Path:
    folder = base / f"images_{boxes}"
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for pair, person in PEOPLE:
        for image in (1, 2, 6, 7):
            name = f"{pair}_{person:03d}_{1 if image < 6 else 2}_{image:02d}.png"
            Image.fromarray(random.integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8)).save(folder / name)
    splits = []
    for people in TESTED:
        names = [path.name for path in sorted(folder.iterdir())]
        tested = [n for n in names if any(n.startswith(f"{pair}_{person:03d}_") for pair, person in people)]
        rows = {"gallery": [[f"/elsewhere/{name}", 0, 0] for name in tested]}
        splits.append({"train": [], "query": rows["gallery"], **rows})
    (base / f"splits_classic_{boxes}.json").write_text(json.dumps(splits), encoding="utf-8")
    return base


@pytest.mark.parametrize("place", [".", "cuhk03", "CUHK03"])
@pytest.mark.parametrize("boxes", ["labeled", "detected"])
def test_split_chooses_the_test_people(tmp_path, place, boxes):
    base = write_cuhk03(tmp_path / place, boxes)
    for split, people in enumerate(TESTED):
        data = MLRCUHK03(str(tmp_path), boxes, split=split)
        tested = {1000 * pair + person for pair, person in people}
        assert Path(data.root) == base
        assert set(data.query.ids.tolist()) == set(data.gallery.ids.tolist()) == tested
        assert set(data.train.ids.tolist()) == {1000 * pair + person for pair, person in PEOPLE} - tested
        assert data.card()["version"] == f"{boxes} boxes, split {split}, seed 0"


def test_view_1_alone_is_down_sampled(tmp_path):
    data = MLRCUHK03(str(write_cuhk03(tmp_path)), split=1)
    assert set(data.query.cameras.tolist()) == {0} and set(data.gallery.cameras.tolist()) == {1}
    assert len(data.query) == len(data.gallery) == 4 and len(data.train) == 8
    assert set(data.gallery.columns["resolution"].tolist()) == {1}
    for split in (data.train, data.query, data.gallery):
        for path, camera, factor in zip(split.paths, split.cameras, split.columns["resolution"].tolist(), strict=True):
            assert (factor == 1) == (camera == 1) and factor in (1, 2, 3, 4)
            assert decode(path).size == (SIZE[0] // factor, SIZE[1] // factor)
            assert ("MLR-CUHK03" in Path(path).parts) == (factor > 1)


def test_down_sampled_pixels_are_those_of_bicubic(tmp_path):
    data = MLRCUHK03(str(write_cuhk03(tmp_path)))
    stem, _, factor = Path(data.query.paths[0]).stem.rpartition("_x")
    original = Image.open(tmp_path / "images_labeled" / f"{stem}.png")
    size = SIZE[0] // int(factor), SIZE[1] // int(factor)
    assert np.array_equal(decode(data.query.paths[0]), original.resize(size, Image.Resampling.BICUBIC))


def test_factors_follow_from_seed_and_name(tmp_path):
    one, two = (write_cuhk03(tmp_path / name) for name in ("one", "two"))
    (two / "images_labeled" / "1_001_1_01.png").unlink()  # the factors of the other images do not change
    found = []
    for root, seed in ((one, 0), (two, 0), (one, 1)):
        data = MLRCUHK03(str(root), split=1, seed=seed)
        found.append({Path(path).name: Path(path).read_bytes() for path in data.train.paths})
    assert all(found[0][name] == content for name, content in found[1].items()) and len(found[1]) == len(found[0]) - 1
    assert set(found[0]) != set(found[2])


def test_interrupted_down_sampling_continues(tmp_path):
    calls: list[tuple[int, int]] = []

    def stop(done: int, total: int) -> None:
        calls.append((done, total))
        if done == 2:
            raise KeyboardInterrupt

    root = str(write_cuhk03(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        MLRCUHK03(root, progress=stop)
    calls.clear()
    MLRCUHK03(root, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(n, 6) for n in range(1, 7)]
    calls.clear()
    MLRCUHK03(root, progress=lambda done, total: calls.append((done, total)))
    assert calls == [] and not list(tmp_path.rglob("*.partial"))


def test_factors_of_a_prepared_copy_are_unknown(tmp_path):
    folders = {"bounding_box_train": "0001_c1_1.png", "query": "0002_c1_1.png", "bounding_box_test": "0002_c2_1.png"}
    for folder, name in folders.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).touch()
    data = MLRCUHK03(str(tmp_path), "repacked")
    assert data.query.ids.tolist() == [2] and data.gallery.cameras.tolist() == [1]
    assert data.train.columns["resolution"].tolist() == [-1] and data.card()["version"] == "repacked"
    with pytest.raises(ConfigError, match="split is 1 and seed 0, but a repacked copy has one split"):
        build("dataset", {"type": "MLRCUHK03", "root": str(tmp_path), "images": "repacked", "split": 1})


def test_split_beyond_the_list_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"splits_classic_labeled\.json has splits 0 to 1, but split is 2"):
        MLRCUHK03(str(write_cuhk03(tmp_path)), split=2)


@pytest.mark.parametrize("text", ["[{}]", "no json", '[{"gallery": [["a.png", 0, 0]]}]', "7"])
def test_unreadable_splits_are_named(tmp_path, text):
    (write_cuhk03(tmp_path) / "splits_classic_labeled.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"splits_classic_labeled\.json cannot be read as the splits of CUHK03"):
        MLRCUHK03(str(tmp_path))


def test_wrong_cuhk03_name_shows_the_expected(tmp_path):
    (write_cuhk03(tmp_path) / "images_labeled" / "0001_c1.png").touch()
    with pytest.raises(DataError, match=r"0001_c1\.png: .* looks like 1_001_1_01\.png"):
        MLRCUHK03(str(tmp_path))


def test_missing_cuhk03_names_parts_and_request(tmp_path):
    with pytest.raises(DataError, match=r"images_detected, splits_classic_detected\.json .* request this one at http"):
        MLRCUHK03(str(tmp_path / "nowhere"), "detected")
