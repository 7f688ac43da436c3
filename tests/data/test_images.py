"""Decoding and resizing, the cache, worker processes, and damaged files."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from reidx.data.images import CorruptImage, ImageStore
from reidx.errors import ConfigError, DataError


def picture(seed: int, height: int = 40, width: int = 20) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture
def paths(tmp_path):
    for i in range(6):
        picture(i).save(tmp_path / f"{i}.jpg")
    return [str(tmp_path / f"{i}.jpg") for i in range(6)]


def as_pillow_does(path: str, size: tuple[int, int], how: int) -> torch.Tensor:
    height, width = size
    rows = Image.open(path).convert("RGB").resize((width, height), how)
    return torch.tensor(
        [[[rows.getpixel((x, y))[c] for x in range(width)] for y in range(height)] for c in range(3)]
    )


@pytest.mark.parametrize(
    ("interpolation", "how"), [("bicubic", Image.Resampling.BICUBIC), ("bilinear", Image.Resampling.BILINEAR)]
)
@pytest.mark.parametrize("size", [(24, 10), (64, 32)])
def test_images_are_pillows_pixel_by_pixel(paths, interpolation, how, size):
    image = ImageStore(paths, size, interpolation)[3]
    assert image.dtype == torch.uint8
    assert image.is_contiguous()
    assert torch.equal(image.long(), as_pillow_does(paths[3], size, how))


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "RGBA", "LA"])
def test_every_colour_mode_becomes_rgb(tmp_path, mode):
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    picture(0).convert(mode).save(path)
    expected = np.asarray(Image.open(path).convert("RGB"))
    assert torch.equal(
        ImageStore([str(path)], (40, 20))[0], torch.from_numpy(expected.copy()).permute(2, 0, 1)
    )


def test_a_noted_rotation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn a quarter clockwise for viewing
    half = Image.new("RGB", (40, 20))
    half.paste((255, 255, 255), (0, 0, 20, 20))  # the left half is white: the upper half after the turn
    half.save(tmp_path / "a.jpg", exif=exif, quality=95)
    image = ImageStore([str(tmp_path / "a.jpg")], (40, 20))[0].float()
    assert image[:, :15].min() > 240
    assert image[:, 25:].max() < 15


def test_the_cache_answers_from_memory_and_copies(paths):
    store = ImageStore(paths, (16, 8))
    assert store.cached_bytes == 6 * 3 * 16 * 8
    before = store.batch([4, 0, 4])
    Image.new("RGB", (20, 40)).save(paths[4])  # the file changes after it was cached
    before_again = store.batch([4, 0, 4])
    assert torch.equal(before, before_again)
    assert not torch.equal(before[0], torch.zeros_like(before[0]))
    before_again.zero_()
    assert torch.equal(store[4], before[0])


def test_split_beyond_the_cache_is_redecoded(paths):
    store = ImageStore(paths, (16, 8), cache_bytes=6 * 3 * 16 * 8 - 1)
    assert store.cached_bytes == 0
    assert store[0].any()
    Image.new("RGB", (20, 40)).save(paths[0])
    assert not store[0].any()
    store.warm()  # nothing to fill


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_warming_and_workers_give_the_same_images(paths, cache_bytes):
    expected = torch.stack([ImageStore(paths, (16, 8), cache_bytes=0)[i] for i in range(6)])
    store = ImageStore(paths, (16, 8), cache_bytes=cache_bytes)
    loaded = torch.cat(list(DataLoader(store, batch_size=2, num_workers=2, multiprocessing_context="fork")))
    assert torch.equal(loaded, expected)
    seen: list[tuple[int, int]] = []
    store.warm(threads=2, progress=lambda done, total: seen.append((done, total)))
    assert torch.equal(store.batch(range(6)), expected)
    assert seen == []  # either there is no cache, or the workers have filled it
    fresh = ImageStore(paths, (16, 8), cache_bytes=cache_bytes)
    fresh[0]
    fresh.warm(threads=2, progress=lambda done, total: seen.append((done, total)))
    assert seen == ([(i + 1, 5) for i in range(5)] if cache_bytes else [])
    assert torch.equal(fresh.batch(range(6)), expected)


def test_forked_workers_fill_the_shared_cache(paths):
    store = ImageStore(paths, (16, 8))
    loaded = torch.cat(list(DataLoader(store, batch_size=3, num_workers=1, multiprocessing_context="fork")))
    for path in paths:
        Image.new("RGB", (20, 40)).save(path)
    assert torch.equal(store.batch(range(6)), loaded)


def test_spawned_worker_decodes_again(paths):
    store = ImageStore(paths, (16, 8))
    loader = DataLoader(store, batch_size=6, num_workers=1, multiprocessing_context="spawn")
    assert torch.equal(next(iter(loader)), store.batch(range(6)))
    copy = pickle.loads(pickle.dumps(store))
    assert copy.cached_bytes == 0
    assert torch.equal(copy[2], store[2])


def damage(path: str, how: str) -> None:
    with open(path, "rb") as file:
        content = file.read()
    with open(path, "wb") as file:
        file.write({"empty": b"", "text": b"not an image", "cut": content[: len(content) // 2]}[how])


@pytest.mark.parametrize("how", ["empty", "text", "cut"])
@pytest.mark.parametrize("workers", [0, 1])
def test_damaged_image_is_named_by_workers(paths, how, workers):
    damage(paths[2], how)
    loader = DataLoader(ImageStore(paths, (16, 8)), batch_size=6, num_workers=workers)
    with pytest.raises(DataError) as error:
        next(iter(loader))
    message = str(error.value)
    assert message.startswith(f"{paths[2]} cannot be read as an image: ")
    assert "Traceback" not in message
    assert "\n" not in message


def test_warming_stops_at_an_unreadable_image(paths):
    damage(paths[1], "cut")
    with pytest.raises(CorruptImage, match=r"1\.jpg cannot be read"):
        ImageStore(paths, (16, 8)).warm(threads=2)
    with pytest.raises(CorruptImage, match="No such file"):
        ImageStore(["absent.jpg"])[0]


def test_an_unknown_interpolation_is_refused(paths):
    with pytest.raises(ConfigError, match="'lanczos'; it must be one of bicubic, bilinear"):
        ImageStore(paths, interpolation="lanczos")


def test_images_on_a_device_equal_cached_images(paths):
    store = ImageStore(paths, (16, 8))
    expected, seen = ImageStore(paths, (16, 8)).batch([4, 0, 4]), []
    store.move_to(torch.device("cpu"), progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (6, 6) and store.cached_bytes == 6 * 3 * 16 * 8
    batch = store.batch([4, 0, 4])
    assert torch.equal(batch, expected)
    batch.zero_()
    assert torch.equal(store.batch([4, 0, 4]), expected)  # the batch was a copy
    held = store.held
    store.move_to(torch.device("cpu"))
    assert store.held is held
    assert torch.equal(pickle.loads(pickle.dumps(store)).batch([4, 0, 4]), expected)  # the unpickled store decodes again


def test_images_beyond_gpu_memory_are_refused(paths, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 2000))
    store = ImageStore(paths, (16, 8))
    with pytest.raises(ConfigError, match=r"6 images of 16x8 take 0.00 GB; cuda:1 has 0.00 GB left.*cache_on: host"):
        store.move_to(torch.device("cuda", 1))
    assert store.held is None and store.cached_bytes
