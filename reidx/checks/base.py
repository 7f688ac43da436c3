"""What every check of a wiring asks again and again, and how it says what does not fit."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from reidx.config.node import KeyPath, dotted
from reidx.config.parts import Part
from reidx.config.schema import Stage
from reidx.contracts import Contract, contract_of
from reidx.errors import ConfigError, suggest
from reidx.registry.build import contract
from reidx.registry.discovery import registry
from reidx.registry.registry import Entry

if TYPE_CHECKING:
    from reidx.config.config import Config


class StageChecker:
    """The questions about one stage, whose section is at ``base``; ``earlier`` are the stages that train before it."""

    def __init__(self, config: Config, base: KeyPath, stage: Stage, earlier: list[str]) -> None:
        self.config, self.base, self.stage, self.earlier = config, base, stage, earlier
        self.fused = contract("fusion", stage.model.fusion)
        self.provided = self.fused.provides
        self.networks = ["student", *stage.teachers]

    def needs(self, part: Part) -> None:
        """Raise unless the features that a component requires are provided by the fusion."""
        missing = contract(part.kind, part.spec).requires - self.provided
        if missing:
            raise self.error(
                part.path,
                f"{part.name} needs {', '.join(map(repr, sorted(missing)))}, which fusion "
                f"{self.stage.model.fusion['type']} does not provide (it provides {', '.join(sorted(self.provided))})."
                f"{_providers(missing)}",
            )

    def feature(self, at: KeyPath, name: str) -> None:
        if name not in self.provided:
            raise self.error(
                at,
                f"fusion {self.stage.model.fusion['type']} has no feature {name!r}; it provides "
                f"{', '.join(sorted(self.provided))}.{_providers({name})}",
            )

    def shaped(self, kind: str, spec: dict[str, Any], inputs: Mapping[str, str], at: KeyPath) -> None:
        """Raise unless what a memory or a loss is given may be of parts where it is, and is where it must be.

        ``inputs`` says by its name of what feature each input is, or is made.
        """
        must: frozenset[str] = getattr(registry().find(kind, spec["type"]).declared(), "requires_parts", frozenset())
        may = must | contract(kind, spec).accepts_parts
        fusion = self.stage.model.fusion["type"]
        for name, on in sorted(inputs.items()):
            if name in must and on not in self.fused.part_features:
                raise self.error(
                    at,
                    f"{spec['type']} takes {name} of parts, but {on!r} of fusion {fusion} is one vector an image; of parts it "
                    f"has {join_names(sorted(self.fused.part_features))}. Installed fusions that have: "
                    f"{join_names(declaring('fusion', lambda offered: bool(offered.part_features)))}.",
                )
            if on in self.fused.part_features and name not in may:
                raise self.error(
                    at, f"{spec['type']} takes no {name} of parts, but {on!r} of fusion {fusion} has a vector for each (B,P,D)."
                )

    def name(self, at: KeyPath, name: str, taken: Collection[str] = ()) -> None:
        """Raise unless ``name`` can be that of a module within the model; what torch would refuse,
        :mod:`reidx.checks.values` does."""
        if not re.fullmatch(r"\w[\w-]*", name) or name in taken:
            raise self.error(at, unusable(name))

    def domain(self, at: KeyPath, name: str) -> None:
        self.one_of(at, name, self.config.experiment.data.domains, "domain in data.domains")

    def one_of(self, at: KeyPath, name: str | None, known: Iterable[str], what: str) -> None:
        known = list(known)
        if name is None or name in known:
            return
        hint = suggest(name, known) or f"There is: {', '.join(known) or 'none'}."
        raise self.error(at, f"there is no {what} called {name!r}. {hint}")

    def seen(self, at: KeyPath, network: str, streams: Iterable[str]) -> None:
        """Raise unless a network sees all of ``streams``."""
        for stream in streams:
            if network in self.stage.network_streams and stream not in self.stage.network_streams[network]:
                said = ", ".join(self.stage.network_streams[network])
                raise self.error(at, f"network {network!r} sees {said} (network_streams), not {stream!r}.")

    def different(self, at: KeyPath, names: str | list[str] | None) -> None:
        """Raise unless the names of a list are different ones, at least one."""
        if isinstance(names, list) and len(set(names)) < max(len(names), 1):
            raise self.error(at, "a list of names holds each once, and one at least; null stands for the default.")

    def error(self, at: KeyPath, message: str) -> ConfigError:
        path = (*self.base, *at)
        return ConfigError(f"{self.config.place(path)}: {dotted(path)}: {message}")


def unusable(name: str) -> str:
    """What to say of a name that no module within the model can have."""
    return f"{name!r} cannot be used as a name here; choose another, of letters, digits, _ and -."


def _providers(missing: Collection[str]) -> str:
    """A sentence naming the installed fusions that provide all that is missing."""
    found = [entry.name for entry in providing("fusion", missing)]
    return f" Installed fusions that do: {', '.join(found)}." if found else " No installed fusion does."


def join_names(parts: Iterable[str | Entry]) -> str:
    """Names in a sentence; ``none`` if there is none."""
    return ", ".join(part if isinstance(part, str) else part.name for part in parts) or "none"


def providing(kind: str, names: Collection[str]) -> Iterator[Entry]:
    """The installed components of a kind that provide all of ``names``."""
    return declaring(kind, lambda offered: offered.provides >= set(names))


def declaring(kind: str, wanted: Callable[[Contract], bool]) -> Iterator[Entry]:
    """The installed components of a kind whose contract, as of their example, is as wanted."""
    for entry in registry().entries(kind):
        try:
            if wanted(contract_of(entry.declared(), entry.component.example)):
                yield entry
        except Exception:  # a broken stranger must not hide the user's mistake
            continue
