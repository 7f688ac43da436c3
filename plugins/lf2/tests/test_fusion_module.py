"""The Fusion Module: each feature against loops over the cells of a map, and the properties of its variants."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from reidx_lf2.fusion_module import FUSED, FusionModule, pooled_product
from torch import Tensor, nn

from reidx.errors import DataError
from reidx.models.norm import group_batch_norm

VARIANTS: dict[str, dict[str, Any]] = {
    "frozen": {},
    "paper": {"part_input": "sum"},
    "const": {"gate": "const"},
    "part_head": {"gate": "part_head", "part_input": "sum"},
    "fusion_triplet": {"gate": "fusion_triplet"},
    "Eq. 5": {"order": "mul_then_gate"},
    "local": {"mode": "local"},
    "average": {"pool": "avg", "part_input": "sum"},
    "average, part_head": {"pool": "avg", "part_input": "sum", "gate": "part_head"},
    "average, const": {"pool": "avg", "part_input": "sum", "gate": "const"},
    "average, local": {"pool": "avg", "part_input": "sum", "mode": "local"},
}


def maps(seed: int = 1, images: int = 6, channels: int = 4, height: int = 4, low: float = 0.0) -> Tensor:
    """Maps with cells from ``low`` to 1."""
    cells = torch.rand(images, channels, height, 2, generator=torch.Generator().manual_seed(seed))
    return low + (1 - low) * cells


def module(channels: int = 4, **settings: Any) -> FusionModule:
    torch.manual_seed(0)
    return FusionModule(channels, reduction=2, **settings)


def cells(x: Tensor, image: int, channel: int, rows: range) -> list[float]:
    return [x[image, channel, r, w].item() for r in rows for w in range(x.shape[3])]


def pools(x: Tensor, rows: range, pool: str = "avg+max") -> tuple[Tensor, Tensor]:
    """Average and maximum of some rows of a map, cell by cell; 0 in place of the maximum with ``avg``."""
    average, maximum = torch.zeros(2, *x.shape[:2])
    for b in range(x.shape[0]):
        for c in range(x.shape[1]):
            found = cells(x, b, c, rows)
            average[b, c], maximum[b, c] = sum(found) / len(found), max(found) if pool == "avg+max" else 0
    return average, maximum


def standardised(vectors: Tensor) -> Tensor:
    """Each column less its mean over the batch, divided by its standard deviation."""
    out = torch.zeros_like(vectors)
    for c, column in enumerate(vectors.T.tolist()):
        mean = sum(column) / len(column)
        variance = sum((v - mean) ** 2 for v in column) / len(column)
        out[:, c] = torch.tensor([(v - mean) / (variance + 1e-5) ** 0.5 for v in column])
    return out


def by_loops(fusion: FusionModule, x: Tensor, teacher: Tensor) -> dict[str, Tensor]:
    """All features of a new module in training mode, by the formulas of the paper's Fig. 3 and Eq. 5."""
    height = x.shape[2]
    halves = {"upper": range(height // 2), "lower": range(height // 2, 2 * (height // 2))}
    average, maximum = pools(x, range(height), fusion.pool)
    made = {"pooled": average + maximum, "global": standardised(average + maximum)}
    made["phi0"] = standardised(sum(pools(teacher, range(height), fusion.pool)))  # type: ignore[arg-type]
    for (half, rows), phi in zip(halves.items(), FUSED[1:]):
        average, maximum = pools(x, rows, fusion.pool)
        if fusion.mode == "local":
            product = sum(pools(teacher, rows, fusion.pool))
        else:
            z = fusion.gates[half](average, maximum)
            product = torch.zeros_like(average)
            for b in range(len(x)):
                for c in range(x.shape[1]):
                    found = [v * z[b, c].item() for v in cells(teacher, b, c, range(height))]
                    product[b, c] = sum(found) / len(found) + (max(found) if fusion.pool == "avg+max" else 0)
        made[phi] = standardised(product)  # type: ignore[arg-type]
        given = torch.cat([average, maximum], 1) if fusion.part_input == "concat" else average + maximum
        if fusion.gate == "part_head":
            given = z
        expert: Any = fusion.experts[half]
        table = [
            [sum(w * v for w, v in zip(row, vector)) + b for row, b in zip(expert.weight.tolist(), expert.bias.tolist())]
            for vector in given.tolist()
        ]
        made[half] = standardised(torch.tensor(table))
    together = [made[name] for name in ("global", "upper", "lower")]
    for b in range(len(x)):
        length = sum(v * v for part in together for v in part[b].tolist()) ** 0.5
        made.setdefault("embed", torch.zeros(len(x), 3 * x.shape[1]))[b] = torch.cat([p[b] for p in together]) / length
    return made


@pytest.mark.parametrize("height", [4, 5])
@pytest.mark.parametrize("low", [0.0, -1.0], ids=["nothing below 0", "of both signs"])
@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS)
@torch.no_grad()
def test_each_feature_against_loops(settings: dict[str, Any], low: float, height: int) -> None:
    fusion, x, teacher = module(**settings), maps(1, height=height, low=low), maps(2, height=height, low=low)
    expected, features = by_loops(fusion, x, teacher), fusion(x, teacher)
    assert set(features) == set(expected) == set(fusion.dims)
    for name, vector in expected.items():
        assert torch.allclose(features[name], vector, atol=2e-4), name


@torch.no_grad()
def test_global_mode_has_no_halves() -> None:
    fusion, full = module(mode="global"), module()
    features, others = fusion(maps(1), maps(2)), full(maps(1), maps(2))
    assert set(features) == {"embed", "global", "pooled", "phi0"} == set(fusion.dims)
    for name in ("global", "pooled", "phi0"):
        assert torch.equal(features[name], others[name])
    assert torch.allclose(features["embed"], nn.functional.normalize(features["global"]))
    assert not fusion.experts and not fusion.gates


@torch.no_grad()
def test_shapes_match_the_paper() -> None:
    torch.manual_seed(0)
    fusion, x = FusionModule(2048), torch.rand(4, 2048, 16, 8)
    features = fusion(x, x)
    for name, width in fusion.dims.items():
        assert features[name].shape == (4, width) and width == (6144 if name == "embed" else 2048)
    assert torch.allclose(features["embed"].norm(dim=1), torch.ones(4), atol=1e-5)
    assert fusion.experts["upper"].weight.shape == (2048, 4096)
    assert FusionModule(2048, part_input="sum").experts["upper"].weight.shape == (2048, 2048)
    assert sum(p.numel() for p in fusion.gates["upper"].parameters()) == 2_097_152
    # a fan_out of 2048 gives a standard deviation of sqrt(2 / 2048)
    assert fusion.experts["upper"].weight.std().item() == pytest.approx((2 / 2048) ** 0.5, rel=0.01)
    assert not fusion.experts["upper"].bias.any()


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_pooled_product_equals_pooling_the_product(sign: float) -> None:
    # maps of both signs: the maximum of a product with a negative number is that number times the minimum
    x = maps(1, low=-1.0)
    z = sign * torch.rand(6, 4, generator=torch.Generator().manual_seed(3))
    z[0] = 0.0
    product = x * z[..., None, None]
    assert torch.allclose(pooled_product(x, z), product.mean((2, 3)) + product.amax((2, 3)), atol=1e-6)


def test_nonnegative_pooled_product_factorises() -> None:
    x, z = maps(1), torch.rand(6, 4, generator=torch.Generator().manual_seed(3))
    assert torch.allclose(pooled_product(x, z), (x.mean((2, 3)) + x.amax((2, 3))) * z, atol=1e-6)
    assert torch.allclose(pooled_product(x, z), sum(p * z for p in (x.mean((2, 3)), x.amax((2, 3)))), atol=1e-6)


def test_new_norms_leave_clustered_vectors_unchanged() -> None:
    fusion = module().eval()
    features = fusion(maps(1), maps(2))
    whole = maps(2).mean((2, 3)) + maps(2).amax((2, 3))
    assert torch.allclose(features["phi0"], whole, atol=1e-4)
    upper = maps(1)[:, :, :2]
    z = fusion.gates["upper"](upper.mean((2, 3)), upper.amax((2, 3)))
    assert torch.allclose(features["phi1"], whole * z, atol=1e-4)


def test_each_feature_depends_on_its_map() -> None:
    fusion = module().eval()
    before = fusion(maps(1), maps(2))
    other_upper, other_teacher = maps(1).clone(), maps(2) + 1
    other_upper[:, :, :2] += 1
    changed = {n for n, v in fusion(other_upper, maps(2)).items() if not torch.equal(v, before[n])}
    assert changed == {"embed", "pooled", "global", "upper", "phi1"}
    changed = {n for n, v in fusion(maps(1), other_teacher).items() if not torch.equal(v, before[n])}
    assert changed == {"phi0", "phi1", "phi2"}
    local = module(mode="local").eval()
    same = local(maps(1), maps(2))
    changed = {n for n, v in local(other_upper, maps(2)).items() if not torch.equal(v, same[n])}
    assert changed == {"embed", "pooled", "global", "upper"}  # the teacher's own halves are clustered


def test_own_map_replaces_a_missing_teacher() -> None:
    fusion = module().eval()
    for name, vector in fusion(maps(1)).items():
        assert torch.equal(vector, fusion(maps(1), maps(1))[name]), name


def test_norms_are_separate_without_bias() -> None:
    fusion = group_batch_norm(module(), 4)
    fusion(maps(1), maps(2))
    norms = [m for m in fusion.modules() if isinstance(m, nn.BatchNorm1d)]
    assert len(norms) == 6
    assert len({tuple(m.running_mean.tolist()) for m in norms}) == 6  # type: ignore[union-attr]
    for norm in norms:
        assert not norm.bias.requires_grad and not norm.bias.any()
        assert int(norm.num_batches_tracked) == 2  # type: ignore[arg-type]


def test_map_of_one_row_is_refused() -> None:
    with pytest.raises(DataError, match=r"map is 1 row high and has no halves\. Raise data\.image_size"):
        module()(maps(height=1))
    assert set(module(mode="global")(maps(height=1))) == {"embed", "global", "pooled", "phi0"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("frozen", set()),
        ("Eq. 5", set()),
        ("const", set()),
        ("local", set()),
        ("part_head", {"gates.upper", "gates.lower"}),
        ("fusion_triplet", {"gates.upper", "gates.lower", "fused_norms.phi1", "fused_norms.phi2"}),
    ],
)
def test_trainable_parameters_of_each_variant(name: str, expected: set[str]) -> None:
    # regardless of the losses on the fused features
    found = {".".join(n.split(".")[:2]) for n, p in module(**VARIANTS[name]).named_parameters() if p.requires_grad}
    own = {"experts.upper", "experts.lower", "norms.global", "norms.upper", "norms.lower"}
    assert found == own | expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "local", "gate": "const"}, "mode: local has no gates"),
        ({"mode": "global", "order": "mul_then_gate"}, "mode: global has no gates"),
        ({"gate": "const", "order": "mul_then_gate"}, "gate: const multiplies by one half"),
        ({"gate": "part_head"}, "set part_input: sum"),
        ({"pool": "avg"}, "no maximum to concatenate with the average; set part_input: sum"),
    ],
)
def test_settings_that_exclude_each_other_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        module(**settings)


def test_note_reports_frozen_gates() -> None:
    for settings in ({}, {"order": "mul_then_gate"}):
        (note,) = module(**settings).notes()
        assert "gates are frozen" in note
        assert "not learned attention" in note
    for name in ("const", "part_head", "fusion_triplet", "local"):
        assert module(**VARIANTS[name]).notes() == []
