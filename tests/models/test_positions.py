"""Weights at another image size: each position embedding moves to the place of its row and column."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from reidx.errors import CheckpointError, ConfigError
from reidx.models.backbones import Timm
from reidx.models.positions import infer_grid
from reidx.models.pretrained import positions_of

Size = tuple[int, int]
SQUARE, TALL, TALLER = (14, 14), (16, 8), (24, 8)
# one grid to another; 16x4, 18x8 and 32x8 have a square number of places, 16x8 and 8x16 the same number
MOVES = [(SQUARE, TALL), (TALL, TALLER), ((16, 4), TALL), ((18, 8), TALL), ((32, 8), TALL), (TALL, (8, 16)), (TALL, TALL)]


def ramp(grid: Size) -> Tensor:
    """Return (h, w, 2): the row and column of each place, scaled to between 0 and 1."""
    rows = torch.tensor([[(i + 0.5) / grid[0]] * grid[1] for i in range(grid[0])])
    columns = torch.tensor([[(j + 0.5) / grid[1] for j in range(grid[1])]] * grid[0])
    return torch.stack([rows, columns], 2)


def pixels(grid: Size, patch: int) -> Size:
    return grid[0] * patch, grid[1] * patch


def saved(path: Path, name: str, key: str, grid: Size, patch: int, prefix: int) -> str:
    """Save weights as timm does, with position embeddings that hold their own place and prefix tokens that hold 7."""
    torch.manual_seed(0)
    model = timm.create_model(name, img_size=pixels(grid, patch), num_classes=0)
    state = model.state_dict()
    state[key].fill_(7.0)
    state[key][0, prefix:, :2] = ramp(grid).reshape(-1, 2)
    torch.save(state, path)
    return str(path)


def off(value: Tensor, grid: Size, prefix: int) -> float:
    """Return the largest distance of an entry of a loaded embedding from its place."""
    assert value.shape[1] == prefix + grid[0] * grid[1]
    assert (value[0, :prefix] == 7).all()
    return (value[0, prefix:, :2].detach() - ramp(grid).reshape(-1, 2)).abs().max().item()


@pytest.mark.parametrize("old, new", MOVES)
@pytest.mark.parametrize("how", ["given", "recognised"])
def test_vit_from_a_file(old: Size, new: Size, how: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pth", "test_vit", "pos_embed", old, 16, 1)
    given = {"weights_image_size": pixels(old, 16)} if how == "given" else {}
    model = Timm("test_vit", weights=path, image_size=pixels(new, 16), **given)
    assert off(model.model.pos_embed, new, 1) < 0.1
    if how == "given":
        assert len(model.notes()) == 1
    else:
        _, note = model.notes()
        assert f"{old[0] * 16}x{old[1] * 16} is assumed" in note and "weights_image_size" in note


@pytest.mark.parametrize(
    "name, key, patch, prefix",
    [
        ("deit_tiny_distilled_patch16_224", "pos_embed", 16, 2),
        ("eva02_tiny_patch14_224", "pos_embed", 14, 1),
        ("tnt_s_legacy_patch16_224", "patch_pos", 16, 1),
    ],
)
def test_families_from_a_file(name: str, key: str, patch: int, prefix: int, tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pth", name, key, (16, 4), patch, prefix)
    given = pixels((16, 4), patch)
    model = Timm(name, weights=path, weights_image_size=given, image_size=pixels((8, 8), patch))
    assert off(model.model.get_parameter(key), (8, 8), prefix) < 0.1


@pytest.mark.parametrize(
    "name, patch, prefix",
    [
        ("vit_wee_patch16_reg1_gap_256", 16, 0),  # a register, which has no place
        ("vit_small_patch14_reg4_dinov2", 14, 0),
        ("deit3_small_patch16_224", 16, 0),
    ],
)
@pytest.mark.parametrize("old, new", [(TALL, TALLER), ((16, 4), (8, 8)), (TALL, (8, 16))])
def test_families_with_an_embedding_a_place(name: str, patch: int, prefix: int, old: Size, new: Size) -> None:
    positions = positions_of(name, pixels(new, patch), pixels(old, patch))
    value = torch.full(positions.shapes(pixels(old, patch))["pos_embed"], 7.0)
    value[0, prefix:, :2] = ramp(old).reshape(-1, 2)
    moved, stuck = positions.resized({"pos_embed": value}, pixels(old, patch), pixels(new, patch))
    assert not stuck and off(moved["pos_embed"], new, prefix) < 0.1


@pytest.mark.parametrize(
    "name, axes, old, new",
    [
        ("pit_ti_224", (2, 3), (256, 128), (384, 128)),
        ("visformer_tiny", (2, 3), (128, 256), (256, 128)),
        ("volo_d1_224", (1, 2), (256, 128), (384, 128)),
    ],
)
def test_embeddings_laid_out_as_a_plane(name: str, axes: tuple[int, int], old: Size, new: Size) -> None:
    positions = positions_of(name, new, old)
    state = {}
    for key in positions.names:
        shape = positions.shapes(old)[key]
        grid = (shape[axes[0]], shape[axes[1]])
        value = torch.zeros(shape)
        (value[0, :2].permute(1, 2, 0) if axes == (2, 3) else value[0, :, :, :2])[:] = ramp(grid)
        state[key] = value
    assert state
    moved, stuck = positions.resized(state, old, new)
    assert not stuck
    for key, value in moved.items():
        assert tuple(value.shape) == positions.shapes(new)[key]
        plane = value[0, :2].permute(1, 2, 0) if axes == (2, 3) else value[0, :, :, :2]
        assert (plane - ramp(plane.shape[:2])).abs().max() < 0.1


def displacements(window: Size) -> Tensor:
    """Return (2h-1, 2w-1, 2): the displacement up and left from one place to another, scaled to between -1 and 1."""
    height, width = window
    table = torch.zeros(2 * height - 1, 2 * width - 1, 2)
    for row in range(2 * height - 1):
        for column in range(2 * width - 1):
            table[row, column, 0] = (row - height + 1) / max(height - 1, 1)
            table[row, column, 1] = (column - width + 1) / max(width - 1, 1)
    return table


@pytest.mark.parametrize(
    "name, old, new",
    [
        ("swin_tiny_patch4_window7_224", (224, 224), (256, 128)),
        ("swin_tiny_patch4_window7_224", (128, 256), (256, 128)),  # windows of 4x7 and 7x4: tables of one shape
        ("beit_base_patch16_224", (256, 128), (384, 128)),
        ("beit_base_patch16_224", (512, 64), (256, 128)),  # 63 x 7 = 21 x 21 displacements
        ("gcvit_xxtiny", (256, 128), (128, 256)),
        ("test_coatnet", (256, 128), (128, 256)),
    ],
)
def test_tables_of_displacements(name: str, old: Size, new: Size) -> None:
    positions = positions_of(name, new, old)
    state = {}
    for key, layout in positions.layouts(old).items():
        assert layout.kind == "window"
        value = torch.zeros(positions.shapes(old)[key])
        table = displacements(layout.size)
        value[: table.shape[0] * table.shape[1], :2] = table.reshape(-1, 2)
        value[table.shape[0] * table.shape[1] :] = 7  # BEiT's entries for the class token
        state[key] = value
    moved, stuck = positions.resized(state, old, new)
    assert not stuck and state
    for key, layout in positions.layouts(new).items():
        value, (height, width) = moved[key], layout.size
        assert tuple(value.shape) == positions.shapes(new)[key]
        count = (2 * height - 1) * (2 * width - 1)
        assert (value[count:] == 7).all()
        table = value[:count, :2].reshape(2 * height - 1, 2 * width - 1, 2)
        up, left = table[:, :, 0], table[:, :, 1]
        # up does not depend on left, is 0 in the middle and antisymmetric; a step of one place keeps its value
        torch.testing.assert_close(up, up[:, :1].expand_as(up), atol=1e-5, rtol=0)
        torch.testing.assert_close(left, left[:1].expand_as(left), atol=1e-5, rtol=0)
        for line, places in zip((up[:, 0], left[0]), positions.layouts(old)[key].size):
            assert (line.diff() > -1e-5).all()
            torch.testing.assert_close(line, -line.flip(0), atol=1e-5, rtol=0)
            assert line[len(line) // 2 + 1].item() == pytest.approx(1 / (places - 1), rel=0.15)


def test_swins_windows_follow_its_image_size(tmp_path: Path) -> None:
    """Windows follow the images, not the file, and tables are resized to them."""
    name, path = "swin_tiny_patch4_window7_224", str(tmp_path / "w.pth")
    torch.manual_seed(0)
    torch.save(timm.create_model(name, img_size=(128, 256), num_classes=0).state_dict(), path)
    model = Timm(name, weights=path, weights_image_size=(128, 256), image_size=(256, 128)).model
    plain = Timm(name, image_size=(256, 128)).model
    assert {k: v.shape for k, v in model.state_dict().items()} == {k: v.shape for k, v in plain.state_dict().items()}
    key = "layers.3.blocks.0.attn.relative_position_bias_table"
    given = torch.load(path, weights_only=True)[key].reshape(7, 13, -1)  # 4x7 places
    loaded = model.state_dict()[key].reshape(13, 7, -1)
    assert torch.equal(loaded[6, 3], given[3, 6])  # no displacement
    assert not torch.equal(loaded.flatten(0, 1), given.flatten(0, 1))


@pytest.mark.parametrize(
    "settings",
    [{"weights_image_size": (512, 64), "image_size": (512, 64)}, {"weights_image_size": (512, 64), "image_size": (256, 128)}],
)
def test_table_is_not_taken_for_a_square(settings: dict[str, Any], tmp_path: Path) -> None:
    """timm's filter for files mistakes 63 x 7 displacements for 21 x 21."""
    name, path = "beit_base_patch16_224", str(tmp_path / "w.pth")
    small = {"depth": 1, "embed_dim": 24, "num_heads": 2}
    torch.manual_seed(0)
    state = timm.create_model(name, img_size=(512, 64), num_classes=0, **small).state_dict()
    key = "blocks.0.attn.relative_position_bias_table"
    state[key] = torch.randn_like(state[key])
    torch.save(state, path)
    build = timm.create_model
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timm, "create_model", lambda *args, **kwargs: build(*args, **{**kwargs, **small}))
        positions_of.cache_clear()
        model = Timm(name, weights=path, **settings).model
    positions_of.cache_clear()
    loaded = model.state_dict()[key]
    if settings["image_size"] == (512, 64):
        assert torch.equal(loaded, state[key])
    assert torch.equal(loaded[-3:], state[key][-3:])
    middle = (2 * (settings["image_size"][0] // 16) - 1) * (2 * (settings["image_size"][1] // 16) - 1) // 2
    torch.testing.assert_close(loaded[middle], state[key][63 * 7 // 2])


# ---- grids that the file does not state


@pytest.mark.parametrize("old, new", [((16, 4), TALL), (TALL, TALL), (TALL, (8, 16)), (TALL, TALLER), ((32, 8), TALL)])
def test_weights_of_unknown_grid_are_refused(old: Size, new: Size, tmp_path: Path) -> None:
    path = str(tmp_path / "w.pth")
    torch.manual_seed(0)
    torch.save(timm.create_model("test_vit", img_size=pixels(old, 16), num_classes=0).state_dict(), path)
    with pytest.raises(CheckpointError) as caught:
        Timm("test_vit", weights=path, image_size=pixels(new, 16))
    message = str(caught.value)
    assert f"pos_embed (1, {old[0] * old[1] + 1}, 64)" in message and f"a grid of {new[0]}x{new[1]}" in message
    assert "weights_image_size: [HEIGHT, WIDTH]" in message
    model = Timm("test_vit", weights=path, weights_image_size=pixels(old, 16), image_size=pixels(new, 16))
    assert len(model.notes()) == 1 and model.notes()[0].endswith("tensors are taken; layout ViT")


def test_recorded_size_is_assumed_and_reported(tmp_path: Path) -> None:
    path = str(tmp_path / "w.pth")
    torch.manual_seed(0)
    torch.save(timm.create_model("test_vit", num_classes=0).state_dict(), path)
    _, note = Timm("test_vit", weights=path, image_size=(256, 128)).notes()
    assert "160x160 is assumed, the size that timm records for test_vit" in note
    assert len(Timm("test_vit", weights=path, image_size=(160, 160)).notes()) == 1


def test_given_size_must_fit_the_file(tmp_path: Path) -> None:
    path = str(tmp_path / "w.pth")
    torch.save(timm.create_model("test_vit", img_size=(256, 128), num_classes=0).state_dict(), path)
    with pytest.raises(CheckpointError, match=r"pos_embed \(1, 129, 64\), but .* \(1, 65, 64\), a grid of 16x4, for 256x64"):
        Timm("test_vit", weights=path, weights_image_size=(256, 64), image_size=(256, 128))


def test_given_size_without_effect_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "w.pth")
    torch.save(timm.create_model("resnet18", num_classes=0).state_dict(), path)
    with pytest.raises(ConfigError, match="no weights of resnet18 follow the image size"):
        Timm("resnet18", weights=path, weights_image_size=(256, 128), image_size=(64, 32))


def test_tensors_that_cannot_be_moved_are_refused(tmp_path: Path) -> None:
    """gMLP mixes places by matrices and LeViT has a bias per absolute displacement: neither can move to another grid."""
    for name, key in (("gmlp_ti16_224", "proj.bias"), ("levit_128s", "attention_biases")):
        positions = positions_of(name, (256, 128), (224, 224))
        state = {k: torch.zeros(shape) for k, shape in positions.shapes((224, 224)).items() if k in positions.names}
        _, stuck = positions.resized(state, (224, 224), (256, 128))
        assert set(stuck) == positions.names and any(key in name for name in stuck)
    path = str(tmp_path / "w.pth")
    torch.save(timm.create_model("levit_128s", num_classes=0).state_dict(), path)
    with pytest.raises(CheckpointError, match=r"of levit_128s were trained for images of 224x224 and cannot be moved"):
        Timm("levit_128s", weights=path, image_size=(256, 128))


def test_weights_draw_no_extra_random_numbers(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pth", "test_vit", "pos_embed", SQUARE, 16, 1)
    after = []
    for weights in ({}, {"weights": path, "weights_image_size": (224, 224)}):
        torch.manual_seed(3)
        Timm("test_vit", image_size=pixels(TALL, 16), **weights)
        after.append(torch.rand(3))
    assert torch.equal(*after)


# ---- grids recognised by the values


@pytest.mark.parametrize("grid", [(14, 14), (16, 8), (16, 4), (18, 8), (32, 8), (8, 16), (24, 8), (7, 7)])
def test_grid_is_recognised_by_similar_neighbours(grid: Size) -> None:
    torch.manual_seed(0)
    smooth = torch.randn(1, 32, (grid[0] + 1) // 2, (grid[1] + 1) // 2)
    places = torch.nn.functional.interpolate(smooth, size=grid, mode="bicubic")[0].flatten(1).T
    assert infer_grid(places + 0.1 * torch.randn_like(places)) == grid


def test_no_grid_in_noise_or_a_line() -> None:
    torch.manual_seed(0)
    assert infer_grid(torch.randn(128, 64)) is None
    assert infer_grid(torch.linspace(0, 1, 128)[:, None].expand(128, 8)) is None  # one long row
    assert infer_grid(torch.zeros(128, 8)) is None
    assert infer_grid(torch.randn(127, 8)) is None  # a prime number of places
