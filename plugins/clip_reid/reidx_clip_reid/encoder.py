"""The image encoder of CLIP as a backbone with tokens."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from timm.layers import get_act_layer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from reidx.models.key_maps import LoadReport
from reidx.models.positions import Size, resize_positions
from reidx.models.weights import load_state
from reidx.registry.constructor import FilePath
from reidx_clip_reid.weights import read


class CLIPViT(nn.Module):
    """CLIP's vision transformer, with its class token and projection.

    Provides the map (B,``width``,h,w), ``class_token`` (B,``width``) and ``projected_token`` (B,``projection``). All tokens
    are normalised by CLIP's last norm; ``projected_token`` is the class token times CLIP's projection into the space that
    images share with texts. Activations are QuickGELU, as in OpenAI's weights. The defaults are ViT-B/16.

    Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021.

    Args:
        patch: side of a patch in pixels.
        width: numbers per token.
        depth: number of blocks.
        heads: attention heads per block.
        projection: numbers of the projected token.
        weights: a file with an image encoder of these sizes, alone or in a whole CLIP, under the names of OpenAI, CLIP-ReID
            or timm; other tensors are left out, and the run prints the number of tensors used.
        weights_image_size: (height, width) of the images of ``weights``. Required if the values of the position embeddings
            in the file do not show their grid.
        image_size: (height, width) of the images.

    Raises:
        ValueError: ``width`` cannot be divided among the heads, or an image is smaller than a patch.
        CheckpointError: the file is missing, unreadable, not of these sizes, or of an unknown image size.
    """

    provides = frozenset({"class_token", "projected_token"})
    nonnegative = False
    mean = (0.48145466, 0.4578275, 0.40821073)
    std = (0.26862954, 0.26130258, 0.27577711)

    def __init__(
        self,
        patch: int = 16,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        projection: int = 512,
        *,
        weights: FilePath | None = None,
        weights_image_size: tuple[int, int] | None = None,
        image_size: tuple[int, int] = (256, 128),
    ) -> None:
        super().__init__()
        if min(patch, width, depth, heads, projection) < 1 or width % heads:
            raise ValueError(f"width is {width} with {heads} heads; it must be a multiple of them, and all sizes positive.")
        if min(image_size) < patch:
            raise ValueError(f"images of {image_size[0]}x{image_size[1]} have no patch of {patch} pixels.")
        self.encoder = VisionTransformer(
            img_size=image_size,
            patch_size=patch,
            embed_dim=width,
            depth=depth,
            num_heads=heads,
            num_classes=0,
            global_pool="token",
            pre_norm=True,
            norm_layer=partial(nn.LayerNorm, eps=1e-5),  # type: ignore[arg-type]
            act_layer=get_act_layer("quick_gelu"),  # type: ignore[arg-type]
        )
        self.projection = nn.Linear(width, projection, bias=False)
        nn.init.normal_(self.projection.weight, std=width**-0.5)
        self.patch, self.trained_at = patch, weights_image_size
        self.map_size: Size = (image_size[0] // patch, image_size[1] // patch)
        self.out_channels = width
        self.dims = {"class_token": width, "projected_token": projection}
        self.weights_report: LoadReport | None = None
        if weights is not None:
            state, self.weights_report = read(weights, self)
            load_state(self, self.refit(state, None, f"weights: {weights}"), weights)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        tokens = self.encoder.forward_features(images)
        class_token, patches = tokens[:, 0], tokens[:, 1:]
        maps = patches.transpose(1, 2).unflatten(2, self.map_size)
        return {"map": maps, "class_token": class_token, "projected_token": self.projection(class_token)}

    def notes(self) -> list[str]:
        """The tensors taken from the file of weights, and those left out."""
        return [] if self.weights_report is None else [str(self.weights_report)]

    def refit(self, weights: Mapping[str, Tensor], trained_at: Size | None, where: str) -> dict[str, Tensor]:
        """Resize the position embeddings of ``weights``, a state of this backbone, to its image size.

        ``trained_at`` is the image size of the weights, by default ``weights_image_size``. Raises :class:`CheckpointError`,
        which names ``where``, for an unknown or wrong size.
        """
        name, size = "encoder.pos_embed", trained_at or self.trained_at
        if name not in weights:
            return dict(weights)
        old = None if size is None else (size[0] // self.patch, size[1] // self.patch)
        return {**weights, name: resize_positions(weights[name], self.map_size, old, 1, where)}

    @property
    def layered(self) -> Any:
        """The transformer, whose ``group_matcher`` identifies its layers."""
        return self.encoder
