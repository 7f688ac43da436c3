"""Patches as weighted means against sampled patches; stripes against their rows."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from reidx_global_patch.generators import SpatialTransformer, Stripes, patch_weights, pooled_patches, stripes
from torch import Tensor


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sampled(maps: Tensor, theta: Tensor, align_corners: bool, padding: str) -> Tensor:
    """The means of the patches by torch's sampler, then the mean."""
    made = []
    for patch in theta.expand(len(maps), -1, -1, -1).unbind(1):
        grid = F.affine_grid(patch, list(maps.shape), align_corners=align_corners)
        made.append(F.grid_sample(maps, grid, padding_mode=padding, align_corners=align_corners).mean((2, 3)))
    return torch.stack(made, 1)


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("padding", ["border", "zeros"])
@pytest.mark.parametrize("size", [(24, 8), (7, 5), (2, 3)])
def test_pooled_patches_equal_sampled_means(align_corners: bool, padding: str, size: tuple[int, int]) -> None:
    maps = torch.randn(3, 4, *size, generator=seeded(1), requires_grad=True)
    # rotated, stretched and partly outside
    theta = (stripes(5) + 0.4 * torch.randn(3, 5, 2, 3, generator=seeded(2))).requires_grad_()
    ours = pooled_patches(maps, theta, align_corners, padding)  # type: ignore[arg-type]
    theirs = sampled(maps, theta, align_corners, padding)
    assert torch.allclose(ours, theirs, atol=1e-5)
    look = torch.randn(ours.shape, generator=seeded(3))
    for mine, other in zip(
        torch.autograd.grad((ours * look).sum(), [maps, theta]),
        torch.autograd.grad((theirs * look).sum(), [maps, theta]),
    ):
        assert torch.allclose(mine, other, atol=1e-4)


def test_stripes_have_the_published_positions() -> None:
    theta = stripes(6)
    middles = [-5 / 6, -3 / 6, -1 / 6, 1 / 6, 3 / 6, 5 / 6]
    for patch, middle in zip(theta.tolist(), middles):
        assert patch[0] == [1.0, 0.0, 0.0]
        assert patch[1] == pytest.approx([0.0, 1 / 6, middle])


def test_stripe_averages_its_band_of_rows() -> None:
    rows = torch.arange(24.0)[:, None].expand(1, 1, 24, 8)
    aligned = pooled_patches(rows, stripes(6)[None], True, "border")[0, :, 0]
    # each row holds its number; with aligned corners stripe p covers the rows 23/6 p to 23/6 (p+1)
    assert aligned.tolist() == pytest.approx([23 / 6 * (p + 0.5) for p in range(6)], abs=1e-4)
    loose = pooled_patches(rows, stripes(6)[None], False, "border")[0, :, 0]
    assert loose.tolist() == pytest.approx([4 * p + 1.5 for p in range(6)], abs=0.1)


def test_weights_sum_to_one_inside_map() -> None:
    for align_corners in (True, False):
        whole = patch_weights(stripes(6)[None], 24, 8, align_corners, "border")
        assert torch.allclose(whole.sum((2, 3)), torch.ones(1, 6))
        assert bool((whole >= 0).all())
    # zero padding without aligned corners: the outermost stripes lose 3.1 %
    lost = 1 - patch_weights(stripes(6)[None], 24, 8, False, "zeros").sum((2, 3))[0]
    assert lost.tolist() == pytest.approx([0.031, 0, 0, 0, 0, 0.031], abs=5e-4)


def transformer(trainable: bool = False, bn_eval: bool = True) -> SpatialTransformer:
    torch.manual_seed(0)
    return SpatialTransformer(8, 6, hidden=16, fc=12, trainable=trainable, bn_eval=bn_eval)


def test_untrained_transformer_predicts_stripes() -> None:
    maps = torch.randn(4, 8, 12, 6, generator=seeded(1))
    fixed = Stripes(6)
    assert not list(fixed.parameters())
    assert not fixed.state_dict()
    for mode in (True, False):
        assert torch.equal(transformer().train(mode)(maps), fixed(maps).expand(4, -1, -1, -1))


def test_parameter_count_of_published_transformer() -> None:
    with torch.device("meta"):
        published = SpatialTransformer(2048, 6, hidden=4096, fc=512, trainable=True, bn_eval=True)
    assert round(sum(p.numel() for p in published.parameters()) / 1e6, 1) == 77.6


def test_trained_transformer_moves_its_patches() -> None:
    maps = torch.randn(16, 8, 12, 6, generator=seeded(1))
    mark = torch.arange(12.0)[:, None].expand(12, 6)
    generator = transformer(trainable=True)
    optimizer = torch.optim.SGD(generator.parameters(), lr=5e-4)

    def third() -> Tensor:
        weights = patch_weights(generator(maps), 12, 6, True, "border")
        return (weights[:, 2] * mark).sum((1, 2)).mean()

    before = third().item()
    for _ in range(40):
        optimizer.zero_grad()
        (third() - 6.5).square().backward()
        optimizer.step()
    assert before == pytest.approx(11 / 6 * 2.5, abs=1e-3)
    assert third().item() == pytest.approx(6.5, abs=0.1)


@pytest.mark.parametrize("bn_eval", [True, False])
def test_frozen_transformer_does_not_change(bn_eval: bool) -> None:
    generator = transformer(bn_eval=bn_eval).train()
    assert not any(p.requires_grad for p in generator.parameters())
    before = generator.norm.running_mean.clone()
    generator(torch.randn(4, 8, 12, 6, generator=seeded(1)))
    assert generator.norm.training is not bn_eval
    assert torch.equal(generator.norm.running_mean, before) is bn_eval
    assert transformer(trainable=True, bn_eval=bn_eval).train().norm.training


def test_positions_keep_precision_in_bf16() -> None:
    maps = torch.randn(4, 8, 12, 6, generator=seeded(1))
    generator = transformer().eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(generator(maps), generator(maps).float())
        assert torch.allclose(generator(maps), Stripes(6)(maps), atol=1e-6)
        weights = patch_weights(stripes(6)[None], 12, 6, True, "border")
    assert weights.dtype == torch.float32
