"""Check, by hooks during training, that gradients reach all parameters that the terms of an objective should train."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from reidx.config.schema import Stage, term_names
from reidx.contracts import Features
from reidx.engine.objective import BoundAlignment, BoundTerm
from reidx.engine.step import StageModel
from reidx.registry.build import contract
from reidx.testing.given import expect, expect_finite, sorted_names


class Gradients:
    """Parameters that each term trains, by the term's name.

    ``declared`` are the parameters that its inputs depend on, ``reached`` those that its gradient reached, with a flag for a
    non-zero gradient; ``values`` are the values of the term. The inputs of a term are its ``feature`` and the trained
    parameters of the memories that score it; those of an alignment are the features that it ``requires``, of both sides
    except the ``detached``, and its own parameters.
    """

    def __init__(self, stage: Stage) -> None:
        names = term_names(stage)[len(stage.objective) :]
        self.required = {n: contract("alignment", slot.alignment).requires for n, slot in zip(names, stage.alignment)}
        self.model: StageModel | None = None
        self.declared: dict[str, set[str]] = {}
        self.reached: dict[str, dict[str, bool]] = {}
        self.values: dict[str, list[float]] = {}

    def check(self) -> None:
        """Raise :class:`AssertionError` for a term whose gradient does not reach all its ``declared`` parameters."""
        expect(bool(self.declared), "no term was computed")
        for term, declared in self.declared.items():
            reached = self.reached[term]
            expect(bool(reached), f"{term} trains nothing")
            lacking = declared - set(reached)
            expect(not lacking, f"the inputs of {term} depend on {sorted_names(lacking)}, which its gradient does not reach")
            expect(
                any(reached.values()) or not any(self.values[term]),
                f"all gradients of {term} are 0, though its value is not",
            )
        moved = {name for reached in self.reached.values() for name, much in reached.items() if much}
        expect(any(name.startswith("networks.student.backbone.") for name in moved), "no gradient reaches the backbone")

    # ---- hooks of torch, on all modules

    def before(self, module: nn.Module, arguments: object) -> None:
        """Store the model whose step begins."""
        if isinstance(module, StageModel):
            self.model = module

    def after(self, module: nn.Module, arguments: tuple[Any, ...], value: Any) -> None:
        """Record the gradients of a term that was just computed."""
        if not isinstance(module, BoundTerm | BoundAlignment) or self.model is None:
            return
        total = torch.stack(list(value.values())).sum() if isinstance(value, Mapping) else value
        expect_finite(total, f"value of {module.name}")
        expect(total.requires_grad, f"{module.name} carries no gradient")
        parameters = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        declared = self.declared.setdefault(module.name, set())
        declared |= _parameters_behind(self.read_by(module, arguments[0]), parameters)
        declared |= set(_own(module, self.model, parameters))
        reached = self.reached.setdefault(module.name, {})
        for name, gradient in _gradients(total, parameters).items():
            expect_finite(gradient, f"gradient of {module.name} for {name}")
            reached[name] = reached.get(name, False) or bool(gradient.any())
        self.values.setdefault(module.name, []).append(float(total.detach()))

    def read_by(self, term: BoundTerm | BoundAlignment, outputs: Mapping[str, Mapping[str, Features]]) -> list[Tensor]:
        """Return the features through which a term trains networks."""
        if isinstance(term, BoundAlignment):
            features = outputs["student"]
            sides = {"source": term.source, "target": term.target}
            seen = [features[at] for side, at in sides.items() if side not in getattr(term.alignment, "detached", ())]
            return [its[name] for its in seen for name in self.required[term.name]]
        features = outputs[term.network]
        return [features[stream][term.feature] for stream in term.streams] if term.inputs & {"features", "scores"} else []


@contextmanager
def watch_gradients(stage: Stage) -> Iterator[Gradients]:
    """Context that yields the gradients of the terms of ``stage``, which trains inside it."""
    seen = Gradients(stage)
    hooks = [register_module_forward_pre_hook(seen.before), register_module_forward_hook(seen.after)]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _own(term: BoundTerm | BoundAlignment, model: StageModel, parameters: Mapping[str, Tensor]) -> Iterator[str]:
    """Return the names of the parameters of an alignment, or of the memories that score the features of a term."""
    parts: list[Any] = [term.alignment] if isinstance(term, BoundAlignment) else []
    if isinstance(term, BoundTerm) and "scores" in term.inputs:
        parts = [model.memories[name] for name in term.memories]
    own = {id(parameter) for part in parts for parameter in part.parameters()}
    return (name for name, parameter in parameters.items() if id(parameter) in own)


def _parameters_behind(features: Iterable[Tensor], parameters: Mapping[str, Tensor]) -> set[str]:
    trained = [feature.sum() for feature in features if feature.requires_grad]
    return set(_gradients(torch.stack(trained).sum(), parameters)) if trained else set()


def _gradients(value: Tensor, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the gradient of each parameter that ``value`` depends on."""
    found = torch.autograd.grad(value, list(parameters.values()), retain_graph=True, allow_unused=True)
    return {name: gradient for name, gradient in zip(parameters, found) if gradient is not None}
