"""Several students and their averages: their views, their teachers, and the features that are clustered."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import reidx
from reidx.config.schema import Teacher
from reidx.contracts import Batch, Features, RefinerContext, mean_normalized
from reidx.engine.assembly import in_order
from reidx.engine.objective import BoundTerm, Objective, average_of
from reidx.engine.step import StageModel
from reidx.memories.classifier import LinearClassifier
from reidx.optim.optimizer import PrecisionOptimWrapper, build_optimizer
from reidx.testing.networks import tiny_network
from reidx.testing.runs import assert_same_run, interrupted
from reidx.testing.tiny import tiny_experiment

EMA = {"type": "EMA", "momentum": 0.5, "warmup": False, "batch_norm": "own", "statistics": "running"}
TEACHERS: dict[str, dict[str, Any]] = {
    "peer": {**EMA, "type": "Peer", "of": "student"},
    "mean": {**EMA, "of": "student"},
    "peer_mean": {**EMA, "of": "peer"},
}
SEES = {"student": ["first"], "mean": ["first"], "peer": ["second"], "peer_mean": ["second"]}


class SoftTargets(nn.Module):
    """Loss of the cross-entropy of scores against those of another network."""

    def __init__(self) -> None:
        super().__init__()
        self.judged: list[Tensor] = []

    def forward(self, scores: Tensor, teacher_scores: Tensor) -> Tensor:
        self.judged.append(teacher_scores)
        return -(teacher_scores.softmax(1) * scores.log_softmax(1)).sum(1).mean()


def bound(loss: nn.Module, **wiring: Any) -> BoundTerm:
    return BoundTerm(f"to {wiring['network']}", loss, {"feature": "embed", "weight": 1.0, "from_epoch": 0, **wiring})


@pytest.fixture
def mutual() -> StageModel:
    """Return two students, each with its classifier, view and average; each is taught by the other's average."""
    networks = {"student": tiny_network(0), **{name: tiny_network(i + 1) for i, name in enumerate(TEACHERS)}}
    memories = {"rows": LinearClassifier(4), "peer_rows": LinearClassifier(4)}
    terms = [
        bound(SoftTargets(), network="student", stream="first", memory="rows", teacher="peer_mean",
              teacher_stream="second", teacher_memory="peer_rows"),
        bound(SoftTargets(), network="peer", stream="second", memory="peer_rows", teacher="mean",
              teacher_stream="first", teacher_memory="rows"),
    ]  # fmt: skip
    wiring = {name: {"network": ["mean", "peer_mean"], "feature": "embed", "labels": "main"} for name in memories}
    views = dict.fromkeys(("first", "second"), "main")
    transforms = {name: lambda x: x.float() for name in views}
    model = StageModel(networks, TEACHERS, memories, wiring, Objective(list(terms)), transforms, views, network_streams=SEES)
    torch.manual_seed(5)
    for name, memory in memories.items():
        memory.reset(None, torch.arange(3))
        memory.weight.data.normal_()
        model.reset_memory_averages(name)
    return model.train()


def views(seed: int = 0) -> dict[str, Batch]:
    draws = torch.Generator().manual_seed(seed)
    target = torch.arange(6) % 3
    return {
        name: Batch(torch.randn(6, 3, 2, 2, generator=draws), torch.arange(6), targets=target)
        for name in ("first", "second")
    }


def step(model: StageModel, seed: int = 0) -> dict[str, Tensor]:
    optimizer = build_optimizer(model, {"type": "SGD", "lr": 0.1})
    return model.train_step(views(seed), PrecisionOptimWrapper(optimizer=optimizer))


def test_network_passes_only_its_streams(mutual: StageModel) -> None:
    step(mutual)
    assert {name: len(network.backbone.calls) for name, network in mutual.networks.items()} == dict.fromkeys(SEES, 1)
    made = mutual.features({name: batch.images for name, batch in views().items()})
    assert {name: list(by) for name, by in made.items()} == SEES
    mutual.take_statistics({name: batch.images for name, batch in views().items()})  # here each network sees all streams
    assert {name: len(network.backbone.calls) for name, network in mutual.networks.items()} == dict.fromkeys(SEES, 4)


