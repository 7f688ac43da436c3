"""The proxy memory against loops over images, and its cycle of reset, update and restore."""

from __future__ import annotations

import math

import pytest
import torch
from reidx_o2cap.memory import ProxyMemory
from torch import Tensor

LABELS = torch.tensor([0, 2, 0, -1, 1, 2, 0, 2, 1, -1, 0, 2])
CAMERAS = torch.tensor([5, 1, 1, 1, 3, 1, 5, 3, 3, 5, 1, 5])
PAIRS = [(0, 1), (0, 5), (1, 3), (2, 1), (2, 3), (2, 5)]


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def memory_of(features: Tensor, momentum: float = 0.2) -> ProxyMemory:
    memory = ProxyMemory(features.shape[-1], momentum)
    memory.reset(features, LABELS, CAMERAS)
    return memory


def scaled(row: list[float]) -> list[float]:
    length = math.hypot(*row)
    return [x / length for x in row]


def test_proxy_is_mean_of_cluster_and_camera() -> None:
    features = 4 * randn(12, 6)
    memory = memory_of(features)
    assert list(zip(memory.proxy_labels.tolist(), memory.proxy_cameras.tolist())) == PAIRS
    for number, pair in enumerate(PAIRS):
        seen = zip(features.double().tolist(), LABELS.tolist(), CAMERAS.tolist())
        members = [scaled(row) for row, y, c in seen if (y, c) == pair]
        expected = scaled([sum(column) for column in zip(*members)])
        assert memory.proxies[number].tolist() == pytest.approx(expected, abs=1e-6)


def test_scores_are_cosines() -> None:
    memory, features = memory_of(randn(12, 6)), 3 * randn(4, 6, seed=1)
    for i, feature in enumerate(features.tolist()):
        for j, proxy in enumerate(memory.proxies.tolist()):
            cosine = sum(a * b for a, b in zip(scaled(feature), proxy))
            assert memory(features)[i, j].item() == pytest.approx(cosine, abs=1e-6)


@pytest.mark.parametrize("momentum", [0.0, 0.2, 0.9])
def test_update_moves_proxies_image_by_image(momentum: float) -> None:
    memory = memory_of(randn(12, 6), momentum)
    batch, targets = 2 * randn(7, 6, seed=1), torch.tensor([0, 2, 0, 0, -1, 1, 0])
    cameras = torch.tensor([5, 3, 1, 5, 1, 5, 5])  # the sixth image is of a cluster without this camera
    expected = dict(zip(PAIRS, memory.proxies.double().tolist()))
    for row, y, c in zip(batch.double().tolist(), targets.tolist(), cameras.tolist()):
        if (y, c) in expected:
            moved = [momentum * old + (1 - momentum) * new for old, new in zip(expected[y, c], scaled(row))]
            expected[y, c] = scaled(moved)
    memory.update(batch, targets, torch.arange(7), cameras)
    for number, pair in enumerate(PAIRS):
        assert memory.proxies[number].tolist() == pytest.approx(expected[pair], abs=1e-6)


def test_update_by_hand() -> None:
    memory = ProxyMemory(2, momentum=0.25)
    memory.reset(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0]), torch.tensor([0, 1]))
    memory.update(torch.tensor([[0.0, 5.0]]), torch.tensor([0]), torch.tensor([0]), torch.tensor([0]))
    # (0.25, 0.75) has the length sqrt(0.625); the proxy of the other camera stays
    assert memory.proxies.tolist() == [pytest.approx([0.25 / math.sqrt(0.625), 0.75 / math.sqrt(0.625)]), [0.0, 1.0]]


def test_features_get_gradients_and_proxies_none() -> None:
    memory, features = memory_of(randn(12, 6)), randn(4, 6, seed=1).requires_grad_()
    memory(features).square().sum().backward()
    assert features.grad is not None and features.grad.abs().sum() > 0
    assert not list(memory.parameters()) and not memory.proxies.requires_grad


def test_restored_memory_continues_alike() -> None:
    saved, fresh = memory_of(randn(12, 6)), ProxyMemory(6)
    fresh.restore(saved.state_dict())
    for memory in (saved, fresh):
        memory.update(randn(12, 6, seed=2), LABELS, torch.arange(12), CAMERAS)
    assert torch.equal(fresh.proxies, saved.proxies)
    fresh.reset(randn(12, 6), torch.zeros(12, dtype=torch.int64), CAMERAS)
    assert fresh.proxy_labels.tolist() == [0, 0, 0] and fresh.proxy_cameras.tolist() == [1, 3, 5]


def test_cosines_stay_in_float32_in_mixed_precision() -> None:
    memory, features = memory_of(randn(12, 64)), randn(4, 64, seed=6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = memory(features)
    assert scores.dtype == torch.float32
    assert torch.equal(scores, memory(features))


def test_impossible_momentum_is_refused() -> None:
    with pytest.raises(ValueError, match=r"momentum is 1\.1"):
        ProxyMemory(4, momentum=1.1)
