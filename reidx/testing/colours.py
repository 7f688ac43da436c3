"""Drawn people in two colours, which a tiny network learns within seconds."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

NEUTRAL = ((1.0, 1.0, 1.0),) * 3
CASTS = ((1.05, 1.0, 0.95), (0.95, 1.05, 1.0), (1.0, 0.95, 1.05))
"""Gains of red, green and blue for each camera, a difference that a network must learn to ignore."""


def coloured_people(
    folder: Path,
    seed: int = 0,
    light: Sequence[float] = (1.0, 1.0, 1.0),
    casts: Sequence[Sequence[float]] = NEUTRAL,
    noise: tuple[float, float] = (30.0, 60.0),
    known: bool = False,
) -> Path:
    """Write images of people with one colour above and one below; return their table, for the data set ``CSV``.

    Three cameras show 12 people for training, 9 images each, and 8 others for the test, 6 images each; with ``known`` the test
    shows the first 12 instead. ``noise`` is the deviation of fine and of coarse noise; the default confuses an untrained
    network.
    """
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(seed)
    rows = []
    for person in range(12 if known else 20):
        halves = random.uniform(60, 195, (2, 1, 1, 3))
        trained = 9 if person < 12 else 0
        for number in range(trained + 6 if known or not trained else trained):
            camera = number % 3
            name = f"{person}_{number}.png"
            _picture(random, halves, light, casts[camera], noise).save(folder / name)
            split = "train" if number < trained else "query" if number < trained + 3 else "gallery"
            rows.append((name, person, camera, split))
    with (folder / "people.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "pid", "camid", "split"), *rows])
    return folder / "people.csv"


LIGHTS = {"source": (1.0, 1.0, 1.0), "target": (0.6, 0.9, 1.2)}
"""Gains of red, green and blue for each of the domains of :func:`draw_domains`."""


def draw_domains(
    root: str | Path, identities: tuple[int, int] = (12, 6), images_per_camera: int = 4, cameras: int = 3
) -> Path:
    """Draw two domains of coloured people into ``root/source`` and ``root/target``, in Market-1501's grammar; return ``root``.

    ``identities`` are those of the training and of the test split. The first image of each test identity and camera is a query;
    the gallery has the others, and an image of nobody for every second test identity.
    """
    for domain, light in LIGHTS.items():
        random = np.random.default_rng(list(LIGHTS).index(domain))
        for split in ("bounding_box_train", "query", "bounding_box_test"):
            (Path(root) / domain / split).mkdir(parents=True)
        casts = random.uniform(0.9, 1.1, (cameras, 3))
        colours = random.uniform(60, 195, (sum(identities) + 1, 2, 1, 1, 3))
        for split, person, camera, number in _shots(identities, images_per_camera, cameras):
            pid = person and person + 5000 * (domain == "target")
            name = f"{pid:04d}_c{camera + 1}s1_{number:06d}_00.jpg"
            picture = _picture(random, colours[person], light, casts[camera], (10.0, 20.0))
            picture.save(Path(root) / domain / split / name, quality=95)
    return Path(root)


def _shots(identities: tuple[int, int], images_per_camera: int, cameras: int) -> Iterator[tuple[str, int, int, int]]:
    """Yield folder, person (0 = nobody), camera and number of each image of a domain."""
    train, test = identities
    for camera in range(cameras):
        for person in range(1, 1 + train + test):
            for number in range(images_per_camera):
                tested = "bounding_box_test" if number else "query"
                yield "bounding_box_train" if person <= train else tested, person, camera, number
    for number in range((test + 1) // 2):
        yield "bounding_box_test", 0, number % cameras, number


def _picture(
    random: np.random.Generator, halves: np.ndarray, light: Sequence[float], cast: Sequence[float], noise: tuple[float, float]
) -> Image.Image:
    """Draw a person of 48 x 24 pixels whose ``halves`` have the given colours, in random brightness and noise."""
    image = np.concatenate(np.broadcast_to(halves, (2, 24, 24, 3))) * random.uniform(0.8, 1.2) * light * cast
    image += random.normal(0, noise[0], (48, 24, 3))
    image += random.normal(0, noise[1], (12, 6, 3)).repeat(4, 0).repeat(4, 1)
    return Image.fromarray(image.clip(0, 255).astype(np.uint8))
