"""Parts of an experiment that fail or break their contract, at each place where a run calls them."""

from __future__ import annotations

import argparse
import importlib
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import nn

from reidx.cli.main import main
from reidx.contracts import LabelSet, RefinerContext
from reidx.data.datasets.base import Split
from reidx.data.domains import Domains
from reidx.data.loading import LabelledView, batches
from reidx.engine.loop import refuse_odd_rates
from reidx.errors import ReidxError, RunError
from reidx.evaluation import evaluate, rerank
from reidx.evaluation.matches import has_match
from reidx.evaluation.protocols import Protocol, drawn_trials, measured
from reidx.labels.matching import LabelMatching
from reidx.labels.pipeline import LabelPipeline
from reidx.memories import Memory
from reidx.registry import promises, seam
from reidx.registry.registry import Component, Entry


@pytest.fixture
def of_plugin(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Any], Any]:
    """Return a function that registers an object as a plugin's component."""
    monkeypatch.setattr(seam, "_built", {})

    def known(kind: str, component: Any) -> Any:
        name = type(component).__name__
        return seam.record_built(Entry(Component(kind, name, f"{__name__}:{name}"), "mine", "reidx-mine 0.1"), component)

    return known


def checked_message(raised: pytest.ExceptionInfo[BaseException]) -> str:
    """Return the message, and assert that it names plugin, contract and a line of this file."""
    text = str(raised.value)
    assert "(from reidx-mine 0.1) " in text
    assert " is given " in text
    assert "test_parts_at_fault.py" in text
    return text


def test_loss_that_exits_is_no_success(register, experiment, tmp_path, capsys):
    class Exits(nn.Module):
        def forward(self, scores, targets):
            raise SystemExit(0)

    register("loss", Exits)
    path = experiment(objective=[{"loss": "Exits", "memory": "rows"}])
    assert main(["train", str(path), "--work-dir", str(tmp_path / "run"), "--progress", "quiet"]) == 1
    text = capsys.readouterr().err
    assert "loss Exits (from the test) failed in forward: it exits the program (SystemExit: 0)" in text
    assert "This happened in stage adapt, epoch 1/2, training" in text
    assert "This is a bug in reidx" in text


def test_promises_are_checked_once_an_epoch(register, experiment, tmp_path, monkeypatch):
    watched: list[bool] = []

    class Looks(nn.Module):
        def forward(self, scores, targets):
            watched.append(seam._full_checks.get())
            return F.cross_entropy(scores, targets)

    register("loss", Looks)
    path = experiment(objective=[{"loss": "Looks", "memory": "rows"}], evaluate={})
    assert main(["train", str(path), "--work-dir", str(tmp_path / "run"), "--progress", "quiet"]) == 0
    assert watched == [True, False, False] * 2


def test_command_that_exits_is_no_success(monkeypatch, capsys):
    from reidx.cli import config

    def leave(arguments: argparse.Namespace) -> int:
        raise SystemExit(0)

    monkeypatch.setattr(config, "run", leave)
    assert main(["config", "a.yaml"]) == 1
    assert "SystemExit(0) ended the program before it was done" in capsys.readouterr().err


# ---- samplers


class Draws:
    """Sampler that draws the given batches."""

    outliers = "drop"

    def __init__(self, plan: Any) -> None:
        self.plan = plan

    def __iter__(self) -> Any:
        return iter(self.plan)


class Store:
    held = None

    def __len__(self) -> int:
        return 6


