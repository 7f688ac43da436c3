"""The data sets that a path or a config names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reidx.config.schema import Data
from reidx.config.yaml_tree import load_tree
from reidx.data.datasets.base import Dataset
from reidx.doctor.recognition import recognise
from reidx.errors import ConfigError, DataError
from reidx.registry.build import build

CONFIGS = (".yaml", ".yml")


def is_config(source: str) -> bool:
    """Return True for the address of a config, False for the path of a data set."""
    return "::" in source or source.endswith(CONFIGS)


def image_settings(source: str, overrides: list[str]) -> tuple[tuple[int, int], str]:
    """The size (height, width) and the interpolation of a config; for a path the defaults of a config."""
    usual = Data({})
    data = _data_of(source, overrides) if is_config(source) else {}
    height, width = data.get("image_size", usual.image_size)
    return (int(height), int(width)), data.get("interpolation", usual.interpolation)


def _data_of(source: str, overrides: list[str]) -> Mapping[str, Any]:
    """The section ``data`` of a config with its bases, which need not be a whole experiment."""
    found: Any = load_tree(source, overrides).data.get("data")
    if not isinstance(found, Mapping) or not found.get("domains"):
        raise ConfigError(f"{source} has no data.domains, so there is no data set to read.")
    return found


def data_sets_of(source: str, name: str | None, overrides: list[str]) -> dict[str, Dataset]:
    """Read the data set at a path, under its component's name, or those of a config, under the names of their domains.

    Raises :class:`DataError` for a file or a line that a loader refuses, and the errors of configs.
    """
    if is_config(source):
        domains = _data_of(source, overrides).get("domains", {})
        return {domain: build("dataset", spec, where=f"data.domains.{domain}") for domain, spec in domains.items()}
    reading = recognise(Path(source), name)
    if reading.dataset is None or reading.faults:
        first = reading.faults[0]
        raise DataError(f"{first.message} `reidx data doctor {source}` lists all faults.")
    return {reading.component: build("dataset", reading.spec)}
