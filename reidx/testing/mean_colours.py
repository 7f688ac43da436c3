"""A stand-in for a trained network: embeddings are mean colours of an image's parts, so that tests need no training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from reidx.data.datasets.folder import images_below
from reidx.data.decode import decode


class MeanColours:
    """The parts of :class:`reidx.ReID` that searches use: ``embed`` and ``stream``, with a digest and a name."""

    name, digest, dim = "mean colours", "c0105", 48

    def embed(self, images: Sequence[Image.Image]) -> Tensor:
        """Return embeddings (N,48): the colours of 4x4 parts less their mean, of length 1."""
        small = np.stack([np.asarray(image.convert("RGB").resize((4, 4)), np.float32).reshape(-1) for image in images])
        return torch.nn.functional.normalize(torch.from_numpy(small - small.mean(axis=1, keepdims=True)) + 1e-3, dim=1)

    def stream(self, images: str | Sequence[str], **_: Any) -> Iterator[tuple[list[str], Tensor]]:
        """Yield the paths of images, or of those of a folder, with their embeddings."""
        paths = [images] if isinstance(images, str) else list(images)
        if len(paths) == 1 and Path(paths[0]).is_dir():
            paths = [f"{paths[0]}/{name}" for name in images_below(Path(paths[0])).names]
        for path in paths:
            yield [path], self.embed([decode(path)])


def draw_images(folder: Path, count: int) -> list[str]:
    """Draw ``count`` images of random stripes and return their paths."""
    folder.mkdir(exist_ok=True)
    random, paths = np.random.default_rng(0), []
    for number in range(count):
        stripes = np.repeat(random.integers(0, 255, (4, 1, 3)), 16, axis=0).repeat(32, axis=1)
        paths.append(str(folder / f"{number:03d}.png"))
        Image.fromarray(stripes.astype(np.uint8)).save(paths[-1])
    return paths
