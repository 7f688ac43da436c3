"""The second view: colours against torchvision, geometry against a loop over pixels, draws against their ranges."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from reidx_global_patch.colours import CHANGES, jitter
from reidx_global_patch.surrogate import Surrogate
from torch import Tensor
from torchvision.transforms import functional as TF

from reidx.data.transforms import ReidAugment, ReidTest
from reidx.errors import ConfigError

H, W = 24, 12
PLAIN = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
STILL: dict[str, Any] = {"rotate": 0.0, "area": (1.0, 1.0), "flip": 0.0}
RAW: dict[str, Any] = {"mean": (0.0,) * 3, "std": (1.0,) * 3}


def images(count: int, seed: int = 1) -> Tensor:
    return torch.randint(0, 256, (count, 3, H, W), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


# ---- colours


ONE_BY_ONE = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue)


@pytest.mark.parametrize("change", range(4))
def test_each_change_equals_torchvision(change: int) -> None:
    given = images(12).float() / 255
    given[0, :, :4] = 0.5  # grey, which has no hue
    given[0, :, 4:8] = 0.0
    given[0, :, 8:9] = 1.0
    amounts = torch.linspace(-0.5, 0.5, 12) if change == 3 else torch.linspace(0.0, 2.0, 12)
    ours = CHANGES[change](given, amounts[:, None, None, None])
    for i in range(12):
        assert torch.allclose(ours[i], ONE_BY_ONE[change](given[i], amounts[i].item()), atol=1e-5)


def test_third_of_hue_circle_turns_red_green() -> None:
    red = torch.tensor([1.0, 0.2, 0.2])[None, :, None, None].expand(1, 3, 2, 2)
    turned = CHANGES[3](red, torch.full((1, 1, 1, 1), 1 / 3))
    assert torch.allclose(turned[0, :, 0, 0], torch.tensor([0.2, 1.0, 0.2]), atol=1e-6)


def test_each_image_has_its_own_order() -> None:
    given = images(30).float() / 255
    generator = torch.Generator().manual_seed(0)
    factors = torch.rand(30, 4, generator=generator) * torch.tensor([1.0, 1.0, 1.0, 0.4]) + torch.tensor([0.5, 0.5, 0.5, -0.2])
    order = torch.rand(30, 4, generator=generator).argsort(1)
    ours = jitter(given, factors, order)
    for i in range(30):
        expected = given[i]
        for change in order[i].tolist():
            expected = ONE_BY_ONE[change](expected, factors[i, change].item())
        assert torch.allclose(ours[i], expected, atol=1e-4)
    assert torch.equal(given, images(30).float() / 255)


# ---- geometry


def by_hand(image: Tensor, angle: float, area: float, wide: float, across: float, down: float) -> Tensor:
    """The view (3,H,W) of an image in 0..1, pixel by pixel: the box of the rotated image, resized to the full size.

    The box has a share ``area`` of the image's area and ``wide`` of its width; ``across`` and ``down`` are the shares of the
    remaining space on its left and above it.
    """
    tall = area / wide
    out = torch.zeros_like(image)
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    for y in range(H):
        for x in range(W):
            # the centre of the pixel, relative to the centre of the rotated image, in its pixels
            turned_x = (across * (1 - wide) + (x + 0.5) / W * wide) * W - W / 2
            turned_y = (down * (1 - tall) + (y + 0.5) / H * tall) * H - H / 2
            source_x = cosine * turned_x - sine * turned_y + W / 2 - 0.5
            source_y = sine * turned_x + cosine * turned_y + H / 2 - 0.5
            for from_y in (math.floor(source_y), math.floor(source_y) + 1):
                for from_x in (math.floor(source_x), math.floor(source_x) + 1):
                    if 0 <= from_y < H and 0 <= from_x < W:
                        share = (1 - abs(source_y - from_y)) * (1 - abs(source_x - from_x))
                        out[:, y, x] += share * image[:, from_y, from_x]
    return out


def test_rotation_and_crop_against_pixel_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = torch.tensor([[0.5, 0.0, 0.0, 0.0, 0.0], [0.0, 0.3, 0.4, 0.2, 0.9], [1.0, 1.0, 0.5, 0.7, 0.1]])
    view = Surrogate(**PLAIN, rotate=10.0, area=(0.7, 0.95), flip=0.0, **RAW)
    fixed = torch.zeros(3, 17 + 2 * view.tries)
    fixed[:, 8:13] = draws
    fixed[:, 14] = 1.0  # nothing is erased
    monkeypatch.setattr(torch, "rand", lambda *_: fixed)
    out = view.batch(images(3))
    for i, (turn, share, width, across, down) in enumerate(draws.tolist()):
        area = 0.7 + 0.25 * share
        expected = by_hand(images(3)[i].float() / 255, -10 + 20 * turn, area, area + (1 - area) * width, across, down)
        assert torch.allclose(out[i], expected, atol=1e-4)


def test_sign_of_angle_equals_torchvision() -> None:
    view = Surrogate(**PLAIN, rotate=10.0, area=(1.0, 1.0), flip=0.0, **RAW)
    theta = view.placing(torch.tensor([[1.0, 0.0, 0.0, 0.0, 0.0]]), H, W)
    grid = torch.nn.functional.affine_grid(theta, [1, 3, H, W], align_corners=False)
    given = images(1).float() / 255
    ours = torch.nn.functional.grid_sample(given, grid, align_corners=False)
    theirs = TF.rotate(given, 10.0, TF.InterpolationMode.BILINEAR)
    assert torch.allclose(ours[:, :, 4:-4, 3:-3], theirs[:, :, 4:-4, 3:-3], atol=1e-4)


def test_boxes_have_their_area_inside_image() -> None:
    view = Surrogate(rotate=0.0)
    theta = view.placing(torch.rand(4000, 5, generator=torch.Generator().manual_seed(0)), H, W)
    wide, tall, x, y = theta[:, 0, 0], theta[:, 1, 1], theta[:, 0, 2], theta[:, 1, 2]
    area = wide * tall
    assert float(area.min()) > 0.7 - 1e-5
    assert float(area.max()) < 0.95 + 1e-5
    assert bool((wide <= 1 + 1e-6).all())
    assert bool((tall <= 1 + 1e-6).all())
    assert bool((x.abs() <= 1 - wide + 1e-6).all())
    assert bool((y.abs() <= 1 - tall + 1e-6).all())
    # area uniform, width uniform between it and 1: means of 0.825 and 0.9125, up to five deviations of the mean
    assert float(area.mean()) == pytest.approx(0.825, abs=5 * 0.25 / math.sqrt(12 * 4000))
    assert float(wide.mean()) == pytest.approx(0.9125, abs=0.005)
    assert abs(float(x.mean())) < 0.01
    assert bool((x < -0.05).any())
    assert bool((x > 0.05).any())


# ---- the whole view


def test_view_without_randomness_is_test_transform() -> None:
    batch = images(3)
    view = Surrogate(**PLAIN, **STILL)
    assert torch.allclose(view.batch(batch), ReidTest().batch(batch), atol=1e-5)
    flipped = Surrogate(**PLAIN, **{**STILL, "flip": 1.0})
    assert torch.allclose(flipped.batch(batch), ReidTest().batch(batch.flip(-1)), atol=1e-5)
    assert torch.equal(batch, images(3))


def test_batch_equals_single_images() -> None:
    view, batch = Surrogate(erase=0.5), images(16)
    torch.manual_seed(5)
    together = view.batch(batch)
    torch.manual_seed(5)
    alone = torch.stack([view(image) for image in batch])
    assert torch.allclose(together, alone, atol=1e-5)
    torch.manual_seed(6)
    assert not torch.allclose(view.batch(batch), together, atol=0.1)


def test_processes_share_draws_of_the_batch() -> None:
    batch = images(8)
    torch.manual_seed(3)
    whole = Surrogate().batch(batch)
    for rank in (0, 1):
        torch.manual_seed(3)
        share = Surrogate(rank=rank, world_size=2).batch(batch[4 * rank : 4 * rank + 4])
        assert torch.allclose(share, whole[4 * rank : 4 * rank + 4], atol=1e-5)


def test_by_index_equals_by_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    view, batch = Surrogate(erase=0.7), images(6)
    torch.manual_seed(2)
    by_slices = view.batch(batch)
    monkeypatch.setattr(Surrogate, "by_slices", ReidAugment.by_index)  # the path of a GPU
    torch.manual_seed(2)
    assert torch.allclose(view.batch(batch), by_slices, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_gpu_gives_equal_views() -> None:
    view, batch = Surrogate(erase=0.5), images(16)
    torch.manual_seed(2)
    here = view.batch(batch)
    torch.manual_seed(2)
    assert torch.allclose(view.batch(batch.cuda()).cpu(), here, atol=1e-3)


def test_views_differ_moderately_from_image() -> None:
    # a smooth picture: a small movement changes it only a little
    y, x = torch.meshgrid(torch.linspace(0, 3, 96), torch.linspace(0, 1.5, 48), indexing="ij")
    picture = (127 + 100 * torch.stack([y.sin(), (x + y).cos(), x.sin()])).to(torch.uint8)[None].expand(64, -1, -1, -1)
    torch.manual_seed(0)
    views = Surrogate(**RAW).batch(picture)
    away = (views - picture.float() / 255).abs().mean((1, 2, 3))
    assert float(away.min()) > 0.02
    assert float(away.mean()) < 0.25
    assert float(views.min()) >= 0.0
    assert float(views.max()) <= 1.0


@pytest.mark.parametrize(
    "keys",
    [{"brightness": 1.5}, {"contrast": -0.1}, {"saturation": 2.0}, {"hue": 0.6}, {"rotate": -1.0}, {"area": (0.9, 0.7)},
     {"area": (0.0, 1.0)}, {"flip": 2.0}, {"erase": -0.5}],
)  # fmt: skip
def test_invalid_range_is_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(keys))):
        Surrogate(**keys)
