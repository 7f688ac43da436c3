"""Dry build: a refusal by a constructor of a later stage comes before the first stage trains."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import reidx
from reidx.contracts import Features
from reidx.errors import ConfigError, ReidxError
from reidx.memories import Memory


class Fussy(Memory):
    """Memory whose constructor refuses values below 1."""

    def __init__(self, dim: int, size: int = 1) -> None:
        super().__init__()
        if size < 1:
            raise ConfigError(f"Fussy: size is {size}; it must be 1 or more.")

    def reset(self, features: Tensor | None, labels: Tensor) -> None: ...

    def forward(self, features: Tensor) -> Tensor:
        return features

    def update(self, features: Tensor, targets: Tensor, index: Tensor) -> None: ...


SECOND = {"domain": "target", "labels": "main", "sampler": {"type": "PK", "identities": 2, "instances": 2}}


class FussyAlignment(nn.Module):
    """Alignment whose constructor checks the dimensions of the features."""

    def __init__(self, dims: dict[str, int], width: int = 8) -> None:
        super().__init__()
        if width > min(dims.values()):
            raise ConfigError(f"FussyAlignment: width {width} is more than the features have.")

    def forward(self, source: Features, target: Features) -> Tensor:
        return source["embed"].sum()


@pytest.fixture
def refused(
    experiment: Callable[..., Path], register: Callable[[str, type], None], tmp_path: Path
) -> Callable[..., str]:
    """Return the message for an experiment with ``changes`` in its second stage; the first stage must not train."""
    register("memory", Fussy)
    register("alignment", FussyAlignment)

    def refused(**changes: Any) -> str:
        stages = [{"name": "a", "epochs": 1, "iters": 1}, {"name": "b", "epochs": 1, "iters": 1, **changes}]
        with pytest.raises(ReidxError) as caught:
            reidx.run(reidx.load_config(experiment(stages=stages)), tmp_path / "run", progress="quiet")
        assert not (tmp_path / "run/1-a").exists()
        return str(caught.value)

    return refused


@pytest.mark.parametrize(
    ("changes", "place", "expected"),
    [
        ({"model": {"backbone": {"name": "resnet5"}}}, "model.backbone", "has no model 'resnet5'"),
        ({"model": {"fusion": {"pool": "mean"}}}, "model.fusion", "There is no pooling 'mean'"),
        ({"model": {"freeze": ["nothing"]}}, "model.freeze", "nothing in the network is called 'nothing'"),
        ({"model": {"freeze": ["*"]}, "memories": {"rows": {"memory": "Fussy"}}}, "optimization",
         "There are no trainable parameters"),
        ({"optimization": {"rates": {"backbon": 0.1}}}, "optimization", "optimization.rates: nothing in the network is called"),
        ({"memories": {"more": {"memory": {"type": "Fussy", "size": 0}}}}, "memories.more.memory", "size is 0"),
        (
            {
                "alignment": [{"alignment": {"type": "FussyAlignment", "width": 9999}}],
                "streams": {"source": SECOND},
                "objective": [{"loss": "CrossEntropy", "memory": "rows", "stream": "target"}],
            },
            "alignment.0.alignment",
            "width 9999 is",
        ),
        ({"streams": {"target": {"sampler": {"identities": 0}}}}, "streams.target.sampler", "must be 1 or more"),
        ({"grad_cache_chunks": 2, "model": {"bn_group": 8}}, "grad_cache_chunks", "groups of 8 (model.bn_group)"),
    ],
)  # fmt: skip
def test_values_of_a_later_stage(refused, changes, place, expected):
    message = refused(**changes)
    assert f"stages.1.{place}" in message and expected in message


def test_dry_build_does_not_change_the_numbers(
    experiment: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = [{"name": "a", "epochs": 1, "iters": 1}]
    states = []
    for rehearsed in (True, False):
        if not rehearsed:
            monkeypatch.setattr("reidx.engine.experiment.dry_build", lambda config, domains: None)
        folder = tmp_path / str(rehearsed)
        reidx.run(reidx.load_config(experiment(stages=stages)), folder, progress="quiet")
        states.append(torch.load(folder / "1-a/epoch_1.pth", weights_only=True)["state_dict"])
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
