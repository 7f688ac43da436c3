"""Networks of other projects, written from their formulas under the authors' names, with small widths."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

State = dict[str, Tensor]


def randomise(module: nn.Module, seed: int = 0) -> Any:
    """Draw all parameters and running statistics, so that no layer is the identity."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                drawn = torch.randn(value.shape, generator=generator)
                scale = 0.5 / max(value[0].numel(), 1) ** 0.5 if value.ndim > 1 else 0.2
                positive = value.ndim == 1 and name.endswith(("weight", "running_var"))
                value.copy_(1 + 0.3 * drawn.tanh() if positive else scale * drawn)
    return module.eval()


# ---- a ResNet under torchvision's names


class Block(nn.Module):
    """Basic block of a ResNet."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.downsample: nn.Module | None = None
        if stride > 1 or c_in != c_out:
            self.downsample = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


CHANNELS = (8, 12, 16, 20)


class ResNet(nn.Module):
    """ResNet with one block in each layer and a classifier; ``forward`` returns the map."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        widths = (64, *CHANNELS)
        for number in range(4):
            block = nn.Sequential(Block(widths[number], widths[number + 1], 1 if number == 0 else 2))
            self.add_module(f"layer{number + 1}", block)
        self.fc = nn.Linear(CHANNELS[-1], 5)

    def forward(self, images: Tensor) -> Tensor:
        x = F.max_pool2d(torch.relu(self.bn1(self.conv1(images))), 3, 2, 1)
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))  # type: ignore[no-any-return,operator]


# ---- vision transformers

WIDTH, HEADS, DEPTH, PATCH, SIZE = 24, 3, 2, 16, (64, 32)
PLACES = SIZE[0] // PATCH * (SIZE[1] // PATCH)


class Attention(nn.Module):
    """Self-attention with timm's names."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(2, (HEADS, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, 2))
        weights = (q @ k.transpose(2, 3) / (WIDTH // HEADS) ** 0.5).softmax(3)
        return self.proj((weights @ v).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class ViTBlock(nn.Module):
    """Block of a ViT with timm's names."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH, eps=1e-6), nn.LayerNorm(WIDTH, eps=1e-6)
        self.attn = Attention()
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(WIDTH, 4 * WIDTH), "fc2": nn.Linear(4 * WIDTH, WIDTH)})

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))  # type: ignore[no-any-return]


class ViT(nn.Module):
    """ViT of DINO and TransReID; ``forward`` returns all tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + PLACES, WIDTH))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, WIDTH, PATCH, PATCH)})
        self.blocks = nn.Sequential(*(ViTBlock() for _ in range(DEPTH)))
        self.norm = nn.LayerNorm(WIDTH, eps=1e-6)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patch_embed["proj"](images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(images), -1, -1), patches], 1) + self.pos_embed
        return self.norm(self.blocks(tokens))  # type: ignore[no-any-return]


class CLIPBlock(nn.Module):
    """Block of CLIP; the names within ``attn`` are those of torch."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(WIDTH, 4 * WIDTH), "c_proj": nn.Linear(4 * WIDTH, WIDTH)})

    def forward(self, x: Tensor) -> Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        y = self.mlp["c_fc"](self.ln_2(x))
        return x + self.mlp["c_proj"](y * torch.sigmoid(1.702 * y))  # type: ignore[no-any-return]


class CLIP(nn.Module):
    """Image encoder of CLIP; ``forward`` returns all tokens before the projection."""

    def __init__(self) -> None:
        super().__init__()
        self.class_embedding = nn.Parameter(torch.zeros(WIDTH))
        self.positional_embedding = nn.Parameter(torch.zeros(1 + PLACES, WIDTH))
        self.proj = nn.Parameter(torch.zeros(WIDTH, 10))
        self.conv1 = nn.Conv2d(3, WIDTH, PATCH, PATCH, bias=False)
        self.ln_pre, self.ln_post = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.transformer = nn.ModuleDict({"resblocks": nn.Sequential(*(CLIPBlock() for _ in range(DEPTH)))})

    def forward(self, images: Tensor) -> Tensor:
        patches = self.conv1(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_embedding.expand(len(images), 1, -1), patches], 1) + self.positional_embedding
        return self.ln_post(self.transformer["resblocks"](self.ln_pre(tokens)))  # type: ignore[no-any-return]


