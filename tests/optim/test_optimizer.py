"""Clipped gradients: the length of a stage's step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import reidx
from reidx.data.domains import Domains
from reidx.engine.stage import StageRun
from reidx.reporting.reporter import Reporter

LIMIT = 1e-3


@pytest.mark.parametrize("by", ["norm", "value", None])
def test_step_has_the_clipped_length(
    by: str | None, experiment: Callable[..., Path], tmp_path: Path
) -> None:
    changes = {} if by is None else {"clip_grad": LIMIT, "clip_by": by}
    path = experiment(optimizer={"type": "SGD", "lr": 1.0}, stages=[{"name": "a", "epochs": 1, "iters": 1}], **changes)
    config = reidx.load_config(path)
    torch.manual_seed(0)
    stage = StageRun(config.experiment.stages[0], 0, 1, Domains(config.data["data"]), tmp_path, Path, Reporter("quiet"))
    before = {name: p.detach().clone() for name, p in stage.model.networks.named_parameters()}
    stage.run(resume=False)
    moved = torch.cat([(p.detach() - before[n]).flatten() for n, p in stage.model.networks.named_parameters()])
    if by == "value":
        assert float(moved.abs().max()) == pytest.approx(LIMIT, rel=1e-2) and float(moved.norm()) > 2 * LIMIT
    elif by == "norm":
        assert 0 < float(moved.norm()) <= LIMIT * 1.01
    else:
        assert float(moved.abs().max()) > 2 * LIMIT
