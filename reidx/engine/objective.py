"""The objective: a weighted sum of terms, each a loss wired to features, labels, a memory, a teacher."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from reidx.config.schema import Term, listed
from reidx.contracts import Batch, Features, inputs_of
from reidx.errors import ConfigError
from reidx.registry.seam import call

Outputs = Mapping[str, Mapping[str, Features]]
"""Features by network, then by stream."""


class BoundTerm(nn.Module):
    """A loss with its wiring: ``forward`` gives the scalar of one step.

    ``wiring`` has the keys of :class:`reidx.config.schema.Term`; ``target_memory`` says for each stream which of
    several memories holds the labels that it is looked at under. What comes from a teacher carries no gradient, and a
    teacher that averages a network is scored by the average of a memory that is trained (:func:`average_of`). An
    input that the loss can do without, and the wiring cannot supply, is left out.
    """

    def __init__(
        self, name: str, loss: nn.Module, wiring: Mapping[str, Any], target_memory: Mapping[str, str] | None = None
    ) -> None:
        super().__init__()
        self.name, self.loss, self.target_memory = name, loss, dict(target_memory or {})
        fields = {field.name for field in dataclasses.fields(Term)}
        term = Term(**{"loss": {}, **{key: value for key, value in wiring.items() if key in fields}})
        self.streams, self.network, self.labels = listed(term.stream), term.network, term.labels
        self.feature, self.memories, self.teacher = term.feature, listed(term.memory), term.teacher
        self.teacher_streams = listed(term.teacher_stream) or self.streams
        self.teacher_feature = term.teacher_feature or term.feature
        self.teacher_memories = listed(term.teacher_memory) or self.memories
        self.weight, self.from_epoch, self.until_epoch = float(term.weight), term.from_epoch, term.until_epoch
        self.needed, optional = inputs_of(type(loss))
        unwired = set() if self.memories else {"scores"}
        unwired |= set() if self.teacher else {"teacher", "teacher_scores"}
        unwired |= set() if self.teacher_memories else {"teacher_scores"}
        self.inputs = self.needed | (optional - unwired)

    def forward(
        self, outputs: Outputs, batches: Mapping[str, Batch], memories: Mapping[str, nn.Module]
    ) -> Tensor:
        streams = [batches[name].under(self.labels) if self.labels else batches[name] for name in self.streams]
        features = _end_to_end(outputs[self.network][name][self.feature] for name in self.streams)

        @functools.cache
        def columns() -> list[Tensor]:
            return [_scored(memories[name], features) for name in self.memories]

        def teacher() -> Tensor:
            seen = (outputs[self.teacher][name][self.teacher_feature] for name in self.teacher_streams)  # type: ignore[index]
            return _end_to_end(seen).detach()

        def teacher_memories() -> list[nn.Module]:
            averages = [average_of(name, self.teacher or "") for name in self.teacher_memories]
            return [memories[a if a in memories else m] for m, a in zip(self.teacher_memories, averages)]

        sources: dict[str, Callable[[], Any]] = {
            "features": lambda: features,
            "scores": lambda: _side_by_side(columns()),
            "teacher": teacher,
            # a trainable memory would else be trained by what is only its target
            "teacher_scores": lambda: _side_by_side([_scored(memory, teacher()) for memory in teacher_memories()]).detach(),
            "targets": lambda: self._targets(streams, columns),
            "weights": lambda: _weights(streams),
            "soft_targets": lambda: _all(batch.soft_targets for batch in streams),
            "cameras": lambda: _all(batch.cameras for batch in streams),
            "index": lambda: _all(batch.index for batch in streams),
        }
        given: dict[str, Any] = {}
        for name in sorted(self.inputs):
            value = sources[name]() if name in sources else self._provided(name, streams, memories)
            if value is None and name in self.needed:
                raise ConfigError(f"{self.name} needs {name!r}, which {' and '.join(self.streams)} does not have.")
            if value is not None:
                given[name] = value
        return call("loss", self.loss, "forward", self.loss, **given)

    def due(self, epoch: int) -> bool:
        """Whether the term counts in ``epoch``."""
        return self.from_epoch <= epoch and (self.until_epoch is None or epoch < self.until_epoch)

    def _targets(self, streams: Sequence[Batch], columns: Callable[[], list[Tensor]]) -> Tensor | None:
        """The labels, each counted from the first column of the memory that holds its stream's labels."""
        if len(self.memories) < 2:
            return _all(batch.targets for batch in streams)
        shifted = []
        for name, batch in zip(self.streams, streams):
            assert batch.targets is not None
            before = self.memories.index(self.target_memory[name])
            begin = sum(scores.shape[1] for scores in columns()[:before])
            shifted.append(torch.where(batch.targets >= 0, batch.targets + begin, batch.targets))
        return _end_to_end(shifted)

    def _provided(self, name: str, streams: Sequence[Batch], memories: Mapping[str, nn.Module]) -> Tensor | None:
        """What refiners give of each image under ``name``, or what a memory has under it."""
        if all(name in batch.extra for batch in streams):
            return _end_to_end(batch.extra[name] for batch in streams)
        holders = [memories[m] for m in self.memories if name in getattr(memories[m], "provides", ())]
        return call("memory", holders[0], f"its {name}", getattr, holders[0], name) if holders else None


