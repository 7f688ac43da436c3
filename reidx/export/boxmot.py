"""The ONNX file that boxmot loads, with the description next to it."""

from __future__ import annotations

import json
from pathlib import Path

from reidx.inference import ReID

SUFFIX = ".metadata.json"
"""Added to the file's name. boxmot reads it for the size of the images; the graph's own size overrides it."""


def write_description(model: ReID, path: Path) -> None:
    """Write the description next to an ONNX file whose input is normalised with ImageNet's mean and deviation, as boxmot does.

    boxmot resizes crops with OpenCV's bilinear filter.
    """
    facts = {
        "schema_version": 1,
        "source": model.name,
        "model_name": "reidx",
        "num_classes": 1,
        "preprocess": "resize",
        "model_kwargs_schema_version": 1,
        "model_kwargs": {"img_size": list(model.image_size)},
        "img_size": list(model.image_size),
    }
    path.with_name(path.name + SUFFIX).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
