"""Program of ``reidx convert --trust``: unpickle FILE, which runs its code, and write its tensors to OUT."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from reidx.models.weights import named_tensors


class Absent:
    """Stand-in for an object of a class that is not installed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


class Unpickler(pickle.Unpickler):
    """Unpickler that replaces classes of missing packages by :class:`Absent`."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return super().find_class(module, name)
        except (ImportError, AttributeError):
            return type(name, (Absent,), {})


class Pickle:
    """The parts of the module pickle that ``torch.load`` uses."""

    Unpickler = Unpickler
    load = staticmethod(lambda handle, **settings: Unpickler(handle, **settings).load())
    __name__ = "reidx.models.unpickle"


def main(path: str, out: str) -> None:
    """Write the tensors of the file ``path`` to the safetensors file ``out``; a whole network counts as its state."""
    content = torch.load(path, map_location="cpu", weights_only=False, pickle_module=Pickle)
    tensors = named_tensors(_plain(content))
    save_file({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, out)


def _plain(content: Any) -> Any:
    """The content with the states of networks in place of the networks, at the top and one level below."""
    if isinstance(content, nn.Module):
        return content.state_dict()
    if isinstance(content, Mapping):
        return {name: value.state_dict() if isinstance(value, nn.Module) else value for name, value in content.items()}
    return content


if __name__ == "__main__":
    main(*sys.argv[1:])
