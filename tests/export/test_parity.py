"""The comparison of an exported network finds other embeddings, other rankings, and batches that it refuses."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from reidx.errors import ReidxError
from reidx.export.parity import COSINE, TIE, Parity, compare, largest_inversion, refuse_unequal


def embedded(images: Tensor) -> Tensor:
    return F.normalize(images.flatten(1)[:, :16] - 0.5, dim=1)


def images(count: int = 40) -> Tensor:
    return torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def test_inversion_is_that_of_all_pairs() -> None:
    random = torch.Generator().manual_seed(0)
    wanted, found = torch.rand(5, 9, generator=random), torch.rand(5, 9, generator=random)
    naive = 0.0
    for row, other in zip(wanted.tolist(), found.tolist(), strict=True):
        for a in range(9):
            for b in range(9):
                if other[a] > other[b] and row[a] < row[b]:
                    naive = max(naive, row[b] - row[a])
    assert largest_inversion(wanted, found) == pytest.approx(naive)
    assert largest_inversion(torch.tensor([[0.9, 0.5, 0.4]]), torch.tensor([[0.9, 0.3, 0.7]])) == pytest.approx(0.1)
    assert largest_inversion(wanted, wanted) == 0


def test_equal_networks_agree() -> None:
    parity = compare(lambda batch: 3 * embedded(batch), embedded(images()), images())
    assert parity.images == 40 and parity.cosine == pytest.approx(1) and parity.inversion <= TIE
    refuse_unequal(parity)
    assert str(parity).endswith("the same ranking")


@pytest.mark.parametrize("size", [1, 5, 32])
def test_other_embeddings_in_one_size_are_refused(size: int) -> None:
    def wrong(batch: Tensor) -> Tensor:
        return embedded(batch.flip(-1) if len(batch) == size else batch)

    with pytest.raises(ReidxError, match="does not agree"):
        refuse_unequal(compare(wrong, embedded(images()), images()))


def test_other_ranking_is_refused_at_high_cosines() -> None:
    near = F.normalize(torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.006, 0.0], [1.0, 0.0, 0.007]]), dim=1)
    moved = F.normalize(torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.008, 0.0], [1.0, 0.0, 0.007]]), dim=1)
    parts = iter([*moved.split(1), moved, moved])
    parity = compare(lambda batch: next(parts), near, images(3))
    assert parity.cosine > COSINE and parity.inversion == pytest.approx(0.5 * (0.007**2 - 0.006**2), rel=0.2)
    assert parity.inversion < TIE  # below float32's rounding of cosines: a tie
    refuse_unequal(parity)
    with pytest.raises(ReidxError, match="change their order"):
        refuse_unequal(parity._replace(inversion=2 * TIE))


def test_refused_batch_names_its_size() -> None:
    def fixed(batch: Tensor) -> Tensor:
        if len(batch) != 1:
            raise RuntimeError("Expected: 1")
        return embedded(batch)

    with pytest.raises(ReidxError, match="fails for a batch of 5: Expected: 1"):
        compare(fixed, embedded(images()), images())


@pytest.mark.parametrize("wrong", [lambda rows: rows[:, :8], lambda rows: rows * float("nan"), lambda rows: rows[:0]])
def test_wrong_shapes_and_nan_are_refused(wrong: object) -> None:
    with pytest.raises(ReidxError):
        refuse_unequal(compare(lambda batch: wrong(embedded(batch)), embedded(images()), images()))  # type: ignore[operator]
    with pytest.raises(ReidxError):
        refuse_unequal(Parity(3, float("nan"), 0.0))
