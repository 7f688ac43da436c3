"""Person re-identification experiments from parts: papers are plugins, an experiment is a YAML file.

The five doors are :func:`build` (one component), :func:`load_config` (a checked config), :func:`run` (a whole
experiment), :func:`test` (the evaluation of weights) and :class:`ReID` (a trained network for images). Names are loaded
when first used, so that ``import reidx`` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from reidx._version import __version__ as __version__

if TYPE_CHECKING:
    from reidx.checks.load import load_config as load_config
    from reidx.engine.experiment import Result as Result
    from reidx.engine.experiment import run as run
    from reidx.engine.experiment import test as test
    from reidx.errors import ReidxError as ReidxError
    from reidx.evaluation.verification import calibrate_threshold as calibrate_threshold
    from reidx.inference import ReID as ReID
    from reidx.registry.build import build as build
    from reidx.registry.hookspecs import PluginInfo as PluginInfo
    from reidx.registry.hookspecs import Reported as Reported
    from reidx.registry.hookspecs import hookimpl as hookimpl
    from reidx.registry.registry import Component as Component

# No public name may be that of a module here: importing `reidx.x` puts the module in the place of the name.
_HOME = {
    "build": "reidx.registry.build",
    "load_config": "reidx.checks.load",
    "run": "reidx.engine.experiment",
    "test": "reidx.engine.experiment",
    "Result": "reidx.engine.experiment",
    "Component": "reidx.registry.registry",
    "PluginInfo": "reidx.registry.hookspecs",
    "Reported": "reidx.registry.hookspecs",
    "hookimpl": "reidx.registry.hookspecs",
    "ReidxError": "reidx.errors",
    "ReID": "reidx.inference",
    "calibrate_threshold": "reidx.evaluation.verification",
}
__all__ = [*_HOME, "__version__"]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'reidx' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