def _scored(memory: nn.Module, features: Tensor) -> Tensor:
    return call("memory", memory, "forward", memory, features)


def _end_to_end(parts: Iterable[Tensor]) -> Tensor:
    parts = list(parts)
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _all(parts: Iterable[Tensor | None]) -> Tensor | None:
    """The streams' columns laid end to end; None if one of them has none."""
    there = list(parts)
    return None if any(part is None for part in there) else _end_to_end(part for part in there if part is not None)


def _weights(streams: Sequence[Batch]) -> Tensor | None:
    """The images' weights, 1 where only other streams have some; None without any."""
    if all(batch.weights is None for batch in streams):
        return None
    ones = [torch.ones(len(batch.index), device=batch.index.device) for batch in streams]
    return _end_to_end(one if batch.weights is None else batch.weights for one, batch in zip(ones, streams))


def _side_by_side(columns: Sequence[Tensor]) -> Tensor:
    return columns[0] if len(columns) == 1 else torch.cat(list(columns), dim=1)


def average_of(memory: str, teacher: str) -> str:
    """The name of the average that ``teacher``, an EMA, keeps of a memory with trained parameters."""
    return f"{memory}@{teacher}"


class BoundAlignment(nn.Module):
    """An alignment with its wiring: two streams' features, by the names it requires."""

    def __init__(self, name: str, alignment: nn.Module, wiring: Mapping[str, Any]):
        super().__init__()
        self.name, self.alignment = name, alignment
        self.source, self.target = wiring["source"], wiring["target"]
        self.weight, self.from_epoch = float(wiring["weight"]), int(wiring["from_epoch"])

    def due(self, epoch: int) -> bool:
        """Whether the alignment counts in ``epoch``."""
        return self.from_epoch <= epoch

    def forward(
        self, outputs: Outputs, batches: Mapping[str, Batch], memories: Mapping[str, nn.Module]
    ) -> Tensor | Mapping[str, Tensor]:
        features = outputs["student"]
        both = features[self.source], features[self.target]
        return call("alignment", self.alignment, "forward", self.alignment, *both)


class Objective(nn.Module):
    """The sum over terms of weight · value; terms that are not due count nothing and are not computed."""

    def __init__(self, terms: list[BoundTerm | BoundAlignment]) -> None:
        super().__init__()
        self.terms: Sequence[BoundTerm | BoundAlignment] = nn.ModuleList(terms)  # type: ignore[assignment]
        self.epoch = 0

    def forward(
        self, outputs: Outputs, batches: Mapping[str, Batch], memories: Mapping[str, nn.Module]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The total, and each term's unweighted value by its name; of an alignment's several values each by its own."""
        total: Tensor | None = None
        values: dict[str, Tensor] = {}
        for term in self.terms:
            if not term.due(self.epoch):
                continue
            value = term(outputs, batches, memories)
            if isinstance(value, Mapping):
                values.update({f"{term.name}.{part}": its.detach() for part, its in value.items()})
                value = torch.stack(list(value.values())).sum()
            else:
                values[term.name] = value.detach()
            total = term.weight * value if total is None else total + term.weight * value
        if total is None:
            total = torch.zeros((), requires_grad=True)
        return total, values
