"""One step: the parameters that each term trains, the average, and the branch that the labels of each level reach."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from reidx_lf2.fusion_module import FusionModule
from torch import Tensor, nn

from reidx.contracts import Batch
from reidx.engine.objective import BoundTerm, Objective
from reidx.engine.step import StageModel
from reidx.losses.cross_entropy import CrossEntropy
from reidx.losses.triplet import Triplet
from reidx.memories.classifier import LinearClassifier
from reidx.models.network import Network
from reidx.optim.optimizer import PrecisionOptimWrapper, build_optimizer
from reidx.testing.networks import CHANNELS

PEOPLE = 6
OBJECTIVE: list[dict[str, Any]] = [
    {"loss": {"type": "CrossEntropy", "smoothing": 0.1}, "stream": "g", "feature": "global", "memory": "ids", "weight": 1.0},
    {"loss": {"type": "Triplet", "margin": None}, "stream": "g", "feature": "global", "weight": 1.0},
    {"loss": {"type": "Triplet", "margin": None}, "stream": "u", "feature": "upper", "weight": 0.5},
    {"loss": {"type": "Triplet", "margin": None}, "stream": "l", "feature": "lower", "weight": 0.5},
]
FUSED_TRIPLETS: list[dict[str, Any]] = [
    {"loss": {"type": "Triplet", "margin": None}, "stream": "u", "feature": "phi1", "weight": 0.5},
    {"loss": {"type": "Triplet", "margin": None}, "stream": "l", "feature": "phi2", "weight": 0.5},
]
LOSSES = {"CrossEntropy": CrossEntropy, "Triplet": Triplet}
AVERAGE = {"type": "EMA", "of": "student", "momentum": 0.999, "warmup": True, "batch_norm": "own"}


class Trunk(nn.Module):
    """Maps images (B,3,H,W) to a map (B,4,H,W) without negative entries, pixel by pixel."""

    out_channels = CHANNELS
    nonnegative = True
    mean, std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, CHANNELS, 1)
        self.norm = nn.BatchNorm2d(CHANNELS)

    def forward(self, images: Tensor) -> Tensor:
        return torch.relu(self.norm(self.conv(images)))


def people(count: int = 48, seed: int = 0) -> Tensor:
    """Noisy images (B,3,4,2) of 6 people in turn, each with one colour above and another below."""
    generator = torch.Generator().manual_seed(seed)
    clothes = torch.randn(PEOPLE, 3, 2, generator=torch.Generator().manual_seed(9))
    images = clothes[torch.arange(count) % PEOPLE].repeat_interleave(2, dim=2)[..., None]
    return images + 0.4 * torch.randn(count, 3, 4, 2, generator=generator)


def batches(labels: dict[str, Tensor] | None = None, seed: int = 0, count: int = 12) -> dict[str, Batch]:
    """A batch per stream, each with different images; ``labels`` replace their identities."""
    given = {}
    for place, level in enumerate("gul"):
        targets = (labels or {}).get(level, torch.arange(count) % PEOPLE)
        given[level] = Batch(people(count, 10 * seed + place), torch.arange(count), targets)
    return given


def step(terms: list[dict[str, Any]] | None = None, **settings: Any) -> StageModel:
    """The model of a stage in training mode, wired as in the configs: a student with that Fusion Module, and its average."""
    torch.manual_seed(0)
    networks = {
        name: Network(Trunk(), FusionModule(CHANNELS, reduction=2, **settings)) for name in ("student", "mean")
    }
    memory = LinearClassifier(CHANNELS, rows="centroid")
    memory.reset(torch.randn(48, CHANNELS), torch.arange(48) % PEOPLE)
    bound = []
    for number, spec in enumerate(OBJECTIVE if terms is None else terms):
        of_loss = {key: value for key, value in spec["loss"].items() if key != "type"}
        bound.append(BoundTerm(f"{number}", LOSSES[spec["loss"]["type"]](**of_loss), spec))
    wiring = {"ids": {"network": "student", "feature": "phi0", "labels": "g"}}
    plain = {level: lambda x: x for level in "gul"}
    labels = {level: level for level in "gul"}
    model = StageModel(networks, {"mean": AVERAGE}, {"ids": memory}, wiring, Objective(bound), plain, labels)
    return model.train()


GATES = {f"gates.{half}.{layer}.weight" for half in ("upper", "lower") for layer in ("reduce", "expand")}
FUSED_NORMS = {f"fused_norms.phi{j}.weight" for j in range(3)}
TRUNK = {"backbone.conv.weight", "backbone.norm.weight", "backbone.norm.bias"}
HEADS = {f"norms.{name}.weight" for name in ("global", "upper", "lower")}
EXPERTS = {f"experts.{half}.weight" for half in ("upper", "lower")}
OFFICIAL = TRUNK | HEADS | EXPERTS | {"memories.ids.weight"}
OF_NO_EFFECT = {"backbone.conv.bias", "experts.upper.bias", "experts.lower.bias"}
"""The norms after these parameters cancel them: their gradient is only rounding."""


def moved(model: StageModel) -> set[str]:
    """The parameters of all networks and memories with a gradient that is not 0."""
    return {name for name, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())}


def trained(model: StageModel, **given: Any) -> set[str]:
    """The student's parameters that the loss of one step reaches."""
    model(batches(**given))["loss"].backward()
    found = moved(model)
    assert not any(name.startswith("networks.mean") for name in found)
    return {name.removeprefix("networks.student.").removeprefix("fusion.") for name in found} - OF_NO_EFFECT


