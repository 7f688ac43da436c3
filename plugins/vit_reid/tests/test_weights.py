"""Files with the names of the released codes: what is taken, left out, missing and refused, and positions of other sizes."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from reidx_vit_reid.vit import ViT
from torch import Tensor

from reidx.errors import CheckpointError
from reidx.fusions.class_token import ClassToken
from reidx.models.key_maps import suggest_model
from reidx.models.network import Network
from reidx.models.positions import resize_positions
from reidx.models.weights import read_weights
from reidx.registry.build import build

WIDTH = 64
SIZE = (64, 32)
State = dict[str, Tensor]


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def released(parts: int = 0, ics: bool = False, cameras: int = 0, grid: tuple[int, int] = (4, 2)) -> State:
    """Tensors under the names of TransReID-SSL's network, with ``parts`` those of PASS; two blocks."""
    state = {"cls_token": random(1, 1, WIDTH), "norm.weight": random(WIDTH), "norm.bias": random(WIDTH)}
    state["pos_embed"] = random(1, grid[0] * grid[1] + (0 if parts else 1), WIDTH)
    if parts:
        state["cls_pos"] = random(1, 1, WIDTH) + 1
        for number in range(1, parts + 1):
            state[f"part_token{number}"] = random(1, 1, WIDTH) + 10 * number
            state[f"part{number}_pos"] = random(1, 1, WIDTH) + 100 * number
    if cameras:
        state["sie_embed"] = random(cameras, 1, WIDTH)
    channels, kernel = (64, 8) if ics else (3, 16)
    state |= {"patch_embed.proj.weight": random(WIDTH, channels, kernel, kernel), "patch_embed.proj.bias": random(WIDTH)}
    if ics:
        convolutions = {0: (64, 3, 7, 7), 3: (64, 64, 3, 3), 6: (64, 64, 3, 3)}
        state |= {f"patch_embed.conv.{place}.weight": random(*shape) for place, shape in convolutions.items()}
        for norm, channels in {"1.IN": 32, "1.BN": 32, "4.IN": 32, "4.BN": 32, "7": 64}.items():
            state |= {f"patch_embed.conv.{norm}.{leaf}": random(channels) for leaf in ("weight", "bias")}
            if not norm.endswith("IN"):
                state |= {f"patch_embed.conv.{norm}.running_{leaf}": random(channels).abs() for leaf in ("mean", "var")}
                state[f"patch_embed.conv.{norm}.num_batches_tracked"] = torch.tensor(7)
    linear = {"attn.qkv": (3 * WIDTH, WIDTH), "attn.proj": (WIDTH, WIDTH)}
    linear |= {"mlp.fc1": (4 * WIDTH, WIDTH), "mlp.fc2": (WIDTH, 4 * WIDTH)}
    for block in range(2):
        for name, shape in linear.items():
            state |= {f"blocks.{block}.{name}.weight": random(*shape), f"blocks.{block}.{name}.bias": random(shape[0])}
        for name in ("norm1", "norm2"):
            state |= {f"blocks.{block}.{name}.{leaf}": random(WIDTH) for leaf in ("weight", "bias")}
    return state


def under(prefix: str, state: State) -> State:
    return {f"{prefix}{name}": value for name, value in state.items()}


def dino(state: State) -> dict[str, Any]:
    """A checkpoint of the pre-training: student and teacher with their heads, and numbers of the training."""
    head = {"head.mlp.0.weight": random(4, WIDTH), "head.mlp.0.bias": random(4), "head.last_layer.weight_g": random(4, 1)}
    teacher = {**under("backbone.", state), **head}
    student = under("module.", {name: torch.zeros_like(value) for name, value in teacher.items()})
    return {"student": student, "teacher": teacher, "epoch": 100, "dino_loss": {"center": random(1, 4)}}


def fine_tuned(state: State) -> State:
    """A network trained with labels: the transformer as `base`, with its neck and classifier."""
    neck = {f"bottleneck.{leaf}": random(WIDTH) for leaf in ("weight", "bias", "running_mean", "running_var")}
    return {**under("base.", state), **neck, "classifier.weight": random(9, WIDTH)}


def load(tmp_path: Path, content: Any, **settings: Any) -> ViT:
    path = tmp_path / "w.pth"
    torch.save(content, path)
    made = ViT(**{"width": WIDTH, "depth": 2, "image_size": SIZE, "weights": str(path), **settings})
    return made.eval()


