"""The losses of CAP and O2CAP: softmaxes over an image's positive proxies and some negative ones.

All have the same form. Let s_j be the cosine of an image with proxy j, divided by the temperature τ. With positives P and
negatives H, the loss of the image is

    l = −(1/|P|) · Σ_{j∈P} log( exp(s_j) / Σ_{k∈P∪H} exp(s_k) ),

and the loss of a batch is the sum, over the cameras in it, of the mean l of their images. The losses differ in P and H.

Source: CAP (Wang et al., "Camera-aware Proxies for Unsupervised Person Re-Identification", AAAI 2021), O2CAP (Wang et al.,
"Offline-Online Associated Camera-Aware Proxies for Unsupervised Person Re-identification", IEEE TIP 2022), and the released
code of both.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from reidx_o2cap.memory import own_proxies

_NEVER = torch.finfo(torch.float32).min
"""A score whose exponential is 0; finite, unlike −∞, so that the gradient of an image without a positive is not NaN."""


class IntraCamera(nn.Module):
    """Contrast of images with the proxies of the same camera.

    Returns the sum over cameras of the mean of −log(exp(s_y) / Σ_k exp(s_k)), over all proxies k of the image's camera.

    y is the proxy of the image's cluster and camera, and s are ``scores`` (B,M) divided by ``temperature``. ``proxy_labels``
    and ``proxy_cameras`` (M,) come from the memory. Source: CAP (Wang et al., AAAI 2021), intra-camera loss.

    Raises :class:`ValueError` for a temperature that is not positive.
    """

    column_meaning = "proxies"

    def __init__(self, temperature: float = 0.07) -> None:
        super().__init__()
        self.temperature = _positive(temperature)

    def forward(
        self, scores: Tensor, targets: Tensor, cameras: Tensor, proxy_labels: Tensor, proxy_cameras: Tensor
    ) -> Tensor:
        similar = scores.float() / self.temperature
        own = own_proxies(targets, cameras, proxy_labels, proxy_cameras)
        others = (cameras[:, None] == proxy_cameras) & ~own
        return sum_of_camera_means(contrast(similar, own, similar.masked_fill(~others, _NEVER)), cameras)


class OfflineAssociation(nn.Module):
    """Contrast of images with all proxies of their cluster.

    Returns the sum over cameras of the mean of −(1/|P|)·Σ_{j∈P} log(exp(s_j) / Σ_{k∈P∪H} exp(s_k)).

    P are the proxies of the image's cluster under all cameras, its own included; H the ``hard`` most similar proxies of other
    clusters (all, if there are fewer); s are ``scores`` (B,M) divided by ``temperature``. ``proxy_labels`` (M,) come from the
    memory. Source: O2CAP (Wang et al., IEEE TIP 2022), offline association; CAP (Wang et al., AAAI 2021), inter-camera loss.

    Raises :class:`ValueError` for a temperature that is not positive, or for fewer than one negative.
    """

    column_meaning = "proxies"

    def __init__(self, temperature: float = 0.07, hard: int = 50) -> None:
        super().__init__()
        self.temperature, self.hard = _positive(temperature), _at_least_one("hard", hard)

    def forward(self, scores: Tensor, targets: Tensor, cameras: Tensor, proxy_labels: Tensor) -> Tensor:
        similar = scores.float() / self.temperature
        positive = targets[:, None] == proxy_labels
        hardest = similar.masked_fill(positive, _NEVER).topk(min(self.hard, len(proxy_labels)), 1).values
        return sum_of_camera_means(contrast(similar, positive, hardest), cameras)


class OnlineAssociation(nn.Module):
    """Contrast of images with the most similar proxies of different cameras.

    Returns the sum over cameras of the mean of −(1/|P|)·Σ_{j∈P} log(exp(s_j) / Σ_{k∈P∪H} exp(s_k)).

    The similarity that selects proxies is w·f·c_j + (1−w)·c_y·c_j, with w = ``image_share``: f·c_j are the ``scores`` (B,M),
    and c_y is the proxy of the image's cluster and camera. The most similar proxy of each camera, the image's own included, is
    a candidate; P are the ``positives`` most similar candidates (all, if there are fewer cameras), H the ``hard`` most similar
    proxies outside P (all, if there are fewer). s are ``scores`` divided by ``temperature``. The selection uses the present
    features, so it can associate proxies that the last labelling has separated, and separate those that it has joined.
    ``proxies`` (M,D), ``proxy_labels`` and ``proxy_cameras`` (M,) come from the memory. Source: O2CAP (Wang et al., IEEE TIP
    2022), online association.

    Raises :class:`ValueError` for a temperature that is not positive, for fewer than one positive or negative, and for an
    ``image_share`` outside [0, 1].
    """

    column_meaning = "proxies"

    def __init__(
        self, temperature: float = 0.07, hard: int = 50, positives: int = 3, image_share: float = 0.15
    ) -> None:
        super().__init__()
        if not 0.0 <= image_share <= 1.0:
            raise ValueError(f"image_share is {image_share}; it must lie between 0 and 1.")
        self.temperature, self.image_share = _positive(temperature), image_share
        self.hard, self.positives = _at_least_one("hard", hard), _at_least_one("positives", positives)

    def forward(
        self, scores: Tensor, targets: Tensor, cameras: Tensor, proxies: Tensor, proxy_labels: Tensor, proxy_cameras: Tensor
    ) -> Tensor:
        scores = scores.float()
        own = own_proxies(targets, cameras, proxy_labels, proxy_cameras)
        with torch.no_grad(), torch.autocast(scores.device.type, enabled=False):
            by_proxy = proxies[own.int().argmax(1)] @ proxies.T
            mixed = self.image_share * scores + (1.0 - self.image_share) * by_proxy
            positive = best_of_cameras(mixed, proxy_cameras, self.positives)
            nearest = mixed.masked_fill(positive, _NEVER).topk(min(self.hard, len(proxies)), 1)
        similar = scores / self.temperature
        hardest = similar.gather(1, nearest.indices).masked_fill(nearest.values == _NEVER, _NEVER)
        return sum_of_camera_means(contrast(similar, positive, hardest), cameras)


def contrast(similar: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
    """Return the loss l (B,) of each image, 0 for one without positives.

    ``similar`` (B,M) are its scores, ``positive`` (B,M) marks its positives, and ``negatives`` (B,H) are scores.
    """
    compared = torch.cat([similar.masked_fill(~positive, _NEVER), negatives], 1)
    count = positive.sum(1)
    losses = compared.logsumexp(1) - (similar * positive).sum(1) / count.clamp(min=1)
    return losses * (count > 0)


def sum_of_camera_means(losses: Tensor, cameras: Tensor) -> Tensor:
    """Return the sum, over the cameras (B,) of the batch, of the mean of their images' losses (B,)."""
    return (losses / (cameras[:, None] == cameras).sum(1)).sum()


def best_of_cameras(similar: Tensor, proxy_cameras: Tensor, count: int) -> Tensor:
    """Mark the ``count`` most similar proxies of different cameras, booleans (B,M); as many as there are cameras, if fewer."""
    rows, left = torch.arange(len(similar), device=similar.device), similar.clone()
    best = torch.zeros_like(similar, dtype=torch.bool)
    for _ in range(count):  # the most similar proxy that is left is the best of its camera
        place = left.argmax(1)
        best[rows, place] |= left[rows, place] > _NEVER
        left.masked_fill_(proxy_cameras[place][:, None] == proxy_cameras, _NEVER)
    return best


def _positive(temperature: float) -> float:
    if temperature <= 0.0:
        raise ValueError(f"temperature is {temperature}; it must be positive.")
    return temperature


def _at_least_one(name: str, value: int) -> int:
    if value < 1:
        raise ValueError(f"{name} is {value}; it must be 1 or more.")
    return value
