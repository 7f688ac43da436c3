"""The objective: a weighted sum of terms, each a loss wired to features, labels, a memory, a teacher."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from reidx.contracts import Batch, Features
from reidx.schema import Stage

Outputs = Mapping[str, Mapping[str, Features]]
"""Features by network, then by stream."""

INPUTS = (
    "features",
    "targets",
    "scores",
    "weights",
    "soft_targets",
    "teacher",
    "teacher_scores",
    "cameras",
    "index",
)
"""What a loss may name as an argument of its ``forward``."""


def inputs_of(loss: type) -> tuple[set[str], set[str]]:
    """The inputs that a loss class must have, and those that it can do without, read from its ``forward``."""
    parameters = list(inspect.signature(loss.forward).parameters.values())[1:]  # type: ignore[attr-defined]
    needed = {p.name for p in parameters if p.default is p.empty}
    return needed, {p.name for p in parameters} - needed


def term_names(stage: Stage) -> list[str]:
    """The names of a stage's terms, in the order of its objective, then its alignments; of two of a kind the second is
    numbered, so that the log tells them apart."""
    names: list[str] = []
    for wanted in [*(spec["loss"] for spec in stage.objective), *(spec["type"] for spec in stage.alignment)]:
        same = sum(name == wanted or name.startswith(f"{wanted}#") for name in names)
        names.append(f"{wanted}#{same + 1}" if same else wanted)
    return names


class BoundTerm(nn.Module):
    """A loss with its wiring: ``forward`` gives the scalar of one step.

    What comes from a teacher carries no gradient. An input that the loss can do without, and the wiring cannot supply,
    is left out.
    """

    def __init__(self, name: str, loss: nn.Module, wiring: Mapping[str, Any]) -> None:
        super().__init__()
        self.name, self.loss = name, loss
        self.stream, self.network, self.on = wiring["stream"], wiring["network"], wiring["on"]
        self.memory, self.against = wiring["memory"], wiring["against"]
        self.weight, self.from_epoch = float(wiring["weight"]), int(wiring["from_epoch"])
        needed, optional = inputs_of(type(loss))
        unwired = {"scores"} if self.memory is None else set()
        unwired |= {"teacher"} if self.against is None else set()
        unwired |= {"teacher_scores"} if None in (self.memory, self.against) else set()
        self.inputs = needed | (optional - unwired)

    def forward(
        self, outputs: Outputs, batches: Mapping[str, Batch], memories: Mapping[str, nn.Module]
    ) -> Tensor:
        batch = batches[self.stream]
        features = outputs[self.network][self.stream][self.on]

        def teacher() -> Tensor:
            return outputs[self.against][self.stream][self.on].detach()

        sources: dict[str, Callable[[], Any]] = {
            "features": lambda: features,
            "scores": lambda: memories[self.memory](features),
            "teacher": teacher,
            # a trainable memory would else be trained by what is only its target
            "teacher_scores": lambda: memories[self.memory](teacher()).detach(),
            "targets": lambda: batch.targets,
            "weights": lambda: batch.weights,
            "soft_targets": lambda: batch.soft_targets,
            "cameras": lambda: batch.cameras,
            "index": lambda: batch.index,
        }
        return self.loss(**{name: sources[name]() for name in sorted(self.inputs)})


class BoundAlignment(nn.Module):
    """An alignment with its wiring: two streams' features, by the names it requires."""

    def __init__(self, name: str, alignment: nn.Module, wiring: Mapping[str, Any], network: str = "student"):
        super().__init__()
        self.name, self.alignment, self.network = name, alignment, network
        self.source, self.target = wiring["source"], wiring["target"]
        self.weight, self.from_epoch = float(wiring["weight"]), int(wiring["from_epoch"])

    def forward(
        self, outputs: Outputs, batches: Mapping[str, Batch], memories: Mapping[str, nn.Module]
    ) -> Tensor:
        features = outputs[self.network]
        return self.alignment(features[self.source], features[self.target])


class Objective(nn.Module):
    """The sum over terms of weight · value; terms not yet due (``from_epoch``) count nothing and are not computed."""

    def __init__(self, terms: list[BoundTerm | BoundAlignment]) -> None:
        super().__init__()
        self.terms: Sequence[BoundTerm | BoundAlignment] = nn.ModuleList(terms)  # type: ignore[assignment]
        self.epoch = 0

    def forward(
        self, outputs: Outputs, batches: Mapping[str, Batch], memories: Mapping[str, nn.Module]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The total, and each term's unweighted value by its name."""
        total: Tensor | None = None
        values: dict[str, Tensor] = {}
        for term in self.terms:
            if self.epoch < term.from_epoch:
                continue
            value = term(outputs, batches, memories)
            values[term.name] = value.detach()
            total = term.weight * value if total is None else total + term.weight * value
        if total is None:
            total = torch.zeros((), requires_grad=True)
        return total, values
