"""Data sets in the grammar of Market-1501: Market-1501, DukeMTMC-reID, PersonX, VeRi-776."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from reidx.data.datasets import DukeMTMC, Market1501, MarketGrammar, PersonX, VeRi776
from reidx.testing.miniatures.base import Miniature, draw

PEOPLE = {"train": range(1, 5), "query": range(5, 8), "gallery": range(5, 9)}
"""People of each split; person 8 of the gallery is in no query."""


def draw_split(
    folder: Path, people: Sequence[int], cameras: Sequence[int], name: str, numbers: Sequence[int] = range(2)
) -> None:
    """Draw images of each person under each camera; ``name`` is a format of ``person``, ``camera`` and ``number``."""
    for person in people:
        for camera in cameras:
            for number in numbers:
                file = name.format(person=person, camera=camera, number=number)
                draw(folder / file, person, camera, number)


def miniature(
    kind: type[MarketGrammar], place: str, name: str, cameras: Sequence[int], further: Mapping[str, Sequence[int]]
) -> Miniature:
    """Return the miniature of a data set; ``further`` are numbers of the gallery that no query shows, by kind of person."""

    def write(folder: Path) -> None:
        for split, people in PEOPLE.items():
            seen = cameras[:1] if split == "query" else cameras
            draw_split(folder / place / kind.folders[split], people, seen, name, [9] if split == "query" else [0, 1])
        for number in (number for numbers in further.values() for number in numbers):
            file = name.format(person=number, camera=cameras[0], number=7).replace("-001", "-1")
            draw(folder / place / kind.folders["gallery"] / file, 99, 1)

    kept, seen = len(further.get("background", ())), len(cameras)
    counts = {"train": (8 * seen, 4, seen), "query": (3, 3, 1), "gallery": (8 * seen + kept, 4 + kept, seen)}
    return Miniature(kind.name, write, {"type": kind.__name__}, counts)


def write_distractors(folder: Path) -> None:
    """Draw Market-1501 with distractors, with and without a camera in their names."""
    MARKET.write(folder)
    for number, name in enumerate(("0000_c2s1_000101_00.jpg", "0000_c6s1_000102_00.jpg", "000103.jpg")):
        draw(folder / "Market-1501-v15.09.15" / "distractors_500k" / name, 60 + number, 9)


MARKET = miniature(
    Market1501,
    "Market-1501-v15.09.15",
    "{person:04}_c{camera}s1_{number:06}_00.jpg",
    (1, 2, 6),
    {"background": [0], "junk": [-1]},
)
MINIATURES = (
    MARKET,
    Miniature(
        "Market-1501 with 500k distractors",
        write_distractors,
        {"type": "Market1501", "distractors": True},
        {**MARKET.counts, "gallery": (28, 5, 3)},
    ),
    miniature(DukeMTMC, "DukeMTMC-reID", "{person:04}_c{camera}_f{number:07}.jpg", (1, 8), {}),
    miniature(PersonX, "PersonX", "{person:04}_c{camera}_{number}.jpg", (3, 10, 12), {}),
    miniature(VeRi776, "VeRi", "{person:04}_c{camera:03}_{number:08}_0.jpg", (1, 2, 20), {}),
)
