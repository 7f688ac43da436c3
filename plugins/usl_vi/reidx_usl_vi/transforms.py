"""Channel augmentation: visible images that depend less on colour, closer to infrared ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from reidx.data.transforms import IMAGENET_MEAN, IMAGENET_STD, ReidAugment
from reidx.errors import ConfigError

GREY = (0.2989, 0.5870, 0.1140)
"""Weights of red, green and blue in a grey value."""


class ChannelAugment(ReidAugment):
    """The usual training transform, then one channel or grey in all three.

    With probability ``exchange`` a channel of the image, all equally likely, replaces the other two; with probability
    ``grey`` the grey value 0.2989 R + 0.5870 G + 0.1140 B replaces all; otherwise the image keeps its colours. This happens
    after the normalisation and the erasing of :class:`ReidAugment`, whose arguments are the other ones. Visible images have
    ``exchange`` 1 in PGM's released code, infrared ones 3/4, with ``grey`` 1/8. Source: Ye et al., "Channel Augmented Joint
    Learning for Visible-Infrared Recognition", ICCV 2021; ADCA (Yang et al., ACM MM 2022).

    Raises :class:`ConfigError` for probabilities outside 0..1, or with a sum above 1.
    """

    def __init__(
        self,
        exchange: float = 1.0,
        grey: float = 0.0,
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
        super().__init__(flip, pad, erase, cast, exposure, mean, std, rank, world_size)
        if min(exchange, grey) < 0 or exchange + grey > 1:
            raise ConfigError(
                f"ChannelAugment: exchange and grey are probabilities with a sum of at most 1, not {exchange} and {grey}."
            )
        self.exchange, self.grey = exchange, grey

    def batch(self, images: Tensor) -> Tensor:
        draws = self.draw(len(images), further=2)
        weights, changed = (chosen.to(images.device, non_blocking=True) for chosen in self.mixtures(draws[:, -2:]))
        colours = self.augment(images, draws)
        mixed = (colours * weights[:, :, None, None]).sum(1, keepdim=True)
        return torch.where(changed[:, None, None, None], mixed, colours)

    def mixtures(self, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Choose the replacement of the channels from uniform draws (B,2).

        Returns weights of the three channels (B,3), and booleans (B,), false for an image that keeps its colours.
        """
        one_channel = torch.eye(3)[(3 * draws[:, 1]).long()]
        weights = torch.where(draws[:, :1] < self.exchange, one_channel, torch.tensor(GREY))
        return weights, draws[:, 0] < self.exchange + self.grey
