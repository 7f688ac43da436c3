"""Channel augmentation: the outcomes, their frequencies, and the same images on any number of processes."""

from __future__ import annotations

import math

import pytest
import torch
from reidx_usl_vi.transforms import ChannelAugment
from torch import Tensor

from reidx.data.transforms import ReidAugment
from reidx.errors import ConfigError


def images(count: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, 12, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def outcomes(image: Tensor) -> dict[str, Tensor]:
    """The four images that one can become, and itself, all normalised."""
    plain = ReidAugment(flip=0, pad=0, erase=0)(image)
    made = {name: torch.stack([plain[channel]] * 3) for channel, name in enumerate(("red", "green", "blue"))}
    grey = torch.zeros(12, 6)
    for y in range(12):
        for x in range(6):
            grey[y, x] = 0.2989 * plain[0, y, x] + 0.5870 * plain[1, y, x] + 0.1140 * plain[2, y, x]
    return {**made, "grey": torch.stack([grey] * 3), "kept": plain}


@pytest.mark.parametrize(("exchange", "grey"), [(1.0, 0.0), (0.75, 0.125), (0.0, 1.0), (0.0, 0.0)])
def test_outcomes_have_their_probabilities(exchange: float, grey: float) -> None:
    image, draws = images(1)[0], 1200
    known = outcomes(image)
    torch.manual_seed(0)
    seen = dict.fromkeys(known, 0)
    for out in ChannelAugment(exchange, grey, flip=0, pad=0, erase=0).batch(image.expand(draws, -1, -1, -1)):
        (name,) = [name for name, outcome in known.items() if torch.allclose(out, outcome, atol=1e-6)]
        seen[name] += 1
    shares = {**dict.fromkeys(("red", "green", "blue"), exchange / 3), "grey": grey, "kept": 1 - exchange - grey}
    for name, share in shares.items():
        assert abs(seen[name] - draws * share) <= 6 * math.sqrt(draws * share * (1 - share)), name


def test_grey_value_by_hand() -> None:
    red = torch.zeros(3, 1, 1, dtype=torch.uint8)
    red[0] = 255
    augment = ChannelAugment(0.0, 1.0, flip=0, pad=0, erase=0, mean=(0, 0, 0), std=(1, 1, 1))
    assert augment(red).flatten().tolist() == pytest.approx([0.2989] * 3)


def test_exchange_follows_the_usual_transform() -> None:
    batch = images(16)
    torch.manual_seed(3)
    augmented = ChannelAugment(pad=2, cast=0.5).batch(batch)
    torch.manual_seed(3)
    usual = ReidAugment(pad=2, cast=0.5)
    expected = usual.augment(batch, usual.draw(16, further=2))
    for out, colours in zip(augmented, expected):
        assert any(torch.equal(out, colours[channel].expand(3, -1, -1)) for channel in range(3))


def test_batch_equals_its_images_and_shares() -> None:
    batch, augment = images(8), ChannelAugment(0.6, 0.2, pad=2)
    torch.manual_seed(5)
    together = augment.batch(batch)
    torch.manual_seed(5)
    assert torch.equal(together, torch.stack([augment(image) for image in batch]))
    shares = []
    for rank in range(2):
        torch.manual_seed(5)
        shares.append(ChannelAugment(0.6, 0.2, pad=2, rank=rank, world_size=2).batch(batch[4 * rank : 4 * rank + 4]))
    assert torch.equal(together, torch.cat(shares))


@pytest.mark.parametrize(("exchange", "grey"), [(0.8, 0.3), (-0.1, 0.5), (0.5, -0.1)])
def test_impossible_probabilities_are_refused(exchange: float, grey: float) -> None:
    with pytest.raises(ConfigError, match="probabilities with a sum of at most 1"):
        ChannelAugment(exchange, grey)
