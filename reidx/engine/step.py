"""A training step: forward of all networks on all streams, the objective, and the updates after the step."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from reidx import distributed
from reidx.config.schema import memory_streams, names_in
from reidx.contracts import OTHER_LABELS, Batch, Features, argument_names, mean_normalized
from reidx.engine.objective import BoundTerm, Objective, average_of, column_of
from reidx.memories import Memory
from reidx.models.forward import forward_in_parts
from reidx.models.network import Columns, Network
from reidx.models.norm import statistics_in_order
from reidx.models.teachers import EMA, freeze
from reidx.profiling import span
from reidx.registry.seam import call


class StageModel(BaseModel):
    """The networks, memories and objective of a stage, trained together.

    ``networks`` maps names to networks, including ``student``; ``teachers`` maps the others to their settings (``type`` EMA,
    Frozen or Peer). ``transforms`` maps each stream to the transform from uint8 images to network input, on the device.
    ``memory_wiring`` maps each memory to its network, feature, labels, streams and time of update
    (:class:`reidx.config.schema.MemorySlot`). ``stream_labels`` maps each stream to its labels, ``domains`` to its domain if
    BatchNorm is per domain. ``grad_cache_chunks`` is the number of chunks in which images pass through the networks
    (:mod:`reidx.models.forward`). ``network_streams`` maps networks to their streams; other networks see all streams.
    """

    def __init__(
        self,
        networks: Mapping[str, Network],
        teachers: Mapping[str, Mapping[str, Any]],
        memories: Mapping[str, Memory],
        memory_wiring: Mapping[str, Mapping[str, Any]],
        objective: Objective,
        transforms: Mapping[str, Callable[[Tensor], Tensor]],
        stream_labels: Mapping[str, str | None],
        joint: bool = False,
        memory_format: torch.memory_format = torch.contiguous_format,
        grad_cache_chunks: int = 1,
        domains: Mapping[str, str] | None = None,
        network_streams: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        super().__init__()
        self.networks = nn.ModuleDict(networks)
        self.memories = nn.ModuleDict(memories)
        self.objective = objective
        self.teachers = {name: dict(settings) for name, settings in teachers.items()}
        self.memory_wiring, self.stream_labels = memory_wiring, stream_labels
        self.transforms, self.joint, self.memory_format = transforms, joint, memory_format
        self.grad_cache_chunks, self.domains = grad_cache_chunks, dict(domains or {})
        self.network_streams = dict(network_streams or {})
        self.averages = {
            name: EMA(settings["momentum"], settings["warmup"], settings["batch_norm"])
            for name, settings in self.teachers.items()
            if settings["type"] == "EMA"
        }
        for name, settings in self.teachers.items():
            if settings["type"] != "Peer":
                self.networks[name].requires_grad_(False)
        self.averaged = {
            (memory, term.teacher)
            for term in objective.terms
            if isinstance(term, BoundTerm) and term.teacher in self.averages and "teacher_scores" in term.inputs
            for memory in term.teacher_memories
            if any(parameter.requires_grad for parameter in self.memories[memory].parameters())
        }
        for memory in memories:
            self.reset_memory_averages(memory)
        self._columns = frozenset[str]().union(*(network.columns for network in networks.values()))
        self.steps = 0
        self._last_step: tuple[dict[str, dict[str, Features]], dict[str, Batch]] | None = None

    @property
    def trained(self) -> list[str]:
        """Names of the networks with trained weights: the student and its peers."""
        return [n for n in self.networks if n == "student" or self.teachers[n]["type"] == "Peer"]

    @property
    def device(self) -> torch.device:
        return next(self.networks["student"].parameters()).device

    def train(self, mode: bool = True) -> StageModel:
        super().train(mode)
        for name, settings in self.teachers.items():
            if settings["type"] == "Frozen":
                freeze(self.networks[name], settings["statistics"] if mode else "running")
        return self

    def teacher_of(self, name: str) -> str | None:
        """Name of the EMA that follows network ``name``, or None; fusions with a teacher input receive its feature map."""
        return next((t for t in self.averages if self.teachers[t]["of"] == name), None)

    def networks_to_forward(self) -> list[str]:
        """Names of the networks that a step must forward, teachers first.

        These are the trained networks, those read by a term or a memory, and EMAs with their own BatchNorm statistics.
        """
        trained = self.trained
        read: set[str | None] = {getattr(term, "teacher", None) for term in self.objective.terms}
        read |= {network for wiring in self.memory_wiring.values() for network in names_in(wiring["network"])}
        read |= {self.teacher_of(n) for n in trained if self.networks[n].wants_teacher}
        own = {name for name in self.averages if self.teachers[name]["batch_norm"] == "own"}
        return [n for n in self.networks if n not in trained and n in read | own] + trained

    def reset_memory_averages(self, memory: str) -> None:
        """Reset the EMA averages of a trainable memory to copies of it."""
        for of, teacher in sorted(self.averaged):
            if of == memory:
                copied = copy.deepcopy(self.memories[memory]).requires_grad_(False)
                self.memories[average_of(memory, teacher)] = copied

    def features(
        self, images: Mapping[str, Tensor], columns: Mapping[str, Columns] | None = None
    ) -> dict[str, dict[str, Features]]:
        """Compute features by network and stream, without gradients for untrained networks.

        ``columns`` are those of the images, by stream.
        """
        networks, columns = self.networks_to_forward(), columns or {}
        if not self.joint or len(images) < 2:
            return self._features_of(images, networks, self.network_streams, self.grad_cache_chunks, columns)
        sizes = [len(x) for x in images.values()]
        order = interleave_for_bn(sizes, self.networks["student"].bn_group).to(self.device, non_blocking=True)  # type: ignore[arg-type]
        common = [name for name in self._columns if all(name in columns.get(stream, ()) for stream in images)]
        named = {name: torch.cat([columns[stream][name] for stream in images])[order] for name in common}
        images_of_all = {"": torch.cat(list(images.values()))[order]}
        together = self._features_of(images_of_all, networks, {}, self.grad_cache_chunks, {"": named})
        back = torch.argsort(order)
        return {
            name: dict(zip(images, Features({k: v[back] for k, v in by[""].items()}).split(sizes)))
            for name, by in together.items()
        }

    @torch.no_grad()
    def take_statistics(self, images: Mapping[str, Tensor], columns: Mapping[str, Columns] | None = None) -> None:
        """Pass images, stream by stream, through all networks to update their BatchNorm statistics."""
        averages_first = sorted(self.networks, key=lambda name: name in self.trained)
        self._features_of(images, averages_first, {}, 1, columns or {})

    def _features_of(
        self,
        images: Mapping[str, Tensor],
        names: Sequence[str],
        sees: Mapping[str, Sequence[str]],
        parts: int,
        columns: Mapping[str, Columns],
    ) -> dict[str, dict[str, Features]]:
        trained = self.trained
        maps: dict[str, dict[str, Tensor]] = {}
        outputs: dict[str, dict[str, Features]] = {}
        for name in names:
            network: Network = self.networks[name]  # type: ignore[assignment]
            teacher = maps.get(self.teacher_of(name) or "", {})
            made = {}
            with torch.set_grad_enabled(torch.is_grad_enabled() and name in trained):
                for stream in sees.get(name, images):
                    x = images[stream]
                    with statistics_in_order(network):  # each pass updates the statistics before the next one
                        domain = self.domains.get(stream)
                        named = columns.get(stream)
                        made[stream] = forward_in_parts(network, x, teacher.get(stream), parts, domain, named)
            maps[name] = {stream: its for stream, (its, _) in made.items()}
            outputs[name] = {stream: features for stream, (_, features) in made.items()}
        return outputs

    def forward(self, streams: Mapping[str, Batch], mode: str = "loss") -> dict[str, Tensor]:  # type: ignore[override]
        """Compute the values of all terms, and their weighted sum as ``loss``."""
        with span("transform"):
            images = {
                name: self.transforms[name](batch.images).contiguous(memory_format=self.memory_format)
                for name, batch in streams.items()
            }
        # Each process computes the objective of the whole batch and the gradients through its own images; the optimiser
        # wrapper sums these gradients over processes.
        with span("forward"):
            columns = {name: _known(batch, self._columns) for name, batch in streams.items()}
            outputs = {
                network: {stream: gather_features(features) for stream, features in by.items()}
                for network, by in self.features(images, columns).items()
            }
            streams = {name: gather_batch(batch) for name, batch in streams.items()}
            seen = {
                network: {stream: Features({k: v.detach() for k, v in f.items()}) for stream, f in by.items()}
                for network, by in outputs.items()
            }
            self._last_step = seen, dict(streams)
            self._update_memories("before")
            total, values = self.objective(outputs, streams, self.memories)
        return {"loss": total, **values, **self._figures(seen)}

    def _figures(self, seen: Mapping[str, Mapping[str, Features]]) -> dict[str, Tensor]:
        """Mean, per stream, of the features that the fusions of trained networks list in ``figures``."""
        return {
            f"{'' if network == 'student' else network + '.'}{stream}.{name}": features[name].float().mean()
            for network in self.trained
            for name in getattr(self.networks[network].fusion, "figures", ())
            for stream, features in seen[network].items()
        }

    def train_step(self, data: Mapping[str, Batch], optim_wrapper: OptimWrapper) -> dict[str, Tensor]:  # type: ignore[override]
        """Run one step: losses, optimiser, updates of memories and averages; returns the detached values for the log."""
        with span("to device"):
            different = {id(batch): batch for batch in data.values()}  # the views of a stream share its batch
            moved = {key: batch.to(self.device) for key, batch in different.items()}
            streams = {name: moved[id(batch)] for name, batch in data.items()}
        with optim_wrapper.optim_context(self):
            losses = self._run_forward({"streams": streams}, mode="loss")  # type: ignore[attr-defined]
        optim_wrapper.update_params(losses["loss"])
        self.after_step()
        return {name: value.detach() for name, value in losses.items()}

    @span("memory")
    @torch.no_grad()
    def after_step(self) -> None:
        """Update memories and averages after an optimiser step."""
        # after backward: an update before it would modify tensors that autograd still needs
        self._update_memories("after")
        self._last_step = None
        for name, average in self.averages.items():
            average.update(self.networks[name], self.networks[self.teachers[name]["of"]], self.steps)
            for memory in (memory for memory, teacher in self.averaged if teacher == name):
                average.update(self.memories[average_of(memory, name)], self.memories[memory], self.steps)
        self.steps += 1

    @torch.no_grad()
    def _update_memories(self, when: str) -> None:
        """Update the memories whose ``when`` (before, after) matches from the current step, by a call for each labelling.

        The calls are in the order of a memory's streams.
        """
        for name, wiring in self.memory_wiring.items():
            if wiring.get("when", "after") != when:
                continue
            streams = memory_streams(wiring, self.stream_labels, self.network_streams)
            for labels in dict.fromkeys(self.stream_labels[stream] for stream in streams):
                taken = [stream for stream in streams if self.stream_labels[stream] == labels]
                self._update_memory(self.memories[name], wiring, taken, labels == wiring["labels"])  # type: ignore[arg-type]

    def _update_memory(self, memory: Memory, wiring: Mapping[str, Any], taken: Sequence[str], own: bool) -> None:
        """Update a memory with the images of streams; the targets are their labels, or without ``own`` their matches."""
        assert self._last_step is not None
        outputs, batches = self._last_step[0], [self._last_step[1][stream] for stream in taken]
        networks, on = names_in(wiring["network"]), wiring["feature"]
        features = [mean_normalized([outputs[network][stream][on] for network in networks]) for stream in taken]
        targets = [batch.targets if own else batch.extra[OTHER_LABELS] for batch in batches]
        seen = torch.cat(features), torch.cat(targets), torch.cat([batch.index for batch in batches])  # type: ignore[arg-type]
        named = {name: column_of(batches, name) for name in argument_names(memory.update)}
        named = {name: column for name, column in named.items() if column is not None}
        call("memory", memory, "update", memory.update, *seen, **named)


def _known(batch: Batch, names: Collection[str]) -> Columns:
    """The columns of a batch with the given names, where the batch has them."""
    named = batch.named_columns() if names else {}
    return {name: column for name, column in named.items() if name in names and column is not None}


def interleave_for_bn(sizes: list[int], group: int | None) -> Tensor:
    """Permutation (B,) of concatenated streams that gives each BatchNorm group an equal share of every stream.

    Returns the identity if a stream cannot be divided evenly.
    """
    total = sum(sizes)
    groups = 1 if group is None else max(1, total // group)
    if total % groups or any(size % groups for size in sizes):
        return torch.arange(total)
    streams = torch.arange(total).split(sizes)
    return torch.cat([stream.view(groups, -1) for stream in streams], dim=1).flatten()


def gather_features(features: Features) -> Features:
    """Gather the features of all processes; gradients flow to the local rows."""
    if distributed.count() == 1:
        return features
    return Features({name: distributed.all_gather_rows(value) for name, value in features.items()})


def gather_batch(batch: Batch) -> Batch:
    """Gather a batch's labels and other columns from all processes; images are not gathered."""
    if distributed.count() == 1:
        return batch
    return replace(replace(batch, images=batch.index).each(distributed.all_gather_rows), images=batch.images)
