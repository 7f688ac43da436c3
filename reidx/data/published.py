"""Published data sets: the components that have facts, with their base configs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from reidx.config.files import installed_configs
from reidx.config.yaml_tree import Bases
from reidx.data.datasets.base import Dataset, Facts
from reidx.errors import ConfigError, PluginError, ReidxError, suggest
from reidx.outline.source import summary
from reidx.registry.discovery import registry
from reidx.registry.registry import Entry


@dataclass(frozen=True)
class PublishedSet:
    """A component of the kind ``dataset`` with its ``facts``."""

    entry: Entry
    kind: type[Dataset]
    facts: Facts

    @property
    def component(self) -> str:
        """The name of the component in a config."""
        return self.entry.name

    @property
    def sentence(self) -> str:
        """The first sentence of its docstring."""
        return summary(self.entry.component.target).replace("``", "`")


def published_sets() -> Iterator[PublishedSet]:
    """Yield the data sets of the core, then those of plugins; a component that cannot be loaded is left out."""
    for entry in registry().entries("dataset"):
        with contextlib.suppress(PluginError):  # `reidx plugins --check` reports it
            kind: Any = entry.load()
            if isinstance(facts := getattr(kind, "facts", None), Facts):
                yield PublishedSet(entry, kind, facts)


def find_set(name: str) -> PublishedSet:
    """Find a data set by the name of its component or by its own (``Market1501``, ``Market-1501``), in upper or lower case.

    Raises :class:`ConfigError`, with similar names.
    """
    known = list(published_sets())
    names = {word: found for found in known for word in (getattr(found.kind, "name", found.component), found.component)}
    exact = {word.casefold(): found for word, found in names.items()}
    if name.casefold() in exact:
        return exact[name.casefold()]
    hint = suggest(name, names) or f"They are: {', '.join(found.component for found in known)}."
    raise ConfigError(f"There is no published data set {name!r}. {hint}")


def base_config(component: str) -> tuple[str, Mapping[str, Any]] | None:
    """Return the address and the content of the base config of a data set: the one in ``data/`` whose domains are all it."""
    bases = Bases()
    for file in installed_configs():
        if file.name.startswith("data/"):
            with contextlib.suppress(ReidxError, KeyError, TypeError, AttributeError):  # invalid: loading it reports that
                content = bases.load(file, None, ()).plain()
                domains = content["data"]["domains"].values()
                if {spec if isinstance(spec, str) else spec["type"] for spec in domains} == {component}:
                    return str(file), content
    return None
