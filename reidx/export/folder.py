"""The project's folder of a network: weights, description and card, which ``ReID.load`` reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reidx._version import __version__
from reidx.inference import ReID
from reidx.inference.exported import DESCRIPTION, FORMAT, WEIGHTS
from reidx.models.domain_norm import network_of_domain
from reidx.outline.source import file_digest
from reidx.registry.build import entry_of


def write_folder(model: ReID, folder: Path) -> None:
    """Write the weights as ``model.safetensors`` and all other facts that decide an embedding as ``reidx.json``.

    Of BatchNorms for several domains, those of the network's domain are written.
    """
    trained = model.trained
    state: dict[str, Tensor] = {}
    for role, network in (("network", trained.network), ("teacher", trained.teacher)):
        if network is not None:
            plain = network if trained.domain is None else network_of_domain(network, trained.domain)
            state |= {f"{role}.{name}": value for name, value in plain.state_dict().items()}
    write_tensors(state, folder / WEIGHTS)
    description = {
        "format": FORMAT,
        "name": model.name,
        "model": {**trained.model, "domain_bn": False},
        "image_size": list(model.image_size),
        "interpolation": model.interpolation,
        "mean": list(model.mean),
        "std": list(model.std),
        "feature": trained.feature,
        "domain": trained.domain,
        "teacher": trained.teacher is not None,
        "dim": model.dim,
        "sha256": file_digest(folder / WEIGHTS),
        "packages": _packages(trained.model),
    }
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=1, default=list) + "\n", encoding="utf-8")


def write_tensors(state: dict[str, Tensor], path: Path) -> None:
    """Write tensors as a safetensors file, each with its own memory."""
    from safetensors.torch import save

    dense = torch.contiguous_format
    separate = {name: value.detach().to("cpu", copy=True, memory_format=dense) for name, value in state.items()}
    path.write_bytes(save(separate, metadata={"format": "pt"}))


def _packages(model: Mapping[str, Any]) -> list[str]:
    """The names and versions of reidx and of the plugins whose components the network consists of."""
    entries = [entry_of(kind, model[kind]) for kind in ("backbone", "fusion")]
    return list(dict.fromkeys([f"reidx {__version__}", *(entry.distribution for entry in entries if entry.namespace)]))
