"""The layout of files with PASS's part tokens or TransReID-SSL's convolutional stem."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from reidx.models.key_maps import Rename, by_patterns, prefix_of


class PartsOrStem:
    """A ViT with PASS's part tokens or TransReID-SSL's ICS stem.

    The names stay; ``vit_reid.ViT`` joins the part tokens and their positions. Width, depth, number of part tokens and stem
    follow from the tensors.

    Source: as :class:`reidx_vit_reid.vit.ViT`.
    """

    def __call__(self, tensors: Mapping[str, Tensor]) -> Rename | None:
        own = ("cls_token", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight")
        found = (prefix_of(tensors, further, *own) for further in ("part_token1", "patch_embed.conv.0.weight"))
        prefix = next((prefix for prefix in found if prefix is not None), None)
        return None if prefix is None else by_patterns(prefix)

    def suggest(self, tensors: Mapping[str, Tensor], path: str) -> dict[str, Any]:
        """Return the section ``model`` for a file with these tensors."""
        parts = sum(f"part_token{number}" in tensors for number in range(1, 99))
        ics = "patch_embed.conv.0.weight" in tensors
        backbone = {
            "type": "vit_reid.ViT",
            "width": tensors["cls_token"].shape[-1],
            "depth": sum(f"blocks.{number}.attn.qkv.weight" in tensors for number in range(99)),
            "patch": tensors["patch_embed.proj.weight"].shape[-1] * (2 if ics else 1),
            "stem": "ics" if ics else "patch",
            "part_tokens": parts,
            "weights": path,
        }
        pooled = {"type": "vit_reid.ClassAndParts", "part_tokens": parts} if parts else {"type": "ClassToken"}
        return {"backbone": backbone, "fusion": pooled}

    @staticmethod
    def sample() -> Mapping[str, tuple[int, ...]]:
        """Return names and shapes of a file of PASS."""
        shapes: dict[str, tuple[int, ...]] = {"cls_token": (1, 1, 64), "part_token1": (1, 1, 64), "cls_pos": (1, 1, 64)}
        shapes |= {"patch_embed.proj.weight": (64, 3, 16, 16), "blocks.0.attn.qkv.weight": (192, 64)}
        return {f"base.{name}": shape for name, shape in shapes.items()}
