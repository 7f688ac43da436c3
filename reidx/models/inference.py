"""Faster inference: a network prepared for feature extraction, with the same outputs."""

from __future__ import annotations

import copy
from typing import TypeGuard

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from reidx.models.norm import _Grouped


def fast_inference(model: nn.Module) -> nn.Module:
    """A frozen copy of ``model`` in evaluation mode, each BatchNorm folded into the convolution before it.

    A BatchNorm that uses its running statistics is a scale and a shift of each channel, so it can be multiplied into
    the weights; outputs agree to float32 rounding. The copy is in channels-last format, which speeds up convolutions
    on a CPU and half-precision ones on a GPU. It holds the current weights: make a new copy after training.

    Pairs are found by tracing; a module that cannot be traced (control flow on values) is split into its children, and
    modules without such a pair stay unchanged.
    """
    model = copy.deepcopy(model).eval().requires_grad_(False)
    _fold(model)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        return isinstance(module, nn.BatchNorm2d) or super().is_leaf_module(module, qualified_name)


def _fold(module: nn.Module) -> None:
    """Fold in place; the trace only shows the order of the modules, and the module keeps its own forward."""
    if not any(isinstance(m, nn.BatchNorm2d) for m in module.modules()):
        return
    try:
        nodes = _Tracer().trace(module).nodes
    except Exception:  # a forward may use its input in ways that a tracing proxy does not support
        for child in module.children():
            _fold(child)
        return
    calls = [node for node in nodes if node.op == "call_module"]
    times = {node.target: sum(other.target == node.target for other in calls) for node in calls}
    for node in calls:
        before = node.args[0] if node.args else None
        if not (isinstance(before, fx.Node) and before.op == "call_module" and len(before.users) == 1):
            continue
        if times[node.target] > 1 or times[before.target] > 1:  # a shared module has several neighbours
            continue
        conv, norm = module.get_submodule(str(before.target)), module.get_submodule(str(node.target))
        if type(conv) is nn.Conv2d and _is_plain(norm):
            _put(module, str(before.target), fuse_conv_bn_eval(conv, norm))
            _put(module, str(node.target), nn.Identity())


def _is_plain(norm: nn.Module) -> TypeGuard[nn.BatchNorm2d]:
    """Return True if ``norm`` in evaluation mode is a plain BatchNorm (some of timm's include an activation)."""
    definer = next(c for c in type(norm).__mro__ if "forward" in vars(c) and c is not _Grouped)
    return (
        isinstance(norm, nn.BatchNorm2d)
        and definer in nn.BatchNorm2d.__mro__
        and norm.running_mean is not None
    )


def _put(module: nn.Module, path: str, new: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(module.get_submodule(parent), name, new)
