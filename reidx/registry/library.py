"""Classes of libraries that a config names directly: optimisers of torch and timm, schedules of mmengine, log back-ends.

Their names are read from the libraries' source, because an import loads torch.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from reidx.outline.outline import outline
from reidx.outline.source import classes_in, imported_in
from reidx.registry.constructor import Parameter, parameters_of

_ONCE = "one step of a stage computes the objective once (docs/limits.md)"

UNFIT: dict[str, dict[str, str]] = {
    "optimizer": {
        "LBFGS": f"its step takes a closure that computes the loss again, but {_ONCE}",
        "SparseAdam": "it updates sparse gradients only, which no part of reidx has",
        "Muon": "it updates matrices only, but a network has parameters of other shapes; timm.Muon takes these, too",
        "timm.Adahessian": f"it needs gradients of gradients, but {_ONCE}, and its backward pass keeps no graph",
        "timm.Lookahead": "it wraps another optimiser, which a config cannot name",
    },
    "schedule": {"ReduceOnPlateauLR": "it follows a validation loss, which a stage does not have, so it would change nothing"},
}
"""Classes that the training loop cannot run, with the reason."""

_REPEATED = ("timm.NAdamLegacy", "timm.RAdamLegacy", "timm.AdamWLegacy")
"""Older versions of torch's optimisers in timm."""


@functools.cache
def library(kind: str) -> Mapping[str, str]:
    """Return the library classes of a kind of component by their name in a config, each as ``"module:Class"``.

    Those of timm have the prefix ``timm.``. Other kinds than optimizer, schedule and log back-end have none.
    """
    offered: dict[str, str] = {}
    if kind == "log back-end":
        classes = {"tensorboard": "TensorboardVisBackend", "wandb": "WandbVisBackend", "mlflow": "MLflowVisBackend"}
        offered = {short: f"mmengine.visualization.vis_backend:{cls}" for short, cls in classes.items()}
    elif kind == "optimizer":
        offered = {name: target for name, target in imported_in("torch.optim").items() if name != "Optimizer"}
        own = imported_in("timm.optim").items()
        offered |= {f"timm.{name}": target for name, target in own if ".optim._" not in target and target[:4] == "timm"}
        offered = {name: target for name, target in offered.items() if target.rpartition(":")[2][0].isupper()}
    elif kind == "schedule":
        module = "mmengine.optim.scheduler.lr_scheduler"
        offered = {name: f"{module}:{name}" for name in classes_in(module) if name.endswith("LR")}
    return {name: target for name, target in offered.items() if name not in UNFIT.get(kind, ()) and name not in _REPEATED}


def keywords_of(target: str) -> Mapping[str, Parameter]:
    """Return the keywords of ``"module:Class"``; a constructor that passes ``*args`` on has those of its base class.

    Schedules of the learning rate set ``param_name`` themselves.
    """
    module, _, name = target.partition(":")
    cls: Any = outline(target) or getattr(importlib.import_module(module), name)
    signatures = ((base, inspect.signature(vars(base)["__init__"])) for base in cls.__mro__ if "__init__" in vars(base))
    spelt_out = (base for base, own in signatures if not any(p.kind is p.VAR_POSITIONAL for p in own.parameters.values()))
    return {name: parameter for name, parameter in parameters_of(next(spelt_out)).items() if name != "param_name"}
