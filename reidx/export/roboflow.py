"""The folder that Roboflow's package ``reid`` loads: ``reid_config.json`` and ``weights.safetensors``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from reidx.errors import ConfigError
from reidx.export.folder import write_tensors
from reidx.export.rescaled import normalised
from reidx.inference import ReID
from reidx.models.network import Network, build_network
from reidx.models.weight_files import load_tensors

CONFIG, WEIGHTS = "reid_config.json", "weights.safetensors"

OTHERWISE = "Export a folder of reidx instead: its network runs in `reid` as an architecture (docs/export.md)."

FILTERS = ("bilinear", "bicubic", "nearest")


def write_roboflow(model: ReID, folder: Path) -> None:
    """Write the network in the names of `reid`'s architectures: OSNet with its published head, or a plain timm model.

    Raises :class:`ConfigError` for another network, because `reid` builds it from the name of an architecture alone.
    """
    if model.interpolation not in FILTERS:
        raise ConfigError(f"`reid` resizes images with {', '.join(FILTERS)}, and {model.name} with {model.interpolation}.")
    if model.trained.teacher is not None or model.trained.feature != "embed":
        raise ConfigError(f"`reid` has no architecture with the teacher or the feature of {model.name}. {OTHERWISE}")
    architecture, state = _named(model.trained.network, model.trained.model)
    write_tensors(state, folder / WEIGHTS)
    steps = {"input_size": list(model.image_size), "mean": list(model.mean), "std": list(model.std)}
    steps |= {"interpolation": model.interpolation, "to_rgb": True, "resize_mode": "stretch"}
    text = json.dumps({"architecture": architecture, "preprocessing": steps}, indent=2)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")


def open_roboflow(model: ReID, folder: Path) -> Callable[[Tensor], Tensor]:
    """The network of a folder, built from the name of its architecture as `reid` does, for images (B,3,H,W) in 0..1."""
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    state, name = load_tensors(folder / WEIGHTS), config["architecture"]
    if name.startswith("timm:"):
        network: Any = timm.create_model(name.removeprefix("timm:"), num_classes=0)
        network.load_state_dict(state)
    else:
        network = _published_osnet(model, state)
    network.eval()
    given = config["preprocessing"]["mean"], config["preprocessing"]["std"]

    @torch.no_grad()
    def run(images: Tensor) -> Tensor:
        made = network(normalised(images, given))
        return made if isinstance(made, Tensor) else made["embed"]  # type: ignore[no-any-return]

    return run


def _named(network: Network, model: Mapping[str, Any]) -> tuple[str, dict[str, Tensor]]:
    """The name of `reid`'s architecture with this forward pass, and the weights in its names."""
    backbone, fusion = model["backbone"], model["fusion"]
    of_backbone, of_fusion = network.backbone.state_dict(), network.fusion.state_dict()
    published = backbone["type"] == "osnet.OSNet" and fusion["type"] == "osnet.Embedding" and fusion["dim"] == 512
    if published and not backbone["with_embedding"]:
        return f"osnet_x{float(backbone['width'])}".replace(".", "_"), {**of_backbone, **of_fusion}
    if backbone["type"] == "Timm" and _is_plain(fusion) and not of_fusion:
        inner = {name.removeprefix("model."): value for name, value in of_backbone.items()}
        reference = timm.create_model(backbone["name"], num_classes=0).state_dict()
        if {name: value.shape for name, value in inner.items()} == {name: value.shape for name, value in reference.items()}:
            return f"timm:{backbone['name']}", inner
    raise ConfigError(
        f"`reid` builds a network from a name alone, and none stands for {backbone['type']} with {fusion['type']} and these "
        "settings. It has OSNet with `osnet.Embedding`, and timm's models with `GlobalPool` (pool: avg, neck: false) or "
        f"`ClassToken` (neck: false). {OTHERWISE}"
    )


def _is_plain(fusion: Mapping[str, Any]) -> bool:
    return (fusion["type"] == "GlobalPool" and fusion["pool"] == "avg") or fusion["type"] == "ClassToken"


def _published_osnet(model: ReID, state: Mapping[str, Tensor]) -> Network:
    """OSNet with its published head, filled with the weights of one file in the published names."""
    network = build_network(model.trained.model, model.image_size)
    network.backbone.load_state_dict({name: value for name, value in state.items() if not name.startswith("fc.")})
    network.fusion.load_state_dict({name: value for name, value in state.items() if name.startswith("fc.")})
    return network
