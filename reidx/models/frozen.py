"""Selection of parts of a network by their ``named_modules`` names, to freeze them or train them at another rate."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from reidx.errors import ConfigError, suggest


def freeze_parts(network: nn.Module, patterns: Sequence[str], where: str = "freeze") -> tuple[str, ...]:
    """Freeze the modules of ``network`` that match ``patterns``, with all their contents, and return the modules' names.

    Patterns are those of :func:`matching_modules`. Parameters stop requiring gradients; the network itself keeps the modules
    in evaluation mode.
    """
    frozen: dict[str, None] = {}
    for pattern in patterns:
        modules, parameters = matching_modules(network, pattern, where)
        for parameter in parameters:
            parameter.requires_grad_(False)
        frozen.update(dict.fromkeys(modules))
    return tuple(frozen)


def matching_modules(network: nn.Module, pattern: str, where: str) -> tuple[list[str], list[nn.Parameter]]:
    """The names of the modules of ``network`` that match ``pattern``, and all parameters in them or matching themselves.

    A pattern is the name of a module or of a single parameter, with ``*``, ``?`` and ``[…]`` as in file names (``*`` also
    matches dots): ``backbone.model.blocks.[0-5]``. Raises :class:`ConfigError` for one that matches nothing, with the nearest
    names.
    """
    modules = {name: module for name, module in network.named_modules() if name}
    found = [name for name in modules if fnmatchcase(name, pattern)]
    single = [parameter for name, parameter in network.named_parameters() if fnmatchcase(name, pattern)]
    if not found and not single:
        raise ConfigError(f"{where}: nothing in the network is called {pattern!r}. {_nearest(pattern, list(modules))}")
    meant = [*(parameter for name in found for parameter in modules[name].parameters()), *single]
    if not meant:
        raise ConfigError(f"{where}: {pattern!r} has no trainable parameters. Layers that a fusion took over are in `fusion`.")
    return found, meant


def _nearest(pattern: str, names: list[str]) -> str:
    if question := suggest(pattern, names):
        return question
    # for a long name, the longest existing parent is the most helpful
    parents = [pattern.rsplit(".", depth)[0] for depth in range(1, pattern.count(".") + 1)]
    known = next((parent for parent in parents if parent in names), "")
    inside = [n for n in names if n.rpartition(".")[0] == known]
    return f"In {known or 'it'} there is: {', '.join(inside)}."
