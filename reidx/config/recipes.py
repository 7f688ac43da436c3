"""Recipes: the trainable experiments among the installed configs, read without checks."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from reidx.config.files import installed_configs
from reidx.config.merge import merge
from reidx.config.node import Node
from reidx.config.schema import Stage
from reidx.config.yaml_tree import Bases
from reidx.errors import ReidxError


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A config that is ready to train: data sets by domain, epochs by stage, initial weights."""

    namespace: str
    address: str
    data: dict[str, str]
    epochs: dict[str, int]
    weights: tuple[str, ...]


def recipes() -> Iterator[Recipe]:
    """Yield the installed configs with data and stages, except grids; invalid configs are left out (loading reports them)."""
    bases = Bases()
    for file in installed_configs():
        with contextlib.suppress(ReidxError, KeyError, TypeError, AttributeError):
            if (found := _recipe(file.namespace, str(file), bases.load(file, None, ()))) is not None:
                yield found


def _recipe(namespace: str, address: str, root: Node) -> Recipe | None:
    data = root.plain()
    domains = data.get("data", {}).get("domains")
    if not domains or not data.get("stages") or "ablate" in data:
        return None
    keys = {field.name for field in dataclasses.fields(Stage)} - {"name"}
    shared = Node({key: node for key, node in root.value.items() if key in keys}, root.origin)
    stages = [merge(shared, stage).plain() for stage in root.value["stages"].value]
    used = {stream["domain"] for stage in stages for stream in (stage.get("streams") or {}).values() if stream}
    if not used <= set(domains):  # a config of a method alone, without data
        return None
    default = next(field.default for field in dataclasses.fields(Stage) if field.name == "epochs")
    epochs = {str(stage["name"]): int(stage.get("epochs", default)) for stage in stages}
    weights = dict.fromkeys(name for stage in stages for name in _weights(stage))
    return Recipe(namespace, address, {name: _set(domain) for name, domain in domains.items()}, epochs, tuple(weights))


def _set(domain: Any) -> str:
    """Return the name of a domain's data set; for a camera split, that of the whole set with the camera numbers."""
    if isinstance(domain, str):
        return domain
    if "of" in domain:
        cameras = f" cameras {','.join(map(str, domain['cameras']))}" if "cameras" in domain else ""
        return f"{_set(domain['of'])}{cameras}"
    return str(domain["type"])


def _weights(stage: Mapping[str, Any]) -> Iterator[str]:
    """Yield the initial weights of a stage: files, and models from timm's hub."""
    backbone = stage["model"]["backbone"]
    own = backbone if isinstance(backbone, dict) else {}
    if own.get("weights"):
        yield own["weights"]
    elif own.get("pretrained"):
        yield f"{own['name']} of timm"
    others = [stage.get("init"), *((teacher or {}).get("weights") for teacher in (stage.get("teachers") or {}).values())]
    yield from (name for name in others if name and not name.startswith("stage:"))
