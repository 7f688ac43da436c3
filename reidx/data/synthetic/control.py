"""Colour histograms, a control that must fail on a synthetic domain."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from reidx.data.decode import decode


def colour_histogram(
    images: Iterable[Path | np.ndarray | Image.Image], *, bins: int = 8, stripes: int = 1, space: str = "RGB"
) -> np.ndarray:
    """Compute colour histograms as unit vectors, float32 (N, stripes * bins**3).

    Each of `stripes` equal horizontal stripes has its own histogram over `bins` levels of each channel of `space`
    (a three-channel Pillow mode: `"RGB"`, `"HSV"`, `"LAB"`). Entries are square roots of shares, so that the dot
    product of two rows is their mean Bhattacharyya coefficient. Arrays are uint8 (H, W, 3), RGB.
    """
    rows = []
    for item in images:
        if isinstance(item, Path):
            picture = decode(str(item))
        else:
            picture = item.convert("RGB") if isinstance(item, Image.Image) else Image.fromarray(item)
        level = np.asarray(picture.convert(space), np.int64) * bins // 256
        cell = (level[..., 0] * bins + level[..., 1]) * bins + level[..., 2]
        counts = [np.bincount(part.ravel(), minlength=bins**3) for part in np.array_split(cell, stripes)]
        shares = np.concatenate([count / count.sum() for count in counts]) / stripes
        rows.append(np.sqrt(shares).astype(np.float32))
    return np.stack(rows) if rows else np.zeros((0, stripes * bins**3), np.float32)
