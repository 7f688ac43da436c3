"""The head of PASS: the class token joined with the mean of the part tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reidx.contracts import Features


class ClassAndParts(nn.Module):
    """Class token and mean part token as one vector, as in PASS.

    Provides ``embed``, after the BatchNorm ("BNNeck", whose bias stays 0), ``token``, the same vector before it, ``global``
    (B,D) and ``parts`` (B,P,D).

    With c the class token and p the mean of the part tokens, ``combine: cat`` gives (c, p), twice as wide, and
    ``combine: mean`` gives (c + p) / 2. With ``necks: one`` a BatchNorm follows, and ``embed`` has length 1. With
    ``necks: each`` class and part tokens have a BatchNorm each and length 1 before they are combined, so that the length of
    ``embed`` varies. ``normalize: false`` keeps all lengths. ``global`` and ``parts`` are the class token and the part
    tokens, with ``necks: each`` after their BatchNorms. ``part_tokens`` is P. The map is not used.

    Source: Zhu et al., PASS, ECCV 2022, released code (``feat_fusion``, ``multi_neck``).
    """

    part_features = frozenset({"parts"})
    provides = frozenset({"embed", "token", "global", "parts"})

    def __init__(
        self,
        token_dims: Mapping[str, int],
        combine: Literal["cat", "mean"] = "cat",
        necks: Literal["one", "each"] = "one",
        normalize: bool = True,
        part_tokens: int = 3,
    ) -> None:
        super().__init__()
        width, of_part = token_dims["class_token"], token_dims["part_tokens"]
        if part_tokens < 1:
            raise ValueError(f"part_tokens is {part_tokens}; there must be at least one.")
        if combine == "mean" and width != of_part:
            raise ValueError(f"combine: mean needs tokens of one width; class token {width}, part tokens {of_part}.")
        self.combine, self.normalize, self.parts = combine, normalize, part_tokens
        both = width + of_part if combine == "cat" else width
        self.neck = _neck(both if necks == "one" else width)
        self.part_neck = _neck(part_tokens * of_part) if necks == "each" else None  # one BatchNorm of P·D is P of D
        self.dims = {"embed": both, "token": both, "global": width, "parts": of_part}

    def forward(self, maps: Tensor, class_token: Tensor, part_tokens: Tensor) -> Features:
        if part_tokens.shape[1] != self.parts:
            raise ValueError(
                f"the backbone gives {part_tokens.shape[1]} part tokens, but part_tokens of the fusion is {self.parts}."
            )
        token = self._combined(class_token, part_tokens)
        if self.part_neck is None:
            vector, whole, parts = self._unit(self.neck(token)), self._unit(class_token), self._unit(part_tokens)
        else:
            whole = self._unit(self.neck(class_token))
            parts = self._unit(self.part_neck(part_tokens.flatten(1)).unflatten(1, part_tokens.shape[1:]))
            vector = self._combined(whole, parts)
        return Features({"embed": vector, "token": token, "global": whole, "parts": parts})

    def _combined(self, class_token: Tensor, part_tokens: Tensor) -> Tensor:
        part = part_tokens.mean(1)
        return torch.cat([class_token, part], dim=1) if self.combine == "cat" else (class_token + part) / 2

    def _unit(self, vectors: Tensor) -> Tensor:
        return F.normalize(vectors.float(), dim=-1) if self.normalize else vectors.float()


def _neck(width: int) -> Any:
    neck = nn.BatchNorm1d(width)
    neck.bias.requires_grad_(False)
    return neck
