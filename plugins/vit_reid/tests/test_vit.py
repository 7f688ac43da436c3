"""The backbone equals a loop over tokens and heads, with part tokens, both stems and camera embeddings."""

from __future__ import annotations

import math
import re

import pytest
import torch
import torch.nn.functional as F
from reidx_vit_reid.stem import IBN, Stem
from reidx_vit_reid.vit import ViT
from torch import Tensor

from reidx.errors import ConfigError, DataError

SIZE = (48, 32)


def images(count: int = 3) -> Tensor:
    return torch.randn(count, 3, *SIZE, generator=torch.Generator().manual_seed(0))


def vit(**settings: object) -> ViT:
    """A backbone of two blocks and two heads for 3x2 patches, with parameters far from their first values."""
    torch.manual_seed(1)
    made = ViT(**{"width": 128, "depth": 2, "image_size": SIZE, **settings})  # type: ignore[arg-type]
    with torch.no_grad():
        for value in made.parameters():
            value.add_(torch.randn_like(value) * (0.3 if value.ndim == 1 else 0.02))
    return made.double().eval()


def layer_norm(vector: Tensor, norm: torch.nn.LayerNorm) -> Tensor:
    centred = vector - vector.sum() / len(vector)
    return centred / ((centred * centred).sum() / len(vector) + 1e-6).sqrt() * norm.weight + norm.bias


def attended(tokens: list[Tensor], attention: torch.nn.Module) -> list[Tensor]:
    """Attention token by token and head by head: 64 dimensions a head, scores divided by 8."""
    width = len(tokens[0])
    projected = [attention.qkv.weight @ token + attention.qkv.bias for token in tokens]
    out = []
    for query in projected:
        heads = []
        for first in range(0, width, 64):
            part = slice(first, first + 64)
            keys = [p[width : 2 * width][part] for p in projected]
            values = [p[2 * width :][part] for p in projected]
            scores = [math.exp(float(query[:width][part] @ key) / 8) for key in keys]
            heads.append(sum(score / sum(scores) * value for score, value in zip(scores, values)))
        out.append(attention.proj.weight @ torch.cat(heads) + attention.proj.bias)  # type: ignore[arg-type]
    return out


def by_definition(model: ViT, image: Tensor, shift: Tensor | float = 0.0) -> list[Tensor]:
    """Compute the tokens of one image in loops: class, parts, patches from left to right and from top to bottom."""
    rows, columns = SIZE[0] // model.patch, SIZE[1] // model.patch
    tokens = [model.cls_token[0, 0], *([] if model.part_tokens is None else model.part_tokens[0])]
    for row in range(rows):
        for column in range(columns):
            square = image[:, row * model.patch : (row + 1) * model.patch, column * model.patch : (column + 1) * model.patch]
            tokens.append((model.patch_embed.proj.weight * square).sum((1, 2, 3)) + model.patch_embed.proj.bias)
    tokens = [token + place + shift for token, place in zip(tokens, model.pos_embed[0], strict=True)]
    for block in model.blocks:
        tokens = [t + a for t, a in zip(tokens, attended([layer_norm(t, block.norm1) for t in tokens], block.attn))]
        hidden = [F.gelu(block.mlp.fc1.weight @ layer_norm(t, block.norm2) + block.mlp.fc1.bias) for t in tokens]
        tokens = [t + block.mlp.fc2.weight @ h + block.mlp.fc2.bias for t, h in zip(tokens, hidden)]
    return [layer_norm(token, model.norm) for token in tokens]


@pytest.mark.parametrize("parts", [0, 3])
def test_tokens_equal_a_loop(parts: int) -> None:
    model, given = vit(part_tokens=parts), images().double()
    with torch.no_grad():
        made = model(given)
        for image, *rows in zip(given, made["map"].flatten(2), made["class_token"], *([made["part_tokens"]] if parts else [])):
            expected = by_definition(model, image)
            torch.testing.assert_close(rows[1], expected[0])
            torch.testing.assert_close(rows[0].T, torch.stack(expected[1 + parts :]))
            if parts:
                torch.testing.assert_close(rows[2], torch.stack(expected[1 : 1 + parts]))
    assert model.dims == dict.fromkeys(["class_token", "part_tokens"] if parts else ["class_token"], 128)
    assert ("part_tokens" in made) == bool(parts)
    assert made["map"].shape[2:] == model.map_size == (3, 2)


