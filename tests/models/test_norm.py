"""Ghost BatchNorm: each group is normalised separately; running statistics follow group after group."""

from __future__ import annotations

import copy

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from reidx.models.norm import group_batch_norm

EPS, MOMENTUM = 1e-5, 0.1


def one_by_one(x: Tensor, sizes: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Return normalised maps, running mean and running variance, computed in loops over groups and channels."""
    out = torch.empty_like(x)
    mean, variance = torch.zeros(x.shape[1]), torch.ones(x.shape[1])
    start = 0
    for size in sizes:
        for c in range(x.shape[1]):
            values = [v for image in x[start : start + size, c] for v in image.flatten().tolist()]
            m = sum(values) / len(values)
            biased = sum((v - m) ** 2 for v in values) / len(values)
            out[start : start + size, c] = (x[start : start + size, c] - m) / (biased + EPS) ** 0.5
            mean[c] = (1 - MOMENTUM) * mean[c] + MOMENTUM * m
            unbiased = biased * len(values) / (len(values) - 1)
            variance[c] = (1 - MOMENTUM) * variance[c] + MOMENTUM * unbiased
        start += size
    return out, mean, variance


def maps(images: int, channels: int = 3) -> Tensor:
    # each image is brighter than the one before, so groups differ
    x = torch.randn(images, channels, 2, 3, generator=torch.Generator().manual_seed(0))
    return x + torch.arange(images)[:, None, None, None]


@pytest.mark.parametrize(
    ("images", "sizes"),
    [(8, [4, 4]), (4, [4]), (3, [3]), (10, [4, 4, 2]), (9, [4, 5]), (5, [5])],
    ids=["groups", "one group", "smaller than a group", "smaller last group", "larger last group", "one larger group"],
)
def test_each_group_is_normalised_by_itself(images: int, sizes: list[int]) -> None:
    norm = group_batch_norm(nn.BatchNorm2d(3), 4)
    x = maps(images)
    expected, mean, variance = one_by_one(x, sizes)
    assert torch.allclose(norm(x), expected, atol=1e-5)
    assert torch.allclose(norm.running_mean, mean, atol=1e-5)
    assert torch.allclose(norm.running_var, variance, atol=1e-5)
    assert int(norm.num_batches_tracked) == len(sizes)


def test_groups_equal_separate_batch_norm_calls() -> None:
    plain = nn.BatchNorm1d(5)
    grouped = group_batch_norm(copy.deepcopy(plain), 4)
    x = torch.randn(10, 5)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    ours = grouped(a)
    theirs = torch.cat([plain(b[:4]), plain(b[4:8]), plain(b[8:])])
    assert torch.equal(ours, theirs)
    weights = torch.randn(10, 5)
    (ours * weights).sum().backward()
    (theirs * weights).sum().backward()
    assert torch.allclose(a.grad, b.grad, atol=1e-6)
    assert torch.equal(grouped.running_var, plain.running_var)
    assert not torch.allclose(ours, nn.BatchNorm1d(5)(x), atol=1e-2)  # the whole batch gives another result


def test_evaluation_uses_running_statistics_whatever_the_batch() -> None:
    norm = group_batch_norm(nn.BatchNorm2d(3), 4)
    norm(maps(8))
    norm.eval()
    before = copy.deepcopy(norm.state_dict())
    x = maps(9)
    expected = (x - before["running_mean"][:, None, None]) / (before["running_var"] + EPS).sqrt()[:, None, None]
    assert torch.allclose(norm(x), expected, atol=1e-5)
    assert all(torch.equal(v, norm.state_dict()[k]) for k, v in before.items())


def test_a_batch_norm_with_its_activation_built_in() -> None:
    plain = BatchNormAct2d(3)
    grouped = group_batch_norm(copy.deepcopy(plain), 4)
    x = maps(8)
    assert isinstance(grouped, BatchNormAct2d)
    assert torch.allclose(grouped(x), one_by_one(x, [4, 4])[0].relu(), atol=1e-5)


def test_grouping_keeps_names_and_weights() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Sequential(nn.BatchNorm2d(4), nn.InstanceNorm2d(4)))
    classes = [type(m) for m in model.modules()]
    state = copy.deepcopy(model.state_dict())
    plain, x = copy.deepcopy(model), maps(5)
    assert group_batch_norm(model, None) is model
    assert torch.equal(model(x), plain(x))
    assert group_batch_norm(model, 2) is model
    assert not torch.equal(model(x), plain(x))
    model.load_state_dict(state)
    assert [isinstance(m, of) for m, of in zip(model.modules(), classes, strict=True)] == [True] * len(classes)
    assert type(model[2][1]) is nn.InstanceNorm2d
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in state.items())


def test_a_second_call_changes_the_group() -> None:
    norm = group_batch_norm(group_batch_norm(nn.BatchNorm2d(3), 4), 2)
    x = maps(8)
    assert torch.allclose(norm(x), one_by_one(x, [2, 2, 2, 2])[0], atol=1e-5)


@pytest.mark.parametrize("group", [1, 0, -4])
def test_a_group_without_a_variance_is_refused(group: int) -> None:
    with pytest.raises(ValueError, match=f"bn_group is {group}; .*2 images"):
        group_batch_norm(nn.BatchNorm2d(3), group)
