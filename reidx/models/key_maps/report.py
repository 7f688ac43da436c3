"""Report of a loaded weight file: tensors that were taken, left out and missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class LoadReport:
    """Tensors of the file ``source`` that a network took; ``layouts`` are the key maps in the order of their use.

    ``taken`` and ``missing`` are names of the network, ``left_out`` those of the file, where the network's begin with
    ``prefix``. Missing tensors keep their initial values. ``remarks`` are differences between the network of the file and the
    one that was loaded.
    """

    source: str
    layouts: tuple[str, ...] = ()
    taken: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    prefix: str = ""

    def __str__(self) -> str:
        """One line, with the tensors counted by the first part of their names."""
        parts = [f"weights: {self.source}: {len(self.taken)} tensors are taken"]
        parts += [f"left out: {count_names(self.left_out, self.prefix)}"] if self.left_out else []
        parts += [f"not in the file and therefore random: {count_names(self.missing)}"] if self.missing else []
        parts += [f"layout {', '.join(self.layouts)}"] if self.layouts else []
        return "; ".join([*parts, *self.remarks])

    def full(self) -> str:
        """All names, one on each line."""
        lists = {"taken": self.taken, "left out": self.left_out, "missing": self.missing}
        return "\n".join([str(self), *(f"  {what}: {name}" for what, names in lists.items() for name in names)])

    def card(self) -> dict[str, Any]:
        """Facts for the card of a result: all names, except those taken, which are those of the network."""
        names = {"left_out": list(self.left_out), "missing": list(self.missing), "remarks": list(self.remarks)}
        return {"file": self.source, "layouts": list(self.layouts), "taken": len(self.taken), **names}


WRAPPERS = ("module", "_orig_mod", "backbone", "base", "model")
"""First components of names that only show an enclosing network."""


def count_names(names: Iterable[str], prefix: str = "") -> str:
    """Names by their first part after ``prefix`` and wrappers, with the number of tensors of each: ``fc (2), queue``."""
    paths = [name.removeprefix(prefix).split(".") for name in names]
    counts = Counter(next((part for part in path if part not in WRAPPERS), path[-1]) for path in paths)
    return ", ".join(f"{name} ({count})" if count > 1 else name for name, count in sorted(counts.items()))