def test_camera_embedding_shifts_every_token() -> None:
    model, given, cameras = vit(cameras=4, part_tokens=1), images().double(), torch.tensor([3, -1, 0])
    assert model.sie == 3.0
    with torch.no_grad():
        made = model(given, cameras)
        for number, shift in enumerate([3.0 * model.camera_embed[3], 0.0, 3.0 * model.camera_embed[0]]):
            expected = by_definition(model, given[number], shift)
            torch.testing.assert_close(made["class_token"][number], expected[0])
            torch.testing.assert_close(made["map"][number].flatten(1).T, torch.stack(expected[2:]))
        unknown = model(given, torch.full((3,), -1))["class_token"]
        assert torch.equal(unknown, model(given)["class_token"])
        assert (unknown[0] - made["class_token"][0]).abs().max() > 0.1


def test_only_cameras_in_the_batch_are_trained() -> None:
    model = vit(cameras=4).train()
    (model(images().double(), torch.tensor([1, -1, 1]))["class_token"] * images()[:, 0].flatten(1)[:, :128]).sum().backward()
    assert [bool(row.any()) for row in model.camera_embed.grad] == [False, True, False, False]


def test_camera_beyond_the_embeddings_is_refused() -> None:
    with pytest.raises(DataError, match=r"an image is of camera 4, .* for 4 cameras\. Set `cameras`"):
        vit(cameras=4)(images().double(), torch.tensor([0, 4, 1]))


def test_camera_requirement_follows_the_setting() -> None:
    assert ViT.contract(cameras=0)["cameras"] == "unused"
    assert ViT.contract(cameras=6)["cameras"] == "required"


@pytest.mark.parametrize("training", [False, True])
def test_ibn_equals_its_definition(training: bool) -> None:
    """Each of the first channels is normalised per image, each of the others over the batch; means and deviations in loops."""
    torch.manual_seed(0)
    norm, maps = IBN(4).train(training), torch.randn(3, 4, 5, 2)
    with torch.no_grad():
        norm.IN.weight.uniform_()
        norm.BN.bias.uniform_()
        norm.BN.running_mean.uniform_()
        running = norm.BN.running_mean.clone()
    made = norm(maps)
    for channel in range(4):
        for number in range(3):
            values = maps[number, channel] if channel < 2 else maps[:, channel]
            mean, variance = values.mean(), values.var(correction=0)
            if channel >= 2 and not training:
                mean, variance = running[channel - 2], torch.tensor(1.0)
            own = norm.IN if channel < 2 else norm.BN
            scale, shift = own.weight[channel % 2], own.bias[channel % 2]
            expected = (maps[number, channel] - mean) / (variance + 1e-5).sqrt() * scale + shift
            torch.testing.assert_close(made[number, channel], expected)


def test_ics_stem_equals_its_steps() -> None:
    torch.manual_seed(0)
    stem, given = Stem("ics", width=6, patch=8).eval(), torch.randn(2, 3, 24, 16)
    maps = given
    for place, stride, padding in ((0, 2, 3), (3, 1, 1), (6, 1, 1)):
        maps = F.relu(stem.conv[place + 1](F.conv2d(maps, stem.conv[place].weight, stride=stride, padding=padding)))
    assert maps.shape == (2, 64, 12, 8)
    for row in range(3):
        for column in range(2):
            square = maps[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            expected = torch.einsum("bcij,dcij->bd", square, stem.proj.weight) + stem.proj.bias
            torch.testing.assert_close(stem(given)[:, :, row, column], expected, rtol=1e-4, atol=1e-5)


def test_drop_path_rises_over_the_blocks() -> None:
    model = vit(depth=3, drop_path=0.2)
    assert [getattr(block.drop_path1, "drop_prob", 0.0) for block in model.blocks] == pytest.approx([0.0, 0.1, 0.2])
    given = images().double()
    torch.manual_seed(0)
    assert not torch.equal(model.train()(given)["class_token"], model(given)["class_token"])


def test_layers_are_those_of_timm() -> None:
    from timm.models import group_parameters

    layers = group_parameters(vit(cameras=2, part_tokens=1), vit().group_matcher(), reverse=True)
    assert layers["patch_embed.proj.weight"] == layers["camera_embed"] == layers["part_tokens"] == 0
    assert (layers["blocks.0.attn.qkv.weight"], layers["blocks.1.mlp.fc1.bias"], layers["norm.weight"]) == (1, 2, 2)


def test_pixels_outside_all_patches_are_reported() -> None:
    assert vit().notes() == []
    assert vit(image_size=(50, 32)).notes() == ["ViT: the last 2 rows of images of 50x32 are in no patch."]
    torch.testing.assert_close(
        *(vit(image_size=(50, 32))(F.pad(images().double(), (0, 0, 0, 2), value=value))["map"] for value in (0.0, 1.0))
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 100}, "width is 100; it must be a multiple of 64"),
        ({"patch": 64}, "images of 48x32 have no patch of 64x64"),
        ({"patch": 9, "stem": "ics"}, "the patch of stem ics even"),
        ({"cameras": -1}, "neither can be negative"),
    ],
)
def test_impossible_setting_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        vit(**settings)
