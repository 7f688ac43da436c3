"""Guarantees of the batch samplers for any labels and cameras that hypothesis generates."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reidx.data.samplers import PK, Shuffle
from reidx.errors import ConfigError, DataError

quick = settings(max_examples=60, deadline=None)


@st.composite
def streams(draw):
    """Draw labels, not all of them -1, and a camera for each."""
    size = draw(st.integers(1, 60))
    labels = draw(st.lists(st.integers(-1, 12), min_size=size, max_size=size).filter(lambda x: max(x) >= 0))
    cameras = draw(st.lists(st.integers(-1, 3), min_size=size, max_size=size))
    return np.array(labels), np.array(cameras)


def epoch(sampler, seed: int = 0) -> list[list[int]]:
    torch.manual_seed(seed)
    return list(sampler)


@quick
@given(streams(), st.integers(1, 8), st.integers(1, 5), st.integers(1, 12), st.booleans(), st.integers(0, 99))
def test_every_batch_is_p_times_k(stream, p, k, count, use_cameras, seed):
    labels, cameras = stream
    sampler = PK(labels, count, cameras, identities=p, instances=k, use_cameras=use_cameras)
    batches = epoch(sampler, seed)
    assert len(batches) == len(sampler) == count
    present = set(labels[labels >= 0].tolist())
    for batch in batches:
        assert len(batch) == p * k
        groups = [labels[batch[i : i + k]].tolist() for i in range(0, p * k, k)]
        assert all(len(set(group)) == 1 for group in groups)
        drawn = Counter(group[0] for group in groups)
        assert set(drawn) <= present  # hence no outlier
        if len(present) >= p:
            assert max(drawn.values()) == 1
        else:
            assert set(drawn) == present
            assert max(drawn.values()) - min(drawn.values()) <= 1


@quick
@given(streams(), st.integers(2, 5), st.integers(0, 99))
def test_others_come_from_other_cameras_if_possible(stream, k, seed):
    labels, cameras = stream
    for batch in epoch(PK(labels, 6, cameras, identities=3, instances=k), seed):
        for i in range(0, 3 * k, k):
            anchor, others = batch[i], batch[i + 1 : i + k]
            same = np.flatnonzero(labels == labels[anchor]).tolist()
            elsewhere = [j for j in same if cameras[j] != cameras[anchor]]
            allowed = elsewhere or [j for j in same if j != anchor] or [anchor]
            assert set(others) <= set(allowed)
            if len(allowed) >= k - 1:
                assert len(set(others)) == k - 1  # without replacement


@quick
@given(streams(), st.integers(2, 5), st.integers(0, 99))
def test_without_cameras_any_image_is_allowed(stream, k, seed):
    labels, cameras = stream
    blind = epoch(PK(labels, 6, cameras, identities=3, instances=k, use_cameras=False), seed)
    assert blind == epoch(PK(labels, 6, None, identities=3, instances=k), seed)
    assert blind == epoch(PK(labels, 6, np.zeros_like(cameras), identities=3, instances=k), seed)
    for batch in blind:
        for i in range(0, 3 * k, k):
            size = int((labels == labels[batch[i]]).sum())
            if size >= k:
                assert len(set(batch[i : i + k])) == k


@quick
@given(streams(), st.integers(1, 8), st.integers(0, 99))
def test_identities_repeat_only_after_all_others(stream, p, seed):
    labels, cameras = stream
    present = set(labels[labels >= 0].tolist())
    drawn = [
        int(labels[batch[i]])
        for batch in epoch(PK(labels, 30, cameras, identities=p), seed)
        for i in range(0, 4 * p, 4)
    ]
    for start in range(0, len(drawn) - len(present) + 1, len(present)):
        assert set(drawn[start : start + len(present)]) == present


@quick
@given(st.integers(1, 40), st.integers(1, 16), st.integers(0, 99))
def test_shuffled_images_repeat_after_all_others(images, batch, seed):
    batches = epoch(Shuffle(images, 20, batch), seed)
    assert [len(b) for b in batches] == [batch] * 20
    flat = [i for b in batches for i in b]
    for start in range(0, len(flat) - images + 1, images):
        assert set(flat[start : start + images]) == set(range(images))
    if images >= batch:
        assert all(len(set(b)) == batch for b in batches)


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize(
    "make",
    [
        lambda **ranks: PK(np.arange(60) % 13 - 1, 9, np.arange(60) % 4, identities=8, instances=3, **ranks),
        lambda **ranks: Shuffle(50, 9, 8, **ranks),
    ],
    ids=["PK", "Shuffle"],
)
def test_the_ranks_share_the_batches_of_one(make, world_size):
    whole = epoch(make(), seed=3)
    shares = [epoch(make(rank=rank, world_size=world_size), seed=3) for rank in range(world_size)]
    assert [[i for part in parts for i in part] for parts in zip(*shares, strict=True)] == whole


def test_ranks_seeded_apart_follow_the_first(monkeypatch):
    labels = np.arange(60) % 13
    whole = epoch(PK(labels, 9, identities=8, instances=3), seed=3)
    torch.manual_seed(3)
    number = torch.randint(2**62, (1,))
    monkeypatch.setattr("reidx.data.samplers.dist.broadcast", lambda tensor, src: tensor.copy_(number))
    ranks = [PK(labels, 9, identities=8, instances=3, rank=rank, world_size=2) for rank in (0, 1)]
    shares = [epoch(sampler, seed) for sampler, seed in zip(ranks, (3, 4), strict=True)]
    assert [first + second for first, second in zip(*shares, strict=True)] == whole


@pytest.mark.parametrize(
    "make", [lambda: PK(np.arange(40) % 10, 5, identities=4), lambda: Shuffle(40, 5, 16)]
)
def test_seed_at_start_decides_the_epoch(make):
    sampler = make()
    first, same, other = epoch(sampler, 1), epoch(sampler, 1), epoch(sampler, 2)
    assert first == same
    assert first != other
    torch.manual_seed(1)
    assert list(sampler) == first
    assert list(sampler) != first  # without a new seed the next epoch continues the random numbers
    torch.manual_seed(1)
    plan = iter(sampler)
    torch.rand(7)  # later draws, such as those of augmentations, change nothing
    np.random.rand(7)
    assert list(plan) == first


def test_anchors_and_identities_are_drawn_evenly():
    labels = np.repeat(np.arange(5), 8)
    anchors = Counter(batch[i] for batch in epoch(PK(labels, 1000, None, identities=2)) for i in (0, 4))
    # each of the 40 images is an anchor 50 times, +- 7
    assert set(anchors) == set(range(40))
    assert min(anchors.values()) > 50 - 42
    assert max(anchors.values()) < 50 + 42


def test_single_image_identities_fill_the_batch():
    assert sorted(epoch(PK(np.arange(3), 1, identities=3))[0]) == [0] * 4 + [1] * 4 + [2] * 4


def test_samplers_declare_their_inputs():
    assert PK.cameras == "used"
    assert PK.contract() == PK.contract(use_cameras=True) == {"cameras": "used"}
    assert PK.contract(use_cameras=False, identities=4) == {"cameras": "unused"}
    assert Shuffle.contract() == {"cameras": "unused"}


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: PK(np.full(9, -1), 5), DataError, "none of the 9 images"),
        (lambda: PK(np.zeros(0, np.int64), 5), DataError, "none of the 0 images"),
        (
            lambda: PK(np.arange(9), 5, identities=6, world_size=4),
            ConfigError,
            "make identities a multiple of 4",
        ),
        (lambda: PK(np.arange(9), 0), ConfigError, r"batches \(0\)"),
        (lambda: Shuffle(9, 5, 6, world_size=4), ConfigError, "cannot be shared evenly by 4"),
        (lambda: Shuffle(0, 5, 6), DataError, "no images"),
    ],
)
def test_bad_sampler_settings_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


# ---- identities of one image


@quick
@given(streams(), st.integers(1, 8), st.integers(1, 5), st.integers(1, 12), st.integers(0, 99))
def test_singles_once_fills_batches_with_further_identities(stream, p, k, count, seed):
    labels, cameras = stream
    batches = epoch(PK(labels, count, cameras, identities=p, instances=k, singles="once"), seed)
    assert len(batches) == count and all(len(batch) == p * k for batch in batches)
    members = {y: np.flatnonzero(labels == y).tolist() for y in set(labels[labels >= 0].tolist())}
    drawn = [position for batch in batches for position in batch]
    # read the batches back identity by identity: a single takes one place, any other k
    place, turns = 0, []
    while place < len(drawn):
        y = int(labels[drawn[place]])
        takes = 1 if len(members[y]) == 1 else k
        assert {int(labels[i]) for i in drawn[place : place + takes]} == {y}
        turns.append(y)
        place += takes
    # the turns of two identities differ by at most one, or by two where a group of P must not repeat an identity
    turn_counts = Counter(turns)
    assert max(turn_counts.values()) - min(turn_counts.get(y, 0) for y in members) <= 2


def test_without_singles_once_is_repeat():
    labels, cameras = np.arange(40) // 4, np.arange(40) % 3
    drawn = [epoch(PK(labels, 9, cameras, identities=4, instances=3, singles=rule), 3) for rule in ("repeat", "once")]
    assert drawn[0] == drawn[1]