DRAWN = {
    "beyond the images": ([[0, 6], [1, 2]], "position 6, but there are 6 images"),
    "below": ([[-1, 0], [1, 2]], "position -1"),
    "words": ([["a", 0], [1, 2]], "'a' (str)"),
    "halves": ([[0.5, 0], [1, 2]], "0.5 (float)"),
    "booleans": ([[True, 0], [1, 2]], "True (bool)"),
    "too few": ([[0, 1]], "1 batches of 2 images, not the requested 2"),
    "too many": ([[0, 1]] * 3, "more than 2 batches"),
    "endless": (itertools.repeat([0, 1]), "more than 2 batches"),
    "other sizes": ([[0, 1], [1]], "2 batches of 1, 2 images"),
    "empty": ([[], []], "2 batches of 0 images"),
    "none": ([], "0 batches of no images"),
    "outliers": ([[0, 5], [1, 2]], "1 outliers (label -1)"),
    "no iterator": (None, "TypeError: 'NoneType' object is not iterable"),
    "no batches": ([1, 2], "TypeError: 'int' object is not iterable"),
}


@pytest.mark.parametrize(("plan", "fault"), DRAWN.values(), ids=DRAWN)
def test_sampler_is_checked_before_its_epoch(of_plugin, plan, fault):
    view = LabelledView(Store(), np.zeros(6, np.int64), LabelSet(np.array([0, 0, 1, 1, 2, -1])))  # type: ignore[arg-type]
    with pytest.raises(ReidxError) as raised:
        batches(view, of_plugin("sampler", Draws(plan)), 0, 2)
    assert fault in checked_message(raised) and "sampler mine.Draws" in str(raised.value)


def test_correct_sampler_passes(of_plugin):
    view = LabelledView(Store(), np.zeros(6, np.int64), LabelSet(np.arange(6)))  # type: ignore[arg-type]
    assert len(batches(view, of_plugin("sampler", Draws([np.array([0, 5]), [torch.tensor(1).item(), 2]])), 0, 2)) == 2


# ---- labelling


class Clusters:
    """Clusterer of features that returns the given labels."""

    clusterer_input, outliers = "features", "never"

    def __init__(self, labels: Any) -> None:
        self.labels = labels

    def __call__(self, features: torch.Tensor) -> Any:
        return self.labels(features) if callable(self.labels) else np.copy(self.labels)


class Refines:
    """Refiner that returns the result of a given function."""

    requires: frozenset[str] = frozenset()
    outliers = "never"

    def __init__(self, change: Any, provides: tuple[str, ...] = ()) -> None:
        self.change, self.provides = change, frozenset(provides)

    def __call__(self, labels: LabelSet, labelling: Any) -> Any:
        return self.change(labels.labels)


GOOD = np.array([0, 0, 1, 1])
ONES = np.ones(4, np.float32)


def labelled(clusterer: Any, refiners: list[Any]) -> LabelSet:
    with seam.full_checks():
        pipeline = LabelPipeline("embed", None, clusterer, refiners)
        return pipeline({"embed": torch.ones(4, 2)}, epoch=0, cameras=np.zeros(4, np.int64))


CLUSTERED = {
    "too short": (GOOD[:3], "not labels (4,)"),
    "two axes": (GOOD[:, None], "not labels (4,)"),
    "nothing": (lambda features: None, "not labels (4,)"),
    "floats": (GOOD + 0.5, "labels of float64"),
    "gaps": (2 * GOOD, "gaps: 2 labels, the largest is 2"),
    "below -1": (GOOD - 2, "a label is -2"),
    "huge": (GOOD * 10**12, "gaps"),
    "outliers": (GOOD - 1, "it left 2 outliers"),
    "in place": (lambda features: [features.zero_(), GOOD][1], "it changed features in place"),
    "raises": (lambda features: 1 / 0, "ZeroDivisionError"),
    "exits": (lambda features: sys.exit(0), "it exits the program"),
}


@pytest.mark.parametrize(("labels", "fault"), CLUSTERED.values(), ids=CLUSTERED)
def test_clusterer_is_checked(of_plugin, labels, fault):
    with pytest.raises(ReidxError) as raised:
        labelled(of_plugin("clusterer", Clusters(labels)), [])
    assert fault in checked_message(raised) and "clusterer mine.Clusters" in str(raised.value)


