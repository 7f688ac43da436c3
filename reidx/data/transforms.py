"""Transforms: from resized uint8 images to network input.

A transform works on a batch on any device; a single image is a batch of one, so both use the same code. Random numbers
are drawn image by image from torch's CPU generator on every device, so one seed gives the same augmentations for a batch
and for its images one by one, on a CPU or a GPU.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from reidx.errors import ConfigError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Transform(ABC):
    """Images to network input, normalised by the backbone's ``mean`` and ``std`` (per channel, for values in 0..1)."""

    def __init__(self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD) -> None:
        self.mean = torch.tensor(tuple(mean), dtype=torch.float32)
        self.std = torch.tensor(tuple(std), dtype=torch.float32)

        self._constants: dict[torch.device, tuple[Tensor, Tensor]] = {}

    @abstractmethod
    def batch(self, images: Tensor) -> Tensor:
        """Transform images uint8 (B,3,H,W) to float32 (B,3,H,W) on the same device."""

    def __call__(self, image: Tensor) -> Tensor:
        """Transform one image uint8 (3,H,W) to float32 (3,H,W)."""
        return self.batch(image[None])[0]

    def normalise(self, images: Tensor) -> Tensor:
        """(x / 255 - mean) / std of uint8 images (B,3,H,W), as a new float32 tensor."""
        if images.device not in self._constants:  # cached: copying them to a GPU every time would synchronise with it
            scale, shift = 1 / (255 * self.std), -self.mean / self.std
            self._constants[images.device] = tuple(v.to(images.device)[:, None, None] for v in (scale, shift))  # type: ignore[assignment]
        scale, shift = self._constants[images.device]
        # in place, because memory traffic is the main cost
        return images.to(torch.float32, copy=True).mul_(scale).add_(shift)


class ReidTest(Transform):
    """Normalisation only, for extraction and evaluation."""

    def batch(self, images: Tensor) -> Tensor:
        return self.normalise(images)


