"""The form of a miniature, and the drawing of its images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Counts = tuple[int, int, int]
"""Numbers of images, identities and cameras of a split."""


@dataclass(frozen=True)
class Miniature:
    """A small copy of a data set.

    ``write`` draws it into an empty folder, in the published layout. ``spec`` is the component with its arguments, without
    ``root``; ``counts`` is what the loader must find in each split, ``protocols`` are the specs of protocols that rank it.
    """

    name: str
    write: Callable[[Path], None]
    spec: Mapping[str, Any]
    counts: Mapping[str, Counts]
    protocols: tuple[Mapping[str, Any], ...] = field(default=({"type": "Market1501"},))

    def at(self, folder: Path) -> dict[str, Any]:
        """Draw the miniature into ``folder`` and return the spec of the data set."""
        folder.mkdir(parents=True, exist_ok=True)
        self.write(folder)
        return {**self.spec, "root": str(folder)}


def draw(path: Path, person: int, camera: int = 0, number: int = 0, size: tuple[int, int] = (48, 24)) -> None:
    """Draw an image of ``size`` (height, width): the person determines its colours, the camera a cast, the number noise.

    The same arguments give the same pixels; the suffix of ``path`` determines the format.
    """
    height, width = size
    halves = np.random.default_rng([person + 1, 1]).uniform(60, 195, (2, 1, 3))
    cast = np.random.default_rng([camera + 1, 2]).uniform(0.9, 1.1, 3)
    noise = np.random.default_rng([person + 1, camera + 1, number + 1]).normal(0, 15, (height, width, 3))
    image = np.repeat(halves, [height // 2, height - height // 2], axis=0) * cast + noise
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(path)