REFINED = {
    "nothing": (lambda old: None, (), "not a LabelSet"),
    "an array": (lambda old: old, (), "not a LabelSet"),
    "fewer images": (lambda old: LabelSet(old[:3]), (), "not int64 (4,)"),
    "texts": (lambda old: LabelSet(old.astype(str)), (), "not int64 (4,)"),
    "gaps": (lambda old: LabelSet(3 * old), (), "gaps"),
    "outliers": (lambda old: LabelSet(old - 1), (), "it left 2 outliers"),
    "weights missing": (LabelSet, ("weights",), "it gave no weights, which its `provides` declares"),
    "extra missing": (LabelSet, ("agreement",), "it gave no agreement"),
    "weights undeclared": (lambda old: LabelSet(old, ONES), (), "it gave weights, which its `provides` does not declare"),
    "weights of 2": (lambda old: LabelSet(old, 2 * ONES), ("weights",), "from 2.0 to 2.0, not 0 to 1"),
    "weights NaN": (lambda old: LabelSet(old, ONES * np.nan), ("weights",), "its weights has NaN"),
    "weights of two": (lambda old: LabelSet(old, np.ones((4, 2))), ("weights",), "its weights are"),
    "soft sums": (lambda old: LabelSet(old, soft_targets=np.ones((4, 2))), ("soft_targets",), "not probabilities"),
    "soft negative": (lambda old: LabelSet(old, None, np.array([[2.0, -1.0]] * 4)), ("soft_targets",), "not probabilities"),
    "soft shape": (lambda old: LabelSet(old, soft_targets=np.ones((4, 3)) / 3), ("soft_targets",), "not (4, 2)"),
    "extra short": (lambda old: LabelSet(old, extra={"agreement": ONES[:2]}), ("agreement",), "not an array of 4 images"),
    "extra infinite": (lambda old: LabelSet(old, extra={"agreement": ONES * np.inf}), ("agreement",), "NaN or infinite"),
    "in place": (lambda old: [old.fill(0), LabelSet(old)][1], (), "it changed labels in place"),
    "raises": (lambda old: {}["x"], (), "KeyError"),
}


@pytest.mark.parametrize(("change", "provides", "fault"), REFINED.values(), ids=REFINED)
def test_refiner_is_checked(of_plugin, change, provides, fault):
    with pytest.raises(ReidxError) as raised:
        labelled(Clusters(GOOD), [of_plugin("refiner", Refines(change, provides))])
    assert fault in checked_message(raised) and "refiner mine.Refines" in str(raised.value)


def test_correct_refiner_passes(of_plugin):
    soft = np.array([[0.5, 0.5]] * 4, np.float32)
    right = Refines(lambda old: LabelSet(old, 0.5 * ONES, soft, {"agreement": ONES}), ("weights", "soft_targets", "agreement"))
    assert labelled(of_plugin("clusterer", Clusters(GOOD)), [of_plugin("refiner", right)]).count == 2


class Matches:
    """Matcher that returns the result of a given function."""

    provides = frozenset({"other_labels"})

    def __init__(self, change: Any) -> None:
        self.change = change

    def __call__(self, labels: list[LabelSet], contexts: list[RefinerContext]) -> Any:
        return self.change(*(given.labels for given in labels))


def with_others(labels: np.ndarray, others: np.ndarray) -> LabelSet:
    return LabelSet(labels, extra={"other_labels": others})


MATCHED = {
    "nothing": (lambda one, other: None, "not a list of 2 label sets, one for each labelling"),
    "one of two": (lambda one, other: [with_others(one, one)], "not a list of 2 label sets"),
    "an array": (lambda one, other: [with_others(one, one), other], "not a LabelSet"),
    "images of the other": (lambda one, other: [with_others(one, one), with_others(one, one)], "not int64 (3,)"),
    "array of the other": (lambda one, other: [with_others(one, other)] * 2, "its other_labels is"),
    "gaps": (lambda one, other: [with_others(2 * one, one), with_others(other, other)], "gaps"),
    "missing": (lambda one, other: [LabelSet(one), LabelSet(other)], "it gave no other_labels, which its `provides` declares"),
    "undeclared": (lambda one, other: [LabelSet(one, ONES, extra={"other_labels": one})] * 2, "it gave weights"),
    "in place": (lambda one, other: [one.fill(0), with_others(one, one), with_others(other, other)][1:], "it changed labels"),
}


