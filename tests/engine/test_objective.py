"""Terms and their wiring: inputs, weighted sum, and epochs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reidx.contracts import INPUTS, Batch, Features, inputs_of
from reidx.engine.objective import BoundAlignment, BoundTerm, Objective
from reidx.errors import ConfigError

WIRING = {
    "stream": "target", "network": "student", "feature": "embed", "memory": None, "teacher": None,
    "weight": 1.0, "from_epoch": 0,
}  # fmt: skip


def bound(loss: nn.Module, name: str = "term", **wiring: Any) -> BoundTerm:
    return BoundTerm(name, loss, {**WIRING, **wiring})


class Everything(nn.Module):
    """Loss that records all its inputs."""

    def forward(
        self,
        features: Tensor,
        targets: Tensor,
        scores: Tensor,
        weights: Tensor,
        soft_targets: Tensor,
        teacher: Tensor,
        teacher_scores: Tensor,
        cameras: Tensor,
        index: Tensor,
    ) -> Tensor:
        self.given = {k: v for k, v in locals().items() if k in INPUTS}
        return features.sum()


class Constant(nn.Module):
    """Loss of a constant times the mean of the features."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value, self.calls = value, 0

    def forward(self, features: Tensor) -> Tensor:
        self.calls += 1
        return self.value * features.mean()


class Optional(nn.Module):
    """Loss whose memory and teacher are optional."""

    def forward(
        self,
        features: Tensor,
        scores: Tensor | None = None,
        teacher: Tensor | None = None,
        teacher_scores: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        self.given = {n for n, v in locals().items() if n in INPUTS and v is not None}
        return features.sum()


def outputs(**values: float) -> dict[str, dict[str, Features]]:
    """Return features of two networks on two streams, each filled with its own number."""
    table = {("student", "source"): 1.0, ("student", "target"): 2.0, ("mean", "source"): 3.0, ("mean", "target"): 4.0}
    made: dict[str, dict[str, Features]] = {"student": {}, "mean": {}}
    for (network, stream), value in table.items():
        made[network][stream] = Features(
            {
                "embed": torch.full((2, 3), value, requires_grad=True),
                "pooled": torch.full((2, 3), 10 * value, requires_grad=True),
            }
        )
    return made


def batches() -> dict[str, Batch]:
    return {
        name: Batch(
            torch.zeros(2, 3, 1, 1),
            index=torch.tensor([s, s + 1]),
            targets=torch.tensor([s + 2, s + 3]),
            cameras=torch.tensor([s + 4, s + 5]),
            weights=torch.tensor([s + 6.0, s + 7.0]),
            soft_targets=torch.full((2, 4), s + 8.0),
        )
        for name, s in (("source", 100), ("target", 200))
    }


def memories() -> dict[str, nn.Module]:
    memory = nn.Linear(3, 4, bias=False)
    nn.init.constant_(memory.weight, 1.0)
    return {"rows": memory}


def test_loss_gets_the_inputs_it_names() -> None:
    loss = Everything()
    bound(loss, feature="pooled", memory="rows", teacher="mean")(outputs(), batches(), memories())
    got = loss.given
    assert set(got) == set(INPUTS)
    assert (got["features"] == 20).all() and (got["teacher"] == 40).all()
    assert (got["scores"] == 60).all()
    assert (got["teacher_scores"] == 120).all()
    assert got["scores"].shape == (2, 4)
    numbers = {n: got[n].flatten()[0].item() for n in ("index", "targets", "cameras", "weights", "soft_targets")}
    assert numbers == {"index": 200, "targets": 202, "cameras": 204, "weights": 206, "soft_targets": 208}


def test_wiring_selects_stream_and_network() -> None:
    loss = Everything()
    bound(loss, stream="source", network="mean", memory="rows", teacher="student")(outputs(), batches(), memories())
    assert (loss.given["features"] == 3).all() and (loss.given["teacher"] == 1).all()
    assert loss.given["index"].tolist() == [100, 101]


def test_own_labels_replace_those_of_the_stream() -> None:
    given, loss = batches(), Everything()
    given["target"].extra = {"labels@u": torch.tensor([7, 8]), "weights@u": torch.ones(2), "soft_targets@u": torch.zeros(2, 4)}
    term = bound(loss, labels="u", memory="rows", teacher="student")
    term(outputs(), given, memories())
    assert loss.given["targets"].tolist() == [7, 8] and loss.given["weights"].tolist() == [1, 1]
    assert loss.given["cameras"].tolist() == [204, 205] and loss.given["index"].tolist() == [200, 201]
    bound(loss, memory="rows", teacher="student")(outputs(), given, memories())
    assert loss.given["targets"].tolist() == [202, 203]


def test_signature_gives_required_and_optional_inputs() -> None:
    assert inputs_of(Everything) == (set(INPUTS), set())
    assert inputs_of(Optional) == ({"features"}, {"scores", "teacher", "teacher_scores", "weights"})


@pytest.mark.parametrize(
    ("wiring", "extra"),
    [
        ({}, set()),
        ({"memory": "rows"}, {"scores"}),
        ({"teacher": "mean"}, {"teacher"}),
        ({"memory": "rows", "teacher": "mean"}, {"scores", "teacher", "teacher_scores"}),
    ],
)
def test_optional_inputs_may_stay_unwired(wiring: dict[str, str], extra: set[str]) -> None:
    loss = Optional()
    bound(loss, **wiring)(outputs(), batches(), memories())
    assert loss.given == {"features", "weights"} | extra


def test_inputs_from_a_teacher_have_no_gradient() -> None:
    loss, made, known = Everything(), outputs(), memories()
    bound(loss, memory="rows", teacher="mean")(made, batches(), known)
    assert not loss.given["teacher"].requires_grad and not loss.given["teacher_scores"].requires_grad
    loss.given["scores"].sum().backward()  # the student's own scores do train features and memory
    assert made["student"]["target"]["embed"].grad is not None and known["rows"].weight.grad is not None


def test_only_the_sum_is_weighted() -> None:
    objective = Objective([bound(Constant(3.0), "a", weight=0.5), bound(Constant(5.0), "b", weight=2.0, feature="pooled")])
    total, values = objective(outputs(), batches(), {})
    assert {k: v.item() for k, v in values.items()} == {"a": 6.0, "b": 100.0}
    assert total.item() == 0.5 * 6.0 + 2.0 * 100.0
    assert total.requires_grad and not any(v.requires_grad for v in values.values())


def test_weights_reach_the_gradient() -> None:
    made = outputs()
    objective = Objective([bound(Constant(3.0), "a", weight=0.5), bound(Constant(5.0), "b", weight=2.0)])
    objective(made, batches(), {})[0].backward()
    gradient = made["student"]["target"]["embed"].grad
    assert gradient is not None and torch.allclose(gradient, torch.full((2, 3), (0.5 * 3 + 2.0 * 5) / 6))


def test_term_is_not_computed_before_its_epoch() -> None:
    early, late = Constant(1.0), Constant(1.0)
    objective = Objective([bound(early, "early"), bound(late, "late", from_epoch=2)])
    seen = []
    for epoch in range(4):
        objective.epoch = epoch
        seen.append(sorted(objective(outputs(), batches(), {})[1]))
    assert seen == [["early"], ["early"], ["early", "late"], ["early", "late"]]
    assert (early.calls, late.calls) == (4, 2)


def test_objective_without_due_terms_is_0() -> None:
    total, values = Objective([bound(Constant(1.0), from_epoch=5)])(outputs(), batches(), {})
    total.backward()
    assert total.item() == 0.0 and values == {}


class Gap(nn.Module):
    """Alignment by the squared distance of the domains' mean features, with a trained scale."""

    requires = frozenset({"pooled"})

    def __init__(self, dims: dict[str, int]) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(dims["pooled"]))

    def forward(self, source: Features, target: Features) -> Tensor:
        return ((source["pooled"].mean(0) - target["pooled"].mean(0)) * self.scale).square().sum()