class ReidAugment(Transform):
    """The usual training transform: flip, shift, normalise, erase.

    The steps, in order: a colour change that imitates other cameras, which multiplies each channel by 1 ± ``cast`` and
    adds ± ``exposure`` (of a range of 1) to all of them, both uniform and 0 by default; a horizontal flip with
    probability ``flip``; padding by ``pad`` black pixels on every side and a random crop back to the original size;
    normalisation; random erasing (Zhong et al., AAAI 2020) with probability ``erase``, of a rectangle of 2 to 40 % of
    the area with an aspect (height / width) of 0.3 to 3.33, found in up to 100 tries. As in common re-ID code, the
    rectangle is filled with 0.485, 0.456, 0.406 *after* normalisation: a light grey, not the mean.

    Raises :class:`ConfigError` for a probability, ``cast`` or ``exposure`` outside 0..1 or a negative ``pad``.
    """

    area = (0.02, 0.4)
    aspect = (0.3, 1 / 0.3)
    tries = 100
    fill = IMAGENET_MEAN

    def __init__(
        self,
        flip: float = 0.5,
        pad: int = 10,
        erase: float = 0.5,
        cast: float = 0.0,
        exposure: float = 0.0,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(mean, std)
        self.rank, self.world_size = rank, world_size
        for name, share in (("flip", flip), ("erase", erase), ("cast", cast), ("exposure", exposure)):
            if not 0 <= share <= 1:
                raise ConfigError(f"ReidAugment: {name} is a share, from 0 to 1, not {share}.")
        if pad < 0:
            raise ConfigError(f"ReidAugment: pad is a number of pixels, 0 or more, not {pad}.")
        self.flip, self.pad, self.erase = flip, pad, erase
        self.cast, self.exposure = cast, exposure

    def batch(self, images: Tensor) -> Tensor:
        return self.augment(images, self.draw(len(images)))

    def draw(self, count: int, further: int = 0) -> Tensor:
        """Draw the uniform numbers of ``count`` images (B, 10 + 2 tries + F): those of :meth:`augment`, then F further ones.

        A batch has one row per image, so that it consumes the generator exactly as its images one by one would. Each process
        draws for the whole batch, since all generators are in the same state, and uses the rows for its images.
        """
        draws = torch.rand(self.world_size * count, 10 + 2 * self.tries + further)
        return draws[self.rank * count : (self.rank + 1) * count]

    def augment(self, images: Tensor, draws: Tensor) -> Tensor:
        """Transform images as :meth:`batch` does, with the numbers of :meth:`draw`, of which further ones are unused."""
        height, width = images.shape[2:]
        if self.cast or self.exposure:
            images = self._recoloured(images, draws[:, 6 + 2 * self.tries : 10 + 2 * self.tries])
        flipped = (draws[:, 0] < self.flip).long()
        shifts = ((2 * self.pad + 1) * draws[:, 1:3]).long().sub(self.pad)
        boxes = self._boxes(draws[:, 3 : 6 + 2 * self.tries], height, width)
        plan = torch.cat([flipped[:, None], shifts, boxes], 1)
        # A CPU copies contiguous rows fastest; an accelerator would launch a kernel for each of these copies.
        return self.by_slices(images, plan) if images.device.type == "cpu" else self.by_index(images, plan)

    def by_slices(self, images: Tensor, plan: Tensor) -> Tensor:
        """Apply ``plan`` (B,7) image by image: flip, shift down and right, then the box to erase.

        A box is (top, left, height, width), with height 0 if nothing is erased.
        """
        height, width = images.shape[2:]
        moved = torch.zeros_like(images, memory_format=torch.contiguous_format)
        rows = plan.tolist()
        for i, (flip, down, right, *_) in enumerate(rows):
            # the window of the padded image starts `down` rows below the image's own corner (or above, if negative)
            image = images[i].flip(-1) if flip else images[i]
            ys, xs = _overlap(down, height), _overlap(right, width)
            moved[i, :, ys[1], xs[1]] = image[:, ys[0], xs[0]]
        out = self.normalise(moved)
        fill = torch.tensor(self.fill)[:, None, None]
        for i, (*_, top, left, tall, wide) in enumerate(rows):
            if tall:
                out[i, :, top : top + tall, left : left + wide] = fill
        return out

    def by_index(self, images: Tensor, plan: Tensor) -> Tensor:
        """Apply ``plan`` as :meth:`by_slices` does, to all images at once, without synchronising with their device.

        The result is in channels-last format.
        """
        height, width = images.shape[2:]
        place = images.device
        plan = plan.pin_memory() if place.type == "cuda" else plan
        flip, down, right, top, left, tall, wide = plan.to(place, non_blocking=True)[:, :, None].unbind(1)
        y, x = torch.arange(height, device=place)[None], torch.arange(width, device=place)[None]
        erased = _both((y >= top) & (y < top + tall), (x >= left) & (x < left + wide))
        from_y, from_x = y + down, x + right
        inside = _both((from_y >= 0) & (from_y < height), (from_x >= 0) & (from_x < width))
        from_x = torch.where(flip > 0, width - 1 - from_x, from_x).clamp(0, width - 1)
        which = torch.arange(len(images), device=place)[:, None, None]
        moved = images.permute(0, 2, 3, 1)[which, from_y.clamp(0, height - 1)[:, :, None], from_x[:, None]]
        out = self.normalise((moved * inside[..., None]).permute(0, 3, 1, 2))
        for channel, value in enumerate(self.fill):
            out[:, channel].masked_fill_(erased, value)
        return out

    def _recoloured(self, images: Tensor, draws: Tensor) -> Tensor:
        """Recolour images to float32 in 0..255; ``draws`` (B,4) are uniform: three gains and a shift."""
        signs = (2 * draws - 1).to(images.device, non_blocking=True)
        gains = 1 + self.cast * signs[:, :3, None, None]
        shift = 255 * self.exposure * signs[:, 3, None, None, None]
        return (images * gains + shift).clamp_(0, 255)

    def _boxes(self, draws: Tensor, height: int, width: int) -> Tensor:
        """The rectangle (top, left, height, width) to erase for each row of uniform draws (B, 3 + 2 tries), or zeros."""
        chosen = draws[:, 0] < self.erase
        area = height * width * (self.area[0] + (self.area[1] - self.area[0]) * draws[:, 3 : 3 + self.tries])
        aspect = self.aspect[0] + (self.aspect[1] - self.aspect[0]) * draws[:, 3 + self.tries :]
        tall, wide = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
        fits = (tall < height) & (wide < width)
        first = fits.int().argmax(1, keepdim=True)  # the first try that fits
        tall, wide = tall.gather(1, first)[:, 0], wide.gather(1, first)[:, 0]
        top = (draws[:, 1] * (height - tall + 1)).floor()
        left = (draws[:, 2] * (width - wide + 1)).floor()
        boxes = torch.stack([top, left, tall, wide], 1).long()
        return boxes * (chosen & fits.any(1))[:, None]


def _both(rows: Tensor, columns: Tensor) -> Tensor:
    """Mask (B,H,W) of the pixels whose row (B,H) and column (B,W) are both marked."""
    return rows[:, :, None] & columns[:, None]


def _overlap(shift: int, size: int) -> tuple[slice, slice]:
    """The overlap of an image and a window shifted by ``shift`` pixels, as slices of the image and of the window."""
    shift = max(-size, min(shift, size))  # larger shifts leave no overlap, but a negative end would count from the back
    return slice(max(shift, 0), size + min(shift, 0)), slice(max(-shift, 0), size - max(shift, 0))
