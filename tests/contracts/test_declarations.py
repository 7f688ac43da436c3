"""Every registered component, also of plugins, keeps the promises of its kind, and the checks catch one that does not."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Iterator

import pytest
from torch import Tensor, nn

import reidx
from reidx.contracts import Features
from reidx.errors import ConfigError
from reidx.registry.build import fill_defaults
from reidx.registry.discovery import registry, registry_override
from reidx.registry.registry import KINDS, Component, Entry, Registry
from reidx.testing import conformance, export_checks, feature_checks


@pytest.mark.parametrize(("entry", "check"), conformance.cases(), ids=conformance.label)
def test_contract(entry: Entry, check: conformance.Check) -> None:
    try:
        check(entry)
    except ConfigError as error:
        if "pip install" in str(error):
            pytest.skip(str(error))
        raise


def test_every_kind_has_behavioural_checks() -> None:
    assert {kind for kind in KINDS if len(conformance.checks_for(kind)) <= 4} == {"dataset"}


def test_cases_are_those_of_the_namespace() -> None:
    core = conformance.cases("")
    assert {entry.namespace for entry, _ in core} == {""}
    kinds = [kind for kind, _ in dict.fromkeys((e.kind, e.name) for e, _ in core)]
    assert len(core) == sum(len(conformance.checks_for(kind)) for kind in kinds) > 4 * len(kinds)
    assert conformance.cases("nobody") == []
    assert conformance.label(core[0][0]) == "dataset:CameraSplit" and conformance.label(core[0][1]) == "loads"


# ---- the checks catch faulty components

FAULTY = '''
import numpy as np
import torch
from scipy.sparse import csr_array
from torch import nn
from reidx.contracts import Features, LabelSet
from reidx.memories import Memory
from reidx.memories.base import centroids
from reidx.optim import Schedule

class Undocumented:
    pass

class Late:
    """
    The result comes too late.
    """

class BadDefault:
    """Component whose default has the wrong type."""
    def __init__(self, parts: int = "two"): pass

class BadCameras:
    """Component with an unknown word in its contract."""
    cameras = "sometimes"

class InPlace:
    """Transform that writes into the given images."""
    def batch(self, images): images.zero_(); return images.float()

class Wandering:
    """Transform with a separate random generator."""
    random = np.random.default_rng(0)
    def batch(self, images): return images.float() + float(self.random.random())

class Short:
    """Sampler that stops early."""
    def __init__(self, batches: int, images: int): self.batches = batches
    def __len__(self): return self.batches
    def __iter__(self): return iter([[0, 1]] * (self.batches - 1))

class Uneven(Short):
    """Sampler with a smaller last batch."""
    def __iter__(self): return iter([[0, 1]] * (self.batches - 1) + [[0]])

class Flat(nn.Module):
    """Backbone that pools."""
    out_channels, nonnegative = 3, False
    def forward(self, images): return images.mean((2, 3))

class Boastful(nn.Module):
    """Backbone that wrongly claims non-negative output."""
    out_channels, nonnegative = 3, True
    def forward(self, images): return images

class Idle(nn.Module):
    """Backbone with an unused layer."""
    out_channels, nonnegative = 3, False
    def __init__(self):
        super().__init__()
        self.first, self.spare = nn.Conv2d(3, 3, 1), nn.Linear(2, 2)
    def forward(self, images): return self.first(images)

class Blind(nn.Module):
    """Backbone whose token is the same for all images."""
    out_channels, nonnegative, provides, dims = 3, False, frozenset({"class_token"}), {"class_token": 3}
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1)
    def forward(self, images):
        maps = self.layer(images)
        return {"map": maps, "class_token": self.layer.bias.expand(len(maps), 3)}

class Severed(Blind):
    """Backbone whose token has no gradient."""
    def forward(self, images):
        maps = self.layer(images)
        return {"map": maps, "class_token": maps.detach().mean((2, 3))}

class Misnamed(nn.Module):
    """Fusion that lacks a feature which it declares."""
    provides = frozenset({"embed", "parts"})
    def __init__(self, in_channels: int):
        super().__init__()
        self.dims = {"embed": in_channels}
    def forward(self, maps): return Features({"embed": maps.mean((2, 3))})

class Narrow(nn.Module):
    """Fusion whose dims are wrong."""
    provides = frozenset({"embed"})
    def __init__(self, in_channels: int):
        super().__init__()
        self.dims = {"embed": 1}
    def forward(self, maps): return Features({"embed": maps.mean((2, 3))})

class Unsaid(nn.Module):
    """Fusion with an undeclared feature of parts."""
    provides = frozenset({"embed", "rows"})
    def __init__(self, in_channels: int):
        super().__init__()
        self.dims = {"embed": in_channels, "rows": in_channels}
    def forward(self, maps):
        return Features({"embed": maps.mean((2, 3)), "rows": maps.mean(3).transpose(1, 2)})

class Sociable(Narrow):
    """Fusion that centres a batch in evaluation mode too."""
    def __init__(self, in_channels: int):
        super().__init__(in_channels)
        self.dims = {"embed": in_channels}
    def forward(self, maps):
        pooled = maps.mean((2, 3))
        return Features({"embed": pooled - pooled.mean(0)})

class Dense:
    """Distance as a dense matrix."""
    def __call__(self, features): return (1 - features @ features.T).numpy()

class Backwards:
    """Distance that grows with similarity."""
    def __call__(self, features): return csr_array(np.maximum((features @ features.T).numpy(), 0.01))

class Gaps:
    """Clusterer that skips numbers."""
    clusterer_input, outliers = "graph", "emits"
    def __call__(self, graph): return np.arange(graph.shape[0]) * 2

class Secretive(Gaps):
    """Clusterer with outliers that it does not declare."""
    outliers = "never"
    def __call__(self, graph): return np.arange(graph.shape[0]) - 1

class Scribbler:
    """Refiner that writes into the given labels."""
    def __call__(self, labels, context): labels.labels[labels.labels < 0] = 0; return labels

class Partial:
    """Refiner with a feature under another name."""
    def __call__(self, labels, context, *, part): return labels

class Needy:
    """Refiner that fails without an optional feature."""
    def __call__(self, labels, context, *, parts=None): return LabelSet(labels.labels + 0 * len(parts))

class Sized(nn.Module):
    """Fusion that takes the number of images from Python's len."""
    provides = frozenset({"embed"})
    def __init__(self, in_channels: int):
        super().__init__()
        self.dims = {"embed": in_channels}
    def forward(self, maps): return Features({"embed": maps.mean((2, 3)) * torch.ones(len(maps), 1)})

