"""Faster inference: a network prepared for feature extraction, with the same outputs."""

from __future__ import annotations

import copy
from collections import Counter
from functools import partial
from inspect import signature
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, TypeGuard
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from reidx.models.norm import _Grouped

Pairs = list[tuple[str, str]]
"""Paths of a convolution and of the BatchNorm that follows it."""

_KNOWN: WeakKeyDictionary[nn.Module, tuple[list[Any], Pairs]] = WeakKeyDictionary()
"""The pairs of each network seen so far, with the structure that they were found in."""

_HOOKS = ("_forward_pre_hooks", "_forward_hooks")
_INTERNAL = vars(nn.Module()).keys() - {*_HOOKS}


def fast_inference(model: nn.Module) -> nn.Module:
    """A frozen copy of ``model`` in evaluation mode, each BatchNorm folded into the convolution before it.

    A BatchNorm that uses its running statistics is a scale and a shift of each channel, so it can be multiplied into
    the weights; outputs agree to float32 rounding. The copy is in channels-last format, which speeds up convolutions
    on a CPU and half-precision ones on a GPU. It holds the current weights: make a new copy after training.

    Pairs are found by tracing; a module that cannot be traced (control flow on values), or whose order of modules may depend
    on optional inputs, is split into its children, and modules without such a pair stay unchanged. A network is traced again
    only if its structure, a setting or a hook changed.
    """
    fast = copy.deepcopy(model).eval().requires_grad_(False)
    structure = _structure(fast)
    known, pairs = _KNOWN.get(model, (None, []))
    if known != structure:
        pairs = _pairs(fast)
        _KNOWN[model] = structure, pairs
    for before, after in pairs:
        conv, norm = fast.get_submodule(before), fast.get_submodule(after)
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):  # not yet folded under another path
            _put(fast, before, fuse_conv_bn_eval(conv, norm))
            _put(fast, after, nn.Identity())
    return fast.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        return isinstance(module, nn.BatchNorm2d) or super().is_leaf_module(module, qualified_name)


def _structure(model: nn.Module) -> list[Any]:
    """All that may decide the order in which modules are called: their names, classes, settings and hooks, but no weights."""
    found: list[Any] = []
    seen: dict[int, int] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        tensors = {name: value is None for name, value in (*module._parameters.items(), *module._buffers.items())}
        settings = {name: _plain(value, seen) for name, value in vars(module).items() if name not in _INTERNAL}
        found.append((path, type(module), tensors, settings))
    return found


def _plain(value: object, seen: dict[int, int]) -> object:
    """A setting as a value that compares equal in a copy of its network; ``seen`` numbers the objects met so far.

    Tensors and modules are represented by their class, other objects by their class and attributes.
    """
    if isinstance(value, str | int | float | None | type):
        return value
    if isinstance(value, Tensor | nn.Module):
        return type(value)
    if isinstance(value, FunctionType | BuiltinFunctionType):
        return ref(value)  # equal as long as it is the same function, whose closure must not keep a network alive
    if isinstance(value, MethodType):
        return ref(value.__func__)
    if id(value) in seen:
        return type(value), seen[id(value)]
    seen[id(value)] = len(seen)
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item, seen) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item, seen) for key, item in value.items()}
    if isinstance(value, partial):
        return [_plain(item, seen) for item in (value.func, value.args, value.keywords)]
    return type(value), _plain(vars(value), seen) if hasattr(value, "__dict__") else repr(value)


def _pairs(module: nn.Module, prefix: str = "") -> Pairs:
    """The pairs of ``module``; the trace only shows the order of its modules, and each keeps its own forward."""
    if not any(isinstance(m, nn.BatchNorm2d) for m in module.modules()):
        return []
    try:
        if "forward" in vars(module):
            raise TypeError("the tracer would follow the forward of the class")
        if any(parameter.default is not parameter.empty for parameter in signature(module.forward).parameters.values()):
            raise TypeError("its modules may depend on the inputs that it gets")
        nodes = _Tracer().trace(module).nodes
    except Exception:  # a forward may use its input in ways that a tracing proxy does not support
        return [pair for name, child in module.named_children() for pair in _pairs(child, f"{prefix}{name}.")]
    calls = [node for node in nodes if node.op == "call_module"]
    times = Counter(node.target for node in calls)
    read = {str(node.target).rpartition(".")[0] for node in nodes if node.op == "get_attr"}
    found = []
    for node in calls:
        before = node.args[0] if node.args else None
        if not (isinstance(before, fx.Node) and before.op == "call_module" and len(before.users) == 1):
            continue
        if times[node.target] > 1 or times[before.target] > 1:  # a shared module has several neighbours
            continue
        conv, norm = module.get_submodule(str(before.target)), module.get_submodule(str(node.target))
        hooked = any(getattr(part, hooks) for part in (conv, norm) for hooks in _HOOKS)  # a hook sees inputs and outputs
        if type(conv) is nn.Conv2d and _is_plain(norm) and not hooked and before.target not in read:
            found.append((f"{prefix}{before.target}", f"{prefix}{node.target}"))
    return found


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
