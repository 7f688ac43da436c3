"""The objective: a weighted sum of terms, each a loss wired to features, labels, memories and a teacher."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from reidx.config.schema import Ramp, Term, names_in
from reidx.contracts import Batch, Features, contract_in_use, inputs_of
from reidx.engine.ramps import weight_at
from reidx.errors import ConfigError
from reidx.registry.seam import call

Outputs = Mapping[str, Mapping[str, Features]]
"""Features by network, then by stream."""


class BoundTerm(nn.Module):
    """A loss with its wiring; ``forward`` returns a scalar.

    ``wiring`` has the keys of :class:`reidx.config.schema.Term`; ``target_memory`` maps each stream to the memory that holds
    its labels, where a term has several memories. Inputs from a teacher carry no gradient, and an EMA teacher is scored by
    its average of a trainable memory (:func:`average_of`). Optional inputs that the wiring cannot supply are omitted.
    ``forward`` raises :class:`ConfigError` if a required input is missing.
    """

    def __init__(
        self, name: str, loss: nn.Module, wiring: Mapping[str, Any], target_memory: Mapping[str, str] | None = None
    ) -> None:
        super().__init__()
        self.name, self.loss, self.target_memory = name, loss, dict(target_memory or {})
        fields = {field.name for field in dataclasses.fields(Term)}
        term = Term(**{"loss": {}, **{key: value for key, value in wiring.items() if key in fields}})
        self.streams, self.network, self.labels = names_in(term.stream), term.network, term.labels
        self.feature, self.memories, self.teacher = term.feature, names_in(term.memory), term.teacher
        self.teacher_streams = names_in(term.teacher_stream) or self.streams
        self.teacher_feature = term.teacher_feature or term.feature
        self.teacher_memories = names_in(term.teacher_memory) or self.memories
        self.weight, self.from_epoch, self.until_epoch = term.weight, term.from_epoch, term.until_epoch
        self.needed, optional = inputs_of(type(loss))
        unwired = set() if self.memories else {"scores"}
        unwired |= set() if self.teacher else {"teacher", "teacher_scores"}
        unwired |= set() if self.teacher_memories else {"teacher_scores"}
        self.inputs = self.needed | (optional - unwired)

    def forward(
        self, outputs: Outputs, batches: Mapping[str, Batch], memories: Mapping[str, nn.Module]
    ) -> Tensor:
        streams = [batches[name].with_labelling(self.labels) if self.labels else batches[name] for name in self.streams]
        features = _join_rows(outputs[self.network][name][self.feature] for name in self.streams)

        @functools.cache
        def columns() -> list[Tensor]:
            return [_scored(memories[name], features) for name in self.memories]

        def teacher() -> Tensor:
            seen = (outputs[self.teacher][name][self.teacher_feature] for name in self.teacher_streams)  # type: ignore[index]
            return _join_rows(seen).detach()

        def teacher_memories() -> list[nn.Module]:
            averages = [average_of(name, self.teacher or "") for name in self.teacher_memories]
            return [memories[a if a in memories else m] for m, a in zip(self.teacher_memories, averages)]

        sources: dict[str, Callable[[], Any]] = {
            "features": lambda: features,
            "scores": lambda: _join_columns(columns()),
            "teacher": teacher,
            # detached: otherwise a trainable memory would be trained by its own target
            "teacher_scores": lambda: _join_columns([_scored(memory, teacher()) for memory in teacher_memories()]).detach(),
            "targets": lambda: self._targets(streams, columns),
            "weights": lambda: _weights(streams),
            "soft_targets": lambda: _all(batch.soft_targets for batch in streams),
            "cameras": lambda: column_of(streams, "cameras"),
            "index": lambda: _all(batch.index for batch in streams),
        }
        given: dict[str, Any] = {}
        for name in sorted(self.inputs):
            value = sources[name]() if name in sources else self._provided(name, streams, memories)
            if value is None and name in self.needed:
                raise ConfigError(f"{self.name} needs {name!r}, which is missing in {' and '.join(self.streams)}.")
            if value is not None:
                given[name] = value
        return call("loss", self.loss, "forward", self.loss, **given)

    def due(self, epoch: int) -> bool:
        """Return true if the term is active in ``epoch``."""
        return self.from_epoch <= epoch and (self.until_epoch is None or epoch < self.until_epoch)

    def _targets(self, streams: Sequence[Batch], columns: Callable[[], list[Tensor]]) -> Tensor | None:
        """Targets (B,), offset by the first column of the memory that holds the labels of each stream."""
        if len(self.memories) < 2:
            return _all(batch.targets for batch in streams)
        shifted = []
        for name, batch in zip(self.streams, streams):
            assert batch.targets is not None
            before = self.memories.index(self.target_memory[name])
            begin = sum(scores.shape[1] for scores in columns()[:before])
            shifted.append(torch.where(batch.targets >= 0, batch.targets + begin, batch.targets))
        return _join_rows(shifted)

    def _provided(self, name: str, streams: Sequence[Batch], memories: Mapping[str, nn.Module]) -> Tensor | None:
        """The input ``name`` from the refiners' values per image, a column of the data set, or an attribute of a memory."""
        if all(name in batch.extra for batch in streams):
            return _join_rows(batch.extra[name] for batch in streams)
        if (column := column_of(streams, name)) is not None:
            return column
        holders = [memories[m] for m in self.memories if name in contract_in_use(memories[m]).provides]
        return call("memory", holders[0], f"its {name}", getattr, holders[0], name) if holders else None


