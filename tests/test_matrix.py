"""Installed parts work together: each pair that the contracts allow trains, and each other pair is refused with a reason."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import reidx
from reidx.config.schema import Model, Stage
from reidx.contracts import Batch
from reidx.data.images import ImageStore
from reidx.engine.objective import BoundTerm, Objective
from reidx.engine.step import StageModel
from reidx.errors import ConfigError
from reidx.registry.discovery import plugins, registry
from reidx.testing import matrix
from reidx.testing.fake_plugins import FakePlugins
from reidx.testing.matrix import experiments
from reidx.testing.matrix.axes import AXES
from reidx.testing.matrix.gradients import watch_gradients
from reidx.testing.matrix.pairs import Combination, Pair, cover, pairs_of
from reidx.testing.matrix.report import report
from reidx.testing.networks import tiny_network

PAGE = Path(__file__).parents[1] / "docs/matrix.md"


@pytest.mark.parametrize("combination", matrix.combinations(), ids=str)
def test_an_allowed_combination_trains(combination: matrix.Combination, tmp_path: Path) -> None:
    try:
        matrix.train(combination, tmp_path)
    except ConfigError as error:
        if "pip install" in str(error):
            pytest.skip(str(error))
        raise


# ---- coverage of pairs


def test_each_pair_is_covered_or_refused() -> None:
    axes, refused = matrix.axes(), matrix.refusals()
    held = set()
    for combination in matrix.combinations():
        for one in combination.choices:
            for other in combination.choices:
                held.add((one, other))
    counted = 0
    for kind, other in itertools.combinations(AXES, 2):
        for a in axes[kind]:
            for b in axes[other]:
                counted += 1
                assert ((a, b) in held) != ((a, b) in refused), f"{a} with {b}"
    assert counted == len(matrix.pairs())
    sizes = sorted(len(axis) for axis in axes.values())
    assert len(matrix.combinations()) <= 2 * sizes[-1] * sizes[-2]


def test_refusal_names_key_and_part() -> None:
    """The reason names the key and an installed part (with or without its namespace)."""
    parts = {entry.component.name for entry in registry().entries()}
    for pair, reason in matrix.refusals().items():
        assert reason.startswith("stages.0."), (pair, reason)
        assert len(reason.split()) > 8 and any(part in reason for part in parts), (pair, reason)


def test_network_refusals_come_before_any_image(
    tmp_path: Path, domains_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last stage of a ViT cannot be cut off: a run finds this when it builds the network, before all else."""
    refused = {(str(a), str(b)): reason for (a, b), reason in matrix.refusals().items()}
    assert "cannot be cut" in refused["Timm test_vit", "daam.AttentionSplit by default"]
    axes = {kind: {str(choice): choice for choice in choices} for kind, choices in matrix.axes().items()}
    names = {"backbone": "Timm test_vit", "fusion": "daam.AttentionSplit by default", "memory": "LinearClassifier"}
    chosen = [axes[kind][names.get(kind, {"clusterer": "DBSCAN"}.get(kind, "none"))] for kind in AXES]
    monkeypatch.setattr(experiments, "_build", lambda model: None)
    monkeypatch.setattr(ImageStore, "_decode", lambda *_: pytest.fail("an image was read"))
    config = matrix.config_of(matrix.Combination(tuple(chosen)), str(domains_root))
    with pytest.raises(ConfigError, match=r"stages\.0\.model.*cannot be cut"):
        reidx.run(config, tmp_path / "run", progress="quiet")


def test_page_lists_the_refusals() -> None:
    """docs/matrix.md contains the report of the command that it names, for the plugins of this repository."""
    here = {path.parent.name for path in PAGE.parents[1].glob("plugins/*/setup.cfg")}
    found = {plugin.namespace for plugin in plugins() if plugin.namespace and not plugin.problem}
    if here != found:
        pytest.skip(f"the page is about {', '.join(sorted(here))}; installed: {', '.join(sorted(found))}")
    text = report(matrix.axes(), matrix.pairs(), matrix.refusals(), len(matrix.combinations()))
    assert text in PAGE.read_text(encoding="utf-8"), "run python -m reidx.testing.matrix and copy its output into the page"


