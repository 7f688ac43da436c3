"""The distillation of features against a loop, and by how much it moves whom."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from reidx_lp.distillation import FeatureDistil
from torch import Tensor


def unit(images: int, width: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(images, width, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize(("images", "width"), [(1, 3), (5, 4), (7, 64)])
def test_the_sum_over_the_width_and_the_mean_over_the_images(images: int, width: int) -> None:
    student, teacher = 3 * unit(images, width, 1), 2 * unit(images, width, 2)
    total = 0.0
    for f, t in zip(student.tolist(), teacher.tolist()):
        for a, b in zip(f, t):
            total += (a - b) ** 2
    assert FeatureDistil()(student, teacher).item() == pytest.approx(total / images, rel=1e-5)


def test_of_unit_vectors_it_is_two_minus_two_cosines() -> None:
    f, t = unit(9, 16, 1), unit(9, 16, 2)
    assert FeatureDistil()(f, t).item() == pytest.approx((2 - 2 * (f * t).sum(1)).mean().item(), abs=1e-6)
    right, opposite = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    assert FeatureDistil()(right.expand(2, 2), opposite).item() == pytest.approx((2 + 4) / 2)


def test_of_a_feature_and_itself_it_is_nothing() -> None:
    f = unit(9, 16, 1).requires_grad_()
    value = FeatureDistil()(f, f.detach())
    value.backward()
    assert value.item() == 0 and not f.grad.any()


def test_the_student_is_drawn_towards_the_teacher() -> None:
    f, t = unit(4, 8, 1).requires_grad_(), unit(4, 8, 2)
    FeatureDistil()(f, t).backward()
    assert torch.allclose(f.grad, 2 / 4 * (f.detach() - t))


def test_it_is_float32_in_mixed_precision() -> None:
    f, t = unit(4, 512, 1), unit(4, 512, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = FeatureDistil()(f.bfloat16(), t)
    assert low.dtype == torch.float32 and low.item() == pytest.approx(FeatureDistil()(f, t).item(), rel=1e-2)
