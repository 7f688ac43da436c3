"""The second view of an image: changed colours, a small rotation and a crop."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from reidx.data.transforms import IMAGENET_MEAN, IMAGENET_STD, ReidAugment
from reidx.errors import ConfigError
from reidx_global_patch.colours import jitter


class Surrogate(ReidAugment):
    """Strongly altered copies of an image, as PAUL's second view.

    PAUL's surrogate positives (CVPR 2019): colour jitter, rotation, crop, flip and normalisation.

    Brightness, contrast and saturation are multiplied by 1 ± their key, the hue is shifted by ± ``hue`` of the circle; all
    amounts are uniform, in random order. Then the image is rotated by up to ``rotate`` degrees either way (with black corners),
    and a box with a share of its area within ``area`` is resized to the full size. The width of the box is uniform between
    that share and the whole width, its position is uniform. Rotation and crop are one bilinear sampling. Flip, normalisation
    and random erasing (``erase``, off by default) are those of :class:`ReidAugment`.

    Raises :class:`ConfigError` for an invalid range.
    """

    def __init__(
        self,
        brightness: float = 0.2,
        contrast: float = 0.2,
        saturation: float = 0.2,
        hue: float = 0.1,
        rotate: float = 10.0,
        area: tuple[float, float] = (0.7, 0.95),
        flip: float = 0.5,
        erase: float = 0.0,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(flip=flip, pad=0, erase=erase, mean=mean, std=std, rank=rank, world_size=world_size)
        gains = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
        for name, share in gains.items():
            if not 0 <= share <= 1:
                raise ConfigError(f"Surrogate: {name} is a share, from 0 to 1, not {share}.")
        if not 0 <= hue <= 0.5:
            raise ConfigError(f"Surrogate: hue is a share of the circle, from 0 to 0.5, not {hue}.")
        if not 0 <= rotate <= 180:
            raise ConfigError(f"Surrogate: rotate is in degrees, from 0 to 180, not {rotate}.")
        if not 0 < area[0] <= area[1] <= 1:
            raise ConfigError(f"Surrogate: area is a range of shares, more than 0 and at most 1, not {area}.")
        self.spread = torch.tensor([*gains.values(), hue])
        self.turn, self.cut = math.radians(rotate), tuple(area)

    def batch(self, images: Tensor) -> Tensor:
        count, _, height, width = images.shape
        # as in ReidAugment: one row per image, drawn for the images of all processes
        draws = torch.rand(self.world_size * count, 13 + 4 + 2 * self.tries)
        draws = draws[self.rank * count : (self.rank + 1) * count]
        factors = self.spread * (2 * draws[:, :4] - 1) + torch.tensor([1.0, 1.0, 1.0, 0.0])
        coloured = jitter(images.float() / 255, factors, draws[:, 4:8].argsort(1))
        theta = self.placing(draws[:, 8:13], height, width).to(images.device, non_blocking=True)
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        views = 255 * F.grid_sample(coloured, grid, align_corners=False)
        flipped, shifts = (draws[:, 13:14] < self.flip).long(), torch.zeros(count, 2).long()
        plan = torch.cat([flipped, shifts, self._boxes(draws[:, 14:], height, width)], 1)
        return self.by_slices(views, plan) if views.device.type == "cpu" else self.by_index(views, plan)

    def placing(self, draws: Tensor, height: int, width: int) -> Tensor:
        """Return the affine maps (B,2,3) from a view to its image, for uniform draws (B,5): angle, area, width, x, y.

        Coordinates go from -1 to 1 on both axes, but angles are in pixels, so the rotation is stretched by the image's
        aspect ratio.
        """
        angle = self.turn * (2 * draws[:, 0] - 1)
        area = self.cut[0] + (self.cut[1] - self.cut[0]) * draws[:, 1]
        wide = area + (1 - area) * draws[:, 2]
        tall = area / wide
        x, y = (1 - wide) * (2 * draws[:, 3] - 1), (1 - tall) * (2 * draws[:, 4] - 1)
        cosine, sine = angle.cos(), angle.sin()
        slant = height / width
        rows = [
            [cosine * wide, -slant * sine * tall, cosine * x - slant * sine * y],
            [sine / slant * wide, cosine * tall, sine / slant * x + cosine * y],
        ]
        return torch.stack([torch.stack(row, 1) for row in rows], 1)
