"""Colour jitter of a whole batch, with separate factors and a separate order for each image."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

GREY = (0.2989, 0.587, 0.114)


def jitter(images: Tensor, factors: Tensor, order: Tensor) -> Tensor:
    """Return a copy of images (B,3,H,W) in 0..1 with changed brightness, contrast, saturation and hue.

    ``factors`` (B,4) has the amounts of the four changes, in that order: three gains around 1, and the shift of the hue
    around 0 as a share of the circle. ``order`` (B,4) lists the changes of each image in their order. The changes are those of
    torchvision's ColorJitter. ``factors`` and ``order`` are on the CPU.
    """
    out, device = images.clone(), images.device
    for change, place in ((change, place) for place in range(4) for change in range(4)):
        which = (order[:, place] == change).nonzero()[:, 0]
        if len(which):
            rows = which.to(device, non_blocking=True)
            amount = factors[which, change].to(device, non_blocking=True)[:, None, None, None]
            out[rows] = CHANGES[change](out[rows], amount)
    return out


def brighten(images: Tensor, gain: Tensor) -> Tensor:
    """Multiply every value by the gain."""
    return (images * gain).clamp(0.0, 1.0)


def contrast(images: Tensor, gain: Tensor) -> Tensor:
    """Multiply the difference between every value and the image's mean grey by the gain."""
    return torch.lerp(grey(images).mean((2, 3), keepdim=True), images, gain).clamp(0.0, 1.0)


def saturate(images: Tensor, gain: Tensor) -> Tensor:
    """Multiply the difference between every value and its pixel's grey by the gain."""
    return torch.lerp(grey(images).expand_as(images), images, gain).clamp(0.0, 1.0)


def turn_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Shift every pixel's hue by a share of the circle; keep value and saturation (HSV)."""
    red, green, blue = images.split(1, dim=1)
    value, least = images.amax(1, keepdim=True), images.amin(1, keepdim=True)
    chroma = value - least
    span = torch.where(chroma > 0, chroma, 1.0)
    sixth = torch.where(
        value == red,
        (green - blue) / span,
        torch.where(value == green, 2.0 + (blue - red) / span, 4.0 + (red - green) / span),
    )
    # a channel has its full value up to a sixth of the circle from its hue, and its lowest value from a third on
    where = (sixth + 6.0 * shift + _channels(images, (5.0, 3.0, 1.0))) % 6.0
    return value - chroma * torch.minimum(where, 4.0 - where).clamp(0.0, 1.0)


def grey(images: Tensor) -> Tensor:
    """The luminance (B,1,H,W)."""
    return (images * _channels(images, GREY)).sum(1, keepdim=True)


def _channels(images: Tensor, values: tuple[float, float, float]) -> Tensor:
    # filled on the device: a copy would wait for the device
    return torch.cat([images.new_full((1, 1, 1), value) for value in values])


CHANGES: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (brighten, contrast, saturate, turn_hue)
