"""The split of a map into a shared and a specific part: sums, gradients and warnings."""

from __future__ import annotations

import copy
import math
from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from reidx_daam.attention import Kind
from reidx_daam.split import AttentionSplit
from torch import Tensor, nn

from reidx.contracts import contract_of
from reidx.errors import ConfigError
from reidx.models.inference import fast_inference
from reidx.models.norm import group_batch_norm


class Stage(nn.Sequential):
    """A last stage: maps (B,8,h,w) to (B,12,h/2,w/2)."""

    out_channels = 12

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(8, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU())


def maps(images: int = 6) -> Tensor:
    return torch.rand(images, 8, 6, 4, generator=torch.Generator().manual_seed(0))


def made(seed: int = 0, **settings: Any) -> AttentionSplit:
    torch.manual_seed(seed)
    settings = {"branch": "conv", "reduction": 2, **settings}
    return AttentionSplit(8, **settings)


@pytest.mark.parametrize("attention", get_args(Kind))
def test_complementary_parts_sum_to_map(attention: Kind) -> None:
    head = made(attention=attention)
    given = maps()
    mask = head.attention(given)
    shared, specific = head.parts(given, mask)
    assert torch.allclose(shared + specific, given, atol=1e-6)
    assert torch.allclose(shared, mask * given)
    assert torch.allclose(specific, (1 - mask) * given, atol=1e-6)


def test_soft_residual_parts_sum_to_twice_map() -> None:
    head = made(split="soft_residual")
    given = maps()
    mask = head.attention(given)
    shared, specific = head.parts(given, mask)
    assert torch.allclose(shared, (1 + mask) * given, atol=1e-6)
    assert torch.allclose(specific, (1 - mask) * given, atol=1e-6)


def test_no_attention_halves_the_map() -> None:
    head = made(attention="none")
    shared, specific = head.parts(maps(), head.attention(maps()))
    assert torch.equal(shared, specific)
    assert torch.equal(shared, maps() / 2)
    assert torch.equal(head(maps())["mask"], torch.full((6, 1), 0.5))


def test_features_by_loops() -> None:
    head = made(branch_dim=5)
    for _ in range(3):
        head(maps(16))
    head.eval()
    given = maps(2)
    with torch.no_grad():
        features, mask = head(given), head.attention(given)
    for n in range(2):
        for name, branch in (("shared", head.shared), ("specific", head.specific)):
            conv, norm = branch[0][0], branch[0][1]
            for k in range(5):
                total = 0.0
                for i in range(6):
                    for j in range(4):
                        x = 0.0
                        for c in range(8):
                            a = mask[n, c, i, j].item()
                            part = a if name == "shared" else 1 - a
                            x += conv.weight[k, c, 0, 0].item() * part * given[n, c, i, j].item()
                        x = (x - norm.running_mean[k].item()) / math.sqrt(norm.running_var[k].item() + norm.eps)
                        total += max(x * norm.weight[k].item() + norm.bias[k].item(), 0.0)
                assert features[name][n, k].item() == pytest.approx(total / 24, abs=1e-5)
        assert features["mask"][n].item() == pytest.approx(mask[n].mean().item(), abs=1e-6)
        whole, specific = 0.0, 0.0
        for x, a in zip(given[n].flatten().tolist(), mask[n].flatten().tolist(), strict=True):
            whole, specific = whole + x**2, specific + ((1 - a) * x) ** 2
        assert features["share"][n].item() == pytest.approx(math.sqrt(specific / whole), abs=1e-5)
        neck = head.neck
        expected = [
            (v - neck.running_mean[k].item()) / math.sqrt(neck.running_var[k].item() + neck.eps) * neck.weight[k].item()
            for k, v in enumerate(features["shared"][n].tolist())
        ]
        assert features["neck"][n].tolist() == pytest.approx(expected, abs=1e-4)
        length = math.hypot(*expected)
        assert features["global"][n].tolist() == pytest.approx([v / length for v in expected], abs=1e-4)
        assert features["mask"][n].item() == pytest.approx(sum(mask[n].flatten().tolist()) / mask[n].numel(), abs=1e-6)


def test_retrieval_feature_follows_eval_feature() -> None:
    given = maps()
    for eval_feature in ("sh", "sh_bn", "sh+sp"):
        head = made(eval_feature=eval_feature).eval()
        features = head(given)
        assert torch.allclose(features["embed"].norm(dim=1), torch.ones(6), atol=1e-6)
        assert features["embed"].shape[1] == head.dims["embed"]
        shared, specific = F.normalize(features["shared"]), F.normalize(features["specific"])
        cosines = {"sh": shared @ shared.T, "sh_bn": features["global"] @ features["global"].T}
        cosines["sh+sp"] = (cosines["sh"] + specific @ specific.T) / 2
        assert torch.allclose(features["embed"] @ features["embed"].T, cosines[eval_feature], atol=1e-6)
    plain = made(neck=False)(given)
    assert torch.equal(plain["neck"], plain["shared"])
    assert torch.equal(plain["embed"], F.normalize(plain["shared"]))
    assert not made().neck.bias.requires_grad  # type: ignore[union-attr]


# ---- the branches


