"""Transforms against pixel-by-pixel versions, and random ones against their distributions."""

import math

import pytest
import torch

from reidx.data.transforms import IMAGENET_MEAN, IMAGENET_STD, ReidAugment, ReidTest, Transform
from reidx.errors import ConfigError

H, W = 24, 12


def images(count: int, height: int = H, width: int = W) -> torch.Tensor:
    return torch.randint(
        0, 256, (count, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


def naive(
    image: torch.Tensor, flip: bool, down: int, right: int, box=None, mean=IMAGENET_MEAN, std=IMAGENET_STD
):
    """Transform one image pixel by pixel; (down, right) is the crop's shift from the middle."""
    out = torch.empty(image.shape)
    _, height, width = image.shape
    for c in range(3):
        for y in range(height):
            for x in range(width):
                from_y, from_x = y + down, x + right
                value = 0
                if 0 <= from_y < height and 0 <= from_x < width:
                    value = int(image[c, from_y, width - 1 - from_x if flip else from_x])
                out[c, y, x] = (value / 255 - mean[c]) / std[c]
                if box is not None:
                    top, left, tall, wide = box
                    if top <= y < top + tall and left <= x < left + wide:
                        out[c, y, x] = (0.485, 0.456, 0.406)[c]
    return out


def test_test_transform_only_normalises():
    batch = images(2)
    mean, std = (0.5, 0.25, 0.0), (0.5, 1.0, 0.25)
    out = ReidTest(mean, std).batch(batch)
    assert out.dtype == torch.float32
    for i in range(2):
        assert torch.allclose(out[i], naive(batch[i], False, 0, 0, mean=mean, std=std), atol=1e-6)
        assert torch.equal(ReidTest(mean, std)(batch[i]), out[i])
    one = torch.tensor([255, 255, 51], dtype=torch.uint8)[:, None, None]
    assert ReidTest(mean, std)(one).flatten().tolist() == pytest.approx([1.0, 0.75, 0.8])


@pytest.mark.parametrize("kind", [ReidTest, ReidAugment])
def test_the_given_images_stay_as_they_are(kind):
    batch = images(4)
    kind().batch(batch)
    assert torch.equal(batch, images(4))
    floats = images(4).float()
    kind().normalise(floats)
    assert torch.equal(floats, images(4).float())


def test_augmentation_without_randomness_only_normalises():
    batch = images(3)
    assert torch.equal(ReidAugment(flip=0, pad=0, erase=0).batch(batch), ReidTest().batch(batch))
    assert torch.equal(ReidAugment(flip=1, pad=0, erase=0).batch(batch), ReidTest().batch(batch.flip(-1)))


def test_batch_equals_its_single_images():
    augment, batch = ReidAugment(), images(32)
    torch.manual_seed(5)
    together = augment.batch(batch)
    torch.manual_seed(5)
    alone = torch.stack([augment(image) for image in batch])
    assert torch.equal(together, alone)
    torch.manual_seed(6)
    assert not torch.equal(augment.batch(batch), together)


def test_every_image_matches_a_naive_outcome():
    pad = 2
    image = images(1)[0]
    outcomes = {
        (flip, down, right): naive(image, flip, down, right)
        for flip in (False, True)
        for down in range(-pad, pad + 1)
        for right in range(-pad, pad + 1)
    }
    torch.manual_seed(0)
    seen: dict[tuple[bool, int, int], int] = dict.fromkeys(outcomes, 0)
    draws = 2500
    for out in ReidAugment(pad=pad, erase=0).batch(image.expand(draws, -1, -1, -1)):
        matches = [key for key, outcome in outcomes.items() if torch.allclose(out, outcome, atol=1e-6)]
        assert len(matches) == 1
        seen[matches[0]] += 1
    # uniform over the 50: each count is binomial(2500, 1/50), 50 +- 7; chance alone never reaches six deviations
    assert min(seen.values()) > 50 - 42
    assert max(seen.values()) < 50 + 42
    flips = sum(count for (flip, _, _), count in seen.items() if flip)
    assert abs(flips - draws / 2) < 6 * math.sqrt(draws / 4)


def erased(height: int, width: int, draws: int, erase: float):
    """Return the erased rectangle (top, left, tall, wide) of each black image, or None."""
    torch.manual_seed(0)
    black = torch.zeros(1, 3, height, width, dtype=torch.uint8).expand(draws, -1, -1, -1)
    # black is negative after normalisation, the fill is not
    marks = ReidAugment(flip=0, pad=0, erase=erase).batch(black) > 0
    assert torch.equal(marks[:, 0], marks[:, 1])
    boxes = []
    for mark in marks[:, 0]:
        rows, columns = mark.any(1).nonzero().flatten(), mark.any(0).nonzero().flatten()
        if len(rows):
            tall, wide = len(rows), len(columns)
            assert int(mark.sum()) == tall * wide  # a full rectangle
            boxes.append((int(rows[0]), int(columns[0]), tall, wide))
        else:
            boxes.append(None)
    return boxes


def test_erasing_writes_the_constants_after_normalisation():
    torch.manual_seed(0)
    image = images(1)[0]
    out = ReidAugment(flip=0, pad=0, erase=1)(image)
    changed = (out != ReidTest()(image)).any(0).nonzero()
    (top, left), (bottom, right) = changed.min(0).values.tolist(), changed.max(0).values.tolist()
    box = (top, left, bottom - top + 1, right - left + 1)
    assert torch.allclose(out, naive(image, False, 0, 0, box), atol=1e-6)


def test_erased_rectangles_keep_the_bounds_and_probability():
    height, width, draws = 64, 32, 3000
    boxes = erased(height, width, draws, 0.5)
    some = [box for box in boxes if box is not None]
    assert abs(len(some) - draws / 2) < 6 * math.sqrt(draws / 4)
    for top, left, tall, wide in some:
        # each side was rounded to whole pixels
        assert (tall + 0.5) * (wide + 0.5) >= 0.02 * height * width
        assert (tall - 0.5) * (wide - 0.5) <= 0.4 * height * width
        assert (tall + 0.5) / (wide - 0.5) >= 0.3
        assert (tall - 0.5) / (wide + 0.5) <= 1 / 0.3
        assert tall < height
        assert wide < width
        assert 0 <= top <= height - tall
        assert 0 <= left <= width - wide
    assert any(top == height - tall for top, _, tall, _ in some)  # the last position is possible too
    assert any(left == width - wide for _, left, _, wide in some)


def naive_box(height: int, width: int, generator: torch.Generator):
    """Draw random erasing's rectangle as the paper describes it: repeat until it is smaller than the image."""

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    for _ in range(100):
        area, aspect = uniform(0.02, 0.4) * height * width, uniform(0.3, 1 / 0.3)
        tall, wide = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if tall < height and wide < width:
            top = int(torch.randint(0, height - tall + 1, (), generator=generator))
            left = int(torch.randint(0, width - wide + 1, (), generator=generator))
            return top, left, tall, wide
    return None


def test_erased_rectangles_match_a_naive_loop():
    height, width, draws = 64, 32, 3000
    generator = torch.Generator().manual_seed(7)
    theirs = torch.tensor([naive_box(height, width, generator) for _ in range(draws)], dtype=torch.float64)
    ours = torch.tensor(erased(height, width, draws, 1.0), dtype=torch.float64)
    for sample in (ours, theirs):
        sample[:, 0] /= height - sample[:, 2]  # positions as shares of the free space
        sample[:, 1] /= width - sample[:, 3]
    for column in range(4):
        # two-sample Kolmogorov-Smirnov: one sampling in a thousand exceeds 1.95 sqrt(2/n); the seeds are fixed
        grid = torch.cat([ours[:, column], theirs[:, column]])
        shares = [(sample[None, :, column] <= grid[:, None]).double().mean(1) for sample in (ours, theirs)]
        assert (shares[0] - shares[1]).abs().max() < 1.95 * math.sqrt(2 / draws), column


def test_image_too_small_for_erasing_is_unchanged():
    assert erased(1, 1, 20, 1.0) == [None] * 20


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"flip": 1.5}, "flip is a share"),
        ({"erase": -0.1}, "erase is a share"),
        ({"pad": -1}, "pad is"),
    ],
)
def test_wrong_settings_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        ReidAugment(**wrong)


