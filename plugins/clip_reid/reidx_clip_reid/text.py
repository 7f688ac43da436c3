"""Features of texts as the rows of a frozen memory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from reidx.errors import CheckpointError, ConfigError
from reidx.memories import Memory
from reidx.models.weight_files import load_tensors
from reidx.registry.constructor import FilePath


class TextMemory(Memory):
    """Frozen features of texts, made by CLIP's text encoder.

    Returns ``scale`` · cos(f, t_k) (B,K) of features f with the features t_k of K texts, as CLIP does. Its own scale is 100.
    f must lie in the space that images share with texts: feature ``aligned`` of ``clip_reid.ClassAndProjection``. Nothing
    changes the texts; gradients reach f.

    With ``of: labels`` text k describes label k, so ``texts`` has a row for each label. A cross-entropy then is CLIP-ReID's
    image-to-text term. With ``of: prompts`` the texts describe anything, such as clothes, and the scores fit losses that
    compare them with those of a teacher. Without ``texts``, each reset draws a random direction for each label: a control,
    which shows how much the texts contribute.

    Args:
        dim: width of the feature.
        texts: file of an array (K,D): ``.npy``, ``.safetensors``, or ``.pt`` read with ``weights_only=True``, with one tensor.
        of: the meaning of the rows: ``labels`` or ``prompts``.
        scale: factor of the cosines.

    Raises:
        ValueError: prompts without ``texts``, or a scale that is not positive.
        CheckpointError: the file is missing, unreadable, of another width, or has rows without a direction.
        ConfigError: the number of rows differs from that of the labels.

    Source: Radford et al., ICML 2021; Li, Sun, Li, "CLIP-ReID", AAAI 2023, second stage.
    """

    needs_features = False
    rows: Tensor

    @staticmethod
    def contract(of: str = "labels", **_: Any) -> dict[str, Any]:
        return {"column_meaning": "texts" if of == "prompts" else ""}

    def __init__(
        self, dim: int, texts: FilePath | None = None, of: Literal["labels", "prompts"] = "labels", scale: float = 100.0
    ) -> None:
        super().__init__()
        if texts is None and of == "prompts":
            raise ValueError("of: prompts needs texts, a file of their features.")
        if not scale > 0:
            raise ValueError(f"scale is {scale}; it must be positive.")
        self.texts, self.of, self.scale = texts, of, scale
        self.column_meaning = self.contract(of)["column_meaning"]
        self.register_buffer("rows", torch.zeros(0, dim) if texts is None else F.normalize(read_texts(texts, dim)))

    def reset(self, features: Tensor | None, labels: Tensor) -> None:
        count = int(labels.max()) + 1
        if self.texts is None:
            self.rows = F.normalize(torch.randn(count, self.rows.shape[1])).to(self.rows)
        elif self.of == "labels" and count != len(self.rows):
            raise ConfigError(
                f"TextMemory: {self.texts} has {len(self.rows)} texts, but there are {count} labels. Text k describes label k, "
                "so make one for each label; texts that describe something else need of: prompts."
            )

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):  # bf16 is too coarse for cosines times 100
            return self.scale * F.normalize(features.float(), dim=-1) @ self.rows.T


def read_texts(path: str, dim: int) -> Tensor:
    """The features (K,D) of texts in a file, as float32.

    Raises :class:`CheckpointError` if it is missing or unreadable, or holds anything but one finite matrix of ``dim`` columns
    without zero rows.
    """
    content: Any
    if Path(path).suffix == ".npy":
        try:
            content = torch.from_numpy(np.load(os.path.expanduser(path), allow_pickle=False))
        except (OSError, ValueError, TypeError) as error:
            raise CheckpointError(f"texts: {path} could not be read as an array of numbers: {error}.") from error
    else:
        content = load_tensors(path)
    if isinstance(content, Mapping) and len(content) == 1:
        (content,) = content.values()
    if not isinstance(content, Tensor) or content.ndim != 2 or not content.is_floating_point() or not len(content):
        raise CheckpointError(f"texts: {path} must hold one matrix of floats, with a row for each text.")
    if content.shape[1] != dim:
        raise CheckpointError(
            f"texts: {path} has rows of {content.shape[1]} numbers, but the memory's feature has {dim}. Set feature: aligned "
            "of fusion clip_reid.ClassAndProjection, and use the texts of the same CLIP."
        )
    rows = content.float()
    odd = torch.nonzero(~(rows.isfinite().all(1) & (rows.norm(dim=1) > 0)))
    if len(odd):
        raise CheckpointError(f"texts: row {int(odd[0])} of {path} has no direction: it is 0 or not finite.")
    return rows
