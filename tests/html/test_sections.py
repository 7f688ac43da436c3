"""The numbers of the sections against loops and values worked out by hand."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from reidx.html.activations import described, stretched
from reidx.html.cameras import confusion
from reidx.html.charts import Chart, Line, in_square
from reidx.html.clusters import labels_of, purity, spread
from reidx.html.embedding_map import EACH, OTHERS, PEOPLE, project, sample
from reidx.html.measured import Measured, activation_of
from reidx.html.rankings import worst
from reidx.runs.stored import read_run


def test_activation_is_the_sum_of_squares() -> None:
    maps = torch.randn(2, 3, 4, 2, generator=torch.Generator().manual_seed(0))
    found = activation_of(maps)
    for b in range(2):
        energy = [[sum(float(maps[b, c, y, x]) ** 2 for c in range(3)) for x in range(2)] for y in range(4)]
        top = max(max(row) for row in energy)
        assert found[b].tolist() == [pytest.approx([value / top for value in row]) for row in energy]
    assert activation_of(torch.zeros(1, 3, 2, 2)).tolist() == [[[0.0, 0.0], [0.0, 0.0]]]


def test_activations_come_from_the_tested_network(measured: Measured) -> None:
    one, both = measured.activations([3]), measured.activations([5, 3])
    assert both.shape[0] == 2 and torch.allclose(one[0], both[1], atol=1e-5) and not torch.allclose(both[0], both[1])
    assert both.amax(dim=(1, 2)).tolist() == [1.0, 1.0]


def test_map_is_described_by_thirds() -> None:
    values = np.array([[0.0, 0.2], [0.5, 1.0], [0.3, 0.0]])
    text = "Upper third 10 %, middle 75 %, lower 15 %; maximum at row 2 of 3, column 2 of 2, minimum 0 % of it"
    assert described(values) == text
    assert stretched(values / 2 + 1).tolist() == values.tolist() and stretched(np.ones((2, 2))).tolist() == [[0, 0], [0, 0]]


def test_confusion_counts_pairs_of_cameras() -> None:
    random = np.random.default_rng(0)
    cameras = np.array([2, 3, 7])
    query, first = random.choice(cameras, 50), random.choice(cameras, 50)
    right = random.random(50) < 0.5
    counts, wrong = confusion(query, first, right, cameras)
    for i, a in enumerate(cameras):
        for j, b in enumerate(cameras):
            pairs = [bool(right[n]) for n in range(50) if (query[n], first[n]) == (a, b)]
            assert (counts[i, j], wrong[i, j]) == (len(pairs), pairs.count(False))


def test_worst_queries_leave_out_those_without_a_match() -> None:
    assert worst(np.array([0.5, np.nan, 0.1, 1.0, 0.1]), 3) == [2, 4, 0]


def test_purity_is_the_share_of_the_largest_identity() -> None:
    assert purity(np.array([4, 4, 9, 4])) == 0.75 and purity(np.array([1])) == 1.0
    assert spread(5, 3).tolist() == [0, 2, 4] and spread(2, 9).tolist() == [0, 1]


def test_chart_places_points_on_its_axes() -> None:
    chart = Chart("t", "epoch", "y", [Line("a", [(0, 0.0), (4, 1.0)]), Line("b", [(2, 0.5)])])
    left, top, right, bottom = chart.frame
    ends = chart.drawn[0].path.replace("M", "").replace("L", "").split()
    x = {tick.text: tick.place for tick in chart.ticks_x}
    y = {tick.text: tick.place for tick in chart.ticks_y}
    assert [float(value) for value in ends] == pytest.approx([x["0"], y["0"], x["4"], y["1"]], abs=0.1)
    assert (min(x.values()), max(x.values()), min(y.values()), max(y.values())) == (left, right, top, bottom)
    assert chart.rows == [["0", "0", "–"], ["2", "–", "0.5"], ["4", "1", "–"]]
    assert chart.summary == "y by epoch. a: 0 at epoch 0, 1 at epoch 4; b: 0.5 at epoch 2."


@pytest.mark.parametrize("values", [[5.0], [0.0, 0.0], [-2.0, -2.0, -2.0]])
def test_chart_of_equal_values_has_an_axis(values: list[float]) -> None:
    chart = Chart("t", "epoch", "y", [Line("a", [(n + 1.0, value) for n, value in enumerate(values)])])
    assert len({tick.place for tick in chart.ticks_y}) >= 2 and chart.drawn[0].path.startswith("M")


def test_square_keeps_its_margin() -> None:
    assert in_square([(0, 5), (10, 5), (5, 6)], 100, 10) == [(10, 10), (90, 10), (50, 90)]


def test_sample_of_the_map_has_people_and_dots() -> None:
    ids = np.repeat(np.arange(-1, 40), 30)  # -1 and 0: junk and distractors
    people, dots = sample(ids)
    assert len(np.unique(ids[people])) == PEOPLE and len(people) == PEOPLE * EACH and len(dots) == OTHERS
    assert (ids[people] > 0).all() and not set(ids[people]) & set(ids[dots])


def test_projection_is_the_same_for_equal_features() -> None:
    features = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)
    first = project(features, "tsne")
    assert first.shape == (12, 2) and np.array_equal(first, project(features, "tsne"))


def test_labels_come_from_the_file_or_the_checkpoint(finished: Path) -> None:
    config = read_run(finished).config
    assert config is not None
    (from_file,) = labels_of(finished, 1, config)
    with open(finished / "1-adapt/labels.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert from_file.clusters.tolist() == [int(row["cluster"]) for row in rows] and from_file.ids is not None
    kept = (finished / "1-adapt/labels.csv").rename(finished / "1-adapt/labels.away")
    try:
        (from_checkpoint,) = labels_of(finished, 1, config)
    finally:
        kept.rename(finished / "1-adapt/labels.csv")
    assert np.array_equal(from_checkpoint.clusters, from_file.clusters)
    assert list(from_checkpoint.paths) == list(from_file.paths) == [row["path"] for row in rows]
