"""Training of a network without labels on a folder of images, for as many epochs as fit into a given time."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reidx.checks.load import check_node
from reidx.config.config import Config
from reidx.config.merge import merge
from reidx.config.node import Node, Origin
from reidx.config.yaml_tree import load_node
from reidx.engine.experiment import run
from reidx.errors import ConfigError
from reidx.inference.sources import Trained
from reidx.reporting.reporter import Mode, Reporter

RECIPE = "reidx::your_images.yaml"
BATCH = 64
"""Images in a step of the recipe."""
PASSES = 2
"""Times that an epoch draws as many images as the folder has."""
TRIED = 3
"""Steps of the trial whose time decides the number of epochs."""
MOST_EPOCHS = 50


def adapt(trained: Trained, images: Path, count: int, eps: float, minutes: float, folder: Path, mode: Mode | None) -> Path:
    """Train ``trained`` on the ``count`` images of a folder without labels for about ``minutes``; returns the run's folder.

    The recipe is ``reidx::your_images.yaml`` with ``eps``. A trial of a few steps in ``folder`` gives the time of an epoch and
    so their number, at least one; the network of the last epoch counts.
    """
    if not trained.start:
        raise ConfigError(f"{trained.name} cannot be trained further. Give the folder of its run, or a file of weights.")
    iters = max(1, math.ceil(PASSES * count / BATCH))
    trial = folder / "trial"
    history = run(_config(trained, images, eps, 1, TRIED), trial, progress="quiet", threads=None).stages[0].last
    shutil.rmtree(trial)
    epoch = history["seconds_relabel"] + iters * history["seconds_train"] / TRIED
    epochs = min(MOST_EPOCHS, max(1, int(60 * minutes / epoch)))
    took = f"an epoch of {iters} steps takes about {epoch:.0f} s"
    Reporter(mode).message(f"adapting for {epochs} epochs: {took}, and {minutes:g} minutes are given")
    run(_config(trained, images, eps, epochs, iters), folder / "run", progress=mode, threads=None)
    return folder / "run"


def _config(trained: Trained, images: Path, eps: float, epochs: int, iters: int) -> Config:
    """The recipe for these images, with the network and its weights in place of the recipe's."""
    model: dict[str, Any] = {key: trained.start["model"][key] for key in ("backbone", "fusion", "bn_group")}
    if "normalize" in model["fusion"]:
        model["fusion"] = {**model["fusion"], "normalize": True}  # for the losses over the memory
    domain = {"type": "ImageFolder", "root": str(images.absolute())}
    size = {"image_size": list(trained.image_size), "interpolation": trained.interpolation}
    changes: Mapping[str, Any] = {
        "data": {**size, "domains": {"target": domain}},
        "model": model,
        "init": trained.start["init"],
        "labels": {"clusterer": {"eps": eps}},
        "epochs": epochs,
        "iters": iters,
        "log": [],
    }
    return check_node(merge(load_node(RECIPE), Node.of(changes, Origin(RECIPE))), [], RECIPE)
