"""Cloth-changing and same-clothes settings against a walk down each sorted ranking, and a value worked out by hand."""

from __future__ import annotations

from statistics import fmean

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reidx.data.datasets import PRCC
from reidx.errors import ConfigError, DataError
from reidx.evaluation import ClothChanging, SameClothes, SingleGalleryShot, evaluate
from reidx.registry.build import build

QUERIES, IMAGES = 8, 30
SETTINGS = {ClothChanging: False, SameClothes: True}


def made(seed: int):
    """Return features with ties, ids with junk, cameras, and clothes, some of them unknown."""
    random = np.random.default_rng(seed)
    features = torch.from_numpy(random.integers(0, 3, (QUERIES + IMAGES, 2)).astype(np.float32))
    ids, cams, clothes = (random.integers(low, high, QUERIES + IMAGES) for low, high in ((-1, 4), (0, 3), (-1, 2)))
    known = ids[:QUERIES], ids[QUERIES:], cams[:QUERIES], cams[QUERIES:]
    return features[:QUERIES], features[QUERIES:], known, ({"clothes": clothes[:QUERIES]}, {"clothes": clothes[QUERIES:]})


def walked(query, gallery, known, columns, same: bool, images) -> tuple[dict[str, float], int]:
    """Return mAP and rank-1 over the queries with a match, and their number, image by image."""
    (q_ids, g_ids, q_cams, g_cams), (worn, hung) = known, (columns[0]["clothes"], columns[1]["clothes"])
    precisions, firsts = [], []
    for q in range(len(q_ids)):
        near = sorted((float(((query[q] - gallery[g]) ** 2).sum()), g) for g in images)
        rank, ranks = 0, []
        for _, g in near:
            if g_ids[g] == -1:
                continue
            if g_ids[g] == q_ids[q]:
                if g_cams[g] == q_cams[q] or -1 in (worn[q], hung[g]) or (worn[q] == hung[g]) != same:
                    continue
                ranks.append(rank + 1)
            rank += 1
        if ranks:
            precisions.append(fmean((n + 1) / place for n, place in enumerate(ranks)))
            firsts.append(float(ranks[0] == 1))
    return ({"mAP": fmean(precisions), "rank-1": fmean(firsts)} if firsts else {}), len(firsts)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), protocol=st.sampled_from(list(SETTINGS)))
def test_settings_equal_a_walk_down_each_ranking(seed, protocol):
    query, gallery, known, columns = made(seed)
    expected, valid = walked(query, gallery, known, columns, SETTINGS[protocol], range(IMAGES))
    if not valid:
        with pytest.raises(DataError, match="no query has a match"):
            evaluate(query, gallery, *known, protocol(), columns=columns)
        return
    result = evaluate(query, gallery, *known, protocol(), columns=columns)
    assert result.valid_queries == valid
    assert {name: result.metrics[name] for name in expected} == pytest.approx(expected, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), protocol=st.sampled_from(list(SETTINGS)))
def test_trials_are_averages_over_single_shots(seed, protocol):
    query, gallery, known, columns = made(seed)
    drawn = [trial.gallery for trial in SingleGalleryShot(3, seed).draw_trials(*known)]
    expected = [walked(query, gallery, known, columns, SETTINGS[protocol], sorted(images)) for images in drawn]
    if not all(valid for _, valid in expected):
        with pytest.raises(DataError, match="no query has a match"):
            evaluate(query, gallery, *known, protocol(3, seed), columns=columns)
        return
    result = evaluate(query, gallery, *known, protocol(3, seed), columns=columns)
    for name in ("mAP", "rank-1"):
        assert result.metrics[name] == pytest.approx(fmean(metrics[name] for metrics, _ in expected), abs=1e-12)
    assert result.card["trials"] == 3


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