def _scored(memory: nn.Module, features: Tensor) -> Tensor:
    return call("memory", memory, "forward", memory, features)


def _join_rows(parts: Iterable[Tensor]) -> Tensor:
    parts = list(parts)
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _all(parts: Iterable[Tensor | None]) -> Tensor | None:
    """Concatenate the streams' columns; None if one of them is missing."""
    there = list(parts)
    return None if any(part is None for part in there) else _join_rows(part for part in there if part is not None)


def column_of(streams: Sequence[Batch], name: str) -> Tensor | None:
    """Concatenate the cameras, or a further column, of several streams; None if one of them lacks it."""
    return _all(batch.named_columns().get(name) for batch in streams)


def _weights(streams: Sequence[Batch]) -> Tensor | None:
    """Weights of the images, 1 for streams without weights; None if no stream has weights."""
    if all(batch.weights is None for batch in streams):
        return None
    ones = [torch.ones(len(batch.index), device=batch.index.device) for batch in streams]
    return _join_rows(one if batch.weights is None else batch.weights for one, batch in zip(ones, streams))


def _join_columns(columns: Sequence[Tensor]) -> Tensor:
    return columns[0] if len(columns) == 1 else torch.cat(list(columns), dim=1)


def average_of(memory: str, teacher: str) -> str:
    """Name of the average of a trainable memory that the EMA ``teacher`` maintains."""
    return f"{memory}@{teacher}"


class BoundAlignment(nn.Module):
    """An alignment with its wiring: the features of two streams."""

    def __init__(self, name: str, alignment: nn.Module, wiring: Mapping[str, Any]):
        super().__init__()
        self.name, self.alignment = name, alignment
        self.source, self.target = wiring["source"], wiring["target"]
        self.weight, self.from_epoch = wiring["weight"], int(wiring["from_epoch"])

    def due(self, epoch: int) -> bool:
        """Return true if the alignment is active in ``epoch``."""
        return self.from_epoch <= epoch

    def forward(
        self, outputs: Outputs, batches: Mapping[str, Batch], memories: Mapping[str, nn.Module]
    ) -> Tensor | Mapping[str, Tensor]:
        features = outputs["student"]
        both = features[self.source], features[self.target]
        return call("alignment", self.alignment, "forward", self.alignment, *both)


class Objective(nn.Module):
    """The sum of weight · value over all active terms; other terms are not computed."""

    def __init__(self, terms: list[BoundTerm | BoundAlignment]) -> None:
        super().__init__()
        self.terms: Sequence[BoundTerm | BoundAlignment] = nn.ModuleList(terms)  # type: ignore[assignment]
        self.epoch = 0

    def forward(
        self, outputs: Outputs, batches: Mapping[str, Batch], memories: Mapping[str, nn.Module]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the total and each term's unweighted value by name; an alignment may have several, as ``NAME.PART``."""
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
            weighted = weight_at(term.weight, self.epoch) * value
            total = weighted if total is None else total + weighted
        if total is None:
            total = torch.zeros((), requires_grad=True)
        return total, values

    def changing_weights(self) -> dict[str, float]:
        """Return the weights that change by epoch, of the terms active in this epoch, as ``NAME.weight``."""
        changing = [term for term in self.terms if isinstance(term.weight, Ramp) and term.due(self.epoch)]
        return {f"{term.name}.weight": weight_at(term.weight, self.epoch) for term in changing}
