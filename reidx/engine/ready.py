"""The network of a finished stage, ready to be tested."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from reidx.checks.data import check_evaluation
from reidx.config.config import Config
from reidx.config.schema import Stage
from reidx.data.domains import Domains
from reidx.engine.precision import choose_precision
from reidx.engine.seeding import seed_everything
from reidx.reporting.reporter import Reporter
from reidx.runs import checkpoint as checkpoints

if TYPE_CHECKING:
    from reidx.engine.stage import StageRun


def ready_to_test(
    config: Config, domains: Domains, stage: Stage, weights: str | Path | None, reporter: Reporter
) -> StageRun:
    """Build the last stage of an experiment, as ``stage``, with the tested network's weights from a checkpoint of it.

    Without ``weights``, they are the stage's initial ones. Raises the errors of the data, and :class:`CheckpointError`.
    """
    number = len(config.experiment.stages) - 1
    check_evaluation(config, domains, number, stage)
    (stage,) = choose_precision([stage]).apply([stage])
    from reidx.engine.stage import (
        StageRun,  # imports mmengine's runner and timm, so after the data are checked
    )

    seed_everything(config.experiment.seed, number)
    stage_run = StageRun(stage, number, config.experiment.seed, domains, Path("."), Path, reporter)
    if weights is not None:
        name = stage.evaluate.network
        model = stage_run.model
        follower = model.teacher_of(name) if model.networks[name].wants_teacher else None  # its feature map is used too
        for needed in filter(None, (name, follower)):
            checkpoints.load_weights(model.networks[needed], weights, needed, whole=True)
    return stage_run