# ---- the Swin of SOLIDER

SWIN = {"img_size": (128, 192), "embed_dim": 8, "depths": (2, 1, 1, 2), "num_heads": (2, 2, 2, 2), "window_size": 2}


def swin_state(seed: int = 0, semantic: bool = True) -> State:
    """Random tensors of a small SOLIDER Swin, after the entry ``teacher`` and ``backbone.``."""
    generator = torch.Generator().manual_seed(seed)
    state: State = {}

    def draw(name: str, *shape: int) -> None:
        drawn = torch.randn(*shape, generator=generator)
        state[name] = 0.5 * drawn / (shape[-1] ** 0.5 if len(shape) == 2 else 1)

    def norm(name: str, width: int) -> None:
        draw(f"{name}.weight", width)
        state[f"{name}.weight"] = 1 + 0.3 * state[f"{name}.weight"].tanh()
        draw(f"{name}.bias", width)

    def linear(name: str, c_in: int, c_out: int) -> None:
        draw(f"{name}.weight", c_out, c_in)
        draw(f"{name}.bias", c_out)

    draw("patch_embed.projection.weight", 8, 3, 4, 4)
    draw("patch_embed.projection.bias", 8)
    norm("patch_embed.norm", 8)
    for stage, depth in enumerate((2, 1, 1, 2)):
        width = 8 * 2**stage
        for number in range(depth):
            block = f"stages.{stage}.blocks.{number}"
            norm(f"{block}.norm1", width)
            norm(f"{block}.norm2", width)
            draw(f"{block}.attn.w_msa.relative_position_bias_table", 9, 2)
            state[f"{block}.attn.w_msa.relative_position_index"] = torch.zeros(4, 4, dtype=torch.int64)
            linear(f"{block}.attn.w_msa.qkv", width, 3 * width)
            linear(f"{block}.attn.w_msa.proj", width, width)
            linear(f"{block}.ffn.layers.0.0", width, 4 * width)
            linear(f"{block}.ffn.layers.1", 4 * width, width)
        if stage < 3:
            norm(f"stages.{stage}.downsample.norm", 4 * width)
            draw(f"stages.{stage}.downsample.reduction.weight", 2 * width, 4 * width)
        norm(f"norm{stage}", width)
        if semantic:
            linear(f"semantic_embed_w.{stage}", 2, 2 * width if stage < 3 else width)
            linear(f"semantic_embed_b.{stage}", 2, 2 * width if stage < 3 else width)
    return state


