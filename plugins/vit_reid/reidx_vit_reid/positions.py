"""Position embeddings for another size of images."""

from __future__ import annotations

from timm.layers import resample_abs_pos_embed
from torch import Tensor

from reidx.errors import CheckpointError
from reidx.models.positions import Size, infer_grid


def resized(value: Tensor, old: Size | None, new: Size, prefix: int, where: str) -> Tensor:
    """Position embeddings (1, prefix + h·w, D) of a grid ``old`` of patches for the grid ``new``, resized as timm does.

    Without ``old``, the grid is the one that the values show, or else ``new`` if it has as many patches. If both grids are
    equal, ``value`` is returned itself. Raises :class:`CheckpointError`, which names ``where``, for an unknown or wrong grid.
    """
    patches = value.shape[1] - prefix
    if old is None:
        old = infer_grid(value[0, prefix:]) or (new if patches == new[0] * new[1] else None)
    if old is None or patches != old[0] * old[1]:
        has = "an unknown grid" if old is None else f"a grid of {old[0]}x{old[1]}"
        raise CheckpointError(
            f"{where} has positions for {patches} patches after {prefix} other tokens, which are not those of {has}. Set "
            "weights_image_size: [HEIGHT, WIDTH] of the backbone to the size of the images that they were trained on."
        )
    return value if old == new else resample_abs_pos_embed(value, list(new), list(old), num_prefix_tokens=prefix)
