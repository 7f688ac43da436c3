"""Helpers of key maps: the prefix of a network in a file, and renaming by patterns."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence

from torch import Tensor

Rename = Callable[[str, Tensor], "tuple[str, Tensor] | None"]
"""Renaming of one tensor of a file: its new name and value, or None for a tensor of another part, which is left out."""


def prefix_of(names: Collection[str], *signature: str) -> str | None:
    """Return the one prefix under which all names of ``signature`` are present; None without one, or with several.

    >>> prefix_of(["module.base.conv1.weight", "module.head.bias"], "conv1.weight")
    'module.base.'
    """
    first = signature[0]
    starts = {name.removesuffix(first) for name in names if name == first or name.endswith(f".{first}")}
    found = [start for start in starts if all(start + name in names for name in signature)]
    return found[0] if len(found) == 1 else None


def by_patterns(prefix: str, rules: Sequence[tuple[str, str]] = (), left_out: str = "(?!)") -> Rename:
    """Return a renaming that removes ``prefix`` and applies all ``rules`` (pattern, replacement) in order.

    Names without the prefix, and those whose rest begins with the pattern ``left_out``, are left out.
    """
    compiled, dropped = [(re.compile(pattern), new) for pattern, new in rules], re.compile(left_out)

    def rename(name: str, tensor: Tensor) -> tuple[str, Tensor] | None:
        inner = name.removeprefix(prefix)
        if not name.startswith(prefix) or dropped.match(inner):
            return None
        for pattern, new in compiled:
            inner = pattern.sub(new, inner)
        return inner, tensor

    return rename
