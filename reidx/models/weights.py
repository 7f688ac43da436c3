"""Weight files: read safely, loaded whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reidx.errors import CheckpointError, out_of_memory


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a weight file by name (``.safetensors``, or a PyTorch file read with ``weights_only=True``).

    What training scripts wrap around them is taken off: an outer ``state_dict``, ``model`` or ``params`` entry, and
    the ``module.`` prefix of data-parallel training.

    Raises:
        CheckpointError: the file is missing, unreadable, holds more than tensors, or holds none.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise CheckpointError(
            f"weights: there is no file {path}. Give the path of a .pth or .safetensors file."
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and safetensors each raise their own kind, torch's with bad advice
        if out_of_memory(error):
            raise
        why = f" ({error.strerror})" if isinstance(error, OSError) and error.strerror else ""
        raise CheckpointError(
            f"weights: {path} could not be read as a file of weights{why}: it is damaged, of another format, or holds "
            "more than plain tensors. A file that holds other Python objects has to be re-saved as a state dict."
        ) from error
    for wrapper in ("state_dict", "model", "params"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    tensors = {}
    if isinstance(content, Mapping):
        tensors = {str(k).removeprefix("module."): v for k, v in content.items() if isinstance(v, Tensor)}
    if not tensors:
        raise CheckpointError(f"weights: {path} holds no named tensors, so it is not a file of weights.")
    return tensors


def load_weights(module: nn.Module, state: Mapping[str, Tensor], source: str | Path) -> None:
    """Copies ``state`` into ``module``; every name and shape has to match, and nothing is copied otherwise.

    Raises:
        CheckpointError: names are missing or left over, or shapes differ; each kind is listed.
    """
    own = module.state_dict()
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in state if k not in own]
    differing = [
        f"{k} (file {tuple(v.shape)}, model {tuple(own[k].shape)})"
        for k, v in state.items()
        if k in own and v.shape != own[k].shape
    ]
    problems = {
        "missing in the file": missing,
        "unknown to the model": unexpected,
        "of another shape": differing,
    }
    if any(problems.values()):
        listing = "; ".join(f"{kind}: {_some(names)}" for kind, names in problems.items() if names)
        raise CheckpointError(f"weights: {source} does not fit {type(module).__name__}: {listing}.")
    module.load_state_dict(state, strict=False)  # strict but for the counters checked above


def _some(names: list[str], shown: int = 6) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
