"""CLIP's image encoder: its formula, its weights under three naming schemes, and other image sizes."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from reidx_clip_reid.encoder import CLIPViT
from torch import Tensor

from reidx.errors import CheckpointError

SIZE, PATCH, WIDTH, DEPTH, HEADS, OUT = (48, 32), 16, 24, 2, 3, 10
SIZES = {"patch": PATCH, "width": WIDTH, "depth": DEPTH, "heads": HEADS, "projection": OUT}


def openai_state(places: int = 6, seed: int = 0) -> dict[str, Tensor]:
    """Random weights of an image encoder under OpenAI's names, without a prefix."""
    draws = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return 0.3 * torch.randn(*shape, generator=draws)

    state = {
        "class_embedding": normal(WIDTH),
        "positional_embedding": normal(1 + places, WIDTH),
        "conv1.weight": normal(WIDTH, 3, PATCH, PATCH),
        "proj": normal(WIDTH, OUT),
    }
    norms = ["ln_pre", "ln_post", *(f"transformer.resblocks.{n}.ln_{k}" for n in range(DEPTH) for k in (1, 2))]
    state |= {f"{name}.{of}": normal(WIDTH) + (of == "weight") for name in norms for of in ("weight", "bias")}
    for number in range(DEPTH):
        block = f"transformer.resblocks.{number}"
        state |= {
            f"{block}.attn.in_proj_weight": normal(3 * WIDTH, WIDTH),
            f"{block}.attn.in_proj_bias": normal(3 * WIDTH),
            f"{block}.attn.out_proj.weight": normal(WIDTH, WIDTH),
            f"{block}.attn.out_proj.bias": normal(WIDTH),
            f"{block}.mlp.c_fc.weight": normal(4 * WIDTH, WIDTH),
            f"{block}.mlp.c_fc.bias": normal(4 * WIDTH),
            f"{block}.mlp.c_proj.weight": normal(WIDTH, 4 * WIDTH),
            f"{block}.mlp.c_proj.bias": normal(WIDTH),
        }
    return state


def encode(state: dict[str, Tensor], images: Tensor) -> dict[str, Tensor]:
    """The encoder from its formula: patch by patch, head by head."""

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        unit = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return unit * state[f"{name}.weight"] + state[f"{name}.bias"]

    rows, columns = SIZE[0] // PATCH, SIZE[1] // PATCH
    results = []
    for image in images:
        tokens = [state["class_embedding"]]
        for row in range(rows):
            for column in range(columns):
                cut = image[:, row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH]
                tokens.append((state["conv1.weight"] * cut).sum((1, 2, 3)))
        x = norm(torch.stack(tokens) + state["positional_embedding"], "ln_pre")
        for number in range(DEPTH):
            block = f"transformer.resblocks.{number}"
            y = norm(x, f"{block}.ln_1") @ state[f"{block}.attn.in_proj_weight"].T + state[f"{block}.attn.in_proj_bias"]
            heads = []
            for head in range(HEADS):
                wide = WIDTH // HEADS
                q, k, v = (y[:, part * WIDTH + head * wide : part * WIDTH + (head + 1) * wide] for part in range(3))
                heads.append(torch.softmax(q @ k.T / math.sqrt(wide), 1) @ v)
            x = x + torch.cat(heads, 1) @ state[f"{block}.attn.out_proj.weight"].T + state[f"{block}.attn.out_proj.bias"]
            y = norm(x, f"{block}.ln_2") @ state[f"{block}.mlp.c_fc.weight"].T + state[f"{block}.mlp.c_fc.bias"]
            y = y * torch.sigmoid(1.702 * y)  # QuickGELU
            x = x + y @ state[f"{block}.mlp.c_proj.weight"].T + state[f"{block}.mlp.c_proj.bias"]
        results.append(norm(x, "ln_post"))
    tokens_of_all = torch.stack(results)
    return {
        "map": tokens_of_all[:, 1:].reshape(len(images), rows, columns, WIDTH).permute(0, 3, 1, 2),
        "class_token": tokens_of_all[:, 0],
        "projected_token": tokens_of_all[:, 0] @ state["proj"],
    }


def saved(tmp_path: Path, state: dict[str, Any]) -> str:
    path = tmp_path / "clip.pth"
    torch.save(state, path)
    return str(path)


def as_openai(state: dict[str, Tensor]) -> dict[str, Any]:
    text = {"token_embedding.weight": torch.zeros(5, 4), "logit_scale": torch.zeros(()), "ln_final.weight": torch.ones(4)}
    return {**{f"visual.{name}": value.half() for name, value in state.items()}, **text}


def as_clip_reid(state: dict[str, Tensor]) -> dict[str, Any]:
    further = {"bottleneck.weight": torch.ones(WIDTH), "classifier.weight": torch.zeros(7, WIDTH)}
    return {f"module.{name}": value for name, value in ({f"image_encoder.{k}": v for k, v in state.items()} | further).items()}


def as_timm(state: dict[str, Tensor]) -> dict[str, Any]:
    model = CLIPViT(**SIZES, image_size=SIZE)
    load(model, state)
    own = {name.removeprefix("encoder."): value for name, value in model.state_dict().items() if name.startswith("encoder.")}
    return {**own, "head.weight": model.projection.weight.detach(), "head.bias": torch.zeros(OUT)}


