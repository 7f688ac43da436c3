"""Credible samples: each rule against a loop over all pairs, and the refiner in a labelling."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reidx_global_patch import rules
from reidx_global_patch.credible import CredibleSamples
from torch import Tensor

from reidx.contracts import LabelSet, RefinerContext, contract_of
from reidx.errors import ConfigError
from reidx.labels import Jaccard
from reidx.labels.clusterers.instances import Instances
from reidx.registry.build import build

N = 60


def groups(seed: int = 0, spread: float = 0.45, dim: int = 8) -> Tensor:
    """Unit features of 12 groups of 5, some of which overlap."""
    generator = torch.Generator().manual_seed(seed)
    middle = torch.randn(12, dim, generator=generator).repeat_interleave(5, 0)
    return F.normalize(middle + spread * torch.randn(N, dim, generator=generator))


def cosines(features: Tensor) -> np.ndarray:
    exact = features.double()
    return (exact @ exact.T).numpy()


def ranking(similar: np.ndarray, i: int) -> list[int]:
    """All images in order of similarity, the image itself first."""
    return [i, *sorted((j for j in range(len(similar)) if j != i), key=lambda j: (-similar[i, j], j))]


def as_sets(neighbours: np.ndarray) -> list[list[int]]:
    found = []
    for row in neighbours.tolist():
        listed = [j for j in row if j >= 0]
        assert row == listed + [-1] * (len(row) - len(listed)), "-1 before a neighbour"
        found.append(listed)
    return found


def refined(refiner: CredibleSamples, features: dict[str, Tensor], on: str = "global", cameras: Any = None) -> LabelSet:
    count = len(features[on])
    labels = LabelSet(np.arange(count), report={"clusters": float(count)})
    places = np.zeros(count, np.int64) if cameras is None else np.asarray(cameras)
    return refiner(labels, RefinerContext(features, on, None, Instances(), lambda **_: labels.labels, 0, None, places))


def found_by(features: Tensor, **keys: Any) -> list[list[int]]:
    return as_sets(refined(CredibleSamples(**keys), {"global": features}).extra["neighbours"])


# ---- the rules


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("t", [None, 0.5])
def test_knn_against_loop(seed: int, t: float | None) -> None:
    features = groups(seed)
    similar = cosines(features)
    ours = found_by(features, kind="knn", t=t)
    for i in range(N):
        near = ranking(similar, i)[1:7]
        assert ours[i] == [j for j in near if t is None or similar[i, j] >= t]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("k", "t"), [(10, None), (3, None), (10, 0.6)])
def test_mutual_knn_against_loop(seed: int, k: int, t: float | None) -> None:
    features = groups(seed)
    similar = cosines(features)
    near = [ranking(similar, i)[1 : k + 1] for i in range(N)]
    ours = found_by(features, kind="mutual_knn", k=k, t=t)
    for i in range(N):
        assert ours[i] == [j for j in near[i] if i in near[j] and (t is None or similar[i, j] >= t)]
        assert all(i in ours[j] for j in ours[i])
    assert any(len(own) < k for own in ours)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("max_size", [20, 3])
def test_threshold_against_loop(seed: int, max_size: int) -> None:
    features = groups(seed)
    similar = cosines(features)
    ours = found_by(features, kind="threshold", t=0.55, max_size=max_size)
    for i in range(N):
        assert ours[i] == [j for j in ranking(similar, i)[1:] if similar[i, j] > 0.55][:max_size]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("t", "min_k", "max_size"), [(0.6, 10, 20), (0.3, 2, 20), (0.3, 2, 4), (0.9, 10, 20)])
def test_cycle_prefix_against_loop(seed: int, t: float, min_k: int, max_size: int) -> None:
    features = groups(seed, spread=0.7)
    similar = cosines(features)
    orders = [ranking(similar, i) for i in range(N)]
    ours = found_by(features, kind="cycle_prefix", t=t, min_k=min_k, max_size=max_size)
    stopped = 0
    for i in range(N):
        count = sum(similar[i, j] > t for j in range(N))
        bound = max(count, min_k)
        accepted = []
        for j in orders[i][1:bound]:
            if i not in orders[j][:bound]:
                stopped += 1
                break
            accepted.append(j)
        assert ours[i] == accepted[: max(count - 1, 0)][:max_size]
    if min_k == 2:
        assert stopped > 5  # the rule stopped some lists


def test_cycle_prefix_is_equal_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    features = groups(1, spread=0.7)
    whole = rules.cycle_prefix(features, 0.3, 2, 20)
    monkeypatch.setattr(rules, "_BLOCK", 7 * N)
    assert np.array_equal(rules.cycle_prefix(features, 0.3, 2, 20), whole)


@pytest.mark.parametrize("t", [0.3, 0.5])
def test_k_reciprocal_against_loop(t: float) -> None:
    features = groups(2)
    distances, graph = np.ones((N, N), np.float32), Jaccard(12, 4)(features).tocoo()
    distances[graph.row, graph.col] = graph.data  # pairs that are not stored have a distance of 1
    ours = found_by(features, kind="k_reciprocal", k=12, k2=4, t=t)
    for i in range(N):
        near = [j for j in range(N) if j != i and 1 - distances[i, j] >= t - 1e-7]
        assert ours[i] == sorted(near, key=lambda j: (distances[i, j], j))[:20]
    assert any(ours)


KINDS: list[dict[str, Any]] = [
    {"kind": "mutual_knn"},
    {"kind": "knn"},
    {"kind": "cycle_prefix", "t": 0.3},
    {"kind": "threshold", "t": 0.0},
    {"kind": "k_reciprocal", "t": 0.2},
]


@pytest.mark.parametrize("keys", KINDS, ids=lambda keys: keys["kind"])
def test_image_is_never_its_own_sample(keys: dict[str, Any]) -> None:
    features = groups()
    features[3] = features[4] = features[5]
    ours = found_by(features, **keys)
    assert not any(i in own for i, own in enumerate(ours))
    assert all(len(own) == len(set(own)) <= 20 for own in ours)
    assert 4 in ours[3] or 5 in ours[3]


@pytest.mark.parametrize("keys", KINDS, ids=lambda keys: keys["kind"])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_few_images_have_few_neighbours(keys: dict[str, Any], count: int) -> None:
    ours = found_by(groups()[:count], **keys)
    assert len(ours) == count
    assert all(len(own) < count for own in ours)


@pytest.mark.parametrize("keys", KINDS, ids=lambda keys: keys["kind"])
def test_groups_far_apart_are_found(keys: dict[str, Any]) -> None:
    features = groups(spread=0.05, dim=16)
    wanted = {**keys, "t": 0.6, **({"k": 4} if keys["kind"] in ("knn", "mutual_knn") else {})}
    for i, own in enumerate(found_by(features, **wanted)):
        assert set(own) <= {5 * (i // 5) + j for j in range(5)}
        assert len(own) == 4 or keys["kind"] == "k_reciprocal"


# ---- in a labelling


def test_refiner_keeps_labels_and_adds_neighbours() -> None:
    labels = refined(CredibleSamples(), {"global": groups()})
    assert labels.labels.tolist() == list(range(N))
    assert labels.report["clusters"] == N
    neighbours = labels.extra["neighbours"]
    assert neighbours.shape == (N, 20)
    assert neighbours.dtype == np.int64
    sizes = (neighbours >= 0).sum(1)
    assert labels.report["credible"] == pytest.approx(sizes.mean())
    assert labels.report["without_credible"] == pytest.approx((sizes == 0).mean())


def test_length_of_features_does_not_matter() -> None:
    lengths = torch.linspace(0.1, 10, N)[:, None]
    assert found_by(groups() * lengths) == found_by(groups())


def test_empty_slots_are_no_neighbours() -> None:
    features = groups()
    empty = [0, 7, 31]
    rest = [i for i in range(N) if i not in empty]
    expected = found_by(features[rest])
    features[empty] = 0.0
    ours = found_by(features)
    assert [ours[i] for i in empty] == [[], [], []]
    assert [ours[i] for i in rest] == [[rest[j] for j in own] for own in expected]
    assert found_by(torch.zeros(4, 8)) == [[], [], [], []]


def test_same_camera_can_be_excluded() -> None:
    cameras = np.arange(N) % 3
    plain = found_by(groups())
    neighbours = refined(CredibleSamples(exclude_same_camera=True), {"global": groups()}, cameras=cameras).extra["neighbours"]
    ours = as_sets(neighbours)
    assert ours == [[j for j in own if cameras[j] != cameras[i]] for i, own in enumerate(plain)]
    assert ours != plain
    assert contract_of(CredibleSamples, {"exclude_same_camera": True}).cameras == "required"


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_fused_similarity_combines_both_levels(share: float) -> None:
    whole = groups(1)
    patch = torch.stack([groups(seed) for seed in (2, 3, 4)], 1)
    local = np.mean([cosines(patch[:, p]) for p in range(3)], axis=0)
    similar = share * cosines(whole) + (1 - share) * local
    refiner = CredibleSamples("knn", similarity="fused", fusion_lambda=share)
    ours = as_sets(refined(refiner, {"global": whole, "patch": patch}).extra["neighbours"])
    assert ours == [ranking(similar, i)[1:7] for i in range(N)]
    alone = CredibleSamples("knn", similarity="patch")
    ours = as_sets(refined(alone, {"global": whole, "patch": patch}).extra["neighbours"])
    assert ours == [ranking(local, i)[1:7] for i in range(N)]


def test_required_features_follow_similarity() -> None:
    assert contract_of(CredibleSamples, {}).requires == frozenset()
    for similarity in ("patch", "fused"):
        assert contract_of(CredibleSamples, {"similarity": similarity}).requires == {"patch"}


@pytest.mark.parametrize(
    "keys",
    [{"k": 0}, {"max_size": 0}, {"min_k": 0}, {"k2": 0}, {"fusion_lambda": 1.5}, {"kind": "nearest"},
     {"kind": "threshold", "k": 3}],
)  # fmt: skip
def test_invalid_value_is_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(reversed(keys))):
        build("refiner", {"type": "global_patch.CredibleSamples", **keys})
