"""Cloth-changing and same-clothes settings: values worked out by hand, messages, columns."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reidx.data.datasets import PRCC
from reidx.errors import ConfigError, DataError
from reidx.evaluation import ClothChanging, SameClothes, evaluate
from reidx.registry.build import build

SETTINGS = (ClothChanging, SameClothes)


def test_settings_by_hand():
    """Gallery in order: the person in the query's clothes, another person, the person in other clothes."""
    query, gallery = torch.tensor([[0.0]]), torch.tensor([[1.0], [2.0], [3.0]])
    known, columns = ([7], [7, 8, 7], [0], [1, 1, 1]), ({"clothes": np.array([4])}, {"clothes": np.array([4, 6, 5])})
    changing, same = (evaluate(query, gallery, *known, protocol(), columns=columns) for protocol in SETTINGS)
    assert changing.mAP == 0.5 and changing.cmc[:2].tolist() == [0, 1]
    assert same.mAP == 1.0 and same.cmc[0] == 1
    with pytest.raises(ConfigError, match="trials is -1"):
        build("protocol", {"type": "ClothChanging", "trials": -1})
    with pytest.raises(ConfigError, match="seed is 3, but nothing is drawn without trials"):
        build("protocol", {"type": "ClothChanging", "seed": 3})


def test_message_without_matches_blames_the_right_rule():
    known, worn = ([7], [7, 8], [0], [1, 1]), ({"clothes": np.array([4])}, {"clothes": np.array([4, 6])})
    with pytest.raises(DataError, match=r"1 identities are on both sides, but protocol cloth_changing ignores every match"):
        evaluate(torch.zeros(1, 1), torch.zeros(2, 1), *known, ClothChanging(), columns=worn)
    with pytest.raises(DataError, match=r"never under two cameras"):
        evaluate(torch.zeros(1, 1), torch.zeros(2, 1), [7], [7, 8], [1], [1, 1], ClothChanging(), columns=worn)


def test_prcc_queries_of_one_camera_are_scored(tmp_path):
    for folder in ("train/001", "test/A/002", "test/A/003", "test/B/002", "test/B/003", "test/C/002", "test/C/003"):
        (tmp_path / "rgb" / folder).mkdir(parents=True)
        (tmp_path / "rgb" / folder / "A_cropped_rgb001.jpg").touch()
    data = PRCC(str(tmp_path))
    known = data.query.ids, data.gallery.ids, data.query.cameras, data.gallery.cameras
    columns = data.query.columns, data.gallery.columns
    for protocol, camera in ((SameClothes(), 1), (ClothChanging(), 2), (ClothChanging(trials=2), 2)):
        result = evaluate(torch.zeros(4, 1), torch.zeros(2, 1), *known, protocol, columns=columns, details=True)
        scored = ~np.isnan(result.details.ap)
        assert set(data.query.cameras[scored].tolist()) == {camera} and scored.sum() == 2


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (None, "evaluate: protocol cloth_changing needs gallery_clothes and query_clothes. Pass"),
        (({"clothes": [4]}, {"camera": [1, 2]}), "evaluate: protocol cloth_changing needs gallery_clothes. Pass"),
        (({"clothes": [4]}, {"clothes": [4]}), "evaluate: column gallery_clothes must be 2 integers, one per image"),
        (({"clothes": [4.0]}, {"clothes": [4, 5]}), "evaluate: column query_clothes must be 1 integers, one per image"),
    ],
)
def test_missing_and_misshapen_columns_are_refused(columns, message):
    with pytest.raises(DataError, match=message):
        evaluate(torch.zeros(1, 1), torch.zeros(2, 1), [7], [7, 8], [0], [1, 1], ClothChanging(), columns=columns)


def test_columns_may_be_lists_or_tensors():
    given = torch.zeros(1, 1), torch.zeros(2, 1), [7], [7, 7], [0], [1, 1], ClothChanging()
    for kind in (list, torch.tensor, np.array):
        assert evaluate(*given, columns=({"clothes": kind([4])}, {"clothes": kind([4, 5])})).mAP == 1