def test_students_learn_from_the_other_average(mutual: StageModel) -> None:
    given, classifier = views(), mutual.memories["peer_rows"].weight.detach().clone()
    before = copy.deepcopy(mutual.networks["peer_mean"])
    mutual(dict(given))
    judged = mutual.objective.terms[0].loss.judged[0]
    assert torch.equal(judged, before(given["second"].images)["embed"] @ classifier.T)


def test_a_classifier_is_averaged_with_its_network(mutual: StageModel) -> None:
    rows, average = mutual.memories["rows"], mutual.memories[average_of("rows", "mean")]
    start = rows.weight.detach().clone()
    assert torch.equal(average.weight, start) and not average.weight.requires_grad
    step(mutual)
    assert not torch.equal(rows.weight, start)
    expected = 0.5 * start + 0.5 * rows.weight.detach()
    assert torch.allclose(average.weight, expected, atol=1e-7)
    # the other student is then compared with the average, not with the classifier itself
    mutual(views(1))
    judged = mutual.objective.terms[1].loss.judged[-1]
    again = copy.deepcopy(mutual.networks["mean"])(views(1)["first"].images)["embed"]
    assert torch.allclose(judged, again @ average.weight.T, atol=1e-5)
    assert not torch.allclose(judged, again @ rows.weight.T, atol=1e-3)


def test_a_reset_makes_the_average_a_copy_again(mutual: StageModel) -> None:
    step(mutual)
    mutual.memories["rows"].reset(None, torch.arange(7))
    mutual.reset_memory_averages("rows")
    average = mutual.memories[average_of("rows", "mean")]
    assert average.weight.shape == (7, 4) and torch.equal(average.weight, mutual.memories["rows"].weight)
    assert not average.weight.requires_grad


def test_no_teacher_and_no_average_is_trained(mutual: StageModel) -> None:
    optimizer = build_optimizer(mutual, {"type": "SGD", "lr": 0.1})
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    of = {name: [id(p) for p in part.parameters()] for name, part in (*mutual.networks.items(), *mutual.memories.items())}
    assert {name for name, ids in of.items() if set(ids) <= trained} == {"student", "peer", "rows", "peer_rows"}
    assert {name for name, ids in of.items() if set(ids) & trained} == {"student", "peer", "rows", "peer_rows"}


def test_mean_of_unit_features_of_several_networks() -> None:
    a, b = torch.tensor([[3.0, 4.0], [0.0, 2.0]]), torch.tensor([[1.0, 0.0], [5.0, 0.0]])
    assert torch.allclose(mean_normalized([a, b]), torch.tensor([[0.8, 0.4], [0.5, 0.5]]))
    assert mean_normalized([a]) is a


def test_averages_are_built_after_their_networks() -> None:
    teachers = {"far": Teacher("EMA", of="near"), "near": Teacher("EMA", of="peer"), "peer": Teacher("Peer")}
    assert in_order(teachers) == ["near", "far", "peer"] or in_order(teachers) == ["peer", "near", "far"]


# ---- whole runs


def two_students(root: Path, **changes: Any) -> dict[str, Any]:
    """Return a small MMT: two students, their averages, a view for each, and labels by the mean of both averages."""
    plain = tiny_experiment(root, **changes)
    plain["teachers"] = {
        "peer": {"type": "Peer"}, "mean": {"type": "EMA"}, "peer_mean": {"type": "EMA", "of": "peer"}
    }  # fmt: skip
    plain["streams"]["target"]["views"] = {"second": {"type": "ReidAugment", "pad": 2}}
    plain["network_streams"] = {"student": ["target"], "mean": ["target"], "peer": ["second"], "peer_mean": ["second"]}
    both = ["mean", "peer_mean"]
    plain["labels"] = {**plain["labels"], "network": both}
    plain["memories"] = {
        name: {"memory": {"type": "LinearClassifier", "rows": "centroid"}, "network": both} for name in ("rows", "peer_rows")
    }
    plain["objective"] = [
        {"loss": "CrossEntropy", "stream": "target", "memory": "rows"},
        {"loss": "CrossEntropy", "stream": "second", "network": "peer", "memory": "peer_rows"},
        {"loss": "SoftTargets", "stream": "target", "memory": "rows", "teacher": "peer_mean",
         "teacher_stream": "second", "teacher_memory": "peer_rows"},
        {"loss": "SoftTargets", "stream": "second", "network": "peer", "memory": "peer_rows", "teacher": "mean",
         "teacher_stream": "target", "teacher_memory": "rows"},
    ]  # fmt: skip
    plain["optimizer"] = {"type": "Adam", "lr": 1e-3}
    plain["optimization"] = {"restart_every": 1}
    plain["evaluate"] = {**plain.get("evaluate", {}), "network": "mean"}
    plain["stages"] = [{"name": "adapt", "epochs": 3, "iters": 2}]
    return plain


