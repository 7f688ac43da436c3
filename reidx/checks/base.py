"""Helpers shared by the checks of a stage."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from reidx.config.node import KeyPath, dotted
from reidx.config.parts import Part
from reidx.config.schema import Stage, names_in
from reidx.contracts import (
    CALLS,
    Call,
    Contract,
    column_inputs,
    contract_of,
    inputs_by_method,
    inputs_of_kind,
)
from reidx.errors import ConfigError, suggest
from reidx.registry.build import contract, signature_of
from reidx.registry.discovery import registry
from reidx.registry.registry import Entry
from reidx.registry.seam import call_attributed, own_line

if TYPE_CHECKING:
    from reidx.config.config import Config


class StageChecker:
    """Base of the checks of one stage, at path ``base``; ``earlier`` names the stages that train before it."""

    def __init__(self, config: Config, base: KeyPath, stage: Stage, earlier: list[str]) -> None:
        self.config, self.base, self.stage, self.earlier = config, base, stage, earlier
        self.fused = contract("fusion", stage.model.fusion)
        self.provided = self.fused.provides
        self.networks = ["student", *stage.teachers]

    def check_required_features(self, part: Part) -> None:
        """Raise unless the fusion provides the features that a component requires."""
        missing = contract(part.kind, part.spec).requires - self.provided
        if missing:
            raise self.error(
                part.path,
                f"{part.name} needs {', '.join(map(repr, sorted(missing)))}, which fusion "
                f"{self.stage.model.fusion['type']} does not provide (it provides {', '.join(sorted(self.provided))})."
                f"{_providers(missing)}",
            )

    def columns_of(self, domain: str | None) -> list[str]:
        """Return the names of the further columns that the data set of a domain declares."""
        spec = self.config.experiment.data.domains.get(domain or "")
        return [] if spec is None else sorted(contract("dataset", spec).columns)

    def check_named_inputs(self, part: Part, domain: str | None) -> None:
        """Raise unless each input that a component's methods require has one source.

        The sources are the engine, the component's provider (:class:`reidx.contracts.Call`), and the data set of ``domain``.
        """
        entry = registry().find(part.kind, part.name)
        component = entry.class_or_outline()
        methods = call_attributed(entry, "its methods", inputs_by_method, part.kind, component)
        for method, (needed, optional) in methods.items():
            call, columns = CALLS[part.kind][method], column_inputs(part.kind, self.columns_of(domain))
            provider, provided = self.provider_of(call)
            for name in sorted((needed | optional) & provided.intersection(columns)):
                raise self.error(
                    part.path,
                    f"{part.name} takes {name!r}, which {provider} provides, but domain {domain!r} has a column of that name. "
                    "Rename the column.",
                )
            known = [*call.named, *columns, *sorted(provided)]
            for name in sorted(needed.difference(known)):
                raise self.unknown_input(part, entry, method, name, known)

    def provider_of(self, call: Call) -> tuple[str, frozenset[str]]:
        """Return the component that provides further inputs of a call, in words, and their names."""
        if not call.provider:
            return "", frozenset()
        model = self.stage.model
        spec, names = {
            "fusion": (model.fusion, self.provided),
            "backbone": (model.backbone, contract("backbone", model.backbone).provides),
        }[call.provider]
        return f"{call.provider} {spec['type']}", names.difference(call.named)

    def check_provided_names(self, part: Part, domain: str | None) -> None:
        """Raise if a component provides an array under the name of a column of the data set."""
        for name in sorted(contract(part.kind, part.spec).provides.intersection(self.columns_of(domain))):
            raise self.error(
                part.path, f"{part.name} provides {name!r}, but domain {domain!r} has a column of that name. Rename the column."
            )

    def unknown_input(self, part: Part, entry: Entry, method: str, name: str, known: Iterable[str]) -> ConfigError:
        """Return the error for a required input that nothing provides."""
        place = own_line(entry, None, getattr(entry.class_or_outline(), method))
        provider = CALLS[part.kind][method].provider
        found = ", ".join(offer.name for offer in providing(provider, {name})) if provider else ""
        hint = f" Installed {provider}s that provide it: {found}." if found else ""
        backbone = registry().find("backbone", self.stage.model.backbone["type"])
        if provider == "backbone" and "tokens" in signature_of(backbone):
            hint = f" If the model has it, set tokens: [{name}] of backbone {backbone.name}.{hint}"
        return self.error(
            part.path,
            f"{part.kind} {part.name} (from {entry.distribution}, {place}): its {method} takes {name!r}, which nothing here "
            f"provides. Available by name: {', '.join(known) or 'nothing'}.{hint}",
        )

    def check_feature(self, at: KeyPath, name: str) -> None:
        if name not in self.provided:
            raise self.error(
                at,
                f"fusion {self.stage.model.fusion['type']} has no feature {name!r}; it provides "
                f"{', '.join(sorted(self.provided))}.{_providers({name})}",
            )

    def check_part_features(self, kind: str, spec: dict[str, Any], inputs: Mapping[str, str], at: KeyPath) -> None:
        """Raise unless the inputs of a memory or a loss are part features (B,P,D) where required, and only where accepted.

        ``inputs`` maps each input to the feature that it is, or is computed from.
        """
        declared = contract(kind, spec)
        must, may = declared.requires_parts, declared.requires_parts | declared.accepts_parts
        fusion = self.stage.model.fusion["type"]
        for name, on in sorted(inputs.items()):
            if name in must and on not in self.fused.part_features:
                raise self.error(
                    at,
                    f"{spec['type']} takes {name} of parts, but {on!r} of fusion {fusion} is one vector per image; of parts it "
                    f"has {join_names(sorted(self.fused.part_features))}. Installed fusions that have: "
                    f"{join_names(declaring('fusion', lambda offered: bool(offered.part_features)))}.",
                )
            if on in self.fused.part_features and name not in may:
                raise self.error(
                    at, f"{spec['type']} takes no {name} of parts, but {on!r} of fusion {fusion} has a vector for each (B,P,D)."
                )

    def check_name(self, at: KeyPath, name: str, taken: Collection[str] = ()) -> None:
        """Raise unless ``name`` is a valid, unused module name.

        :mod:`reidx.checks.values` checks the names that torch reserves.
        """
        if not re.fullmatch(r"\w[\w-]*", name) or name in taken:
            raise self.error(at, invalid_name_message(name))

    def check_domain(self, at: KeyPath, name: str) -> None:
        self.check_one_of(at, name, self.config.experiment.data.domains, "domain in data.domains")

    def check_one_of(self, at: KeyPath, name: str | None, known: Iterable[str], what: str) -> None:
        known = list(known)
        if name is None or name in known:
            return
        hint = suggest(name, known) or f"There is: {', '.join(known) or 'none'}."
        raise self.error(at, f"there is no {what} called {name!r}. {hint}")

    def check_network_names(self, at: KeyPath, names: str | list[str]) -> None:
        self.check_distinct(at, names)
        for name in names_in(names):
            self.check_one_of(at, name, self.networks, "network")

    def domain_of_labels(self, name: str) -> str | None:
        """Return the domain whose images a labelling labels."""
        if name in self.stage.labels:
            return self.stage.labels[name].domain
        return next((stream.domain for stream in self.stage.streams.values() if stream.labels == "identity"), None)

    def check_streams_of_network(self, at: KeyPath, network: str, streams: Iterable[str]) -> None:
        """Raise unless all of ``streams`` pass through a network."""
        for stream in streams:
            if network in self.stage.network_streams and stream not in self.stage.network_streams[network]:
                streams_seen = ", ".join(self.stage.network_streams[network])
                raise self.error(at, f"network {network!r} sees {streams_seen} (network_streams), not {stream!r}.")

    def check_distinct(self, at: KeyPath, names: str | list[str] | None) -> None:
        """Raise if a list of names is empty or has duplicates."""
        if isinstance(names, list) and len(set(names)) < max(len(names), 1):
            raise self.error(at, "the names in a list must be unique, and at least one is needed; null means the default.")

    def error(self, at: KeyPath, message: str) -> ConfigError:
        path = (*self.base, *at)
        return ConfigError(f"{self.config.place(path)}: {dotted(path)}: {message}")


def invalid_name_message(name: str) -> str:
    """Return the message for an invalid module name."""
    return f"{name!r} cannot be used as a name here; choose another, of letters, digits, _ and -."


def _providers(missing: Collection[str]) -> str:
    """Name the installed fusions that provide all missing features, in one sentence."""
    found = [entry.name for entry in providing("fusion", missing)]
    return f" Installed fusions that do: {', '.join(found)}." if found else " No installed fusion does."


def join_names(parts: Iterable[str | Entry]) -> str:
    """Join names with commas; ``none`` for no names."""
    return ", ".join(part if isinstance(part, str) else part.name for part in parts) or "none"


def providing(kind: str, names: Collection[str]) -> Iterator[Entry]:
    """Yield the installed components of a kind that provide all of ``names``."""
    return declaring(kind, lambda offered: offered.provides >= set(names))


def declaring(kind: str, wanted: Callable[[Contract], bool]) -> Iterator[Entry]:
    """Yield the installed components of a kind whose contract, under their example settings, satisfies ``wanted``."""
    return _installed(kind, lambda entry: wanted(contract_of(entry.class_or_outline(), entry.component.example)))


def taking(kind: str, name: str) -> Iterator[Entry]:
    """Yield the installed components of a kind that take an input by this name."""
    return _installed(kind, lambda entry: name in set[str]().union(*inputs_of_kind(kind, entry.class_or_outline())))


def _installed(kind: str, wanted: Callable[[Entry], bool]) -> Iterator[Entry]:
    for entry in registry().entries(kind):
        try:
            if wanted(entry):
                yield entry
        except Exception:  # a broken plugin must not hide the user's mistake
            continue
