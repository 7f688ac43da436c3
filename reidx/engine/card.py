"""The card of a result: the facts needed to interpret its numbers."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import TYPE_CHECKING, Any

import torch

from reidx import distributed
from reidx.checks.base import contract
from reidx.config.config import Config
from reidx.config.schema import Stage
from reidx.data.domains import Domains
from reidx.runs.result import StageResult

if TYPE_CHECKING:
    from reidx.engine.stage import StageRun


def stage_card(stage: Stage, stage_run: StageRun) -> dict[str, Any]:
    """Card of a stage: settings and conditions behind its numbers."""
    return {
        "epochs": stage.epochs,
        "iters": stage.iters,
        "init": stage.init,
        "weights": stage.model.backbone.get("weights") or stage.model.backbone.get("pretrained", False),
        "weight_files": _weight_files(stage_run),
        "precision": stage.precision,
        "images_a_step": stage_run.images_a_step,
        "lr_batch": stage.optimization.lr_batch,
        "bn_group": stage.model.bn_group,
        "cameras_in_sampling": stage_run.runner is not None and _samples_by_cameras(stage, stage_run.domains),
        "label_monitor": any(labelling.monitor for labelling in stage.labels.values()),
        "selection": "last epoch",
        "evaluation": stage_run.evaluation_card,
    }


def _weight_files(stage_run: StageRun) -> list[dict[str, Any]]:
    """The files of weights that parts of the networks loaded: layout, and tensors taken, left out and missing."""
    reports = (getattr(part, "weights_report", None) for part in stage_run.model.modules())
    return [report.card() for report in reports if report is not None]


def _samples_by_cameras(stage: Stage, domains: Domains) -> bool:
    """Return true if cameras affect sampling: a sampler uses them, and its domain has more than one."""
    return any(
        contract("sampler", dict(stream.sampler)).cameras != "unused"
        and domains.split(stream.domain, "train").counts()["cameras"] > 1
        for stream in stage.streams.values()
    )


def seconds_of(stages: list[StageResult]) -> float:
    """Total time, over all sessions, of the committed epochs and of the evaluations before them."""
    entries = [entry for stage in stages for entry in (stage.before, *stage.history)]
    return sum(value for entry in entries for name, value in entry.items() if name.startswith("seconds_"))


def card_of(
    config: Config, domains: Domains, stages: dict[str, Any], seconds: float, sessions: int = 1
) -> dict[str, Any]:
    """Card of an experiment; ``sessions`` is the number of resumptions plus one."""
    packages = ("reidx", "torch", "torchvision", "timm", "mmengine", "numpy", "faiss-gpu", "faiss-cpu")
    versions = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "experiment": config.experiment.name,
        "description": config.experiment.description,
        "config_hash": config.hash,
        "seed": config.experiment.seed,
        "data": {name: domains[name].card() for name in config.experiment.data.domains},
        "image_size": list(config.experiment.data.image_size),
        "interpolation": config.experiment.data.interpolation,
        "stages": stages,
        "seconds": round(seconds, 1),
        "sessions": sessions,
        "processes": distributed.count(),
        "threads": torch.get_num_threads(),
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": versions,
    }
