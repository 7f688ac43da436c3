"""Named inputs: read from signatures, and the documented table is the one in the code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from reidx.contracts import CALLS, feature_inputs, inputs_by_method, inputs_of, inputs_of_kind, named_inputs
from reidx.registry.registry import KINDS

DOCS = Path(__file__).parents[2] / "docs/plugins.md"


class Several:
    """Memory with inputs in all forms."""

    def reset(self, features, labels, cameras, *others, tracks=None, **further): ...

    def update(self, features, targets, index): ...


class Loss(nn.Module):
    """Loss with a required and an optional input."""

    def forward(self, features: Any, weights: Any = None) -> None: ...


def test_inputs_are_the_arguments_after_the_positional_ones() -> None:
    assert inputs_by_method("memory", Several) == {"reset": ({"cameras"}, {"tracks"}), "update": (set(), set())}
    assert inputs_of_kind("memory", Several) == ({"cameras"}, {"tracks"})
    assert inputs_of_kind("loss", Loss) == inputs_of(Loss) == ({"features"}, {"weights"})
    assert inputs_of_kind("refiner", Several) == (set(), set())


class Named:
    """Refiner and distance with features among its arguments."""

    def __call__(self, features, parts, *, cameras, shared=None): ...


def test_features_are_arguments_that_the_fusion_provides() -> None:
    provided = {"features", "parts", "shared", "cameras", "specific"}
    assert feature_inputs("distance", Named, provided) == {"parts", "shared"}
    assert feature_inputs("refiner", Named, provided) == {"shared"}  # its `parts` is the context
    assert feature_inputs("distance", Named, {"embed"}) == feature_inputs("clusterer", Named, provided) == set()


def test_class_without_the_method_has_no_inputs() -> None:
    assert inputs_by_method("distance", Several) == {}  # not `__call__` of the metaclass


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (lambda features: 0, []),
        (lambda features, cameras: 0, ["cameras"]),
        (lambda features, *, cameras=None, within=1.0: 0, ["within", "cameras"]),
        (lambda features, **cameras: 0, []),
        (lambda *cameras: 0, []),
        (lambda features, clothes=None: 0, []),
    ],
)
def test_named_inputs_are_those_known(function: Any, names: list[str]) -> None:
    known = {"within": 0.5, "cameras": 7, "clothes": None}
    assert named_inputs(function, known) == {name: known[name] for name in names}


def test_documented_table_is_that_of_the_code() -> None:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in DOCS.read_text(encoding="utf-8").splitlines()]
    begin = rows.index(["kind", "method", "positional", "by name"]) + 2
    found = [[re.findall(r"`(\w+)`", cell) for cell in row] for row in rows[begin : rows.index([""], begin)]]
    calls = [(kind, *item) for kind, methods in CALLS.items() for item in methods.items()]
    assert found == [[[kind], [method], list(call.positional), list(call.named)] for kind, method, call in calls]
    given = {"fusion": "features of the fusion", "backbone": "tokens of the backbone"}
    for row, (_, _, call) in zip(rows[begin:], calls):
        assert [provider for provider, words in given.items() if words in row[3]] == [call.provider] * bool(call.provider)


def test_kinds_with_named_inputs_exist() -> None:
    assert set(CALLS) <= set(KINDS)
