"""Backbones and fusions compiled by torch for the steps of a stage (``compile: true``)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from reidx.errors import ReidxError
from reidx.models.network import Network

BACKEND = "inductor"


@contextmanager
def compiled(networks: Iterable[Network], mode: bool | str = True) -> Iterator[None]:
    """Compile the backbone and fusion of each network on their first call in a step; with ``mode`` False do nothing.

    Works in place, so weights keep their names. Copies are not compiled, so feature extraction runs uncompiled. Inside
    the context, a compiler failure raises :class:`ReidxError` with a remedy.
    """
    if mode is False:
        yield
        return
    for network in networks:
        for part in (network.backbone, network.fusion):
            # each stream has a fixed batch size: one graph for each is faster than one graph for all
            part.compile(backend=BACKEND, dynamic=False, mode=mode if isinstance(mode, str) else None)
    with _explained():
        yield


@contextmanager
def _explained() -> Iterator[None]:
    from torch._dynamo.exc import TorchDynamoException

    try:
        yield
    except TorchDynamoException as error:
        reason = " ".join(line for line in str(error).splitlines() if line.strip()).partition(" Set TORCH")[0]
        raise ReidxError(
            f"torch could not compile the network ({reason[:300]}). Set compile: false, or install what torch requires: a C++ "
            "compiler on a CPU, Triton on a GPU."
        ) from error


def try_compiler(device: torch.device) -> None:
    """Compile a sum on ``device``; raises :class:`ReidxError` if torch's compiler does not work."""

    def double(x: Tensor) -> Tensor:
        return x + x

    with _explained():
        torch.compile(double, backend=BACKEND)(torch.ones(2, device=device))
