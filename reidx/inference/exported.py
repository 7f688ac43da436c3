"""The folder of an exported network, written by ``reidx export``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from reidx.errors import CheckpointError
from reidx.models.network import Network, build_network
from reidx.models.weight_files import load_tensors, refuse_unusable
from reidx.outline.source import file_digest
from reidx.registry.describing import one_line

DESCRIPTION, WEIGHTS = "reidx.json", "model.safetensors"
FORMAT = 1


def read_exported(folder: Path) -> tuple[dict[str, Any], Network, Network | None]:
    """The description of an exported network, the network, and its teacher, if it has one.

    The components of its ``model`` are built from the installed plugins; no code is read from the folder. Raises
    :class:`CheckpointError` for a file that is missing, damaged, or of another version.
    """
    facts = _description(folder / DESCRIPTION)
    weights = folder / WEIGHTS
    state = load_tensors(weights)
    if file_digest(weights) != facts["sha256"]:
        raise CheckpointError(f"{weights} is not the file that {DESCRIPTION} describes: it is damaged. Export again.")
    refuse_unusable(state, weights)
    size = (int(facts["image_size"][0]), int(facts["image_size"][1]))
    networks = [_filled(facts, size, role, state, weights) for role in ("network", *(["teacher"] if facts["teacher"] else []))]
    return facts, networks[0], networks[1] if len(networks) > 1 else None


def _description(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}). Export again.") from error
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        found = facts.get("format") if isinstance(facts, dict) else None
        raise CheckpointError(f"{path} has the format {found}, and this reidx reads {FORMAT}. Export again, or upgrade reidx.")
    needed = ("name", "model", "image_size", "interpolation", "feature", "domain", "teacher", "sha256")
    if missing := [key for key in needed if key not in facts]:
        raise CheckpointError(f"{path} has no {', '.join(missing)}. Export again.")
    return facts


def _filled(facts: dict[str, Any], size: tuple[int, int], role: str, state: dict[str, Tensor], path: Path) -> Network:
    """The network of a role with its weights."""
    network = build_network(facts["model"], size, f"{path.parent / DESCRIPTION}: model")
    own = {name.removeprefix(f"{role}."): value for name, value in state.items() if name.startswith(f"{role}.")}
    try:
        network.load_state_dict(own)
    except RuntimeError as error:  # names or shapes
        raise CheckpointError(
            f"{path} does not fit the components that {DESCRIPTION} names ({one_line(error)}). Install the versions of its "
            "`packages`."
        ) from error
    return network
