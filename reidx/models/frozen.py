"""Parts of a network that are not trained, by the names that ``named_modules`` gives them."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from reidx.errors import ConfigError


def freeze_parts(network: nn.Module, patterns: Sequence[str], where: str = "freeze") -> tuple[str, ...]:
    """The names of the modules of ``network`` that ``patterns`` mean, made constant together with all that is in them.

    A pattern is the name of a module or of a single parameter, with ``*``, ``?`` and ``[…]`` as in file names (``*`` goes
    past dots): ``backbone.model.blocks.[0-5]``. Parameters lose their gradient; what the modules do in training is the
    network's affair. Raises :class:`ConfigError` for a pattern that matches nothing, with the nearest names.
    """
    modules = {name: module for name, module in network.named_modules() if name}
    parameters = dict(network.named_parameters())
    frozen: dict[str, None] = {}
    for pattern in patterns:
        found = [name for name in modules if fnmatchcase(name, pattern)]
        single = [name for name in parameters if fnmatchcase(name, pattern)]
        if not found and not single:
            raise ConfigError(f"{where}: nothing in the network is called {pattern!r}. {_nearest(pattern, list(modules))}")
        for part in (*(modules[name] for name in found), *(parameters[name] for name in single)):
            part.requires_grad_(False)
        frozen.update(dict.fromkeys(found))
    return tuple(frozen)


def _nearest(pattern: str, names: list[str]) -> str:
    close = difflib.get_close_matches(pattern, names, n=3)
    if close:
        return f"Did you mean {', '.join(close)}?"
    # of a long name the parent that exists says most
    parents = [pattern.rsplit(".", depth)[0] for depth in range(1, pattern.count(".") + 1)]
    known = next((parent for parent in parents if parent in names), "")
    inside = [n for n in names if n.rpartition(".")[0] == known]
    return f"In {known or 'it'} there is: {', '.join(inside)}."