@pytest.mark.parametrize(
    ("settings", "more"),
    [
        ({}, set()),
        ({"part_input": "sum"}, set()),
        ({"gate": "const"}, set()),
        ({"order": "mul_then_gate"}, set()),
        ({"mode": "local"}, set()),
        ({"gate": "part_head", "part_input": "sum"}, GATES),
        ({"gate": "part_head", "part_input": "sum", "order": "mul_then_gate"}, GATES),
    ],
)
def test_paper_losses_train_official_parameters(settings: dict[str, Any], more: set[str]) -> None:
    assert trained(step(**settings)) == OFFICIAL | more


def test_fusion_triplet_trains_gates_and_norms() -> None:
    model = step([*OBJECTIVE, *FUSED_TRIPLETS], gate="fusion_triplet")
    assert trained(model) == OFFICIAL | GATES | FUSED_NORMS - {"fused_norms.phi0.weight"}


def test_baseline_trains_only_the_global_branch() -> None:
    model = step(OBJECTIVE[:2], mode="global")
    assert trained(model) == TRUNK | {"norms.global.weight", "memories.ids.weight"}


def test_no_gradient_reaches_the_teachers_map() -> None:
    fusion: Any = step(gate="fusion_triplet").networks["student"].fusion
    own, teacher = (torch.rand(6, 4, 4, 2).requires_grad_() for _ in range(2))
    features = fusion(own, teacher)
    torch.cat([features["phi1"], features["phi2"]], 1).square().sum().backward()
    assert teacher.grad is None
    assert own.grad is not None
    assert own.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("term", "branch"),
    [
        (0, {"norms.global.weight", "memories.ids.weight"}),
        (1, {"norms.global.weight"}),
        (2, {"norms.upper.weight", "experts.upper.weight"}),
        (3, {"norms.lower.weight", "experts.lower.weight"}),
    ],
)
def test_term_trains_its_branch_and_trunk(term: int, branch: set[str]) -> None:
    assert trained(step([OBJECTIVE[term]])) == TRUNK | branch