def test_alignment_gets_features_of_both_streams() -> None:
    alignment = Gap({"pooled": 3})
    wiring = {"source": "source", "target": "target", "weight": 0.5, "from_epoch": 1}
    objective = Objective([bound(Constant(1.0), "a"), BoundAlignment("gap", alignment, wiring)])
    assert objective(outputs(), batches(), {})[0].item() == 2.0
    objective.epoch = 1
    made = outputs()
    total, values = objective(made, batches(), {})
    assert values["gap"].item() == 3 * (20 - 10) ** 2
    assert total.item() == 2.0 + 0.5 * 300
    total.backward()
    assert alignment.scale.grad is not None and any(p is alignment.scale for p in objective.parameters())
    assert made["student"]["source"]["pooled"].grad is not None
    assert made["student"]["target"]["pooled"].grad is not None
    assert made["mean"]["target"]["pooled"].grad is None


class Parts(nn.Module):
    """Alignment with two values."""

    def forward(self, source: Features, target: Features) -> dict[str, Tensor]:
        return {"near": source["pooled"].mean(), "far": 3.0 * target["pooled"].mean()}


def test_several_values_of_an_alignment_are_summed() -> None:
    wiring = {"source": "source", "target": "target", "weight": 0.5, "from_epoch": 0}
    total, values = Objective([BoundAlignment("parts", Parts(), wiring)])(made := outputs(), batches(), {})
    near, far = (made["student"][name]["pooled"].mean().item() for name in ("source", "target"))
    assert {name: value.item() for name, value in values.items()} == {"parts.near": near, "parts.far": 3 * far}
    assert total.item() == 0.5 * (near + 3 * far)