def said(model: ViT) -> str:
    (sentence,) = model.notes()
    return sentence.partition(".pth: ")[2]


FILES = {
    "DINO teacher": (dino, "; left out: dino_loss, student (33), teacher (3); layout DINO, ViT"),
    "fine-tuned": (fine_tuned, "; left out: bottleneck (4), classifier; layout ViT"),
    "data-parallel": (lambda state: {"state_dict": under("module.", state), "epoch": 49}, "; layout ViT"),
    "nested": (lambda state: {"model": {"state_dict": under("module.backbone.", state)}}, "; layout ViT"),
    "plain, with heads": (
        lambda state: {**state, "head.weight": random(9, 4), "fc.bias": random(9)},
        "; left out: fc, head; layout ViT",
    ),
}


@pytest.mark.parametrize("kind", FILES)
def test_released_names_are_taken_whole(kind: str, tmp_path: Path) -> None:
    wrap, rest = FILES[kind]
    state = released()
    model = load(tmp_path, wrap(state))
    own = model.state_dict()
    assert own.keys() == state.keys()
    assert all(torch.equal(own[name], value) for name, value in state.items())
    assert said(model) == f"{len(state)} tensors are taken{rest}"


def test_convolutional_stem_is_taken(tmp_path: Path) -> None:
    state = released(ics=True)
    own = load(tmp_path, dino(state), stem="ics").state_dict()
    assert own.keys() == state.keys() and all(torch.equal(own[name], value) for name, value in state.items())


def test_part_tokens_and_positions_are_joined_in_order(tmp_path: Path) -> None:
    state = released(parts=3)
    model = load(tmp_path, dino(state), part_tokens=3)
    places = ["cls_pos", "part1_pos", "part2_pos", "part3_pos"]
    assert torch.equal(model.part_tokens, torch.cat([state[f"part_token{number}"] for number in (1, 2, 3)], dim=1))
    assert torch.equal(model.pos_embed[:, :4], torch.cat([state[name] for name in places], dim=1))
    assert torch.equal(model.pos_embed[:, 4:], state["pos_embed"])
    # eight vectors became two tensors
    assert said(model).startswith(f"{len(state) - 6} tensors are taken; left out: dino_loss, student (")


