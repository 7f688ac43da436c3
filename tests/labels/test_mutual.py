"""Products that are used for both of their rows, against a sort of all products."""

from __future__ import annotations

import itertools

import pytest
import torch

from reidx.labels.neighbours import mutual as module
from reidx.labels.neighbours.mutual import mutual_candidates


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("n", [1, 2, 7, 100, 211])
@pytest.mark.parametrize("penalised", [False, True])
def test_the_largest_scores_of_each_row(
    monkeypatch: pytest.MonkeyPatch, n: int, threads: int, penalised: bool
) -> None:
    monkeypatch.setattr(module, "_TILE", 16)
    random = torch.Generator().manual_seed(n)
    x = torch.randn(n, 5, generator=random)
    penalty = torch.rand(n, generator=random) if penalised else None
    before, count = torch.get_num_threads(), min(n, 9)
    torch.set_num_threads(threads)
    try:
        where, least = mutual_candidates(x, count, penalty)
    finally:
        torch.set_num_threads(before)
    scores = x @ x.T - (0 if penalty is None else penalty)
    expected = scores.sort(dim=1, descending=True)
    assert torch.equal(torch.from_numpy(where).long().sort(1).values, expected.indices[:, :count].sort(1).values)
    assert torch.allclose(torch.from_numpy(least), expected.values[:, count - 1])


@pytest.mark.parametrize("tiles", [2, 4, 10])
def test_every_pair_of_tiles_meets_once(tiles: int) -> None:
    rounds = list(module._rounds(tiles))
    for pairs in rounds[1:]:
        assert sorted(itertools.chain(*pairs)) == list(range(tiles))
    met = sorted(tuple(sorted(pair)) for pairs in rounds for pair in pairs)
    assert met == [(a, b) for a in range(tiles) for b in range(a, tiles)]