class Merging:
    """Matcher that gives all labellings the array of the first."""
    provides = frozenset({"other_labels"})
    def __call__(self, labels, contexts):
        return [LabelSet(given.labels, extra={"other_labels": labels[0].labels}) for given in labels]

class Arbitrary:
    """Matcher whose arrays differ from call to call."""
    provides = frozenset({"other_labels"})
    random = np.random.default_rng(0)
    def __call__(self, labels, contexts):
        return [LabelSet(given.labels, extra={"other_labels": self.random.permutation(given.labels)}) for given in labels]

class Detached(Memory):
    """Memory whose scores have no gradient."""
    def __init__(self, dim: int):
        super().__init__()
        self.register_buffer("rows", torch.zeros(0, dim))
    def reset(self, bank, labels): self.rows = centroids(bank, labels)
    def forward(self, features): return (features @ self.rows.T).detach().requires_grad_()

class Forgetful(Detached):
    """Memory that keeps part of its state out of the checkpoint."""
    def reset(self, bank, labels):
        super().reset(bank, labels)
        self.factor = float(labels.max())
    def forward(self, features): return getattr(self, "factor", 1.0) * features @ self.rows.T

class Vector(nn.Module):
    """Loss that is not reduced."""
    def forward(self, features): return features.sum(1)

class Misspelt(nn.Module):
    """Loss with an input that the engine knows by another name."""
    def forward(self, features, target): return features.sum()

class Camera:
    """Distance with an input that the engine knows by another name."""
    def __call__(self, features, *, camera): return None

class Rootless(nn.Module):
    """Loss with an infinite gradient at distance 0."""
    def forward(self, features): return (features - features.mean(0)).square().sum(1).sqrt().mean()

