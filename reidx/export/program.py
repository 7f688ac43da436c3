"""Networks as programs of torch, for batches of any size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.func import functional_call

from reidx.errors import ConfigError, ReidxError, excerpt
from reidx.registry.describing import one_line


class OneWordNames(nn.Module):
    """A module's tensors under names of one word, and its results as a tensor or a dictionary.

    torch writes the paths of tensors into code, in which the path of a module called ``global`` is a syntax error. The first
    of the ``inputs`` is positional, the others are passed by name.
    """

    def __init__(self, module: nn.Module, inputs: Sequence[str]) -> None:
        super().__init__()
        self._module = (module,)  # in a tuple, as its tensors are registered here
        self._others = tuple(inputs)[1:]
        self._words: dict[str, str] = {}
        known: dict[int, str] = {}
        for path, part in module.named_modules():  # a shared module once, but a shared tensor under each of its names
            for leaf, tensor in (*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)):
                name = f"{path}.{leaf}" if path else leaf
                if id(tensor) not in known:
                    known[id(tensor)] = name.replace(".", "__")
                    self.register_buffer(known[id(tensor)], tensor.detach())
                self._words[name] = known[id(tensor)]

    def forward(self, *inputs: Tensor) -> Any:
        tensors = {name: getattr(self, word) for name, word in self._words.items()}
        named = dict(zip(self._others, inputs[1:], strict=True))
        made = functional_call(self._module[0], tensors, inputs[:1], named, tie_weights=False)
        return dict(made) if isinstance(made, Mapping) else made


def dynamic_program(module: nn.Module, inputs: Mapping[str, Tensor]) -> ExportedProgram:
    """The program of a module in evaluation mode, for batches of any size.

    ``inputs`` are the module's arguments by name, in the order in which the program takes them, for an example batch of at
    least two images. Raises :class:`ConfigError` with torch's reason if the module cannot be traced, or only for a batch of
    that size.
    """
    batch = Dim("batch")
    try:
        with torch.no_grad():
            return torch.export.export(
                OneWordNames(module, list(inputs)).eval(),
                tuple(inputs.values()),
                dynamic_shapes=(tuple({0: batch} for _ in inputs),),
                strict=False,
            )
    except ReidxError:
        raise
    except Exception as error:  # each kind of untraceable code has its own
        raise ConfigError(
            f"The network cannot be exported for batches of any size ({excerpt(one_line(error), 400)}). A usual cause is "
            "Python's len of a tensor, or chunk: use shape[0] and unflatten."
        ) from error
