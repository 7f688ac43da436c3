"""The distillation of features against a loop, and its gradient."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from reidx_lp.distillation import FeatureDistil
from torch import Tensor


def unit(images: int, width: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(images, width, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize(("images", "width"), [(1, 3), (5, 4), (7, 64)])
def test_sum_over_width_mean_over_images(images: int, width: int) -> None:
    student, teacher = 3 * unit(images, width, 1), 2 * unit(images, width, 2)
    total = 0.0
    for f, t in zip(student.tolist(), teacher.tolist()):
        for a, b in zip(f, t):
            total += (a - b) ** 2
    assert FeatureDistil()(student, teacher).item() == pytest.approx(total / images, rel=1e-5)


def test_unit_vectors_give_two_minus_two_cosines() -> None:
    f, t = unit(9, 16, 1), unit(9, 16, 2)
    assert FeatureDistil()(f, t).item() == pytest.approx((2 - 2 * (f * t).sum(1)).mean().item(), abs=1e-6)
    right, opposite = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    assert FeatureDistil()(right.expand(2, 2), opposite).item() == pytest.approx((2 + 4) / 2)


def test_equal_features_give_zero() -> None:
    f = unit(9, 16, 1).requires_grad_()
    value = FeatureDistil()(f, f.detach())
    value.backward()
    assert value.item() == 0
    assert not f.grad.any()


def test_gradient_draws_student_towards_teacher() -> None:
    f, t = unit(4, 8, 1).requires_grad_(), unit(4, 8, 2)
    FeatureDistil()(f, t).backward()
    assert torch.allclose(f.grad, 2 / 4 * (f.detach() - t))


def test_value_is_float32_in_mixed_precision() -> None:
    f, t = unit(4, 512, 1), unit(4, 512, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = FeatureDistil()(f.bfloat16(), t)
    assert low.dtype == torch.float32
    assert low.item() == pytest.approx(FeatureDistil()(f, t).item(), rel=1e-2)