# ---- several streams and memories, provided inputs, the end of a term


class Named(nn.Module):
    """Loss that records inputs which other components provide."""

    def forward(self, features: Tensor, colours: Tensor, shades: Tensor | None = None) -> Tensor:
        self.given = {"colours": colours, "shades": shades}
        return features.sum()


class Palette(nn.Linear):
    provides = frozenset({"colours"})
    colours = torch.tensor([7.0, 8.0])


def test_several_streams_are_concatenated() -> None:
    loss = Everything()
    bound(loss, stream=["source", "target"], memory="rows", teacher="mean")(outputs(), batches(), memories())
    assert loss.given["features"][:, 0].tolist() == [1, 1, 2, 2]
    assert loss.given["teacher"][:, 0].tolist() == [3, 3, 4, 4]
    assert loss.given["index"].tolist() == [100, 101, 200, 201]
    assert loss.given["targets"].tolist() == [102, 103, 202, 203]
    assert loss.given["weights"].tolist() == [106, 107, 206, 207]
    assert loss.given["scores"].shape == loss.given["teacher_scores"].shape == (4, 4)


def test_inputs_that_a_stream_lacks() -> None:
    given = batches()
    given["target"].weights = given["target"].cameras = None
    loss = Everything()
    term = bound(loss, stream=["source", "target"], memory="rows", teacher="mean")
    with pytest.raises(ConfigError, match="term needs 'cameras', which is missing in source and target"):
        term(outputs(), given, memories())
    given["source"].cameras, given["target"].cameras = torch.tensor([1, 2]), torch.tensor([3, 4])
    term(outputs(), given, memories())
    assert loss.given["weights"].tolist() == [106, 107, 1, 1] and loss.given["cameras"].tolist() == [1, 2, 3, 4]
    given["source"].weights = given["source"].soft_targets = None
    optional = Optional()
    bound(optional, stream=["source", "target"])(outputs(), given, memories())
    assert optional.given == {"features"}


def test_scores_of_several_memories_are_concatenated() -> None:
    both = {"first": nn.Linear(3, 5, bias=False), "second": nn.Linear(3, 4, bias=False)}
    given = batches()
    given["target"].targets = torch.tensor([3, -1])
    loss, out = Everything(), outputs()
    target_memory = {"source": "first", "target": "second"}
    wiring = {**WIRING, "stream": ["source", "target"], "memory": ["first", "second"], "teacher": "mean"}
    BoundTerm("term", loss, wiring, target_memory)(out, given, both)
    features = torch.cat([out["student"][s]["embed"] for s in ("source", "target")])
    for row, feature in enumerate(features):
        expected = [*both["first"](feature).tolist(), *both["second"](feature).tolist()]
        assert loss.given["scores"][row].tolist() == pytest.approx(expected, abs=1e-6)
    assert loss.given["targets"].tolist() == [102, 103, 5 + 3, -1]


def test_teacher_may_use_another_feature_and_memory() -> None:
    loss, other = Everything(), nn.Linear(3, 2, bias=False)
    nn.init.constant_(other.weight, 2.0)
    wiring = {"memory": "rows", "teacher": "student", "teacher_feature": "pooled", "teacher_memory": "other"}
    bound(loss, **wiring)(outputs(), batches(), {**memories(), "other": other})
    assert (loss.given["features"] == 2).all() and (loss.given["scores"] == 6).all()
    assert (loss.given["teacher"] == 20).all() and (loss.given["teacher_scores"] == 120).all()
    assert loss.given["teacher_scores"].shape == (2, 2) and not loss.given["teacher_scores"].requires_grad


def test_loss_gets_inputs_of_refiners_and_memories() -> None:
    given, loss = batches(), Named()
    for s, batch in enumerate(given.values()):
        batch.extra = {"colours": torch.tensor([10.0 * s, 10.0 * s + 1])}
    bound(loss, stream=["source", "target"])(outputs(), given, memories())
    assert loss.given["colours"].tolist() == [0, 1, 10, 11] and loss.given["shades"] is None
    bound(loss, memory="palette")(outputs(), batches(), {"palette": Palette(3, 2)})
    assert loss.given["colours"].tolist() == [7, 8]


def test_a_term_ends() -> None:
    loss = Constant(2.0)
    objective = Objective([bound(loss, "a", from_epoch=1, until_epoch=3), bound(Constant(1.0), "b")])
    totals = []
    for objective.epoch in range(4):
        total, _ = objective(outputs(), batches(), {})
        totals.append(total.item())
    assert totals == [2.0, 6.0, 6.0, 2.0] and loss.calls == 2
