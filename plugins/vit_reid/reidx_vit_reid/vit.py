"""Vision transformers that were pre-trained on people: class token, part tokens, camera embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from reidx.errors import ConfigError, DataError
from reidx.models.key_maps import LoadReport
from reidx.models.positions import Size, resize_positions
from reidx.models.weights import load_state
from reidx.registry.constructor import FilePath
from reidx_vit_reid.stem import Stem
from reidx_vit_reid.weights import read

HEAD = 64
"""Width of an attention head."""


class ViT(nn.Module):
    """Vision transformer of TransReID-SSL and PASS, pre-trained on people.

    Maps images (B,3,H,W) to the map (B,D,h,w) of its patches, the ``class_token`` (B,D) and the ``part_tokens`` (B,P,D), all
    after the final norm. Class and part tokens are learned vectors, each with a learned position; the blocks treat them
    like further patches. D = ``width``, and an attention head has 64 dimensions.

    Args:
        width: 384 for ViT-S, 768 for ViT-B.
        depth: number of blocks.
        patch: height and width of a patch, in pixels. Pixels beyond the last whole patch are not used.
        stem: ``patch``, or ``ics`` for three convolutions with IBN below the patches.
        part_tokens: number of part tokens; 3 in PASS. With 0, there are none.
        cameras: number of cameras with an embedding, which is added to every token, multiplied by ``sie`` (side information
            embedding, He et al., ICCV 2021). Images of unknown cameras are refused before training. With 0, cameras
            are not used.
        sie: factor of the camera embeddings.
        drop_path: rate of stochastic depth in training, in the last block; it rises linearly from 0 in the first.
        weights: file of weights (``.safetensors``, or ``.pth`` read with ``weights_only=True``), with the names of
            TransReID-SSL, DINO, PASS, timm or this package. Positions are resized to ``image_size``; heads, necks and
            classifiers are left out.
        weights_image_size: (height, width) of the images that ``weights`` were trained on. Required if neither the number nor
            the values of the positions determine it.
        image_size: (height, width) of the images; no other size is accepted.

    Attributes:
        dims: width of each token.
        out_channels: D.
        map_size: (h, w).
        mean, std: normalisation that the weights expect.

    Raises:
        ConfigError: a width that is no multiple of 64, or images smaller than a patch.
        CheckpointError: the file ``weights`` is missing, unreadable, or does not fit the other arguments.
        DataError: an image of a camera beyond ``cameras``.

    Source: Luo et al., "Self-Supervised Pre-Training for Transformer-Based Person Re-Identification", 2021; Zhu et al., "PASS:
    Part-Aware Self-Supervised Pre-Training for Person Re-Identification", ECCV 2022; released code of both.
    """

    nonnegative = False
    mean = (0.5, 0.5, 0.5)
    std = (0.5, 0.5, 0.5)

    @staticmethod
    def contract(part_tokens: int = 0, cameras: int = 0, **_: Any) -> dict[str, Any]:
        tokens = {"class_token", "part_tokens"} if part_tokens else {"class_token"}
        return {"provides": frozenset(tokens), "cameras": "required" if cameras else "unused"}

    def __init__(
        self,
        width: int,
        depth: int = 12,
        patch: int = 16,
        stem: Literal["patch", "ics"] = "patch",
        part_tokens: int = 0,
        cameras: int = 0,
        sie: float = 3.0,
        drop_path: float = 0.1,
        weights: FilePath | None = None,
        weights_image_size: tuple[int, int] | None = None,
        image_size: tuple[int, int] = (256, 128),
    ) -> None:
        super().__init__()
        if width < HEAD or width % HEAD:
            raise ConfigError(f"ViT: width is {width}; it must be a multiple of {HEAD}, as a head has {HEAD} dimensions.")
        if patch < 1 or depth < 1 or (stem == "ics" and patch % 2):
            raise ConfigError(f"ViT: depth {depth} and patch {patch} must be at least 1, and the patch of stem ics even.")
        if part_tokens < 0 or cameras < 0:
            raise ConfigError(f"ViT: part_tokens is {part_tokens} and cameras {cameras}; neither can be negative.")
        if min(image_size) < patch:
            raise ConfigError(f"ViT: images of {image_size[0]}x{image_size[1]} have no patch of {patch}x{patch}.")
        self.patch, self.parts, self.cameras, self.sie = patch, part_tokens, cameras, sie
        self.map_size = self._grid(image_size)
        self._weights_grid = None if weights_image_size is None else self._grid(weights_image_size)
        self.out_channels = width
        self.dims = dict.fromkeys(sorted(self.contract(part_tokens)["provides"]), width)

        self.patch_embed = Stem(stem, width, patch)
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.part_tokens = nn.Parameter(torch.empty(1, part_tokens, width)) if part_tokens else None
        self.pos_embed = nn.Parameter(torch.empty(1, self._prefix + self.map_size[0] * self.map_size[1], width))
        self.camera_embed = nn.Parameter(torch.empty(cameras, width)) if cameras else None
        norm: Any = partial(nn.LayerNorm, eps=1e-6)
        rates = torch.linspace(0, drop_path, depth).tolist()
        self.blocks = nn.Sequential(
            *(Block(width, width // HEAD, qkv_bias=True, drop_path=rate, norm_layer=norm) for rate in rates)
        )
        self.norm = norm(width)
        self._initialise()
        self._said: list[str] = []
        self.weights_report: LoadReport | None = None
        if beyond := [f"{side % patch} {what}" for side, what in zip(image_size, ("rows", "columns")) if side % patch]:
            self._said = [f"ViT: the last {' and '.join(beyond)} of images of {image_size[0]}x{image_size[1]} are in no patch."]
        if weights is not None:
            self._load(weights)

    def forward(self, images: Tensor, cameras: Tensor | None = None) -> dict[str, Tensor]:
        patches = self.patch_embed(images).flatten(2).transpose(1, 2)
        learned = [token.expand(images.shape[0], -1, -1) for token in (self.cls_token, self.part_tokens) if token is not None]
        tokens = torch.cat([*learned, patches], dim=1) + self.pos_embed
        if self.camera_embed is not None and cameras is not None:
            tokens = tokens + self.sie * self._of_cameras(cameras)
        tokens = self.norm(self.blocks(tokens))
        made = {"map": tokens[:, self._prefix :].transpose(1, 2).unflatten(2, self.map_size), "class_token": tokens[:, 0]}
        return {**made, "part_tokens": tokens[:, 1 : self._prefix]} if self.parts else made

    def refit(self, weights: Mapping[str, Tensor], trained_at: Size | None, where: str) -> dict[str, Tensor]:
        """Resize the positions in ``weights``, a state of this backbone for images of size ``trained_at`` (None: unknown).

        Raises :class:`CheckpointError`, which names ``where``, if their grid is unknown.
        """
        grid = self._weights_grid if trained_at is None else self._grid(trained_at)
        value = weights["pos_embed"]
        moved = resize_positions(value, self.map_size, grid, self._prefix, where)
        return dict(weights) if moved is value else {**weights, "pos_embed": moved}

    def notes(self) -> list[str]:
        """The pixels outside all patches, and the parts of the file of weights that were taken and left out."""
        return [*self._said, *([] if self.weights_report is None else [str(self.weights_report)])]

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """The layers of the parameters, in timm's form."""
        return {
            "stem": r"^cls_token|^part_tokens|^pos_embed|^camera_embed|^patch_embed",
            "blocks": [(r"^blocks\.(\d+)", None), (r"^norm", (99999,))],
        }

    @property
    def _prefix(self) -> int:
        """The number of tokens before the patches."""
        return 1 + self.parts

    def _grid(self, image_size: Size) -> Size:
        return image_size[0] // self.patch, image_size[1] // self.patch

    def _of_cameras(self, cameras: Tensor) -> Tensor:
        """The embedding (B,1,D) of each image's camera, 0 for an unknown one."""
        assert self.camera_embed is not None
        # on a GPU, a step must not wait for the check; there the lookup itself fails
        if (not self.training or cameras.device.type == "cpu") and len(cameras) and int(cameras.max()) >= self.cameras:
            raise DataError(
                f"ViT: an image is of camera {int(cameras.max())}, counted from 0, but there are embeddings for {self.cameras} "
                "cameras. Set `cameras` of the backbone to the number of cameras of the data set."
            )
        found = self.camera_embed[cameras.clamp(min=0)]
        return torch.where(cameras[:, None] >= 0, found, 0.0)[:, None]

    def _initialise(self) -> None:
        for value in (self.cls_token, self.part_tokens, self.pos_embed, self.camera_embed):
            if value is not None:
                nn.init.trunc_normal_(value, std=0.02)
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def _load(self, path: str) -> None:
        state, self.weights_report = read(path, self)
        grid, where = self._weights_grid, f"weights: {path}"
        state["pos_embed"] = resize_positions(state["pos_embed"], self.map_size, grid, self._prefix, where)
        load_state(self, state, path)