@pytest.mark.parametrize(("level", "reached"), [("g", {"0", "1"}), ("u", {"2"}), ("l", {"3"})])
def test_labels_reach_only_their_branch(level: str, reached: set[str]) -> None:
    model = step()
    values = model(batches())
    shuffled = (torch.arange(12) // 2) % 6
    others = model(batches({level: shuffled}))
    assert {name for name in "0123" if not math.isclose(values[name], others[name], abs_tol=1e-6)} == reached


def shared(labels: dict[str, Tensor] | None = None) -> dict[str, Batch]:
    """One batch that also carries the labels of levels u and l."""
    given = batches(labels)
    others = {f"labels@{level}": given[level].targets for level in "ul"}
    return {"g": replace(given["g"], extra=others)}


SHARED = [{**term, "labels": None if term["stream"] == "g" else term["stream"], "stream": "g"} for term in OBJECTIVE]


@pytest.mark.parametrize(("level", "reached"), [("g", {"0", "1"}), ("u", {"2"}), ("l", {"3"})])
def test_shared_batch_labels_reach_only_their_branch(level: str, reached: set[str]) -> None:
    model = step(SHARED)
    values = model(shared())
    others = model(shared({level: (torch.arange(12) // 2) % 6}))
    assert {name for name in "0123" if not math.isclose(values[name], others[name], abs_tol=1e-6)} == reached


def naive_triplet(features: Tensor, targets: Tensor) -> float:
    """The mean of −log(exp(d⁻) / (exp(d⁺) + exp(d⁻))), image by image."""
    rows, labels, losses = features.tolist(), targets.tolist(), []
    for i, row in enumerate(rows):
        distances = [math.dist(row, other) for other in rows]
        farthest = max(d for d, y in zip(distances, labels) if y == labels[i])
        nearest = min(d for d, y in zip(distances, labels) if y != labels[i])
        losses.append(-math.log(math.exp(nearest) / (math.exp(farthest) + math.exp(nearest))))
    return sum(losses) / len(losses)


def naive_cross_entropy(features: Tensor, rows: Tensor, targets: Tensor, epsilon: float = 0.1) -> float:
    """The mean of −Σ_k q_k log p_k with q = 1 − ε + ε/C at the label and ε/C elsewhere."""
    losses = []
    for feature, target in zip(features.tolist(), targets.tolist()):
        logits = [sum(f * w for f, w in zip(feature, row)) for row in rows.tolist()]
        total = sum(map(math.exp, logits))
        wanted = [epsilon / len(logits) + (1 - epsilon) * (k == target) for k in range(len(logits))]
        losses.append(-sum(q * math.log(math.exp(x) / total) for q, x in zip(wanted, logits)))
    return sum(losses) / len(losses)


def test_loss_of_a_step_against_loops() -> None:
    # the paper's total loss: L_CE(f0) + L_tri(f0) + 0.5 L_tri(f1) + 0.5 L_tri(f2), over three batches
    model, given = step(), batches()
    features = {level: copy.deepcopy(model.networks["student"])(given[level].images) for level in "gul"}
    targets = {level: batch.targets for level, batch in given.items()}
    rows: Tensor = model.memories["ids"].weight
    expected = naive_cross_entropy(features["g"]["global"], rows, targets["g"])
    expected += naive_triplet(features["g"]["global"], targets["g"])
    expected += 0.5 * naive_triplet(features["u"]["upper"], targets["u"])
    expected += 0.5 * naive_triplet(features["l"]["lower"], targets["l"])
    assert model(given)["loss"].item() == pytest.approx(expected, abs=1e-4)


# ---- consecutive steps


def stepper(model: StageModel, lr: float = 0.01) -> PrecisionOptimWrapper:
    return PrecisionOptimWrapper(optimizer=build_optimizer(model, {"type": "Adam", "lr": lr}))


def parameters(model: StageModel, network: str) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.networks[network].named_parameters()}


def test_average_is_a_mean_until_its_momentum() -> None:
    model = step()
    wrapper = stepper(model)
    before = parameters(model, "mean")
    for t, share in ((0, 0.0), (1, 0.5), (2, 2 / 3), (999, 0.999), (5000, 0.999)):
        model.steps = t
        model.train_step(batches(seed=t), wrapper)
        student, after = parameters(model, "student"), parameters(model, "mean")
        for name, value in after.items():
            for i, number in enumerate(value.flatten().tolist()):
                expected = share * before[name].flatten()[i] + (1 - share) * student[name].flatten()[i]
                assert number == pytest.approx(expected.item(), abs=1e-6), (t, name)
        before = after


def test_teacher_is_not_optimised_and_keeps_statistics() -> None:
    model = step()
    wrapper = stepper(model, lr=0.1)
    inside = {id(p) for group in wrapper.optimizer.param_groups for p in group["params"]}
    assert not any(id(p) in inside for p in model.networks["mean"].parameters())
    for t in range(3):
        model.train_step(batches(seed=t), wrapper)
    own, other = (dict(model.networks[name].named_buffers()) for name in ("mean", "student"))
    assert int(own["backbone.norm.num_batches_tracked"]) == 9  # three batches per step
    assert not torch.equal(own["backbone.norm.running_mean"], other["backbone.norm.running_mean"])


@pytest.mark.parametrize(
    ("settings", "terms", "learns"),
    [
        ({}, OBJECTIVE, False),
        ({"order": "mul_then_gate"}, OBJECTIVE, False),
        ({"gate": "part_head", "part_input": "sum"}, OBJECTIVE, True),
        ({"gate": "fusion_triplet"}, [*OBJECTIVE, *FUSED_TRIPLETS], True),
    ],
)
def test_gates_stay_fixed_or_learn(
    settings: dict[str, Any], terms: list[dict[str, Any]], learns: bool
) -> None:
    model = step(terms, **settings)
    before = parameters(model, "student")
    wrapper = stepper(model)
    for t in range(4):
        model.train_step(batches(seed=t), wrapper)
    after = parameters(model, "student")
    changed = {name.removeprefix("fusion.") for name in before if not torch.equal(before[name], after[name])}
    assert (changed & GATES) == (GATES if learns else set())
    assert OFFICIAL - {"memories.ids.weight"} <= changed
    assert "fused_norms.phi0.weight" not in changed
