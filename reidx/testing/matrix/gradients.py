"""A check that gradients reach all parameters that an objective declares to train, by hooks during training."""

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
from reidx.testing.given import expect, expect_finite, in_order


class Gradients:
    """The parameters that each term trains, by the term's name: ``declared`` are those behind its inputs, ``reached`` those
    that its gradient reached, with a flag for a non-zero gradient; ``values`` are the values of the term.

    A term reads its ``feature``, and the trained parameters of memories that score these; an alignment reads
    the features that it ``requires``, of both sides but those ``detached``, and has its own parameters.
    """

    def __init__(self, stage: Stage) -> None:
        names = term_names(stage)[len(stage.objective) :]
        self.required = {n: contract("alignment", slot.alignment).requires for n, slot in zip(names, stage.alignment)}
        self.model: StageModel | None = None
        self.declared: dict[str, set[str]] = {}
        self.reached: dict[str, dict[str, bool]] = {}
        self.values: dict[str, list[float]] = {}

    def check(self) -> None:
        """Raise :class:`AssertionError` for a term whose gradient stops before what it is declared to train."""
        expect(bool(self.declared), "not one term was computed")
        for term, declared in self.declared.items():
            reached = self.reached[term]
            expect(bool(reached), f"{term} trains nothing")
            lacking = declared - set(reached)
            expect(not lacking, f"{term} reads what hangs on {in_order(lacking)}, and no gradient of it arrives there")
            expect(
                any(reached.values()) or not any(self.values[term]),
                f"all gradients of {term} are 0, though its value is not",
            )
        moved = {name for reached in self.reached.values() for name, much in reached.items() if much}
        expect(any(name.startswith("networks.student.backbone.") for name in moved), "no gradient reaches the backbone")

    # ---- hooks of torch, on all modules

    def before(self, module: nn.Module, arguments: object) -> None:
        """Note the model whose step begins."""
        if isinstance(module, StageModel):
            self.model = module

    def after(self, module: nn.Module, arguments: tuple[Any, ...], value: Any) -> None:
        """Look at the gradients of a term that was just computed."""
        if not isinstance(module, BoundTerm | BoundAlignment) or self.model is None:
            return
        total = torch.stack(list(value.values())).sum() if isinstance(value, Mapping) else value
        expect_finite(total, f"value of {module.name}")
        expect(total.requires_grad, f"{module.name} carries no gradient")
        parameters = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        declared = _hang_on(self.read_by(module, arguments[0]), parameters) | set(_own(module, self.model, parameters))
        self.declared.setdefault(module.name, set()).update(declared)
        reached = self.reached.setdefault(module.name, {})
        for name, gradient in _gradients(total, parameters).items():
            expect_finite(gradient, f"gradient of {module.name} for {name}")
            reached[name] = reached.get(name, False) or bool(gradient.any())
        self.values.setdefault(module.name, []).append(float(total.detach()))

    def read_by(self, term: BoundTerm | BoundAlignment, outputs: Mapping[str, Mapping[str, Features]]) -> list[Tensor]:
        """The features that a term is given to train by."""
        if isinstance(term, BoundAlignment):
            features = outputs["student"]
            sides = {"source": term.source, "target": term.target}
            seen = [features[at] for side, at in sides.items() if side not in getattr(term.alignment, "detached", ())]
            return [its[name] for its in seen for name in self.required[term.name]]
        features = outputs[term.network]
        return [features[stream][term.feature] for stream in term.streams] if term.inputs & {"features", "scores"} else []


@contextmanager
def watched(stage: Stage) -> Iterator[Gradients]:
    """The gradients of the terms of a stage that trains inside the block."""
    seen = Gradients(stage)
    hooks = [register_module_forward_pre_hook(seen.before), register_module_forward_hook(seen.after)]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _own(term: BoundTerm | BoundAlignment, model: StageModel, parameters: Mapping[str, Tensor]) -> Iterator[str]:
    """The names of the parameters of an alignment, or of the memories that score the features of a term."""
    parts: list[Any] = [term.alignment] if isinstance(term, BoundAlignment) else []
    if isinstance(term, BoundTerm) and "scores" in term.inputs:
        parts = [model.memories[name] for name in term.memories]
    own = {id(parameter) for part in parts for parameter in part.parameters()}
    return (name for name, parameter in parameters.items() if id(parameter) in own)


def _hang_on(features: Iterable[Tensor], parameters: Mapping[str, Tensor]) -> set[str]:
    trained = [feature.sum() for feature in features if feature.requires_grad]
    return set(_gradients(torch.stack(trained).sum(), parameters)) if trained else set()


def _gradients(value: Tensor, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The gradient of each parameter that ``value`` depends on."""
    found = torch.autograd.grad(value, list(parameters.values()), retain_graph=True, allow_unused=True)
    return {name: gradient for name, gradient in zip(parameters, found) if gradient is not None}