@pytest.mark.parametrize(("change", "fault"), MATCHED.values(), ids=MATCHED)
def test_matcher_is_checked(of_plugin, change, fault):
    labels = {"one": LabelSet(GOOD.copy()), "other": LabelSet(GOOD[:3].copy())}
    matching = LabelMatching(of_plugin("matcher", Matches(change)), ["one", "other"])
    with pytest.raises(ReidxError) as raised, seam.full_checks():
        matching(labels, {name: context_of(len(given.labels)) for name, given in labels.items()})
    assert fault in checked_message(raised) and "matcher mine.Matches" in str(raised.value)


def context_of(images: int) -> RefinerContext:
    features = {"embed": torch.ones(images, 2)}
    return RefinerContext(features, "embed", None, None, lambda: GOOD, 0, cameras=np.zeros(images, np.int64))


class Measures:
    def __init__(self, graph: Any) -> None:
        self.graph = graph

    def __call__(self, features: torch.Tensor) -> Any:
        return self.graph


EYE = csr_array(np.eye(4, dtype=np.float32))
NAN = csr_array((EYE.data * np.nan, EYE.indices, EYE.indptr), shape=(4, 4))


@pytest.mark.parametrize("graph", [None, np.eye(4), EYE[:3], NAN])
def test_distance_is_checked(of_plugin, graph):
    clusterer = Clusters(GOOD)
    clusterer.clusterer_input = "graph"
    pipeline = LabelPipeline("embed", of_plugin("distance", Measures(graph)), clusterer)
    with pytest.raises(ReidxError) as raised:
        pipeline({"embed": torch.ones(4, 2)}, epoch=0, cameras=np.zeros(4, np.int64))
    assert "distance mine.Measures" in checked_message(raised)


# ---- memories, data sets, protocols, rates


class Rows(Memory):
    """Memory whose update calls a given function."""

    def __init__(self, change: Callable[[Rows, torch.Tensor], Any] = lambda memory, features: None) -> None:
        super().__init__()
        self.change = change
        self.register_buffer("rows", torch.zeros(3, 2))

    def reset(self, features, labels): ...

    def forward(self, features):
        return features @ self.rows.T

    def update(self, features, targets, index):
        self.change(self, features)


def updated(memory: Any) -> None:
    with seam.full_checks():
        given = torch.ones(2, 2), torch.zeros(2, dtype=torch.int64), torch.arange(2)
        seam.call("memory", memory, "update", memory.update, *given)


def test_update_without_effect_is_reported(of_plugin, monkeypatch):
    monkeypatch.setattr(promises, "remarks", remarks := [])
    updated(of_plugin("memory", Rows(lambda memory, features: memory.rows.add_(1))))
    assert not remarks
    updated(of_plugin("memory", Rows()))
    assert remarks == ["memory Rows: the update after a step changed nothing in it"]


def test_update_must_not_change_its_input(of_plugin):
    with pytest.raises(ReidxError) as raised:
        updated(of_plugin("memory", Rows(lambda memory, features: features.zero_())))
    assert "it changed features in place" in checked_message(raised)


class Sets:
    def __init__(self, train: Any) -> None:
        self.train = train


