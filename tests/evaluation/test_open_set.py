"""Open-set identification: values by hand, drawn galleries, messages."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from reidx.errors import DataError
from reidx.evaluation import OpenSet, evaluate


def line(*positions):
    """Return features on a line, whose distance to a query at 0 is the square of the position."""
    return torch.tensor(positions, dtype=torch.float32)[:, None]


def test_rates_worked_out_by_hand():
    """Unmated queries at distances 4 and 16; mated ones at 1 (right), 9 (right), 1 (wrong person first)."""
    query, gallery = line(2, 104, 201, 303, 400), line(0, 100, 200, 300, 401, 402)
    known = [50, 51, 2, 3, 4], [0, 1, 2, 3, 5, 4], [0] * 5, [1] * 6
    result = evaluate(query, gallery, *known, OpenSet(held_out=0))
    # No FAR allows one of two unmated queries: the threshold is 4, which accepts the queries at 1, of which one is right.
    assert [result.metrics[name] for name in OpenSet.metrics] == [1 / 3] * 3
    facts = result.card["protocol_facts"]
    assert facts == {"mated_queries": 3, "unmated_queries": 2, "threshold@0.001": 4, "threshold@0.01": 4, "threshold@0.1": 4}
    assert result.valid_queries == 3 and result.card["queries_without_match"] == 2 and result.card["trials"] == 1
    assert result.card["protocol_settings"] == {"held_out": 0} and json.loads(json.dumps(result.card)) == result.card
    assert result.card["protocol_denominators"] == dict.fromkeys(OpenSet.metrics, "mated queries")


def test_far_of_a_tenth_accepts_one_of_ten():
    """Ten unmated queries at distances 1, 4, 9, …; the second-smallest is the threshold at FAR 0.1."""
    query, gallery = line(*(100 * n + n + 1 for n in range(10)), 1001, 1102), line(*range(0, 1200, 100))
    known = [*range(50, 60), 10, 11], list(range(12)), [0] * 12, [1] * 12
    result = evaluate(query, gallery, *known, OpenSet(held_out=0))
    assert result.card["protocol_facts"]["threshold@0.1"] == 4 and result.card["protocol_facts"]["threshold@0.01"] == 1
    assert (result.metrics["DIR@0.1"], result.metrics["DIR@0.01"]) == (0.5, 0)


def test_person_under_one_camera_is_neither():
    """The query of person 3 has its person in its own camera alone: neither mated nor unmated."""
    query, gallery = line(0, 10, 20), line(1, 11, 21)
    result = evaluate(query, gallery, [1, 2, 3], [1, 7, 3], [0, 0, 0], [1, 1, 0], OpenSet(held_out=0))
    assert (result.card["protocol_facts"]["mated_queries"], result.card["protocol_facts"]["unmated_queries"]) == (1, 1)


@pytest.mark.parametrize(("share", "removed"), [(0.5, 2), (0.01, 1), (0.99, 3)])
def test_trials_remove_people_from_the_gallery(share, removed):
    known = np.array([1, 2, 3, 4, 9]), np.array([4, 3, 2, 1, 1, -1, 7]), np.zeros(5, int), np.ones(7, int)
    trials = list(OpenSet(share, trials=20, seed=3).draw_trials(*known))
    gone = [set(range(7)) - set(trial.gallery.tolist()) for trial in trials]
    people = [{int(known[1][g]) for g in places} for places in gone]
    assert all(len(those) == removed and those <= {1, 2, 3, 4} for those in people), people
    assert all(({3, 4} <= places) == (1 in those) for places, those in zip(gone, people)), "all images of a person"
    assert len(set(map(frozenset, people))) > 1 and all(trial.queries.tolist() == [0, 1, 2, 3, 4] for trial in trials)


def test_facts_are_means_over_trials():
    query, gallery = line(*range(0, 80, 10)), line(*range(1, 81, 10))
    result = evaluate(query, gallery, range(8), range(8), [0] * 8, [1] * 8, OpenSet(trials=4))
    assert result.card["protocol_facts"]["mated_queries"] == 4 and result.card["trials"] == 4
    thresholds = [trial.card["protocol_facts"]["threshold@0.1"] for trial in result.trials]
    assert result.card["protocol_facts"]["threshold@0.1"] == pytest.approx(np.mean(thresholds))


@pytest.mark.parametrize(
    ("rule", "ids", "message"),
    [
        (OpenSet(0), ([1, 2], [1, 2]), "the person of every query is in the gallery.*held_out to a share"),
        (OpenSet(), ([1, 2], [1, 3]), "1 people have both queries and gallery images; at least 2"),
    ],
)
def test_data_without_unmated_queries_are_refused(rule, ids, message):
    with pytest.raises(DataError, match=message):
        evaluate(line(0, 1), line(0, 1), *ids, [0, 0], [1, 1], rule)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"held_out": 1}, "held_out is 1;"), ({"trials": 0}, "trials is 0;"), ({"seed": -1}, "seed is -1;")],
)
def test_wrong_settings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        OpenSet(**arguments)