# ---- the algorithm of the covering


@pytest.mark.parametrize("sizes", [(2, 3), (3, 4, 2, 3), (5, 1, 5, 2, 4)])
def test_few_combinations_cover_all_pairs(sizes: tuple[int, ...]) -> None:
    found = cover(sizes, lambda combination: None)
    wanted = 0
    for one in range(len(sizes)):
        for other in range(one + 1, len(sizes)):
            for a in range(sizes[one]):
                for b in range(sizes[other]):
                    wanted += 1
                    assert any(c[one] == a and c[other] == b for c in found.combinations)
    assert wanted == len(list(pairs_of(sizes))) and not found.refused
    largest = sorted(sizes)[-2:]
    assert largest[0] * largest[1] <= len(found.combinations) <= 2 * largest[0] * largest[1]
    assert found == cover(sizes, lambda combination: None)


def test_refused_pairs_are_in_no_possible_combination() -> None:
    """Compare with a full enumeration: one value needs another, two exclude each other, one never fits."""
    sizes = (3, 4, 3, 3)

    def refusal(c: Combination) -> str | None:
        if c[0] == 2 and c[1] != 3:
            return "needs"
        if c[1] == 3 and c[2] == 1:
            return "excludes"
        return "never" if c[3] == 2 else None

    found = cover(sizes, refusal)
    possible = [c for c in itertools.product(*map(range, sizes)) if refusal(c) is None]
    for pair in pairs_of(sizes):
        (one, a), (other, b) = pair
        can = any(c[one] == a and c[other] == b for c in possible)
        assert can == (pair not in found.refused), pair
        assert can == any(c[one] == a and c[other] == b for c in found.combinations), pair
    assert all(refusal(c) is None for c in found.combinations)
    # the first value follows from the second, the third from both
    assert found.refused[(0, 2), (1, 0)] == "needs" and found.refused[(1, 3), (2, 1)] == "excludes"
    assert found.refused[(0, 2), (2, 1)] in ("needs", "excludes") and found.refused[(1, 0), (3, 2)] == "never"


def test_pair_that_needs_a_third_value() -> None:
    """Neither value of the pair needs the third one by itself, so that no combination for either has it."""
    found = cover((3, 3, 3, 2), lambda c: "needs the last" if c[:2] == (1, 1) and c[2] != 2 else None)
    assert not found.refused and any(c[:3] == (1, 1, 2) for c in found.combinations)


def test_only_wanted_pairs_are_covered() -> None:
    def wanted(pair: Pair) -> bool:
        return (0, 1) in pair

    found = cover((2, 6, 6), lambda combination: None, wanted)
    assert len(found.combinations) == 6 and all(c[0] == 1 for c in found.combinations)


# ---- the check of gradients


class Scaled(nn.Module):
    """Loss whose gradient is multiplied by ``by``, or lost if that is None."""

    def __init__(self, by: float | None) -> None:
        super().__init__()
        self.by = by

    def forward(self, features: Tensor) -> Tensor:
        if self.by is None:
            return features.detach().square().sum().requires_grad_()
        return self.by * features.square().sum() + (1 - self.by) * features.detach().square().sum()


@pytest.mark.parametrize(
    ("by", "message"),
    [(1.0, ""), (None, "Scaled trains nothing"), (0.0, "all gradients of Scaled are 0"), (float("nan"), "value of Scaled")],
)
def test_missing_gradient_is_reported(by: float | None, message: str) -> None:
    term = BoundTerm("Scaled", Scaled(by), {"stream": ["target"]})
    model = StageModel({"student": tiny_network()}, {}, {}, {}, Objective([term]), {"target": lambda x: x}, {"target": None})
    batch = Batch(torch.randn(4, 3, 8, 8), torch.arange(4))

    def step() -> None:
        with watch_gradients(Stage("adapt", model=Model({}))) as seen:
            model({"target": batch})
        seen.check()

    if message:
        with pytest.raises(AssertionError, match=message):
            step()
    else:
        step()


# ---- external plugins

