"""A control experiment: the accuracy of colour alone on a domain."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from reidx.data.domains import Domains
from reidx.data.synthetic import colour_histogram
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
