"""The three losses against loops over images, cameras and proxies, and by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from reidx_o2cap.losses import IntraCamera, OfflineAssociation, OnlineAssociation
from torch import Tensor, nn

from reidx.contracts import inputs_of

PROXY_LABELS = torch.tensor([0, 0, 1, 2, 2, 2, 3, 3, 4])
PROXY_CAMERAS = torch.tensor([1, 5, 3, 1, 3, 5, 1, 3, 5])
TARGETS = torch.tensor([0, 0, 1, 2, 3, 4, 2])
CAMERAS = torch.tensor([1, 5, 3, 3, 1, 5, 3])
NAMES = list(zip(PROXY_LABELS.tolist(), PROXY_CAMERAS.tolist()))


def unit(rows: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(rows, 6, generator=torch.Generator().manual_seed(seed)))


PROXIES, FEATURES = unit(9, 0), unit(7, 1)
SCORES = FEATURES @ PROXIES.T


BATCH = {"targets": TARGETS, "cameras": CAMERAS}
HELD = {"proxies": PROXIES, "proxy_labels": PROXY_LABELS, "proxy_cameras": PROXY_CAMERAS}


def loss_of(loss: nn.Module, scores: Tensor = SCORES, **changed: Tensor) -> Tensor:
    """Compute a loss of the images above, with those inputs that it names."""
    given = {"scores": scores, **BATCH, **HELD, **changed}
    return loss(**{name: given[name] for name in inputs_of(type(loss))[0]})


# ---- derivation by loops: the positives and negatives of each image, then one softmax


def intra(i: int) -> tuple[list[int], list[int]]:
    camera = CAMERAS[i].item()
    own = NAMES.index((TARGETS[i].item(), camera))
    return [own], [j for j, (_, c) in enumerate(NAMES) if c == camera and j != own]


def offline(i: int, hard: int) -> tuple[list[int], list[int]]:
    positives = [j for j, (y, _) in enumerate(NAMES) if y == TARGETS[i].item()]
    others = sorted((j for j in range(9) if j not in positives), key=lambda j: -SCORES[i, j].item())
    return positives, others[:hard]


def online(i: int, hard: int, positives: int, share: float) -> tuple[list[int], list[int]]:
    own = NAMES.index((TARGETS[i].item(), CAMERAS[i].item()))
    mixed = [
        share * sum((FEATURES[i] * PROXIES[j]).tolist()) + (1 - share) * sum((PROXIES[own] * PROXIES[j]).tolist())
        for j in range(9)
    ]
    best = [max((j for j in range(9) if NAMES[j][1] == c), key=lambda j: mixed[j]) for c in (1, 3, 5)]
    chosen = sorted(best, key=lambda j: -mixed[j])[:positives]
    others = sorted((j for j in range(9) if j not in chosen), key=lambda j: -mixed[j])
    return chosen, others[:hard]


def by_loops(sets: list[tuple[list[int], list[int]]], temperature: float) -> float:
    """Sum over cameras of the mean over their images of the mean −log share of the positives."""
    total = 0.0
    for camera in set(CAMERAS.tolist()):
        images = [i for i in range(7) if CAMERAS[i].item() == camera]
        for i in images:
            positives, negatives = sets[i]
            similar = {j: SCORES[i, j].item() / temperature for j in positives + negatives}
            everyone = math.log(sum(math.exp(s) for s in similar.values()))
            total += sum(everyone - similar[j] for j in positives) / len(positives) / len(images)
    return total


@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_intra_camera_matches_loops(temperature: float) -> None:
    expected = by_loops([intra(i) for i in range(7)], temperature)
    assert loss_of(IntraCamera(temperature)).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("hard", [1, 3, 50])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_offline_association_matches_loops(temperature: float, hard: int) -> None:
    expected = by_loops([offline(i, hard) for i in range(7)], temperature)
    assert loss_of(OfflineAssociation(temperature, hard)).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("hard", "positives"), [(1, 1), (2, 2), (3, 3), (50, 3), (50, 7)])
@pytest.mark.parametrize("share", [0.0, 0.15, 0.6, 1.0])
def test_online_association_matches_loops(share: float, hard: int, positives: int) -> None:
    expected = by_loops([online(i, hard, positives, share) for i in range(7)], 0.07)
    value = loss_of(OnlineAssociation(0.07, hard, positives, share))
    assert value.item() == pytest.approx(expected, rel=1e-5)


def test_online_positives_cross_cluster_borders() -> None:
    """The test above would not tell the losses apart if the nearest proxies were those of the cluster."""
    sets = [(offline(i, 50)[0], online(i, 50, 3, 0.15)[0]) for i in range(7)]
    assert any(set(near) - set(cluster) for cluster, near in sets) and any(set(cluster) - set(near) for cluster, near in sets)
    assert any(online(i, 50, 2, 0.15)[0] != online(i, 50, 2, 0.6)[0] for i in range(7))


# ---- by hand: one image at temperature 1

LOGS = torch.tensor([[math.log(2.0), math.log(3.0), math.log(6.0), math.log(5.0)]])


def one_image(loss: nn.Module, labels: list[int], cameras: list[int], proxies: Tensor = PROXIES) -> float:
    """Return the loss of an image of cluster 0 in camera 1 with four proxies of these clusters and cameras."""
    held = {"proxies": proxies, "proxy_labels": torch.tensor(labels), "proxy_cameras": torch.tensor(cameras)}
    return loss_of(loss, LOGS, targets=torch.tensor([0]), cameras=torch.tensor([1]), **held).item()


def test_intra_and_offline_by_hand() -> None:
    labels, cameras = [0, 0, 1, 2], [1, 2, 1, 1]
    assert one_image(IntraCamera(1.0), labels, cameras) == pytest.approx(math.log((2 + 6 + 5) / 2))
    one, two = (one_image(OfflineAssociation(1.0, hard), labels, cameras) for hard in (1, 2))
    assert one == pytest.approx((math.log((2 + 3 + 6) / 2) + math.log((2 + 3 + 6) / 3)) / 2)
    assert two == pytest.approx((math.log((2 + 3 + 6 + 5) / 2) + math.log((2 + 3 + 6 + 5) / 3)) / 2)


def test_online_by_hand() -> None:
    # cosines with the own proxy, the first one: 1, 0, 0.8, -1. Each of the two cameras has two proxies
    proxies = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6], [-1.0, 0.0]])
    labels, cameras = [0, 0, 1, 2], [1, 2, 2, 1]
    by_proxy = OnlineAssociation(1.0, hard=1, positives=2, image_share=0.0)
    # positives: the own proxy and, in camera 2, the third, although the second is of the cluster; negative: the second
    expected = (math.log((2 + 6 + 3) / 2) + math.log((2 + 6 + 3) / 6)) / 2
    assert one_image(by_proxy, labels, cameras, proxies) == pytest.approx(expected)
    by_image = OnlineAssociation(1.0, hard=1, positives=2, image_share=1.0)
    # by the image's scores, the fourth is the best of camera 1; negative: the second
    expected = (math.log((5 + 6 + 3) / 5) + math.log((5 + 6 + 3) / 6)) / 2
    assert one_image(by_image, labels, cameras, proxies) == pytest.approx(expected)


# ---- the batch, and gradients

LOSSES = [IntraCamera(), OfflineAssociation(hard=2), OnlineAssociation(hard=2, positives=2)]
SETS = [[intra(i) for i in range(7)], [offline(i, 2) for i in range(7)], [online(i, 2, 2, 0.15) for i in range(7)]]
NAMED = [type(loss).__name__ for loss in LOSSES]


@pytest.mark.parametrize(("loss", "sets"), list(zip(LOSSES, SETS)), ids=NAMED)
def test_only_positives_and_negatives_get_gradients(loss: nn.Module, sets: list[tuple[list[int], list[int]]]) -> None:
    scores = SCORES.clone().requires_grad_()
    loss_of(loss, scores).backward()
    assert scores.grad is not None
    for i, (positives, negatives) in enumerate(sets):
        assert set(scores.grad[i].nonzero()[:, 0].tolist()) == {*positives, *negatives}
        assert all(scores.grad[i, j] > 0 for j in negatives)
        assert scores.grad[i, positives].sum() < 0


@pytest.mark.parametrize("loss", LOSSES, ids=NAMED)
def test_loss_stays_in_float32_in_mixed_precision(loss: nn.Module) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss_of(loss)
    assert value.item() == loss_of(loss).item()


@pytest.mark.parametrize("loss", LOSSES, ids=NAMED)
def test_more_images_of_a_camera_weigh_no_more(loss: nn.Module) -> None:
    rows = torch.cat([torch.arange(7), (CAMERAS == 3).nonzero()[:, 0]])
    value = loss_of(loss, SCORES[rows], targets=TARGETS[rows], cameras=CAMERAS[rows])
    assert value.item() == pytest.approx(loss_of(loss).item(), rel=1e-5)


@pytest.mark.parametrize("loss", LOSSES, ids=NAMED)
def test_images_with_one_proxy_add_zero(loss: nn.Module) -> None:
    scores, ones = torch.tensor([[0.3], [0.9]], requires_grad=True), torch.ones(2, dtype=torch.int64)
    held = {"proxies": torch.tensor([[1.0, 0.0]]), "proxy_labels": ones[:1], "proxy_cameras": ones[:1]}
    value = loss_of(loss, scores, targets=ones, cameras=ones, **held)
    value.backward()
    assert value.item() == 0
    assert scores.grad is not None and (scores.grad == 0).all()


@pytest.mark.parametrize("loss", LOSSES, ids=NAMED)
def test_image_without_a_positive_changes_nothing(loss: nn.Module) -> None:
    """A cluster without proxies: no NaN, and the other image of its camera counts half."""
    scores, both = SCORES[:2].clone().requires_grad_(), torch.tensor([1, 1])
    value = loss_of(loss, scores, targets=torch.tensor([0, 9]), cameras=both)
    value.backward()
    assert scores.grad is not None and torch.isfinite(scores.grad).all()
    if not isinstance(loss, OnlineAssociation):  # its positives do not depend on the cluster
        assert (scores.grad[1] == 0).all()
        alone = loss_of(loss, SCORES[:1], targets=torch.tensor([0]), cameras=both[:1])
        assert value.item() == pytest.approx(alone.item() / 2)


@pytest.mark.parametrize(
    ("loss", "values", "message"),
    [
        (IntraCamera, {"temperature": 0.0}, "temperature is 0"),
        (OfflineAssociation, {"hard": 0}, "hard is 0"),
        (OnlineAssociation, {"positives": 0}, "positives is 0"),
        (OnlineAssociation, {"image_share": 1.5}, r"image_share is 1\.5"),
    ],
)
def test_wrong_values_are_refused(loss: type[nn.Module], values: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        loss(**values)
