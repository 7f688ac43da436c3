"""From a file to a checked experiment: resolved first, then every refusal that the config alone allows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from reidx.checks.stage import check_stages
from reidx.config.config import Config, resolve
from reidx.config.merge import Override
from reidx.config.node import Node
from reidx.config.sections import section_at
from reidx.config.yaml_tree import load_node


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The checked experiment of a file (or ``namespace::file.yaml``) under ``key.path=value`` overrides.

    Raises :class:`ConfigError` naming the file and line of what is wrong: an unknown key or component, a value of the
    wrong type, parts that do not fit each other.
    """
    return check_node(load_node(path), [Override.read(text, section_at) for text in overrides], str(path))


def check_node(root: Node, overrides: Sequence[Override], path: str) -> Config:
    """The checked experiment of a tree of values under overrides; ``path`` is what it is called. As :func:`load_config`."""
    config = resolve(root, overrides, path)
    check_stages(config)
    from reidx.checks.values import check_values  # takes torch: what can be told without it was told by now

    check_values(config)
    return config
