"""The features of GlobalPatch against loops over patches; trained parameters and detached levels."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from reidx_global_patch.fusion import GlobalPatch, fused
from torch import Tensor

from reidx.errors import ConfigError
from reidx.registry.build import build

C, P = 16, 6


def maps(count: int = 8, seed: int = 1) -> Tensor:
    return torch.randn(count, C, 12, 4, generator=torch.Generator().manual_seed(seed))


def head(**keys: Any) -> GlobalPatch:
    torch.manual_seed(0)
    return GlobalPatch(C, **{"patch_dim": 10, "embed_dim": 5, "generator_hidden": 8, "generator_fc": 8, **keys})


def unit(rows: Tensor) -> bool:
    return torch.allclose(rows.norm(dim=-1), torch.ones(rows.shape[:-1]), atol=1e-5)


def batch_norm(rows: Tensor) -> Tensor:
    """The rows (B,D) at mean 0 and variance 1 over the batch."""
    return (rows - rows.mean(0)) / (rows.var(0, unbiased=False) + 1e-5).sqrt()


@pytest.mark.parametrize("relu", [False, True])
def test_features_against_a_loop_over_patches(relu: bool) -> None:
    fusion, given = head(relu=relu).train(), maps()
    features = fusion(given)
    assert torch.allclose(features["global"], F.normalize(batch_norm(given.mean((2, 3)))), atol=1e-5)
    image = []
    for p in range(P):
        theta = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1 / P, (2 * p + 1) / P - 1]]).expand(len(given), 2, 3)
        grid = F.affine_grid(theta, list(given.shape), align_corners=True)
        pooled = F.grid_sample(given, grid, padding_mode="border", align_corners=True).mean((2, 3))
        own = batch_norm(pooled @ fusion.patches.weight[p].T)
        own = F.normalize(own.clamp(min=0) if relu else own)
        assert torch.allclose(features["patch"][:, p], own, atol=1e-4)
        image += [F.cosine_similarity(own, row[None]) for row in fusion.rows[p]]
    assert torch.allclose(features["image"], torch.stack(image, 1), atol=1e-4)


def test_shapes_widths_and_lengths() -> None:
    fusion = GlobalPatch(C)
    features = fusion(maps())
    assert {name: tuple(value.shape) for name, value in features.items()} == {
        "embed": (8, C + 6 * 256), "global": (8, C), "patch": (8, 6, 256), "image": (8, 6 * 128),
    }  # fmt: skip
    assert fusion.dims == {name: value.shape[-1] for name, value in features.items()}
    assert unit(features["embed"])
    assert unit(features["global"])
    assert unit(features["patch"])
    assert bool((features["image"].abs() <= 1 + 1e-5).all())


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_fused_cosine_is_weighted_mean(share: float) -> None:
    features = {name: value.detach() for name, value in head(fusion_lambda=share)(maps()).items()}
    embed, whole, patch = features["embed"], features["global"], features["patch"]
    for i in range(4):
        for j in range(4):
            local = sum(float(patch[i, p] @ patch[j, p]) for p in range(P)) / P
            expected = share * float(whole[i] @ whole[j]) + (1 - share) * local
            assert float(embed[i] @ embed[j]) == pytest.approx(expected, abs=1e-5)


def test_embed_can_be_one_level() -> None:
    whole, patch = head(eval_feature="global"), head(eval_feature="patch")
    assert torch.equal(whole(maps())["embed"], whole(maps())["global"])
    features = patch(maps())
    assert patch.dims["embed"] == P * 10 == features["embed"].shape[1]
    assert torch.allclose(features["embed"], features["patch"].flatten(1) / math.sqrt(P), atol=1e-6)


def test_untrained_transformer_equals_stripes() -> None:
    fixed, moved = head(), head(generator="stn")
    moved.load_state_dict(fixed.state_dict(), strict=False)
    for mode in (True, False):
        ours, theirs = fixed.train(mode)(maps()), moved.train(mode)(maps())
        for name in ours:
            assert torch.allclose(ours[name], theirs[name], atol=1e-5), name


def trained(fusion: GlobalPatch) -> set[str]:
    return {name.split(".")[0] for name, p in fusion.named_parameters() if p.requires_grad}


def test_trained_parts_of_each_setting() -> None:
    assert trained(head()) == {"whole", "patches", "rows"}
    assert trained(head(generator="stn")) == {"whole", "patches", "rows"}
    assert trained(head(generator="stn", generator_trainable=True)) == {"whole", "patches", "rows", "generator"}
    assert trained(head(embed_trainable=False)) == {"whole", "patches"}


def test_embedding_rows_are_orthogonal_directions() -> None:
    fusion = head().eval()
    for own in fusion.rows:
        assert torch.allclose(own @ own.T, torch.eye(5), atol=1e-5)
    before = fusion(maps())["image"]
    fusion.rows.data *= torch.arange(1.0, 6.0)[:, None]
    assert torch.allclose(fusion(maps())["image"], before, atol=1e-6)


@pytest.mark.parametrize(("key", "kept_from"), [("detach_global", "global"), ("detach_patch", "patch")])
def test_detached_level_does_not_train_backbone(key: str, kept_from: str) -> None:
    given = maps().requires_grad_()
    features = head(**{key: True})(given)
    other = "patch" if kept_from == "global" else "global"
    assert torch.autograd.grad(features[kept_from].sum(), given, allow_unused=True, retain_graph=True)[0] is None
    look = torch.randn(features[other].shape, generator=torch.Generator().manual_seed(3))
    assert torch.autograd.grad((features[other] * look).sum(), given)[0].abs().sum() > 0


def test_head_of_ecn() -> None:
    fusion = head(global_dim=32, global_dropout=0.5)
    assert fusion.dims["global"] == 32
    assert fusion.dims["embed"] == 32 + P * 10
    torch.manual_seed(0)
    dropped = fusion.train()(maps())["global"]
    assert 0.3 < (dropped == 0).float().mean() < 0.7
    assert unit(fusion.eval()(maps())["global"])
    plain = head(global_neck=False).train()
    assert torch.allclose(plain(maps())["global"], F.normalize(maps().mean((2, 3))), atol=1e-6)


def test_fused_vector_has_unit_length() -> None:
    whole = F.normalize(torch.randn(5, 7, generator=torch.Generator().manual_seed(0)))
    patch = F.normalize(torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(1)), dim=2)
    assert unit(fused(whole, patch, 0.25))
    assert unit(fused(None, patch, 0.0))


@pytest.mark.parametrize(
    ("key", "value"),
    [("fusion_lambda", 1.5), ("global_dropout", -0.1), ("num_patches", 0), ("generator", "grid"), ("generater", "stn")],
)
def test_invalid_value_is_refused(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=key):
        build("fusion", {"type": "global_patch.GlobalPatch", key: value}, in_channels=C)