def test_camera_embeddings_are_taken_if_they_fit(tmp_path: Path) -> None:
    state = released(cameras=5)
    taken = load(tmp_path, fine_tuned(state), cameras=5)
    assert torch.equal(taken.camera_embed, state["sie_embed"][:, 0])
    missing = "not in the file and therefore random: camera_embed; layout ViT"
    assert said(load(tmp_path, state, cameras=6)).endswith(f"left out: camera_embed; {missing}")
    assert said(load(tmp_path, state)).endswith("; left out: camera_embed; layout ViT")
    assert said(load(tmp_path, released(), cameras=6)).endswith(f"taken; {missing}")


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        ({}, {"part_tokens": 3}, "has 0 part tokens; set part_tokens: 0 (it is 3)"),
        ({}, {"stem": "ics"}, "has the stem patch; set stem: patch (it is ics)"),
        ({}, {"depth": 3}, "missing in the file: blocks.2."),
        ({}, {"width": 128}, "of another shape: "),
        ({"blocks.0.ls1.gamma": 1}, {}, "unknown to the model: blocks.0.ls1.gamma"),
        ({"cls_token": None}, {}, "has no class token (cls_token)"),
        ({"part_token1": 1}, {"part_tokens": 1}, "has part tokens, but no cls_pos, part1_pos"),
    ],
)
def test_file_of_another_network_is_refused(
    change: dict[str, Any], settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    state = {**released(), **{name: random(1, 1, WIDTH) for name in change}}
    state = {name: value for name, value in state.items() if change.get(name, 1) is not None}
    with pytest.raises(CheckpointError, match=re.escape(message)):
        load(tmp_path, state, **settings)


def test_file_with_objects_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds more than plain tensors"):
        load(tmp_path, {**dino(released()), "args": argparse.Namespace(lr=0.1)})


@pytest.mark.parametrize("kind", [{"parts": 3}, {"ics": True}])
def test_network_is_recognised(kind: dict[str, Any], tmp_path: Path) -> None:
    """The suggested section builds the network of the file, also of a checkpoint of the pre-training."""
    path = tmp_path / "w.pth"
    torch.save(dino(released(**kind)), path)
    model = suggest_model(read_weights(path), str(path))
    made = build("backbone", model["backbone"], image_size=SIZE)
    assert (made.out_channels, len(made.blocks), made.patch, made.parts) == (WIDTH, 2, 16, kind.get("parts", 0))
    fusion = build("fusion", model["fusion"], token_dims=made.dims, in_channels=WIDTH)
    assert fusion.dims["embed"] == (2 * WIDTH if "parts" in kind else WIDTH)


# ---- positions


def smooth(grid: tuple[int, int], prefix: int) -> Tensor:
    """Positions whose values vary smoothly over the rows and columns of a grid, as trained ones do."""
    row, column = torch.meshgrid(torch.arange(grid[0]) / 4.0, torch.arange(grid[1]) / 4.0, indexing="ij")
    waves = [torch.sin(row + k) + torch.cos(column * (1 + k / WIDTH)) for k in range(WIDTH)]
    return torch.cat([random(1, prefix, WIDTH), torch.stack(waves, dim=-1).reshape(1, -1, WIDTH)], dim=1)


@pytest.mark.parametrize("parts", [0, 3])
def test_positions_follow_the_image_size(parts: int, tmp_path: Path) -> None:
    """From 16x8 to 24x8 patches: class and part tokens keep their positions, the columns of the grid are stretched."""
    state = released(parts, grid=(16, 8))
    state["pos_embed"] = smooth((16, 8), 0 if parts else 1)
    own = [state[name] for name in ("cls_pos", "part1_pos", "part2_pos", "part3_pos") if name in state]
    first = own or [state["pos_embed"][:, :1]]
    for stated in (None, (256, 128)):
        model = load(tmp_path, state, part_tokens=parts, image_size=(384, 128), weights_image_size=stated)
        old, new = state["pos_embed"][:, -128:], model.pos_embed[:, 1 + parts :]
        expected = F.interpolate(
            old.reshape(1, 16, 8, WIDTH).permute(0, 3, 1, 2), size=(24, 8), mode="bicubic", antialias=True
        )
        torch.testing.assert_close(new, expected.flatten(2).transpose(1, 2))
        # a smooth function of the row, at the centres of the finer rows
        rows = ((torch.arange(24) + 0.5) * 16 / 24 - 0.5)[3:-3] / 4.0
        wave = torch.sin(rows) + 1.0  # the first dimension in the first column: sin(row) + cos(0)
        torch.testing.assert_close(new[0].reshape(24, 8, WIDTH)[3:-3, 0, 0].detach(), wave, atol=0.05, rtol=0)
        assert torch.equal(model.pos_embed[:, : 1 + parts], torch.cat(first, dim=1))


def test_unclear_grid_must_be_stated(tmp_path: Path) -> None:
    state = released(grid=(16, 8))  # random values show no grid
    with pytest.raises(CheckpointError, match=r"position embeddings of 128 patches.*weights_image_size: \[HEIGHT, WIDTH\]"):
        load(tmp_path, state)
    with pytest.raises(CheckpointError, match="128 patches, and a grid of 14x14 has 196"):
        load(tmp_path, state, weights_image_size=(224, 224))
    assert load(tmp_path, state, weights_image_size=(256, 128)).pos_embed.shape[1] == 1 + 4 * 2


def test_equal_grid_is_not_resampled() -> None:
    value = random(1, 9, WIDTH)
    assert resize_positions(value, (4, 2), None, 1, "") is value and resize_positions(value, (4, 2), (4, 2), 1, "") is value
    assert not torch.equal(resize_positions(value, (4, 2), (2, 4), 1, ""), value)  # as many patches in other rows


def test_checkpoint_of_another_size_is_refitted() -> None:
    trained, wider = (
        Network(model, ClassToken(model.dims), image_size=size)
        for size in ((256, 128), (256, 256))
        for model in (ViT(width=WIDTH, depth=1, image_size=size),)
    )
    state = trained.state_dict()
    moved = wider.refit(state, (256, 128), "checkpoint")
    wider.load_state_dict(moved)
    assert moved["backbone.pos_embed"].shape[1] == 1 + 16 * 16
    assert all(moved[name] is state[name] for name in state if name != "backbone.pos_embed")