def test_custom_transform_needs_only_batch():
    class Invert(Transform):
        def batch(self, images):
            return self.normalise(255 - images)

    image = images(1)[0]
    assert torch.allclose(Invert((0, 0, 0), (1, 1, 1))(image), 1 - image / 255, atol=1e-6)


@pytest.mark.parametrize("lies", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("colours", [0.0, 0.2])
def test_images_at_once_equal_images_in_turn(lies: torch.memory_format, colours: float) -> None:
    # the path that a GPU takes, tested on every machine
    class AtOnce(ReidAugment):
        by_slices = ReidAugment.by_index

    batch = images(64).contiguous(memory_format=lies)
    settings = {"pad": 9, "cast": colours, "exposure": colours}
    torch.manual_seed(5)
    expected = ReidAugment(**settings).batch(batch)
    torch.manual_seed(5)
    assert torch.equal(AtOnce(**settings).batch(batch), expected)
    assert torch.equal(batch, images(64))


def test_shift_may_remove_the_whole_image() -> None:
    transform, batch = ReidAugment(pad=40), images(5)
    plan = torch.zeros(5, 7, dtype=torch.long)
    plan[:, 1] = torch.tensor([30, -30, 3, 24, -24])
    plan[:, 2] = torch.tensor([0, 0, 15, 11, -12])
    expected = torch.stack([naive(image, False, int(row[1]), int(row[2])) for image, row in zip(batch, plan)])
    assert torch.allclose(transform.by_slices(batch, plan), expected, atol=1e-6)
    assert torch.allclose(transform.by_index(batch, plan), expected, atol=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_augmentations():
    augment, batch = ReidAugment(), images(16)
    torch.manual_seed(5)
    here = augment.batch(batch)
    torch.manual_seed(5)
    there = augment.batch(batch.cuda())
    assert there.is_cuda
    assert torch.allclose(here, there.cpu(), atol=1e-6)


def test_colour_changes_match_a_loop_over_pixels() -> None:
    images = torch.randint(0, 256, (3, 3, 4, 2), dtype=torch.uint8)
    augment = ReidAugment(flip=0, pad=0, erase=0, cast=0.3, exposure=0.2, mean=(0, 0, 0), std=(1, 1, 1))
    torch.manual_seed(5)
    out = augment.batch(images)
    torch.manual_seed(5)
    draws = torch.rand(3, 10 + 2 * augment.tries)[:, -4:]
    for b in range(3):
        for c in range(3):
            gain = 1 + 0.3 * (2 * float(draws[b, c]) - 1)
            shift = 0.2 * (2 * float(draws[b, 3]) - 1)
            for y in range(4):
                for x in range(2):
                    expected = min(max(int(images[b, c, y, x]) / 255 * gain + shift, 0.0), 1.0)
                    assert float(out[b, c, y, x]) == pytest.approx(expected, abs=1e-5)


def test_colours_stay_without_colour_settings() -> None:
    images = torch.randint(0, 256, (2, 3, 8, 4), dtype=torch.uint8)
    plain = ReidAugment(flip=0, pad=0, erase=0)
    assert torch.equal(plain.batch(images), plain.normalise(images))
