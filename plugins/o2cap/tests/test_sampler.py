"""Batches hold whole proxies, each as often as any other, for any clusters and cameras that hypothesis generates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reidx_o2cap.sampler import ProxyPK

from reidx.errors import ConfigError, DataError

quick = settings(max_examples=40, deadline=None)
Stream = tuple[np.ndarray, np.ndarray]


@st.composite
def streams(draw: Callable[..., Any]) -> Stream:
    """Draw clusters, not all of them -1, and a camera for each image."""
    size = draw(st.integers(1, 60))
    labels = draw(st.lists(st.integers(-1, 6), min_size=size, max_size=size).filter(lambda x: max(x) >= 0))
    cameras = draw(st.lists(st.integers(-1, 3), min_size=size, max_size=size))
    return np.array(labels), np.array(cameras)


def epoch(sampler: ProxyPK, seed: int = 0) -> list[list[int]]:
    torch.manual_seed(seed)
    return list(sampler)


@quick
@given(streams(), st.integers(1, 6), st.integers(1, 4), st.integers(0, 99))
def test_batch_holds_proxies_of_several_images(stream: Stream, proxies: int, instances: int, seed: int) -> None:
    labels, cameras = stream
    names = list(zip(labels.tolist(), cameras.tolist()))
    present = {name for name in names if name[0] >= 0}
    drawn = []
    for batch in epoch(ProxyPK(labels, cameras, 12, proxies, instances), seed):
        assert len(batch) == proxies * instances
        for start in range(0, len(batch), instances):
            group = batch[start : start + instances]
            (name,) = {names[i] for i in group}
            drawn.append(name)
            if names.count(name) >= instances:
                assert len(set(group)) == instances
    counts = Counter(drawn)
    assert set(counts) <= present  # hence no outlier
    assert max(counts[name] for name in present) - min(counts[name] for name in present) <= 1


def test_large_and_small_proxies_count_the_same() -> None:
    labels, cameras = np.zeros(105, np.int64), np.array([0] * 100 + [1] * 4 + [2])
    drawn = Counter(int(cameras[i]) for batch in epoch(ProxyPK(labels, cameras, 50, 3, 4)) for i in batch)
    assert drawn == {0: 200, 1: 200, 2: 200}


@pytest.mark.parametrize("world_size", [2, 4])
def test_the_ranks_share_the_batches_of_one(world_size: int) -> None:
    def make(**ranks: int) -> ProxyPK:
        return ProxyPK(np.arange(80) % 13 - 1, np.arange(80) % 4, 9, proxies=8, instances=3, **ranks)

    whole = epoch(make(), seed=3)
    assert whole != epoch(make(), seed=4)
    shares = [epoch(make(rank=rank, world_size=world_size), seed=3) for rank in range(world_size)]
    assert [[i for part in parts for i in part] for parts in zip(*shares, strict=True)] == whole


def test_impossible_batches_are_refused() -> None:
    labels, cameras = np.array([0, 0, 1]), np.array([0, 1, 1])
    with pytest.raises(ConfigError, match="6 proxies a batch cannot be shared evenly by 4 processes"):
        ProxyPK(labels, cameras, 5, proxies=6, world_size=4)
    with pytest.raises(DataError, match="none of the 3 images"):
        ProxyPK(np.full(3, -1), cameras, 5)