class Constant(nn.Module):
    """Alignment that is a number."""
    def forward(self, source, target): return torch.tensor(1.0)

class Tuple(nn.Module):
    """Alignment of several values, one of which is none."""
    def forward(self, source, target): return {"near": source["embed"].mean() * 0, "far": source["embed"]}

class OneSided(nn.Module):
    """Alignment that trains only one side."""
    requires = frozenset({"embed"})
    def forward(self, source, target):
        return (source["embed"].mean(0) - target["embed"].mean(0).detach()).square().sum()

class Boasting(OneSided):
    """Alignment that wrongly declares the source detached."""
    detached = frozenset({"source"})

class Undeclared(nn.Module):
    """Alignment that reads embed without declaring it."""
    requires = frozenset({"shared"})
    def forward(self, source, target):
        return sum((source[n].mean(0) - target[n].mean(0)).square().sum() for n in ("shared", "embed"))

class Rooted(nn.Module):
    """Alignment with an infinite gradient at distance 0."""
    requires = frozenset({"embed"})
    def forward(self, source, target):
        return (source["embed"].mean(0) - target["embed"].mean(0)).square().sum().sqrt()

class Coarse(nn.Module):
    """Alignment in the precision of its input."""
    requires = frozenset({"embed"})
    def forward(self, source, target):
        return (source["embed"].mean(0) - target["embed"].mean(0)).square().sum()

class Rounded(Coarse):
    """Alignment whose product autocast rounds."""
    def forward(self, source, target):
        middle = source["embed"].float().mean(0) - target["embed"].float().mean(0)
        return (middle @ middle.expand(16, 16).T).float().sum()

class Counting(nn.Module):
    """Alignment with a counter outside the checkpoint."""
    requires = frozenset({"embed"})
    seen = 0
    def forward(self, source, target):
        self.seen += 1
        return self.seen * (source["embed"].mean(0) - target["embed"].mean(0)).square().sum()

class Growing(Counting):
    """Alignment with a buffer whose size depends on the first features."""
    def begin(self, source, target): self.register_buffer("bank", source["embed"])
    def forward(self, source, target): return (source["embed"].mean(0) - target["embed"].mean(0)).square().sum()

class Signs(torch.optim.Optimizer):
    """Steps of fixed length."""
    def __init__(self, params, lr: float = 0.01) -> None: super().__init__(params, {"lr": lr})
    def rate(self, group): return group["lr"]
    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None: parameter -= self.rate(group) * parameter.grad.sign()

class Again(Signs):
    """Steps that need the loss a second time."""
    def step(self, closure=None):
        assert closure is not None, "it needs a closure"

class Stuck(Signs):
    """Steps of length 0."""
    def rate(self, group): return 0.0

class Deaf(Signs):
    """Steps at the first rate."""
    def rate(self, group): return self.defaults["lr"]

class Counted(Signs):
    """Shorter and shorter steps, by a counter outside the state."""
    count = 0
    def rate(self, group):
        self.count += 1
        return group["lr"] / self.count

class Level(Schedule):
    """The same rate for all groups."""
    def __init__(self, optimizer) -> None: super().__init__(optimizer)
    def factor(self, t): return 1.0
    def _get_value(self): return [0.1 for _ in self.base_values]

class Everything:
    """Protocol that ignores all."""
    name = version = junk = "x"
    camera_filter = False
    def ignored(self, q, g, qc, gc): return np.ones((len(q), len(g)), bool)

class Nothing(Everything):
    """Protocol that ignores nothing."""
    def ignored(self, q, g, qc, gc): return np.zeros((len(q), len(g)), bool)

class Beyond(Nothing):
    """Protocol whose trial has positions beyond the gallery."""
    def draw_trials(self, q, g, qc, gc): yield np.arange(len(q)), np.arange(len(g) + 1)

class Chance(Nothing):
    """Protocol that draws from the global random state."""
    def draw_trials(self, q, g, qc, gc): yield np.arange(len(q)), np.random.permutation(len(g))[:5]

class Fickle(Nothing):
    """Protocol with other trials in each call."""
    def draw_trials(self, q, g, qc, gc): yield np.arange(len(q)), np.random.default_rng().permutation(len(g))[:5]

