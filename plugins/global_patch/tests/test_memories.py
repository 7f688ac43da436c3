"""The three memories against loops over images, with resets, checkpoints and mixed precision."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from reidx_global_patch.centres import ImageCentres
from reidx_global_patch.exemplars import ExemplarMemory
from reidx_global_patch.patches import PatchMemory
from torch import Tensor

from reidx.errors import ConfigError
from reidx.memories import Memory
from reidx.registry.build import build

N, D, P = 12, 5, 3


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def normal(values: list[float]) -> list[float]:
    return [v / math.hypot(*values) for v in values]


def exemplars(epochs: int = 1, **keys: Any) -> ExemplarMemory:
    memory = ExemplarMemory(D, **keys)
    for _ in range(epochs):
        memory.reset(random(N, D, seed=1) * 3 if memory.needs_features else None, torch.arange(N))
    return memory


def patches(**keys: Any) -> PatchMemory:
    memory = PatchMemory(D, **keys)
    memory.reset(random(N, P, D, seed=1), torch.arange(N))
    return memory


def centres(**keys: Any) -> ImageCentres:
    memory = ImageCentres(D, **keys)
    memory.reset(None, torch.arange(N))
    return memory


INDEX = torch.tensor([7, 2, 11, 2, 0, 7])
"""A batch that contains two images twice, as with two views."""


# ---- exemplars


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, [0.0, 0.01, 0.02, 0.03]),
        ({"alpha_schedule": "mmcl"}, [0.0, 0.5 / 60, 1 / 60, 1.5 / 60]),
        ({"alpha_schedule": "const", "alpha": 0.2}, [0.2] * 4),
        ({"alpha": 0.4}, [0.0, 0.4, 0.8, 1.0]),
    ],
)
def test_alpha_follows_its_schedule(keys: dict[str, Any], expected: list[float]) -> None:
    for epoch, alpha in enumerate(expected):
        assert exemplars(epoch + 1, **keys).alpha().item() == pytest.approx(alpha)


@pytest.mark.parametrize("write", ["mean", "first"])
@pytest.mark.parametrize("epochs", [1, 40])
def test_step_writes_only_slots_of_its_images(write: str, epochs: int) -> None:
    memory = exemplars(epochs, write=write)
    before, features = memory.rows.clone(), random(6, D, seed=2) * 4
    memory.update(features, INDEX, INDEX)
    alpha = 0.01 * (epochs - 1)
    for i in range(N):
        views = [normal(features[b].tolist()) for b in range(6) if INDEX[b] == i]
        if not views:
            assert torch.equal(memory.rows[i], before[i])
            continue
        new = [sum(column) / len(views) for column in zip(*views)] if write == "mean" else views[0]
        mixed = normal([alpha * old + (1 - alpha) * value for old, value in zip(before[i].tolist(), new)])
        assert memory.rows[i].tolist() == pytest.approx(mixed, abs=1e-6)
    assert torch.allclose(memory.rows.norm(dim=1), torch.ones(N), atol=1e-6)


def test_slots_start_as_features_and_survive_relabelling() -> None:
    memory = ExemplarMemory(D)
    assert memory.needs_features
    assert len(memory.images) == 0
    features = random(N, D, seed=1) * 3
    memory.reset(features, torch.arange(N))
    assert torch.allclose(memory.images, F.normalize(features))
    assert not memory.needs_features
    memory.update(random(6, D, seed=2), INDEX, INDEX)
    kept = memory.images.clone()
    memory.reset(None, torch.arange(N))
    assert torch.equal(memory.images, kept)


def test_zero_slots_fill_with_their_images() -> None:
    memory = ExemplarMemory(D, init="zeros")
    assert not memory.needs_features
    memory.reset(None, torch.arange(N))
    assert torch.equal(memory.images, torch.zeros(N, D))
    memory.update(random(6, D, seed=2), INDEX, INDEX)
    assert sorted(memory.images.abs().sum(1).nonzero()[:, 0].tolist()) == [0, 2, 7, 11]


def test_scores_are_cosines_with_old_slots() -> None:
    memory, features = exemplars(), F.normalize(random(4, D, seed=3)).requires_grad_()
    before = memory.rows.clone()
    scores = memory(features)
    assert torch.allclose(scores, features @ before.T, atol=1e-6)
    scores.sum().backward()
    along = before.sum(0).expand(4, D)
    across = along - (along * features.detach()).sum(1, keepdim=True) * features.detach()
    assert torch.allclose(features.grad, across, atol=1e-5)
    assert torch.allclose(memory(7.0 * features), scores, atol=1e-6)


@pytest.mark.parametrize(
    "keys", [{"alpha_schedule": "const"}, {"alpha": -0.1}, {"alpha_schedule": "const", "alpha": 1.2}, {"write": "last"}]
)
def test_invalid_exemplar_memory_is_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(reversed(keys)).partition("_")[0]):
        build("memory", {"type": "global_patch.ExemplarMemory", **keys}, dim=D)


# ---- patches


def test_patch_scores_are_negative_squared_distances() -> None:
    memory, features = patches(), random(4, P, D, seed=2).requires_grad_()
    scores = memory(features)
    assert scores.shape == (4, N, P)
    for b in range(4):
        for j in range(N):
            for p in range(P):
                squared = sum((x - y) ** 2 for x, y in zip(features[b, p].tolist(), memory.rows[j, p].tolist()))
                assert scores[b, j, p].item() == pytest.approx(-squared, abs=1e-4)
    gradient = torch.autograd.grad(scores[1, 2, 0], features)[0]
    assert torch.allclose(gradient[1, 0], 2 * (memory.rows[2, 0] - features[1, 0].detach()), atol=1e-5)


@pytest.mark.parametrize("momentum", [0.0, 0.1, 1.0])
def test_patches_move_towards_mean_of_views(momentum: float) -> None:
    memory = patches(momentum=momentum)
    before, features = memory.rows.clone(), random(6, P, D, seed=2)
    memory.update(features, INDEX, INDEX)
    for i in range(N):
        views = [features[b] for b in range(6) if INDEX[b] == i]
        if not views:
            assert torch.equal(memory.rows[i], before[i])
            continue
        for p in range(P):
            for d in range(D):
                new = sum(float(view[p, d]) for view in views) / len(views)
                expected = (1 - momentum) * float(before[i, p, d]) + momentum * new
                assert float(memory.rows[i, p, d]) == pytest.approx(expected, abs=1e-6)


def test_patches_are_copied_once() -> None:
    memory, features = PatchMemory(D), random(N, P, D, seed=1)
    assert memory.needs_features
    memory.reset(features, torch.arange(N))
    memory.update(random(6, P, D, seed=2), INDEX, INDEX)
    assert torch.equal(features, random(N, P, D, seed=1))
    assert not torch.equal(memory.rows, features)
    kept = memory.rows.clone()
    assert not memory.needs_features
    memory.reset(None, torch.arange(N))
    assert torch.equal(memory.rows, kept)


# ---- image centres


def test_centre_starts_as_mean_then_averages() -> None:
    memory = centres(momentum=0.25)
    first, second = random(6, D, seed=2), random(6, D, seed=3)
    memory.update(first, INDEX, INDEX)
    memory.update(second, INDEX.flip(0), INDEX.flip(0))
    for i in range(N):
        now = [first[b].tolist() for b in range(6) if INDEX[b] == i]
        then = [second[b].tolist() for b in range(6) if INDEX.flip(0)[b] == i]
        if not now:
            assert not memory.centres[i].any()
            assert not memory.seen[i]
            continue
        means = [[sum(column) / len(views) for column in zip(*views)] for views in (now, then)]
        expected = [0.75 * a + 0.25 * b for a, b in zip(*means)]
        assert memory.centres[i].tolist() == pytest.approx(expected, abs=1e-6)


def test_centre_scores_are_negative_squared_distances() -> None:
    memory = centres()
    memory.update(random(6, D, seed=2), INDEX, INDEX)
    features = random(4, D, seed=3)
    assert torch.allclose(memory(features), -torch.cdist(features, memory.centres).square(), atol=1e-4)


def test_centres_survive_relabelling() -> None:
    memory = centres()
    memory.update(random(6, D, seed=2), INDEX, INDEX)
    kept = memory.centres.clone()
    memory.reset(None, torch.arange(N))
    assert torch.equal(memory.centres, kept)
    assert memory.seen.sum() == 4
    assert not memory.needs_features


# ---- all three


def filled(kind: str) -> tuple[Memory, Tensor]:
    """A memory and a batch of features for it."""
    if kind == "patches":
        return patches(), random(6, P, D, seed=2)
    return (exemplars() if kind == "exemplars" else centres()), random(6, D, seed=2)


KINDS = ["exemplars", "patches", "centres"]


@pytest.mark.parametrize("kind", KINDS)
def test_restored_memory_continues_identically(kind: str) -> None:
    going, features = filled(kind)
    going.reset(None, torch.arange(N))
    going.update(features, INDEX, INDEX)
    fresh = type(going)(D)  # as in a process that resumes
    fresh.restore(going.state_dict())
    for memory in (going, fresh):
        memory.reset(None, torch.arange(N))
        memory.update(features.flip(0), INDEX, INDEX)
    assert all(torch.equal(a, b) for a, b in zip(going.state_dict().values(), fresh.state_dict().values(), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_memory_has_no_trained_parameters(kind: str) -> None:
    memory, features = filled(kind)
    features.requires_grad_()
    memory.update(features, INDEX, INDEX)
    memory(features).sum().backward()
    assert features.grad is not None
    assert not list(memory.parameters())
    assert not any(buffer.requires_grad for buffer in memory.buffers())


@pytest.mark.parametrize("kind", KINDS)
def test_memory_keeps_precision_in_bf16(kind: str) -> None:
    ours, features = filled(kind)
    theirs, _ = filled(kind)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours.update(features, INDEX, INDEX)
        scores = ours(features)
    theirs.update(features, INDEX, INDEX)
    assert scores.dtype == torch.float32
    assert torch.equal(scores, theirs(features))


@pytest.mark.parametrize("kind", KINDS)
def test_empty_batch_changes_nothing(kind: str) -> None:
    memory, features = filled(kind)
    before = [buffer.clone() for buffer in memory.buffers()]
    memory.update(features[:0], INDEX[:0], INDEX[:0])
    assert all(torch.equal(a, b) for a, b in zip(before, memory.buffers()))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("kind", KINDS)
def test_update_never_waits_for_gpu(kind: str) -> None:
    memory, features = filled(kind)
    here, index = type(memory)(D), INDEX.cuda()
    here.restore(memory.state_dict())
    memory, on_gpu = memory.cuda(), features.cuda()
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        memory.update(on_gpu, index, index)
    finally:
        torch.cuda.set_sync_debug_mode(before)
    here.update(features, INDEX, INDEX)
    assert torch.allclose(memory(on_gpu).cpu(), here(features), atol=1e-5)


@pytest.mark.parametrize("name", ["PatchMemory", "ImageCentres"])
def test_momentum_out_of_range_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"momentum is 1.1"):
        build("memory", {"type": f"global_patch.{name}", "momentum": 1.1}, dim=D)