def test_branches_are_independent_copies_of_stage() -> None:
    torch.manual_seed(0)
    stage = Stage()
    before = copy.deepcopy(stage.state_dict())
    head = AttentionSplit(8, tail=stage)
    assert head.dims["shared"] == head.dims["specific"] == head.dims["embed"] == 12
    for branch in (head.shared[0], head.specific[0]):
        assert all(torch.equal(value, before[name]) for name, value in branch.state_dict().items())
    head(maps())["shared"].square().sum().backward()
    assert head.shared[0][0].weight.grad is not None
    assert head.specific[0][0].weight.grad is None
    half = AttentionSplit(8, tail=stage, attention="none").eval()
    features = half(2 * maps())
    assert torch.allclose(features["shared"], features["specific"], atol=1e-6)
    assert torch.allclose(features["shared"], stage.eval()(maps()).mean((2, 3)), atol=1e-6)


def test_only_cloned_stages_need_the_backbones_tail() -> None:
    assert contract_of(AttentionSplit, {"branch": "clone_stage"}).requires_tail
    assert contract_of(AttentionSplit).requires_tail
    assert not contract_of(AttentionSplit, {"branch": "conv", "reduction": 4}).requires_tail
    with pytest.raises(ConfigError, match="use branch: conv"):
        AttentionSplit(8)
    with pytest.raises(ConfigError, match="branch_dim is for branch: conv"):
        AttentionSplit(8, tail=Stage(), branch_dim=4)


@pytest.mark.parametrize("attention", get_args(Kind))
def test_extraction_gives_the_same_features(attention: Kind) -> None:
    # extraction uses a copy with BatchNorms folded into convolutions
    head = made(attention=attention)
    for _ in range(3):
        head(maps(16))
    head.eval()
    with torch.no_grad():
        expected, found = head(maps()), fast_inference(head)(maps())
    for name, value in expected.items():
        assert torch.allclose(found[name], value, atol=1e-5), name


# ---- gradients of the specific branch


class Trunk(nn.Module):
    """A backbone of one convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(x))


@pytest.mark.parametrize(
    ("settings", "reaches_trunk"),
    [
        ({}, True),
        ({"detach_backbone_sp": True}, False),
        ({"detach_backbone_sp": True, "detach_attention_input": False}, True),
        ({"detach_attention_input": True}, True),
    ],
    ids=str,
)
def test_detached_branch_still_trains_attention(settings: dict[str, bool], reaches_trunk: bool) -> None:
    trunk, head = Trunk(), made(**settings)
    head(trunk(maps()))["specific"].square().sum().backward()
    gradient = trunk.conv.weight.grad
    assert (gradient is not None and bool(gradient.abs().sum() > 0)) == reaches_trunk
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.attention.parameters())
    assert head.shared[0][0].weight.grad is None


def test_each_detached_path_removes_its_gradient() -> None:
    # each detached path removes only its own part of the gradient: through the map, or through the mask's input
    def gradient(**settings: bool) -> Tensor:
        trunk = Trunk()
        head = made(**settings)
        features = head(trunk(maps()))
        (features["specific"].square().sum() + features["shared"].square().sum()).backward()
        assert trunk.conv.weight.grad is not None
        return trunk.conv.weight.grad

    def seeded(**settings: bool) -> Tensor:
        torch.manual_seed(1)
        return gradient(**settings)

    whole = seeded()
    no_map = seeded(detach_backbone_sp=True, detach_attention_input=False)
    no_mask = seeded(detach_attention_input=True)
    neither = seeded(detach_backbone_sp=True)
    assert torch.allclose(whole - no_map, no_mask - neither, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(whole, no_map)
    assert not torch.allclose(whole, no_mask)


@pytest.mark.parametrize("group", [None, 3])
def test_detaching_preserves_features_and_statistics(group: int | None) -> None:
    plain, detached = made(), made(detach_backbone_sp=True)
    for head in (plain, detached):
        group_batch_norm(head, group)
    one, two = plain(maps()), detached(maps())
    for name in one:
        assert torch.allclose(one[name], two[name], atol=1e-6), name
    for name, value in plain.state_dict().items():
        assert torch.equal(value, detached.state_dict()[name]), name
    assert any("num_batches_tracked" in name and value > 0 for name, value in plain.state_dict().items())


# ---- the warning


def test_collapsed_mask_is_reported() -> None:
    assert made().notes() == []  # no batch so far
    reported = {0.5: None, 6.0: "above 0.98, so the specific branch", -6.0: "below 0.02, so the shared branch"}
    for bias, text in reported.items():
        head = made(attention="se", bias_init=bias)
        head(maps())
        notes = head.notes()
        assert len(notes) == (text is not None)
        for note in notes:
            assert str(text) in note
            assert "bias_init" in note
    head = made(attention="se", bias_init=-6.0, split="soft_residual")
    head(maps())
    assert "both branches see the whole map" in head.notes()[0]


def test_note_follows_last_training_batch() -> None:
    head = made(attention="se", bias_init=6.0)
    head.eval()(maps())
    assert head.notes() == []
    head.train()(maps())
    (note,) = head.notes()
    head(maps()[:3])
    assert head.notes() == [note]  # the same note for repeated batches
    assert "seen" not in head.state_dict()
    head.attention.excite.bias.data.fill_(0)  # type: ignore[union-attr]
    head(maps())
    assert head.notes() == []
