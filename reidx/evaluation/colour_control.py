"""A control experiment: the accuracy of colour alone on a domain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from reidx.data.decode import decode
from reidx.data.domains import Domains
from reidx.evaluation.ranking import evaluate


def colour_control(data: Mapping[str, Any], domain: str) -> dict[str, float]:
    """mAP and rank-1 (fractions) of ranking a domain's gallery by colour histograms of whole images.

    A trained network must exceed this by far; otherwise it may have learnt little more than colours. ``data`` is the
    ``data`` section of a checked config.
    """
    dataset = Domains(data)[domain]
    query, gallery = (
        torch.from_numpy(colour_histogram(map(Path, split.paths))).float() for split in (dataset.query, dataset.gallery)
    )
    result = evaluate(
        query, gallery, dataset.query.ids, dataset.gallery.ids, dataset.query.cameras, dataset.gallery.cameras
    )
    return {"mAP": result.mAP, "rank-1": float(result.cmc[0])}


def colour_histogram(images: Iterable[Path | np.ndarray], *, bins: int = 8, stripes: int = 1) -> np.ndarray:
    """Compute colour histograms as unit vectors, float32 (N, stripes * bins**3).

    Each of ``stripes`` equal horizontal stripes has its own histogram over ``bins`` levels of red, green and blue. Entries are
    square roots of shares, so that the dot product of two rows is their mean Bhattacharyya coefficient. Arrays are uint8
    (H, W, 3), RGB.
    """
    rows = []
    for item in images:
        picture = decode(str(item)) if isinstance(item, Path) else Image.fromarray(item)
        level = np.asarray(picture, np.int64) * bins // 256
        cell = (level[..., 0] * bins + level[..., 1]) * bins + level[..., 2]
        counts = [np.bincount(part.ravel(), minlength=bins**3) for part in np.array_split(cell, stripes)]
        shares = np.concatenate([count / count.sum() for count in counts]) / stripes
        rows.append(np.sqrt(shares).astype(np.float32))
    return np.stack(rows) if rows else np.zeros((0, stripes * bins**3), np.float32)