class Renamed(Nothing):
    """Protocol that returns another metric than it declares."""
    metrics = ("rank-1",)
    def measure(self, distances, skip, q, g, qc, gc): return {"rank-2": np.zeros(len(q))}

class Percent(Renamed):
    """Protocol whose metric is no fraction."""
    def measure(self, distances, skip, q, g, qc, gc): return {"rank-1": np.full(len(q), 100.0)}

class Suffixed(Percent):
    """Protocol with the name of a deviation."""
    metrics = ("rank-1_sd",)

class Seed(Percent):
    """Protocol with the name of another column of a table."""
    metrics = ("seed",)

class Unread(Renamed):
    """Protocol that measures without metrics."""
    metrics = ()

class Mixing(Renamed):
    """Protocol whose queries depend on each other."""
    def measure(self, distances, skip, q, g, qc, gc): return {"rank-1": np.full(len(q), distances.mean())}

class Averaging(Renamed):
    """Protocol with a total that is a mean."""
    totals = ("pairs",)
    def measure(self, distances, skip, q, g, qc, gc): return {"pairs": distances[~skip].mean(keepdims=True)}
    def summarise(self, values): return {"rank-1": 1.0}, {}

class Seeing(Renamed):
    """Protocol that sees the images that it ignores."""
    def ignored(self, q, g, qc, gc): return np.broadcast_to(g == -1, (len(q), len(g)))
    def measure(self, distances, skip, q, g, qc, gc): return {"rank-1": distances.min(1)}

class Unversioned(Nothing):
    """Protocol whose version is no text."""
    version = None

class Silent(Nothing):
    """Protocol with an argument that no card has."""
    def __init__(self, share: float = 0.5) -> None: self.settings = {}

class Welcoming:
    """Layout of every file."""
    def __call__(self, tensors): return lambda name, tensor: (name, tensor)
    def sample(self): return {"first.weight": (4, 3), "second.weight": (4, 3)}

class Colliding(Welcoming):
    """Layout with one name for all tensors."""
    def __call__(self, tensors): return lambda name, tensor: ("weight", tensor)

class Plain:
    """Re-ranker that changes nothing."""
    sign = 1.0
    def __call__(self, q, g):
        made = type(self)()
        made.offset = (self.sign * (2 - 2 * q @ g.T)).numpy()
        made.shape = made.offset.shape
        return made
    def block(self, rows): return np.zeros(rows.stop - rows.start), self.offset[rows]
    def card(self): return {"method": "plain"}

class Reversed(Plain):
    """Re-ranker that prefers the farthest."""
    sign = -1.0

class ByBlock(Plain):
    """Re-ranker whose distances are relative to the block."""
    def block(self, rows): return np.zeros(rows.stop - rows.start), self.offset[rows] / self.offset[rows].max()

class Nameless(Plain):
    """Re-ranker with an empty card."""
    def card(self): return {}

class Fixed(Plain):
    """Re-ranker that keeps its first result."""
    made = None
    def __call__(self, q, g):
        self.made = self.made or super().__call__(q, g)
        return self.made

class Lens(Plain):
    """Re-ranker with a misspelt input."""
    def __call__(self, q, g, *, query_cam): return super().__call__(q, g)