def load(model: CLIPViT, state: dict[str, Tensor]) -> None:
    """Copy weights under OpenAI's names, written out for a model of two blocks."""
    with torch.no_grad():
        encoder: Any = model.encoder
        encoder.cls_token.copy_(state["class_embedding"])
        encoder.pos_embed.copy_(state["positional_embedding"])
        encoder.patch_embed.proj.weight.copy_(state["conv1.weight"])
        model.projection.weight.copy_(state["proj"].T)
        pairs = {"ln_pre": encoder.norm_pre, "ln_post": encoder.norm}
        for number, block in enumerate(encoder.blocks):
            name = f"transformer.resblocks.{number}"
            pairs |= {f"{name}.ln_1": block.norm1, f"{name}.ln_2": block.norm2, f"{name}.attn.out_proj": block.attn.proj}
            pairs |= {f"{name}.mlp.c_fc": block.mlp.fc1, f"{name}.mlp.c_proj": block.mlp.fc2}
            block.attn.qkv.weight.copy_(state[f"{name}.attn.in_proj_weight"])
            block.attn.qkv.bias.copy_(state[f"{name}.attn.in_proj_bias"])
        for name, module in pairs.items():
            module.weight.copy_(state[f"{name}.weight"])
            module.bias.copy_(state[f"{name}.bias"])


@pytest.mark.parametrize(("layout", "used", "all_tensors"), [(as_openai, 32, 35), (as_clip_reid, 32, 34), (as_timm, 32, 33)])
def test_encoder_from_each_layout_follows_the_formula(
    tmp_path: Path, layout: Callable[[dict[str, Tensor]], dict[str, Any]], used: int, all_tensors: int
) -> None:
    state = {name: value.half().float() for name, value in openai_state().items()}
    model = CLIPViT(**SIZES, weights=saved(tmp_path, layout(state)), image_size=SIZE).eval()  # type: ignore[arg-type]
    images = torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = model(images)
    for name, expected in encode(state, images).items():
        torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-5)
    (note,) = model.notes()
    assert f": {used} tensors are taken; left out: " in note
    assert len(model.weights_report.left_out) == all_tensors - used and ("CLIP" in note) == (layout is not as_timm)


def test_file_of_the_encoder_alone_leaves_nothing_out(tmp_path: Path) -> None:
    model = CLIPViT(**SIZES, weights=saved(tmp_path, openai_state()), image_size=SIZE)  # type: ignore[arg-type]
    assert model.weights_report is not None and model.weights_report.left_out == ()
    torch.testing.assert_close(model.projection.weight, openai_state()["proj"].T)


def test_positions_are_resized_to_the_images(tmp_path: Path) -> None:
    """A smooth grid of 4x4 patches, resized to 3x2: means of neighbouring columns would be wrong, the trend stays."""
    state = openai_state(16)
    trend = torch.linspace(-1, 1, 4)
    state["positional_embedding"][1:] = (trend[:, None] + 0 * trend).flatten()[:, None]
    path = saved(tmp_path, state)
    model = CLIPViT(**SIZES, weights=path, weights_image_size=(64, 64), image_size=SIZE)  # type: ignore[arg-type]
    grid = model.encoder.pos_embed[0, 1:].detach().view(3, 2, WIDTH)
    torch.testing.assert_close(grid[:, 0], grid[:, 1])
    assert (grid[1:, 0] > grid[:-1, 0]).all()
    torch.testing.assert_close(model.encoder.pos_embed[0, 0].detach(), state["positional_embedding"][0])
    with pytest.raises(CheckpointError, match=r"16 patches, and a grid of 3x4 has 12\. Set weights_image_size"):
        CLIPViT(**SIZES, weights=path, weights_image_size=(48, 64), image_size=SIZE)  # type: ignore[arg-type]


def test_unknown_grid_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"16 patches, and their grid is unknown\. Set weights_image_size"):
        CLIPViT(**SIZES, weights=saved(tmp_path, openai_state(16)), image_size=SIZE)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"conv1.weight": torch.zeros(3)}, "holds no image encoder of CLIP. A file needs one"),
        (
            {f"{side}.{name}": value for side in ("a", "b") for name, value in openai_state().items()},
            "no image encoder of CLIP. A file needs one",
        ),
        ({name: value for name, value in openai_state().items() if name != "proj"}, "without its projection"),
        ({**openai_state(), "ln_more.weight": torch.ones(WIDTH)}, "unknown to the model: encoder.ln_more.weight"),
        ({**openai_state(), "ln_pre.weight": torch.ones(5)}, r"encoder.norm_pre.weight \(file \(5,\), model \(24,\)\)"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, state: dict[str, Tensor], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        CLIPViT(**SIZES, weights=saved(tmp_path, state), image_size=SIZE)  # type: ignore[arg-type]


@pytest.mark.parametrize("changes", [{"heads": 5}, {"depth": 0}, {"patch": 40}])
def test_impossible_sizes_are_refused(changes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"must be a multiple|have no patch of 40"):
        CLIPViT(**{**SIZES, **changes}, image_size=SIZE)  # type: ignore[arg-type]


def test_gradients_reach_projection_and_first_block() -> None:
    model = CLIPViT(**SIZES, image_size=SIZE)  # type: ignore[arg-type]
    F.normalize(model(torch.randn(2, 3, *SIZE))["projected_token"]).sum().backward()
    block: Any = model.encoder.blocks[0]
    for parameter in (model.projection.weight, block.attn.qkv.weight):
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0
