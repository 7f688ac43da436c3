"""Images per step, and the note on a learning rate stated for another number of images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import reidx
from reidx import distributed
from reidx.checks.batch_size import images_a_step, rate_note
from reidx.config.schema import Stage
from reidx.data.domains import Domains
from reidx.engine import experiment as experiments
from reidx.errors import ConfigError
from reidx.reporting.reporter import Reporter

Experiment = Callable[..., Path]
STREAMS = {
    "target": {"domain": "target", "labels": "main", "sampler": {"type": "PK", "identities": 4, "instances": 2}},
    "known": {"domain": "target", "labels": "identity", "sampler": {"type": "PK", "identities": 3, "instances": 4}},
    "any": {"domain": "target", "sampler": {"type": "Shuffle", "batch": 10}},
}


def stage_of(path: Path) -> tuple[Stage, Domains]:
    config = reidx.load_config(path)
    return config.experiment.stages[0], Domains(config.data["data"])


@pytest.mark.parametrize("chunks", [1, 2])
def test_images_of_each_stream(experiment: Experiment, chunks: int) -> None:
    """Chunks of gradient caching do not change the batch."""
    stage, domains = stage_of(
        experiment(streams=STREAMS, grad_cache_chunks=chunks, objective=[{"loss": "Triplet", "stream": "known"}])
    )
    assert images_a_step(stage, domains) == {"target": 8, "known": 12, "any": 10}


def test_batch_that_processes_cannot_share_is_refused(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    stage, domains = stage_of(experiment())
    monkeypatch.setattr(distributed, "count", lambda: 3)
    with pytest.raises(ConfigError, match="4 identities a batch cannot be shared evenly by 3 processes"):
        images_a_step(stage, domains)


def note(experiment: Experiment, lr_batch: int | None, images: dict[str, int], **changes: Any) -> str:
    optimizer = {"type": "SGD", "lr": 0.1}
    stage, _ = stage_of(experiment(optimizer=optimizer, optimization={"lr_batch": lr_batch}, **changes))
    return rate_note(stage, 0.1, images)


def test_note_has_batch_sizes_and_scaled_rate(experiment: Experiment) -> None:
    line = note(experiment, 32, {"target": 8})
    assert line == (
        "learning rate 0.1 is stated for 32 images a step (optimization.lr_batch), but a step sees 8 of stream target: linear "
        "scaling would give 0.025. It is used unchanged."
    )
    assert note(experiment, 8, {"target": 8}) == ""
    assert note(experiment, None, {"target": 8}) == ""


def test_streams_without_terms_do_not_count(experiment: Experiment) -> None:
    objective = [{"loss": "Triplet", "stream": "known"}]
    images = {"target": 8, "known": 12, "any": 10}
    assert note(experiment, 12, images, streams=STREAMS, objective=objective) == ""
    line = note(experiment, 8, images, streams=STREAMS, objective=objective)
    assert "12 of stream known: linear scaling would give 0.15." in line and "stream any" not in line


def test_run_notes_it_once_and_scales_nothing(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    monkeypatch.setattr(Reporter, "message", lambda self, line: lines.append(line))
    losses = []
    for lr_batch in (32, None):
        stages = [{"name": "adapt", "epochs": 1, "iters": 2}]
        path = experiment(
            optimizer={"type": "SGD", "lr": 0.01}, optimization={"lr_batch": lr_batch}, stages=stages
        )
        result = experiments.run(reidx.load_config(path), tmp_path / str(lr_batch), progress="quiet")
        losses.append(result.stages[0].history[0]["loss"])
        assert result.stages[0].history[0]["lr"] == 0.01
        card = result.card["stages"]["adapt"]
        assert (card["images_a_step"], card["lr_batch"]) == ({"target": 8}, lr_batch)
    (line,) = [line for line in lines if "lr_batch" in line]
    assert "stated for 32" in line and "8 of stream target" in line
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    "recipe", ["demo.yaml", "market1501/osnet_imagenet_usl.yaml", "market1501/osnet_msmt17_to_market.yaml"]
)
def test_recipes_state_their_batch(recipe: str) -> None:
    stages = reidx.load_config(f"reidx::{recipe}").experiment.stages
    for stage in stages:
        for stream in stage.streams.values():
            sizes = stream.sampler["identities"] * stream.sampler["instances"]
            assert sizes == stage.optimization.lr_batch
    assert any(stage.streams for stage in stages)
