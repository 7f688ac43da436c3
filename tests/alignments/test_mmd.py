"""The maximum mean discrepancy against loops over pairs, on a line by hand, and in training."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from torch import Tensor, nn

from reidx.alignments.mmd import MMD, squared_distances
from reidx.contracts import Features
from reidx.errors import ConfigError


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def by_loop(
    source: list[list[float]],
    target: list[list[float]],
    kernels: int = 5,
    factor: float = 2.0,
    bandwidth: float | str = "mean",
    unbiased: bool = False,
) -> float:
    def squared(x: list[float], y: list[float]) -> float:
        return sum((a - b) ** 2 for a, b in zip(x, y))

    both = source + target
    pairs = [squared(both[i], both[j]) for i in range(len(both)) for j in range(len(both)) if i != j]
    # for an even number of values, torch's median is the lower of the two in the middle; each pair counts twice here
    unit = {"mean": statistics.fmean(pairs), "median": statistics.median_low(pairs)}.get(str(bandwidth), bandwidth)

    def kernel(x: list[float], y: list[float]) -> float:
        widths = [float(unit) * factor ** (u - kernels // 2) for u in range(kernels)]
        return sum(math.exp(-squared(x, y) / width) for width in widths) / kernels

    def within(rows: list[list[float]]) -> float:
        chosen = [
            kernel(rows[i], rows[j])
            for i in range(len(rows))
            for j in range(len(rows))
            if not (unbiased and i == j)
        ]
        return sum(chosen) / len(chosen)

    between = sum(kernel(x, y) for x in source for y in target) / (len(source) * len(target))
    return within(source) + within(target) - 2.0 * between


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("bandwidth", ["mean", "median", 3.0])
@pytest.mark.parametrize(("kernels", "factor"), [(5, 2.0), (1, 2.0), (4, 1.5)])
def test_against_a_loop(kernels: int, factor: float, bandwidth: float | str, unbiased: bool) -> None:
    source, target = torch.randn(7, 6, generator=seeded(1)), 0.5 + torch.randn(4, 6, generator=seeded(2))
    found = MMD("embed", kernels, factor, bandwidth, unbiased).gap(source, target)  # type: ignore[arg-type]
    wanted = by_loop(source.tolist(), target.tolist(), kernels, factor, bandwidth, unbiased)
    assert found.item() == pytest.approx(wanted, abs=1e-5)


def test_on_a_line() -> None:
    source, target = torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0]])
    # one kernel exp(−d²): within the source (2 + 2/e)/4, within the target 1, between them (1/e + 1)/2
    alone = MMD(kernels=1, bandwidth=1.0).gap(source, target)
    assert alone.item() == pytest.approx(0.5 + 0.5 / math.e + 1.0 - (1.0 / math.e + 1.0), abs=1e-6)
    # the squared distances of the pairs are 1, 1 and 0: their mean is 2/3, their median 1
    mean, median = (MMD(kernels=1, bandwidth=b).gap(source, target) for b in ("mean", "median"))  # type: ignore[arg-type]
    assert mean.item() == pytest.approx(0.5 - 0.5 * math.exp(-1.5), abs=1e-6)
    assert median.item() == pytest.approx(0.5 - 0.5 / math.e, abs=1e-6)


def test_the_unbiased_estimate_on_a_line() -> None:
    source, target = torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [2.0]])
    # one pair at distance 1 within each domain; distances 1, 2, 0, 1 between the domains
    found = MMD(kernels=1, bandwidth=1.0, unbiased=True).gap(source, target)
    wanted = 2.0 / math.e - 2.0 * (2.0 / math.e + math.exp(-4.0) + 1.0) / 4.0
    assert found.item() == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("bandwidth", ["mean", "median"])
def test_identical_batches_give_0_or_less(bandwidth: str) -> None:
    rows = torch.randn(9, 5, generator=seeded(3)) + 40.0  # far from 0, where a matrix product loses the most precision
    assert MMD(bandwidth=bandwidth).gap(rows, rows.clone()).abs().item() < 1e-5  # type: ignore[arg-type]
    assert MMD(bandwidth=bandwidth, unbiased=True).gap(rows, rows.clone()).item() < -0.05  # type: ignore[arg-type]


def test_bias_of_the_two_estimates() -> None:
    biased, unbiased = [], []
    for seed in range(300):
        both = torch.randn(16, 4, generator=seeded(seed))
        biased.append(MMD(bandwidth=8.0).gap(both[:8], both[8:]).item())
        unbiased.append(MMD(bandwidth=8.0, unbiased=True).gap(both[:8], both[8:]).item())
    assert min(biased) > 0.0 and statistics.fmean(biased) > 0.05
    spread = statistics.stdev(unbiased) / math.sqrt(300)
    assert abs(statistics.fmean(unbiased)) < 4.0 * spread and min(unbiased) < 0.0


def test_value_ignores_scale_and_shift() -> None:
    source, target = torch.randn(6, 3, generator=seeded(4)), 1.0 + torch.randn(8, 3, generator=seeded(5))
    value = MMD().gap(source, target)
    assert torch.allclose(MMD().gap(30.0 * source + 7.0, 30.0 * target + 7.0), value, atol=1e-5)
    assert not torch.allclose(MMD(bandwidth=1.0).gap(3.0 * source, 3.0 * target), MMD(bandwidth=1.0).gap(source, target))


def test_the_bandwidth_carries_no_gradient() -> None:
    source, target = torch.randn(5, 3, generator=seeded(6)).requires_grad_(), torch.randn(4, 3, generator=seeded(7))
    fixed = statistics.fmean(
        d for i, row in enumerate(squared_distances(torch.cat([source.detach(), target])).tolist()) for j, d in enumerate(row)
        if i != j
    )  # fmt: skip
    gradients = [
        torch.autograd.grad(MMD(bandwidth=b).gap(source, target), source)[0] for b in ("mean", fixed)  # type: ignore[arg-type]
    ]
    assert torch.allclose(*gradients, atol=1e-6) and bool(gradients[0].any())


def test_training_brings_two_clouds_together() -> None:
    """The distance of two clouds' means falls relative to their spread.

    For seeds 0 to 3, with all instructions and with AVX2 only, on one thread and on two, the value ends at no more than
    0.01 of its first one and the distance at no more than 0.12 (both exactly 1 at a rate of 0; the test requires less than
    0.1 and 0.2).
    """
    torch.manual_seed(0)
    encoder = nn.Linear(6, 4)
    source, target = torch.randn(64, 6), torch.randn(48, 6) + torch.tensor([3.0, 0, 0, 0, 0, 0])
    optimizer = torch.optim.Adam(encoder.parameters(), lr=0.02)
    mmd = MMD()

    def gap() -> Tensor:
        return mmd(*(Features({"embed": encoder(images)}) for images in (source, target)))

    before, apart = gap().item(), distance(encoder, source, target)
    for _ in range(150):
        optimizer.zero_grad()
        gap().backward()
        optimizer.step()
    assert gap().item() < 0.1 * before
    assert distance(encoder, source, target) < 0.2 * apart  # shrinking all features does not help: the spread is the unit


def distance(encoder: nn.Module, source: Tensor, target: Tensor) -> float:
    """Return the distance of the clouds' means, in standard deviations of the source."""
    with torch.no_grad():
        ours, theirs = encoder(source), encoder(target)
    return float((ours.mean(0) - theirs.mean(0)).norm() / ours.std(0).norm())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernels": 0}, "kernels is 0"),
        ({"factor": 1.0}, r"factor is 1\.0; it must be above 1"),
        ({"bandwidth": 0.0}, r"bandwidth is 0\.0; it must be a positive squared distance"),
    ],
)
def test_wrong_values_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MMD(**arguments)  # type: ignore[arg-type]


def test_batches_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(ConfigError, match="the batches hold 4 and 1"):
        MMD(unbiased=True).gap(torch.randn(4, 2), torch.randn(1, 2))
    parts = Features({"embed": torch.randn(4, 3, 2)})
    with pytest.raises(ConfigError, match=r"MMD aligns one vector per image; 'embed' is \(4, 3, 2\)"):
        MMD()(parts, parts)