'''

CAUGHT = [
    ("loss", "Undocumented", "is_documented", "no docstring"),
    ("loss", "Late", "is_documented", "first line"),
    ("loss", "BadDefault", "example_is_complete", "expected int"),
    ("protocol", "BadCameras", "declares_a_contract", "'sometimes'"),
    ("clusterer", "Late", "declares_a_contract", "clusterer_input is ''"),
    ("memory", "Late", "declares_a_contract", "outliers is ''"),
    ("transform", "InPlace", "makes_network_input", "changed the images"),
    ("transform", "Wandering", "makes_network_input", "same seed gave other images"),
    ("sampler", "Short", "fills_every_batch", "gave 6 batches"),
    ("sampler", "Uneven", "fills_every_batch", "different sizes"),
    ("backbone", "Flat", "gives_a_map", "not (B,C,h,w)"),
    ("backbone", "Boastful", "gives_a_map", "entries below 0"),
    ("backbone", "Idle", "trains_every_parameter", "spare.weight"),
    ("backbone", "Blind", "gives_a_map", "class_token is the same for different images"),
    ("backbone", "Severed", "trains_every_parameter", "no gradient flows through class_token"),
    ("fusion", "Misnamed", "gives_the_features_it_declares", "provides is embed, parts, not embed"),
    ("fusion", "Narrow", "gives_the_features_it_declares", "dims['embed'] is 1, not 64"),
    ("fusion", "Unsaid", "gives_the_features_it_declares", "'rows' is (5, 8, 64), of parts, and not in part_features"),
    ("fusion", "Sociable", "features_are_independent_of_the_batch", "depends on the rest"),
    ("fusion", "Sized", "exports_with_a_dynamic_batch", "cannot be exported for batches of any size"),
    ("distance", "Dense", "gives_a_graph", "not a csr_array"),
    ("distance", "Camera", "gives_a_graph", "Did you mean cameras?"),
    ("distance", "Backwards", "gives_a_graph", "not nearer"),
    ("clusterer", "Gaps", "gives_labels", "gaps"),
    ("clusterer", "Secretive", "gives_labels", "never"),
    ("refiner", "Scribbler", "refines_labels", "changed the labels"),
    ("refiner", "Partial", "refines_labels", "takes 'part', which the engine does not provide to a refiner. Did you mean"),
    ("refiner", "Needy", "refines_labels", "has no len()"),
    ("matcher", "Merging", "matches_labellings", "there are 512 other_labels for 256 images"),
    ("matcher", "Arbitrary", "matches_labellings", "gave another match"),
    ("memory", "Detached", "follows_the_memory_cycle", "no gradient"),
    ("memory", "Forgetful", "restores_from_a_checkpoint", "other scores"),
    ("loss", "Vector", "returns_a_scalar_with_a_gradient", "no scalar"),
    ("loss", "Misspelt", "returns_a_scalar_with_a_gradient", "takes 'target', which the engine does not provide to a loss"),
    ("loss", "Rootless", "returns_a_scalar_with_a_gradient", "gradient for all images alike"),
    ("alignment", "Constant", "aligns_two_domains", "no gradient"),
    ("alignment", "Tuple", "aligns_two_domains", "no scalar"),
    ("alignment", "OneSided", "aligns_two_domains", "no gradient reaches the target's features"),
    ("alignment", "Boasting", "aligns_two_domains", "declares that the source is detached"),
    ("alignment", "Undeclared", "ignores_other_features", "source's embed, which it does not require"),
    ("alignment", "Rooted", "is_finite_for_equal_domains", "gradient of embed for equal batches: not all finite"),
    ("alignment", "Coarse", "aligns_in_fp32", "it gives torch.bfloat16"),
    ("alignment", "Rounded", "aligns_in_fp32", "the same in float32"),
    ("alignment", "Counting", "resumes_from_a_checkpoint", "does not continue as before"),
    ("alignment", "Growing", "resumes_from_a_checkpoint", "cannot be loaded into a new one"),
    ("optimizer", "Again", "steps_without_a_closure", "its step fails (AssertionError: it needs a closure)"),
    ("optimizer", "Stuck", "steps_without_a_closure", "steps do not change a parameter of shape (4, 3, 3, 3)"),
    ("optimizer", "Deaf", "follows_the_rate_of_each_group", "does not read lr of each group"),
    ("optimizer", "Counted", "resumes_bit_for_bit", "makes other steps"),
    ("schedule", "Level", "sets_finite_rates", "does not keep their ratio"),
    ("protocol", "Everything", "ignores_each_row_independently", "ignores every match"),
    ("protocol", "Unversioned", "is_described_on_the_card", "its version is no text"),
    ("protocol", "Silent", "is_described_on_the_card", "lack its arguments share"),
    ("protocol", "Beyond", "draws_the_same_trials", "gallery positions of trial 1 are int64 151, from 0 to 150, not 0 to 149"),
    ("protocol", "Chance", "draws_the_same_trials", "it draws from the global random state"),
    ("protocol", "Fickle", "draws_the_same_trials", "two calls draw different trials"),
    ("protocol", "Renamed", "measures_each_query_independently", "it returned rank-2; its `metrics` are rank-1"),
    ("protocol", "Percent", "measures_each_query_independently", "its rank-1 reaches from 100.0 to 100.0, not 0 to 1"),
    ("protocol", "Suffixed", "measures_each_query_independently", "its `metrics` name 'rank-1_sd'"),
    ("protocol", "Seed", "measures_each_query_independently", "'seed', which is another column in tables of results"),
    ("protocol", "Unread", "measures_each_query_independently", "it has `measure`, but `metrics` names none"),
    ("protocol", "Mixing", "measures_each_query_independently", "its rank-1 depends on the other queries"),
    ("protocol", "Seeing", "measures_each_query_independently", "its rank-1 depends on ignored images"),
    ("protocol", "Averaging", "measures_each_query_independently", "its pairs of two blocks of queries do not add up"),
    ("reranker", "Reversed", "reranks_a_gallery", "features of one group are not nearer"),
    ("reranker", "ByBlock", "reranks_a_gallery", "its distances depend on the block"),
    ("reranker", "Nameless", "reranks_a_gallery", "no JSON with its method"),
    ("reranker", "Fixed", "reranks_a_gallery", "its shape is (64, 448), not (5, 224)"),
    ("reranker", "Lens", "reranks_a_gallery", "Did you mean cams?"),
    ("weights", "Welcoming", "recognises_its_layout_alone", "it takes a file with the tensors none for its layout"),
    ("weights", "Colliding", "renames_each_tensor_once", "two tensors get the same name"),
]


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    module = types.ModuleType("faulty_components")
    exec(FAULTY, module.__dict__)
    monkeypatch.setitem(sys.modules, "faulty_components", module)
    known = Registry()
    for kind, name in dict.fromkeys((kind, name) for kind, name, _, _ in CAUGHT):
        known.add(Entry(Component(kind, name, f"faulty_components:{name}"), "", "reidx 1"))
    with registry_override(known):
        yield


@pytest.mark.parametrize(("kind", "name", "check", "message"), CAUGHT, ids=[f"{k}:{n}" for k, n, _, _ in CAUGHT])
@pytest.mark.usefixtures("faulty")
def test_faulty_component_is_caught_with_reason(kind: str, name: str, check: str, message: str) -> None:
    checks = {c.__name__: c for c in conformance.checks_for(kind)}
    with pytest.raises((AssertionError, TypeError, ConfigError), match=re.escape(message)):
        checks[check](registry().find(kind, name))


@pytest.mark.usefixtures("faulty")
def test_fixed_batch_size_fails_only_the_export() -> None:
    checks = [check for check in conformance.checks_for("fusion") if check is not export_checks.exports_with_a_dynamic_batch]
    for check in checks:
        check(registry().find("fusion", "Sized"))


@pytest.mark.usefixtures("faulty")
def test_each_check_has_a_component_failing_it() -> None:
    caught = {check for _, _, check, _ in CAUGHT}
    checks = {check.__name__ for kind in KINDS for check in conformance.checks_for(kind)}
    assert checks - caught == {"loads"}


def test_missing_class_is_named() -> None:
    entry = Entry(Component("loss", "Gone", "reidx.losses.triplet:Gone"), "", "reidx 1")
    with pytest.raises(reidx.ReidxError, match=r"loss Gone .* has no 'Gone'"):
        feature_checks.loads(entry)


def test_examples_hold_no_supplied_arguments() -> None:
    for entry, _ in conformance.cases(""):
        context = KINDS[entry.kind].context
        assert not set(fill_defaults(entry.kind, {"type": entry.name, **entry.component.example}, context)) & set(context)


class Conditioned(nn.Module):
    """Fusion with a vector for each value of a column."""

    provides = frozenset({"embed"})

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.dims, self.shift = {"embed": in_channels}, nn.Embedding(2, in_channels)

    def forward(self, maps: Tensor, modality: Tensor) -> Features:
        return Features({"embed": maps.mean((2, 3)) + self.shift(modality)})


def test_fusion_gets_columns_of_the_data_set(register) -> None:
    register("fusion", Conditioned)
    for check in conformance.checks_for("fusion"):
        check(registry().find("fusion", "Conditioned"))