@pytest.mark.parametrize("train", [None, (["a"], [1], [1]), Split([1], None, np.zeros(1, np.int64))])  # type: ignore[list-item]
def test_data_set_without_splits(of_plugin, train):
    data = {"domains": {"target": "Market1501"}, "image_size": (8, 4), "interpolation": "bilinear", "workers": 0, "cache_gb": 0}
    domains = Domains(data)
    domains._datasets["target"] = of_plugin("dataset", Sets(train))
    with pytest.raises(ReidxError) as raised:
        domains.split("target", "train")
    assert "dataset mine.Sets" in checked_message(raised) and "its train" in str(raised.value)


class Ignores(Protocol):
    def __init__(self, mask: Any) -> None:
        super().__init__("mine", "1", camera_filter=False)
        object.__setattr__(self, "mask", mask)

    def ignored(self, query_ids, gallery_ids, query_cams, gallery_cams):
        return self.mask  # type: ignore[attr-defined]


@pytest.mark.parametrize("mask", [None, np.zeros((2, 2), bool), np.zeros((2, 3)), [[False] * 3] * 2])
def test_protocol_is_checked(of_plugin, mask):
    ids = np.arange(3)
    with pytest.raises(ReidxError) as raised:
        has_match(of_plugin("protocol", Ignores(mask)), (ids[:2], ids, ids[:2], ids))
    assert "protocol mine.Ignores" in checked_message(raised) and "not booleans (1, 1)" in str(raised.value)


class Trials(Ignores):
    metrics = ("rank-1",)

    def draw_trials(self, query_ids, gallery_ids, query_cams, gallery_cams):
        return self.mask  # type: ignore[attr-defined]

    def measure(self, distances, ignored, query_ids, gallery_ids, query_cams, gallery_cams):
        return self.mask  # type: ignore[attr-defined]


TWO = np.arange(2)


@pytest.mark.parametrize(
    ("trials", "message"),
    [
        ([], "it drew no trial"),
        ([TWO], "trial 1 is int64 2, not positions"),
        ([(TWO, TWO), (TWO, [0, 1])], "the gallery positions of trial 2 are list of 2, not an array of integers"),
        ([(TWO, TWO[:0])], "the gallery positions of trial 1 are int64 0: a trial needs at least one"),
        ([(TWO, TWO > 0)], "not an array of integers"),
        ([(TWO - 1, TWO)], "the query positions of trial 1 are int64 2, from -1 to 0, not 0 to 1"),
        ([(TWO, TWO + 2)], "the gallery positions of trial 1 are int64 2, from 2 to 3, not 0 to 2"),
        ([(TWO, TWO * 0)], "the gallery positions of trial 1 are int64 2, some of them twice"),
    ],
)
def test_drawn_trials_are_checked(of_plugin, trials, message):
    ids = np.arange(3)
    with pytest.raises(ReidxError) as raised, seam.full_checks():
        drawn_trials(of_plugin("protocol", Trials(trials)), (ids[:2], ids, ids[:2], ids))
    assert "protocol mine.Trials" in checked_message(raised) and message in str(raised.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (None, "it returned None, not arrays by name (rank-1)"),
        ({"rank-1": [0, 1]}, "its rank-1 is list of 2, not an array of 2 floats"),
        ({"rank-1": np.ones(3)}, "its rank-1 is float64 3, not an array of 2 floats"),
        ({"rank-1": np.array([np.nan, np.inf])}, "its rank-1 reaches from inf to inf, not 0 to 1"),
        ({"rank-1": np.ones(2), "mAP": np.ones(2)}, "it returned rank-1, mAP; its `metrics` are rank-1"),
    ],
)
def test_measured_values_are_checked(of_plugin, values, message):
    ids, pairs = np.arange(3), np.zeros((2, 3))
    with pytest.raises(ReidxError) as raised, seam.full_checks():
        measured(of_plugin("protocol", Trials(values)), pairs, pairs > 0, (ids[:2], ids, ids[:2], ids), slice(None), None)
    assert "protocol mine.Trials" in checked_message(raised) and message in str(raised.value)