def swin_map(state: State, images: Tensor, semantic_weight: float = 0.2) -> Tensor:
    """The last map (B,C,h,w) of SOLIDER's Swin: attention among all places at once, masked to the shifted windows."""

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))

    def attention(x: Tensor, name: str, height: int, width: int, shift: int) -> Tensor:
        row, column = (grid.flatten() for grid in torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"))
        down, right = row[:, None] - row, column[:, None] - column
        windows = torch.stack([(row - shift).div(2, rounding_mode="floor"), (column - shift).div(2, rounding_mode="floor")])
        together = (windows[:, :, None] == windows[:, None]).all(0)
        table = state[f"{name}.relative_position_bias_table"]
        bias = table[(3 * (down + 1) + right + 1).where(together, torch.tensor(0))].permute(2, 0, 1)
        q, k, v = (part.unflatten(2, (2, -1)).transpose(1, 2) for part in linear(x, f"{name}.qkv").chunk(3, 2))
        scores = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5 + bias
        mixed = scores.where(together, torch.tensor(float("-inf"))).softmax(3) @ v
        return linear(mixed.transpose(1, 2).flatten(2), f"{name}.proj")

    maps = F.conv2d(images, state["patch_embed.projection.weight"], state["patch_embed.projection.bias"], stride=4)
    height, width = maps.shape[2:]
    x = norm(maps.flatten(2).transpose(1, 2), "patch_embed.norm")
    for stage, depth in enumerate((2, 1, 1, 2)):
        for number in range(depth):
            block = f"stages.{stage}.blocks.{number}"
            x = x + attention(norm(x, f"{block}.norm1"), f"{block}.attn.w_msa", height, width, number % 2)
            x = x + linear(F.gelu(linear(norm(x, f"{block}.norm2"), f"{block}.ffn.layers.0.0")), f"{block}.ffn.layers.1")
        if stage == 3:
            break
        unfolded = F.unfold(x.transpose(1, 2).unflatten(2, (height, width)), 2, stride=2).transpose(1, 2)
        x = linear(norm(unfolded, f"stages.{stage}.downsample.norm"), f"stages.{stage}.downsample.reduction")
        height, width = height // 2, width // 2
        if f"semantic_embed_w.{stage}.weight" in state:
            share = torch.tensor([[semantic_weight, 1 - semantic_weight]])
            scale, shift = (linear(share, f"semantic_embed_{part}.{stage}") for part in "wb")
            x = x * F.softplus(scale) + shift
    return norm(x, "norm3").transpose(1, 2).unflatten(2, (height, width))


# ---- EfficientNet-Lite0

LITE = "16k3s1 24k3s2 24k3s1 40k5s2 40k5s1 80k3s2 80k3s1 80k3s1 112k5s1 112k5s1 112k5s1 192k5s2 192k5s1 192k5s1 192k5s1 320k3s1"
"""Width, kernel and stride of each block."""


def lite_blocks() -> list[tuple[int, int, int]]:
    """Width, kernel and stride of each block as numbers."""
    return [(int(w), int(ks[0]), int(ks[2])) for w, ks in (block.split("k") for block in LITE.split())]


def lite_state(seed: int = 0) -> State:
    """Random tensors of EfficientNet-Lite0 under the names of its package."""
    generator = torch.Generator().manual_seed(seed)
    state: State = {}

    def convolution(name: str, *shape: int) -> None:
        state[f"{name}.weight"] = torch.randn(*shape, generator=generator) / (shape[1] * shape[2] * shape[3]) ** 0.5

    def norm(name: str, width: int) -> None:
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            drawn = 0.3 * torch.randn(width, generator=generator).tanh()
            state[f"{name}.{leaf}"] = drawn + (leaf in ("weight", "running_var"))
        state[f"{name}.num_batches_tracked"] = torch.tensor(1)

    convolution("_conv_stem", 32, 3, 3, 3)
    norm("_bn0", 32)
    before = 32
    for number, (width, kernel, _) in enumerate(lite_blocks()):
        block, inner = f"_blocks.{number}", before * (6 if number else 1)
        if number:
            convolution(f"{block}._expand_conv", inner, before, 1, 1)
            norm(f"{block}._bn0", inner)
        convolution(f"{block}._depthwise_conv", inner, 1, kernel, kernel)
        norm(f"{block}._bn1", inner)
        convolution(f"{block}._project_conv", width, inner, 1, 1)
        norm(f"{block}._bn2", width)
        before = width
    convolution("_conv_head", 1280, 320, 1, 1)
    norm("_bn1", 1280)
    state |= {"_fc.weight": torch.randn(10, 1280, generator=generator), "_fc.bias": torch.zeros(10)}
    return state


def lite_map(state: State, images: Tensor) -> Tensor:
    """The last map of EfficientNet-Lite0, with TensorFlow's padding: the larger part at the right and bottom."""

    def convolution(x: Tensor, name: str, stride: int = 1, groups: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        over = [max((-(-size // stride) - 1) * stride + weight.shape[-1] - size, 0) for size in x.shape[2:]]
        x = F.pad(x, (over[1] // 2, over[1] - over[1] // 2, over[0] // 2, over[0] - over[0] // 2))
        return F.conv2d(x, weight, stride=stride, groups=groups)

    def norm(x: Tensor, name: str) -> Tensor:
        mean, variance, weight, bias = (
            state[f"{name}.{leaf}"][:, None, None] for leaf in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (variance + 1e-3).sqrt() * weight + bias

    x = norm(convolution(images, "_conv_stem", 2), "_bn0").clamp(0, 6)
    for number, (width, _, stride) in enumerate(lite_blocks()):
        block, y = f"_blocks.{number}", x
        if number:
            y = norm(convolution(y, f"{block}._expand_conv"), f"{block}._bn0").clamp(0, 6)
        y = norm(convolution(y, f"{block}._depthwise_conv", stride, y.shape[1]), f"{block}._bn1").clamp(0, 6)
        y = norm(convolution(y, f"{block}._project_conv"), f"{block}._bn2")
        x = x + y if stride == 1 and x.shape[1] == width else y
    return norm(convolution(x, "_conv_head"), "_bn1").clamp(0, 6)
