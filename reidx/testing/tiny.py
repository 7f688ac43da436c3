"""Experiments small enough for a test: two rendered domains, a network that trains in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

IMAGE_SIZE = (48, 24)


def tiny_domain(root: str | Path, domain: str = "target") -> dict[str, Any]:
    """The spec of a rendered domain of 12 training identities, 144 training images; written to ``root`` on first use."""
    return {
        "type": "Synthetic",
        "root": str(root),
        "domain": domain,
        "identities": [12, 6],
        "images_per_camera": 4,
        "cameras": 3,
        "size": [48, 24],
    }


def tiny_experiment(root: str | Path, **changes: Any) -> dict[str, Any]:
    """An experiment as plain data: a stage that labels a tiny domain by clustering and trains a classifier on it.

    ``changes`` replace top-level keys (those of a stage are defaults of its only one, ``adapt``).
    """
    return {
        "name": "tiny",
        "data": {"image_size": list(IMAGE_SIZE), "domains": {"target": tiny_domain(root)}},
        "model": {
            "backbone": {"type": "Timm", "name": "test_resnet"},
            "fusion": {"type": "GlobalPool", "pool": "avg"},
        },
        "streams": {
            "target": {
                "domain": "target",
                "labels": "main",
                "sampler": {"type": "PK", "identities": 4, "instances": 2},
                "transform": {"type": "ReidAugment", "pad": 2},
            }
        },
        "labels": {
            "domain": "target",
            "distance": {"type": "Jaccard", "k1": 8, "k2": 2},
            "clusterer": {"type": "DBSCAN", "eps": 0.7, "min_samples": 2},
        },
        "memories": {
            "rows": {"type": "LinearClassifier", "rows": "centroid", "normalize": True, "scale": 10.0}
        },
        "objective": [{"loss": "CrossEntropy", "memory": "rows"}],
        "evaluate": {"domain": "target"},
        "stages": [{"name": "adapt", "epochs": 2, "iters": 3}],
        **changes,
    }


def write_experiment(path: Path, experiment: Mapping[str, Any]) -> Path:
    """Write an experiment as a YAML file; the path."""
    path.write_text(yaml.safe_dump(dict(experiment), sort_keys=False), encoding="utf-8")
    return path
