"""Components whose contract depends on their arguments: the stage that the checks accept also runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import reidx
from reidx.contracts import Features, LabelSet, RefinerContext
from reidx.data.loading import _checked_plan
from reidx.data.samplers import BatchSampler
from reidx.errors import Broken, ConfigError
from reidx.labels.clusterers.dbscan import DBSCAN
from reidx.labels.distances.jaccard import Jaccard
from reidx.memories import Memory
from reidx.models.backbones import Timm
from reidx.registry.build import build
from reidx.registry.registry import KINDS
from reidx.testing.tiny import tiny_domain, tiny_experiment

SEEN: dict[str, Any] = {}
"""Inputs of the components, by kind."""


class TwoViews(nn.Module):
    """Fusion that provides a second view under a chosen name."""

    def __init__(self, in_channels: int, extra: str = "upper") -> None:
        super().__init__()
        self.extra, self.dims = extra, {"embed": in_channels, extra: in_channels}

    @staticmethod
    def contract(extra: str = "upper", **_: Any) -> dict[str, Any]:
        return {"provides": {"embed", extra}}

    def forward(self, maps: Tensor) -> Features:
        return Features({"embed": maps.mean((2, 3)), self.extra: maps.amax((2, 3))})


class Described(Timm):
    """Backbone that provides the mean of its map under a chosen name."""

    def __init__(self, name: str, token: str = "mean_token", image_size: tuple[int, int] = (256, 128)) -> None:
        super().__init__(name, image_size=image_size)
        self.dims, self.token = {token: self.out_channels}, token

    @staticmethod
    def contract(token: str = "mean_token", **_: Any) -> dict[str, Any]:  # type: ignore[override]
        return {"provides": {token}}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = super().forward(images)
        return {"map": maps, self.token: maps.mean((2, 3))} if hasattr(self, "token") else maps  # type: ignore[dict-item, return-value]


class OfToken(nn.Module):
    """Fusion of a token."""

    provides = frozenset({"embed"})

    def __init__(self, token_dims: dict[str, int]) -> None:
        super().__init__()
        self.dims = {"embed": token_dims["mean_token"]}

    def forward(self, maps: Tensor, mean_token: Tensor) -> Features:
        SEEN["backbone"] = mean_token.shape
        return Features({"embed": mean_token})


class OfView(Jaccard):
    """Distance of a chosen view."""

    def __init__(self, view: str = "upper", k1: int = 8, device: str | None = None) -> None:
        super().__init__(k1, 2, device=device)

    @staticmethod
    def contract(view: str = "upper", **_: Any) -> dict[str, Any]:
        return {"requires": {view}}

    def __call__(self, features: Mapping[str, Tensor], **given: Any) -> Any:  # type: ignore[override]
        (SEEN["distance"],) = features
        return super().__call__(next(iter(features.values())), **given)


class Quarters:
    """Clusterer of features or of a graph into four runs of images."""

    def __init__(self, on: str = "features") -> None: ...

    @staticmethod
    def contract(on: str = "features", **_: Any) -> dict[str, Any]:
        return {"clusterer_input": on, "outliers": "never"}

    def __call__(self, given: Any) -> np.ndarray:
        SEEN["clusterer"] = type(given).__name__
        return np.arange(given.shape[0]) // -(-given.shape[0] // 4)


class Undeclared(DBSCAN):
    """Clusterer that does not declare its input."""

    clusterer_input = ""


class Agreement:
    """Refiner of a chosen feature, which provides an array under a chosen name."""

    def __init__(self, view: str = "pooled", name: str = "sureness") -> None:
        self.view, self.name = view, name

    @classmethod
    def contract(cls, view: str = "pooled", name: str = "sureness", **_: Any) -> dict[str, Any]:
        return {"requires": {view}, "provides": {name}, "outliers": "never"}

    def __call__(self, labels: LabelSet, context: RefinerContext) -> LabelSet:
        SEEN["refiner"] = context.features[self.view].shape
        values = np.linspace(0, 1, len(labels.labels), dtype=np.float32)
        return LabelSet(np.maximum(labels.labels, 0), extra={self.name: values})


class Indices:
    """Matcher of a chosen feature, which provides its matches under a chosen name."""

    def __init__(self, view: str = "pooled", name: str = "others") -> None:
        self.view, self.name = view, name

    @classmethod
    def contract(cls, view: str = "pooled", name: str = "others", **_: Any) -> dict[str, Any]:
        return {"requires": {view}, "provides": {name}}

    def __call__(self, labels: list[LabelSet], contexts: list[RefinerContext]) -> list[LabelSet]:
        SEEN["matcher"] = [context.features[self.view].shape for context in contexts]
        return [replace(given, extra={self.name: np.zeros_like(given.labels)}) for given in labels]


class Weighted(nn.Module):
    """Loss that reads an array of the labelling."""

    def forward(self, features: Tensor, sureness: Tensor) -> Tensor:
        SEEN["array"] = sureness.shape
        return (features.square().mean(1) * sureness).mean()


class Matched(nn.Module):
    """Loss that reads the matches of the labelling."""

    def forward(self, features: Tensor, others: Tensor) -> Tensor:
        SEEN["array"] = others.shape
        return (features.square().mean(1) * (1 + others)).mean()


class Rows(Memory):
    """Memory of all images, with their number under a chosen name."""

    def __init__(self, dim: int, name: str = "held") -> None:
        super().__init__()
        self.name = name
        self.register_buffer("rows", torch.zeros(0, dim))
        self.register_buffer(name, torch.zeros(()))

    @staticmethod
    def contract(name: str = "held", **_: Any) -> dict[str, Any]:
        return {"provides": {name}, "outliers": "keep", "column_meaning": "rows"}

    def reset(self, features: Tensor | None, labels: Tensor) -> None:
        assert features is not None
        self.rows = features  # all images, not one row for each label
        setattr(self, self.name, torch.tensor(float(len(features))))

    def forward(self, features: Tensor) -> Tensor:
        return features @ self.rows.T


class OfRows(nn.Module):
    """Loss of the scores of all images, which reads an attribute of the memory."""

    @staticmethod
    def contract(**_: Any) -> dict[str, Any]:
        return {"column_meaning": "rows"}

    def forward(self, scores: Tensor, held: Tensor) -> Tensor:
        SEEN["memory"] = scores.shape[1] == int(held) == 144
        return scores.square().mean()


class Means(nn.Module):
    """Alignment of the means of a chosen feature."""

    def __init__(self, view: str = "pooled") -> None:
        super().__init__()
        self.view = view

    @staticmethod
    def contract(view: str = "pooled", **_: Any) -> dict[str, Any]:
        return {"requires": {view}}

    def begin(self, source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
        SEEN["alignment"] = source[self.view].shape, target[self.view].shape

    def forward(self, source: Features, target: Features) -> Tensor:
        return (source[self.view].mean(0) - target[self.view].mean(0)).square().sum()


class Clustered(BatchSampler):
    """Sampler of labelled images, or of all."""

    def __init__(self, labels: np.ndarray, batches: int, whole: bool = False) -> None:
        super().__init__(batches, 8)
        self.members = np.flatnonzero(labels >= 0)
        self.whole = whole

    @classmethod
    def contract(cls, whole: bool = False, **_: object) -> dict[str, str]:
        return {"outliers": "draw" if whole else "drop"}

    def plan(self, rng: np.random.Generator) -> Any:
        SEEN["sampler"] = len(self.members)
        while True:
            yield rng.choice(self.members, 8)


VIEWS = {"fusion": {"type": "TwoViews"}}
LABELS = {"domain": "target", "distance": {"type": "Jaccard", "k1": 8, "k2": 2},
          "clusterer": {"type": "DBSCAN", "eps": 0.7, "min_samples": 2}}  # fmt: skip
PLAIN = {"type": "Timm", "name": "test_resnet"}


def changed(kind: str, root: Path) -> dict[str, Any]:
    """Return the changes of the tiny experiment for a component of a kind."""
    base = tiny_experiment(root)
    stream = base["streams"]["target"]
    if kind == "backbone":
        return {"model": {"backbone": {"type": "Described", "name": "test_resnet"}, "fusion": "OfToken"}}
    if kind == "fusion":
        return {"model": {"backbone": PLAIN, **VIEWS}, "labels": {**LABELS, "feature": "upper"}}
    if kind == "distance":
        return {"model": {"backbone": PLAIN, **VIEWS}, "labels": {**LABELS, "distance": "OfView"}}
    if kind == "clusterer":
        return {"labels": {"domain": "target", "distance": None, "clusterer": "Quarters"}}
    if kind == "refiner":
        return {"labels": {**LABELS, "refiners": ["Agreement"]}, "objective": [*base["objective"], {"loss": "Weighted"}]}
    if kind in ("memory", "loss"):
        return {"memories": {"all": {"memory": "Rows"}}, "objective": [{"loss": "OfRows", "memory": "all"}]}
    if kind == "sampler":
        return {"streams": {"target": {**stream, "sampler": "Clustered"}}}
    both = {name: tiny_domain(root, name) for name in ("source", "target")}
    data, streams = {**base["data"], "domains": both}, {name: {**stream, "domain": name, "labels": name} for name in both}
    method = {key: value for key, value in LABELS.items() if key != "domain"}
    two = {
        "data": data,
        "streams": streams,
        "labels": {**method, "labellings": {name: {"domain": name} for name in both}},
        "memories": {"rows": {**base["memories"]["rows"], "labels": "target"}},
        "objective": [{"loss": "CrossEntropy", "stream": "target", "memory": "rows"}],
    }
    if kind == "matcher":
        two["objective"].append({"loss": "Matched", "stream": "source"})
        return {**two, "matching": [{"matcher": "Indices", "labellings": list(both)}]}
    return {**two, "alignment": [{"alignment": "Means"}]}


EXPECTED: dict[str, Mapping[str, Any]] = {
    "backbone": {"backbone": (8, 96)},
    "fusion": {},
    "distance": {"distance": "upper"},
    "clusterer": {"clusterer": "Tensor"},
    "refiner": {"refiner": (144, 96), "array": (8,)},
    "matcher": {"matcher": [(144, 96)] * 2, "array": (8,)},
    "memory": {"memory": True},
    "sampler": {},
    "alignment": {"alignment": ((144, 96),) * 2},
}


@pytest.fixture
def parts(register: Callable[[str, type], None]) -> None:
    kinds = {
        "fusion": (TwoViews, OfToken), "backbone": (Described,), "distance": (OfView,), "clusterer": (Quarters, Undeclared),
        "refiner": (Agreement,), "matcher": (Indices,), "memory": (Rows,), "loss": (Weighted, Matched, OfRows),
        "alignment": (Means,), "sampler": (Clustered,),
    }  # fmt: skip
    for kind, classes in kinds.items():
        for component in classes:
            register(kind, component)
    SEEN.clear()


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("kind", EXPECTED)
def test_stage_runs_as_it_was_checked(
    kind: str, experiment: Callable[..., Path], domains_root: Path, tmp_path: Path
) -> None:
    short = {"evaluate": {}, "stages": [{"name": "adapt", "epochs": 1, "iters": 1}], "log": []}
    config = reidx.load_config(experiment(**changed(kind, domains_root), **short))
    reidx.run(config, tmp_path / "run", progress="quiet")
    for name, value in EXPECTED[kind].items():
        assert SEEN[name] == value


@pytest.mark.usefixtures("parts")
def test_drawn_outliers_violate_the_contract_of_a_sampler() -> None:
    labels = np.array([0, 0, -1, -1])
    sampler = build("sampler", "Clustered", labels=labels, batches=2)
    sampler.members = np.array([2, 3])
    with pytest.raises(Broken, match="it drew 16 outliers"):
        _checked_plan(sampler, 4, torch.from_numpy(labels), 2)


@pytest.mark.usefixtures("parts")
def test_clusterer_without_a_declared_input_needs_a_distance(experiment: Callable[..., Path]) -> None:
    """It gets a graph, so the checks require one."""
    labels = {"domain": "target", "clusterer": "Undeclared"}
    assert reidx.load_config(experiment(labels=labels))
    with pytest.raises(ConfigError, match="Undeclared works on a graph; give a distance"):
        reidx.load_config(experiment(labels={**labels, "distance": None}))


def test_fakes_cover_all_kinds_with_wiring() -> None:
    assert set(EXPECTED) == {k for k in KINDS if k not in (
        "dataset", "transform", "loss", "protocol", "reranker", "weights", "optimizer", "schedule")}  # fmt: skip
