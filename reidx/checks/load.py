"""Loading of an experiment: resolve the config, then run all checks that need the config alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from reidx.checks.stage import check_stages
from reidx.config.config import Config, resolve
from reidx.config.merge import Override
from reidx.config.node import Node
from reidx.config.sections import section_at
from reidx.config.yaml_tree import load_node
from reidx.errors import ConfigError, excerpt


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Load and check the experiment in a file (or ``namespace::file.yaml``) with ``key.path=value`` overrides.

    Raises :class:`ConfigError` with file and line for an unknown key or component, a value of the wrong type, or
    components that do not fit each other.
    """
    if isinstance(overrides, str):
        raise ConfigError(f"The overrides are a string; give a list: [{excerpt(repr(overrides))}].")
    return check_node(load_node(path), [Override.read(text, section_at) for text in overrides], str(path))


def check_node(root: Node, overrides: Sequence[Override], path: str) -> Config:
    """Resolve and check a tree of values with overrides, as :func:`load_config`; ``path`` is its name in messages."""
    config = resolve(root, overrides, path)
    check_stages(config)
    from reidx.checks.values import check_values  # imports torch: the checks that need none have already run

    check_values(config)
    return config