class Ranks:
    """Re-ranker, and its own result, with the given blocks: the first at its check, the second for the ranking."""

    def __init__(self, *blocks: Any, shape: tuple[int, int] = (2, 3)) -> None:
        self.blocks, self.shape = list(blocks), shape

    def __call__(self, query_features, gallery_features):
        return self if self.blocks else None

    def block(self, rows):
        made = self.blocks[0] if len(self.blocks) == 1 else self.blocks.pop(0)
        return made() if callable(made) else made

    def card(self):
        return {}


RIGHT = np.zeros(2), np.zeros((2, 3), np.float32)


@pytest.mark.parametrize(
    ("blocks", "fault"),
    [
        ([], "returned None, not a re-ranking: it has no shape"),
        ([None], "not two arrays"),
        ([(np.zeros(2, np.float32), RIGHT[1])], "the factors of its re-ranking are"),
        ([(RIGHT[0], np.zeros((2, 4), np.float32))], "not float32 (2, 3)"),
        ([(RIGHT[0], np.full((2, 3), np.nan, np.float32))], "with NaN or infinite numbers"),
        ([(RIGHT[0] - 1, RIGHT[1])], "a factor of its re-ranking is -1.0"),
        ([RIGHT, (RIGHT[0], np.full((2, 3), np.inf, np.float32))], "with NaN or infinite numbers"),
        ([RIGHT, lambda: {}["cameras"]], "failed in block: KeyError: 'cameras'"),
    ],
)
def test_reranker_is_checked(of_plugin, blocks, fault):
    features = torch.eye(3)
    with pytest.raises(ReidxError) as raised, seam.full_checks():
        made = rerank(of_plugin("reranker", Ranks(*blocks)), features[:2], features)
        evaluate(features[:2], features, [0, 1], [0, 1, 1], [0, 0], [1, 1, 1], reranking=made)
    assert "reranker mine.Ranks" in checked_message(raised) and fault in str(raised.value)


def test_reranking_of_another_shape_is_refused(of_plugin):
    features = torch.eye(3)
    with pytest.raises(ReidxError, match=r"a re-ranking of shape \(3, 2\), not \(2, 3\)"), seam.full_checks():
        rerank(of_plugin("reranker", Ranks(RIGHT, shape=(3, 2))), features[:2], features)


@pytest.mark.parametrize("rate", [float("nan"), float("inf"), -0.1])
def test_invalid_learning_rate_is_refused(rate):
    refuse_odd_rates({"lr": [0.1, 0.0]})
    with pytest.raises(RunError, match="the learning rate is"):
        refuse_odd_rates({"lr": [0.1, rate]})


FAILS = '''
from reidx import Component, PluginInfo, hookimpl
@hookimpl
def reidx_plugin():
    return PluginInfo(title="A plugin", api=1, licence="MIT")
@hookimpl
def reidx_components():
    return [Component("loss", "Own", "{module}:Own")]
def go():
    1 / 0
'''


def test_error_is_attributed_to_its_plugin(fake_plugins, monkeypatch):
    from reidx.registry import discovery as plugins

    fake_plugins.add("mine", FAILS)
    known, found = fake_plugins.discover()
    with pytest.raises(ZeroDivisionError) as raised:
        importlib.import_module("fake_reidx_mine").go()
    with plugins.registry_override(known, found["mine"]):
        owner = plugins.owner_of(raised.value)
        assert owner == f"the plugin mine (from reidx-mine 0.1), {Path(fake_plugins.folder / 'fake_reidx_mine.py')}:10."
        monkeypatch.setattr(seam, "_built", {})
        entry = Entry(Component("loss", "Own", "fake_reidx_mine:Own"), "mine", "reidx-mine 0.1")
        seam.record_built(entry, object())
        assert (plugins.owner_of(raised.value) or "").startswith("loss mine.Own (from reidx-mine 0.1), ")
        assert plugins.owner_of(ValueError("elsewhere")) is None
