"""The head against plain averages of rows, its separate BatchNorms, and a network with it that is folded for extraction."""

from __future__ import annotations

import math

import pytest
import torch
from reidx_pplr.stripes import Stripes
from torch import Tensor, nn

from reidx.errors import ConfigError
from reidx.models.backbones import Timm
from reidx.models.inference import fast_inference
from reidx.models.network import Network
from reidx.models.norm import group_batch_norm


def maps_of(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def lived_in(head: Stripes) -> Stripes:
    """Return ``head`` with statistics and weights that differ between channels."""
    generator = torch.Generator().manual_seed(0)
    for neck in (head.neck, head.stripe_neck):
        for tensor, low, high in ((neck.weight, 0.5, 2.0), (neck.running_mean, -1, 1), (neck.running_var, 0.5, 2)):
            nn.init.uniform_(tensor, low, high, generator=generator)
    return head


def mean_of_rows(maps: Tensor, image: int, channel: int, rows: range) -> float:
    numbers = [x for row in rows for x in maps[image, channel, row].tolist()]
    return sum(numbers) / len(numbers)


@pytest.mark.parametrize(
    ("height", "parts", "rows"),
    [
        (24, 3, [range(8), range(8, 16), range(16, 24)]),
        (8, 2, [range(4), range(4, 8)]),
        (8, 4, [range(2), range(2, 4), range(4, 6), range(6, 8)]),
        (8, 3, [range(3), range(2, 6), range(5, 8)]),  # 8/3 = 2.67: rows 2 and 5 belong to two stripes
        (6, 6, [range(i, i + 1) for i in range(6)]),
        (5, 1, [range(5)]),
    ],
)
def test_stripe_is_the_mean_of_its_rows(height: int, parts: int, rows: list[range]) -> None:
    maps = maps_of(2, 5, height, 3)
    head = lived_in(Stripes(5, parts)).eval()
    found = head(maps)
    assert found["parts"].shape == (2, parts, 5)

    def normalised(neck: nn.BatchNorm1d, at: int, value: float) -> float:
        mean, variance, weight = (t[at].item() for t in (neck.running_mean, neck.running_var, neck.weight))
        return weight * (value - mean) / math.sqrt(variance + neck.eps)

    for image in range(2):
        for channel in range(5):
            whole = normalised(head.neck, channel, mean_of_rows(maps, image, channel, range(height)))
            assert found["global"][image, channel].item() == pytest.approx(whole, abs=1e-5)
            for part, own in enumerate(rows):
                value = mean_of_rows(maps, image, channel, own)
                expected = normalised(head.stripe_neck, part * 5 + channel, value)
                assert found["parts"][image, part, channel].item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("height", "parts"), [(24, 3), (8, 3), (7, 4), (16, 6)])
def test_stripes_are_those_of_adaptive_pooling(height: int, parts: int) -> None:
    maps = maps_of(2, 4, height, 5)
    head = Stripes(4, parts).eval()
    pooled = nn.functional.adaptive_avg_pool2d(maps, (parts, 1))[..., 0].transpose(1, 2)
    assert torch.allclose(head(maps)["parts"], pooled / math.sqrt(1 + head.neck.eps), atol=1e-6)


def test_only_embed_is_of_unit_length() -> None:
    found = Stripes(8)(maps_of(6, 8, 6, 2))
    assert torch.allclose(found["embed"].norm(dim=1), torch.ones(6))
    assert torch.allclose(found["embed"] * found["global"].norm(dim=1, keepdim=True), found["global"], atol=1e-6)
    assert not torch.allclose(found["global"].norm(dim=1), torch.ones(6), atol=0.1)


@pytest.mark.parametrize("group", [None, 4])
def test_each_stripe_has_its_own_batchnorm(group: int | None) -> None:
    maps = maps_of(8, 4, 6, 2) * torch.tensor([1.0, 10.0, 100.0]).repeat_interleave(2)[:, None]
    head = group_batch_norm(Stripes(4), group).train()
    parts = head(maps)["parts"]
    sizes = [8] if group is None else [4, 4]
    for p in range(3):
        alone = torch.cat([nn.BatchNorm1d(4)(x[:, :, 2 * p : 2 * p + 2].mean((2, 3))) for x in maps.split(sizes)])
        assert torch.allclose(parts[:, p], alone, atol=1e-4)


def test_biases_are_not_trained_and_weights_are() -> None:
    head = Stripes(4)
    assert {name for name, p in head.named_parameters() if not p.requires_grad} == {"neck.bias", "stripe_neck.bias"}
    found = head(maps_of(5, 4, 6, 2))
    (found["parts"] * torch.randn(5, 3, 4)).sum().backward()
    assert head.stripe_neck.weight.grad.abs().sum() > 0
    assert head.neck.weight.grad is None


def test_other_poolings() -> None:
    maps = maps_of(2, 4, 6, 3)
    head = Stripes(4, 2, "max").eval()
    highest = torch.stack([maps[:, :, :3].amax((2, 3)), maps[:, :, 3:].amax((2, 3))], 1)
    assert torch.allclose(head(maps)["parts"], highest / math.sqrt(1 + head.neck.eps), atol=1e-6)
    exponents = [name for name, _ in Stripes(4, 2, "gem").named_parameters() if name.endswith(".p")]
    assert exponents == ["pool.p", "stripe_pools.0.p", "stripe_pools.1.p"]


def test_map_with_too_few_rows_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"a map of 2 rows cannot be cut into 3 stripes\. Raise data\.image_size"):
        Stripes(4)(maps_of(2, 4, 2, 2))
    assert Stripes(4)(maps_of(2, 4, 3, 2))["parts"].shape == (2, 3, 4)
    with pytest.raises(ValueError, match="parts is 0"):
        Stripes(4, 0)


@pytest.mark.parametrize("parts", [2, 3, 4])
def test_network_with_stripes_folds_for_extraction(parts: int) -> None:
    torch.manual_seed(0)
    backbone = Timm("resnet10t", image_size=(128, 64), last_stride=1)
    network = Network(backbone, lived_in(Stripes(backbone.out_channels, parts)), bn_group=4)
    images = torch.randn(4, 3, 128, 64)
    network.train()(images)  # move the BatchNorm statistics from their initial values
    fast = fast_inference(network)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fast.modules())
    with torch.no_grad():
        expected, given = network.eval()(images), fast(images.contiguous(memory_format=torch.channels_last))
    for name, tensor in expected.items():
        torch.testing.assert_close(given[name], tensor, rtol=1e-3, atol=1e-3 * tensor.abs().max().item())
