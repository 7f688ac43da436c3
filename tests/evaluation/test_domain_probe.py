"""Domain probe on features whose domains differ by construction, not at all, or only by their people."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from reidx.errors import DataError
from reidx.evaluation import domain_probe as module
from reidx.evaluation.domain_probe import domain_probe


def cloud(images: int, width: int = 16, shift: float = 0.0, seed: int = 0) -> Tensor:
    """Draw normal features, moved by ``shift`` in the first column."""
    features = torch.randn(images, width, generator=torch.Generator().manual_seed(seed))
    features[:, 0] += shift
    return features


def crowd(people: int, width: int, seed: int, images: int = 8) -> tuple[Tensor, np.ndarray]:
    """Draw features of people whose images are close together; return them with the person of each."""
    generator = torch.Generator().manual_seed(seed)
    who = torch.arange(people).repeat_interleave(images)
    noise = 0.3 * torch.randn(len(who), width, generator=generator)
    return torch.randn(people, width, generator=generator)[who] + noise, who.numpy()


def test_equal_domains_are_at_chance_level() -> None:
    found = [domain_probe(cloud(600, seed=1), cloud(800, seed=2), seed=seed) for seed in range(5)]
    assert all(abs(value - 0.5) < 4 * 0.5 / math.sqrt(600) for value in found) and len(set(found)) > 1


def test_distant_domains_reach_the_best_accuracy() -> None:
    values = [domain_probe(cloud(1000, seed=1), cloud(1000, shift=shift, seed=2), seed=0) for shift in (0.5, 1, 2, 8)]
    # Φ(shift / 2) is the best accuracy of any classifier for two normals at that distance
    best = [0.5 * (1.0 + math.erf(shift / 2.0 / math.sqrt(2.0))) for shift in (0.5, 1, 2, 8)]
    assert values == pytest.approx(best, abs=0.04) and values[3] == 1.0


def test_domains_that_no_plane_separates_look_alike() -> None:
    near, far = cloud(600, width=2, seed=1), cloud(600, width=2, seed=2)
    ring = 8.0 * far / far.norm(dim=1, keepdim=True)
    assert domain_probe(near, ring, seed=0) < 0.6


def test_scale_and_offset_do_not_matter() -> None:
    source, target = cloud(400, shift=0.0, seed=1), cloud(400, shift=1.5, seed=2)
    scale, offset = torch.logspace(-4, 4, 16), torch.linspace(-50, 50, 16)
    # without scaling, the first column, in which the domains differ, would not count
    assert domain_probe(source * scale + offset, target * scale + offset, seed=3) == pytest.approx(
        domain_probe(source, target, seed=3), abs=0.02
    )
    constant = torch.cat([source, torch.ones(400, 1)], 1), torch.cat([target, torch.ones(400, 1)], 1)
    assert domain_probe(*constant, seed=3) == pytest.approx(domain_probe(source, target, seed=3), abs=0.01)


def test_sides_of_different_sizes_count_alike() -> None:
    value = domain_probe(cloud(2000, seed=1), cloud(40, seed=2), seed=0)
    assert 0.2 < value < 0.8  # always choosing the larger domain would be right for 0.98 of the images
    assert domain_probe(cloud(2000, seed=1), cloud(40, shift=9.0, seed=2), seed=0) == 1.0


def test_probe_is_tested_on_held_out_images() -> None:
    """With more columns than images, a probe can memorise all of them, but not held-out noise."""
    assert abs(domain_probe(cloud(60, 400, seed=1), cloud(60, 400, seed=2), seed=0) - 0.5) < 0.2


def test_people_are_not_mistaken_for_domains() -> None:
    (source, ours), (target, theirs) = crowd(60, 128, 1), crowd(60, 128, 2)
    assert domain_probe(source, target, seed=0) > 0.9  # memorised: the domain of each person
    fair = np.mean([domain_probe(source, target, seed=seed, source_people=ours, target_people=theirs) for seed in range(5)])
    assert abs(fair - 0.5) < 0.15
    assert domain_probe(source, target + 1.0, seed=0, source_people=ours, target_people=theirs) > 0.95
    # labels that have collapsed to one person are like none
    one = np.zeros(len(ours), np.int64)
    assert domain_probe(source, target, seed=0, source_people=one, target_people=one) > 0.9
    # images of nobody (-1) are not one person: each may be in the training or the test part
    nobody = np.full(len(ours), -1)
    assert domain_probe(source, target, seed=0, source_people=nobody, target_people=nobody) > 0.9


def test_probe_is_reproducible_and_limits_images(monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = cloud(500, shift=0.0, seed=1), cloud(300, shift=0.7, seed=2)
    assert domain_probe(source, target, seed=5) == domain_probe(source.clone(), target.clone(), seed=5)
    rounded = domain_probe(source.bfloat16(), target.bfloat16(), seed=5)
    assert rounded == pytest.approx(domain_probe(source, target, seed=5), abs=0.02)
    monkeypatch.setattr(module, "LIMIT", 50)
    assert (domain_probe(source, target, seed=5) * 50) % 1 == 0.0  # 25 of each side are tested


def test_bad_probe_input_is_refused() -> None:
    with pytest.raises(DataError, match="3 target images; give 4 of each"):
        domain_probe(cloud(10), cloud(3), seed=0)
    with pytest.raises(DataError, match="source features have 16 columns, target 8"):
        domain_probe(cloud(10), cloud(10, 8), seed=0)
    with pytest.raises(DataError, match="target features are not all finite"):
        domain_probe(cloud(10), cloud(10) * float("inf"), seed=0)
    with pytest.raises(DataError, match="9 people are given for 10 images"):
        domain_probe(cloud(10), cloud(10), seed=0, source_people=np.arange(9))
