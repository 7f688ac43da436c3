"""Experiments small enough for tests: two drawn domains and a network that trains in seconds."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from reidx.checks.load import load_config
from reidx.config.config import Config

IMAGE_SIZE = (48, 24)


def tiny_domain(root: str | Path, domain: str = "target") -> dict[str, Any]:
    """The spec of one of the domains ``source`` and ``target``, which :func:`~reidx.testing.colours.draw_domains` draws.

    ``root`` is the folder of the fixture ``domains_root``: 12 training identities, 144 training images, 3 cameras.
    """
    return {"type": "Market1501", "root": str(Path(root) / domain)}


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
        "precision": "fp32",  # the same results on every machine
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
            "rows": {"memory": {"type": "LinearClassifier", "rows": "centroid", "normalize": True, "scale": 10.0}}
        },
        "objective": [{"loss": "CrossEntropy", "memory": "rows"}],
        "evaluate": {"domain": "target"},
        "stages": [{"name": "adapt", "epochs": 2, "iters": 3}],
        **changes,
    }


def tiny_recipe(
    bases: str | Sequence[str], root: str | Path, domains: Sequence[str] = ("target",), **changes: Any
) -> dict[str, Any]:
    """Return an experiment over the configs ``bases`` on tiny domains of these names, with a network that trains in seconds.

    ``changes`` are merged over its top-level keys, one level deep.
    """
    small: dict[str, Any] = {
        "_base_": [bases] if isinstance(bases, str) else list(bases),
        "name": "tiny",
        "precision": "fp32",
        "data": {"image_size": list(IMAGE_SIZE), "domains": {name: tiny_domain(root, name) for name in domains}},
        "model": {"backbone": {"type": "Timm", "name": "test_resnet"}},
        "log": [],
    }
    for key, value in changes.items():
        small[key] = {**small.get(key, {}), **value} if isinstance(value, dict) else value
    return small


def shrunk(experiment: Mapping[str, Any], root: str | Path, backbone: str = "test_resnet") -> dict[str, Any]:
    """A resolved experiment (``Config.data``) at a size that trains in seconds: the same parts, wired as they were.

    Domains become tiny ones of the same names, the backbone a tiny one of timm's, each stage at most one epoch of two steps
    of a few images, with every term active. Clusterers get settings that find clusters among so few images.
    """
    small = copy.deepcopy(dict(experiment))
    domains = {name: tiny_domain(root, name) for name in small["data"]["domains"]}
    small["data"] |= {"image_size": [96, 48], "domains": domains}
    for stage in small["stages"]:
        changes = {"epochs": min(stage["epochs"], 1), "iters": 2, "calibrate": min(stage["calibrate"], 1)}
        stage |= {**changes, "precision": "fp32"}
        stage["model"] |= {"backbone": {"type": "Timm", "name": backbone}, "bn_group": 8}
        stage["evaluate"]["before"] = False
        for stream in stage["streams"].values():
            _replace(stream["sampler"], {"identities": 4, "instances": 2, "batch": 8})
        for level in stage["labels"].get("labellings", {}).values():
            lists = {"k1": 8, "k2": 2, "k1_intra": 3, "k1_inter": 7, "k2_intra": 2, "k2_inter": 2, "k2_first": 2}
            _replace(level["distance"] or {}, lists)
            _replace(level["clusterer"], {"eps": 0.7, "min_samples": 2, "n_clusters": 10, "share": 0.03})
        for term in (*stage["objective"], *stage["alignment"]):
            _replace(term, {"from_epoch": 0, "until_epoch": None})
    return small


def _replace(spec: dict[str, Any], values: Mapping[str, Any]) -> None:
    """Replace the values of those keys that ``spec`` has."""
    spec.update({key: value for key, value in values.items() if key in spec})


def write_experiment(path: Path, experiment: Mapping[str, Any]) -> Path:
    """Write an experiment as a YAML file; return the path."""
    path.write_text(yaml.safe_dump(dict(experiment), sort_keys=False), encoding="utf-8")
    return path


def load_experiment(folder: Path, experiment: Mapping[str, Any], overrides: Sequence[str] = ()) -> Config:
    """Return the checked experiment, after writing it to ``experiment.yaml`` in ``folder``."""
    return load_config(write_experiment(folder / "experiment.yaml", experiment), overrides)