OUTSIDE = '''
import torch
from torch import nn
from reidx import Component, PluginInfo, hookimpl
from reidx.contracts import Features
from reidx.memories import Memory

@hookimpl
def reidx_plugin():
    return PluginInfo(title="Parts", api=1)

@hookimpl
def reidx_components():
    kinds = {{"backbone": "Patches", "fusion": "Largest", "refiner": "Same"}} if "{module}" == "fake_reidx_kind" else {{}}
    kinds = kinds or {{"memory": "Broken", "fusion": "Deaf"}}
    return [Component(kind, name, "{module}:" + name) for kind, name in kinds.items()]

class Patches(nn.Module):
    """Map of 8x8 patches."""
    out_channels, nonnegative = 12, False
    def __init__(self):
        super().__init__()
        self.cut = nn.Conv2d(3, 12, 8, 8)
    def forward(self, images):
        return self.cut(images)

class Largest(nn.Module):
    """Maximum of each channel."""
    provides = frozenset({{"embed"}})
    def __init__(self, in_channels: int):
        super().__init__()
        self.dims = {{"embed": in_channels}}
    def forward(self, maps):
        return Features({{"embed": maps.amax((2, 3))}})

class Deaf(Largest):
    """Embedding that depends only on a bias."""
    def __init__(self, in_channels: int):
        super().__init__(in_channels)
        self.bias = nn.Parameter(torch.randn(in_channels))
    def forward(self, maps):
        return Features({{"embed": maps.amax((2, 3)).detach() + self.bias}})

class Same:
    """Unchanged labels."""
    def __call__(self, labels, context):
        return labels

class Broken(Memory):
    """Memory whose scores are NaN."""
    def __init__(self, dim: int):
        super().__init__()
        self.register_buffer("classes_seen", torch.tensor(0))
    def reset(self, bank, labels):
        self.classes_seen = labels.max() + 1
    def forward(self, features):
        return features.sum(1, keepdim=True) * torch.full((1, int(self.classes_seen)), float("nan"))
'''

SCRIPT = """
import json, sys
from pathlib import Path
from reidx.testing import matrix

def outcome(number, combination):
    try:
        matrix.train(combination, Path(f"run{number}"))
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "trained"

axes = {kind: [str(c) for c in choices] for kind, choices in matrix.axes().items()}
kind = matrix.combinations("kind")
bad = matrix.combinations("bad")
sound = [c for c in kind if "bad." not in str(c)]
outcomes = {str(c): outcome(n, c) for n, c in enumerate([*sound[:1], *sound[-1:], *bad[:1], *bad[-1:]])}
print(json.dumps({"axes": axes, "kind": [str(c) for c in kind], "bad": [str(c) for c in bad], "outcomes": outcomes}))
"""


def test_installed_plugin_joins_the_matrix(fake_plugins: FakePlugins) -> None:
    fake_plugins.add("kind", OUTSIDE)
    fake_plugins.add("bad", OUTSIDE)
    ran = fake_plugins.run("-c", SCRIPT, REIDX_PLUGINS="kind,bad")
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    own = {"backbone": "kind.Patches", "fusion": "kind.Largest", "refiner": "kind.Same"}
    for kind, name in own.items():
        assert name in found["axes"][kind]
        others = [n for other, names in found["axes"].items() if other != kind for n in names]
        together = {part for c in found["kind"] if name in c.split("+") for part in c.split("+")}
        # kind.Patches has no class token, kind.Largest takes none
        with_tokens = {"backbone": {"ClassToken"}, "fusion": {"Timm test_vit with tokens"}}.get(kind, set())
        assert set(others) - with_tokens <= together, name
    assert all(any(part.startswith("bad.") for part in c.split("+")) for c in found["bad"])
    trained = [outcome for c, outcome in found["outcomes"].items() if "bad." not in c]
    broken = {c: outcome for c, outcome in found["outcomes"].items() if "bad." in c}
    assert trained == ["trained"] * len(trained) and trained
    for combination, outcome in broken.items():
        if "bad.Broken" in combination:
            assert "memory bad.Broken" in outcome and "NaN or infinite" in outcome
        else:
            assert outcome == "AssertionError: no gradient reaches the backbone"
    assert broken