@pytest.fixture
def mutual_run(register, experiment, domains_root: Path):
    register("loss", SoftTargets)
    return lambda: reidx.load_config(experiment(**two_students(domains_root)))


def test_two_students_resume_bit_exactly(mutual_run, tmp_path: Path) -> None:
    config = mutual_run()
    reidx.run(config, tmp_path / "whole", progress="quiet")

    with interrupted(3):
        reidx.run(config, tmp_path / "halved", progress="quiet")
    reidx.run(config, tmp_path / "halved", resume=True, progress="quiet")
    assert_same_run(tmp_path / "halved", tmp_path / "whole")


def test_labelling_uses_the_mean_of_both_averages(mutual_run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from reidx.engine.relabel import Extractor
    from reidx.labels.pipeline import LabelPipeline

    extracted: dict[str, Tensor] = {}
    shown: list[Tensor] = []
    features, context = Extractor.features, LabelPipeline.context

    def note(self: Extractor, domain: str, split: str, network: str, names: set[str], flip: bool, what: str) -> Any:
        made = features(self, domain, split, network, names, flip, what)
        if split == "train":
            extracted.setdefault(network, made["embed"])
        return made

    def watch(self: LabelPipeline, given: dict[str, Tensor], **rest: Any) -> RefinerContext:
        shown.append(given["embed"].clone())
        return context(self, given, **rest)

    monkeypatch.setattr(Extractor, "features", note)
    monkeypatch.setattr(LabelPipeline, "context", watch)
    reidx.run(mutual_run(), tmp_path / "run", progress="quiet")
    assert set(extracted) == {"mean", "peer_mean"}
    assert not torch.allclose(extracted["mean"], extracted["peer_mean"])  # the peer started from other weights
    assert torch.equal(shown[0], mean_normalized([extracted["mean"], extracted["peer_mean"]]))


def test_moments_are_reset_every_second_epoch(mutual_run, tmp_path: Path, monkeypatch) -> None:
    counts: list[float] = []
    original = StageModel.train_step

    def watch(self: StageModel, data: Any, optim_wrapper: Any) -> Any:
        result = original(self, data, optim_wrapper)
        first = self.networks["student"].backbone
        parameter = next(p for p in first.parameters() if p.requires_grad)
        counts.append(float(optim_wrapper.optimizer.state[parameter]["step"]))
        return result

    monkeypatch.setattr(StageModel, "train_step", watch)
    config = mutual_run()
    config.experiment.stages[0].optimization.restart_every = 2
    reidx.run(config, tmp_path / "run", progress="quiet")
    assert counts == [1, 2, 3, 4, 1, 2]


class Noted(nn.Module):
    """Fusion with a note."""

    provides = frozenset({"embed"})

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.dims = {"embed": in_channels}
        self.weight = nn.Parameter(torch.ones(in_channels))

    def forward(self, maps: Tensor) -> Features:
        return Features({"embed": maps.mean((2, 3)) * self.weight})

    def notes(self) -> list[str]:
        return ["its gates are frozen"]


def test_notes_of_a_part_appear_once(register, experiment, domains_root: Path, tmp_path: Path, capsys) -> None:
    register("fusion", Noted)
    plain = tiny_experiment(domains_root)
    plain["model"]["fusion"] = {"type": "Noted"}
    plain["stages"] = [{"name": "adapt", "epochs": 2, "iters": 2}]
    reidx.run(reidx.load_config(experiment(**plain)), tmp_path / "run", progress="plain")
    captured = capsys.readouterr()
    assert (captured.out + captured.err).count("its gates are frozen") == 1
