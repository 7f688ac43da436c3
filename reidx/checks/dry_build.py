"""Trial construction of all stages before the first one trains, so that no value fails hours into a run."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from reidx import distributed
from reidx.checks.batch_size import images_a_step
from reidx.config.config import Config
from reidx.config.node import KeyPath, dotted
from reidx.config.schema import Stage
from reidx.data.domains import Domains
from reidx.errors import CheckpointError, ConfigError
from reidx.machine.devices import device_of_this_process
from reidx.models.compiler import try_compiler
from reidx.models.forward import check_parts
from reidx.models.network import Network, build_network
from reidx.optim.optimizer import build_optimizer, trainable_groups
from reidx.registry.build import build
from reidx.runs.checkpoint import load_weights


def dry_build(config: Config, domains: Domains) -> None:
    """Build the networks, memories, alignments, samplers and optimiser of each stage on the CPU, and discard them.

    Raises the errors that the stage itself would raise. :mod:`reidx.checks.values` has already built the components that
    need no network and no data. Only errors that depend on weights, clusters or images can still occur in the stage.
    """
    for position, stage in enumerate(config.experiment.stages):
        _DryBuild(config, domains, position).run(stage)
    if any(stage.compile and stage.epochs > 0 for stage in config.experiment.stages):
        try_compiler(device_of_this_process())


class _DryBuild:
    def __init__(self, config: Config, domains: Domains, position: int) -> None:
        self.config, self.domains, self.base = config, domains, ("stages", position)

    def run(self, stage: Stage) -> None:
        model = dataclasses.asdict(stage.model)
        network = build_network(model, self.domains.size, self.where(("model",)), stage.domains)
        self.load_weights(stage, network)
        memories, parts = nn.ModuleDict(), nn.ModuleList([network])
        for name, slot in stage.memories.items():
            where = self.where(("memories", name, "memory"))
            memories[name] = build("memory", slot.memory, where=where, dim=network.dims[slot.feature])
        for index, aligned in enumerate(stage.alignment):
            where = self.where(("alignment", index, "alignment"))
            context = {"dims": dict(network.dims), "steps": stage.epochs * stage.iters}
            parts.append(build("alignment", aligned.alignment, where=where, **context))
        if stage.epochs > 0:
            images = images_a_step(stage, self.domains, self.where)
            self.check_batch_norm(stage, network, images)
            self.check_grad_cache_chunks(stage, network, images)
            trained = nn.ModuleDict({"memories": memories, "parts": parts})
            try:
                trainable_groups(trained, stage.optimization)
            except ConfigError as error:
                raise ConfigError(f"{self.where(('optimization',))}: {error}") from error
            build_optimizer(trained, stage.optimizer, stage.optimization, self.where(("optimizer",)))

    def load_weights(self, stage: Stage, network: Network) -> None:
        """Load the initial weight files of the stage's networks, one after the other."""
        named: dict[KeyPath, str | None] = {("init",): stage.init}
        named |= {("teachers", name, "weights"): teacher.weights for name, teacher in stage.teachers.items()}
        for at, reference in named.items():
            if reference is not None and not reference.startswith("stage:"):
                try:
                    load_weights(copy.deepcopy(network), reference)
                except CheckpointError as error:
                    raise CheckpointError(f"{self.where(at)}: {error}") from error

    def check_batch_norm(self, stage: Stage, network: Network, images: Mapping[str, int]) -> None:
        """Raise if a step would pass a single image through BatchNorm."""
        joined = stage.joint and not stage.model.domain_bn
        normalised = any(isinstance(m, _BatchNorm) and m.training for m in network.train().modules())
        if normalised and (sum(images.values()) == 1 if joined else 1 in images.values()):
            name = next(name for name, count in images.items() if count == 1)
            raise ConfigError(
                f"{self.where(('streams', name, 'sampler'))}: a step takes 1 image, but BatchNorm needs 2 or more to compute "
                "a variance. Make the batch larger (identities, instances or batch of the sampler)."
            )

    def check_grad_cache_chunks(self, stage: Stage, network: Network, images: Mapping[str, int]) -> None:
        """Raise unless each forward pass of a step can be split into ``grad_cache_chunks`` parts."""
        if stage.grad_cache_chunks == 1:
            return
        shares = {name: count // distributed.count() for name, count in images.items()}
        passes = {" and ".join(shares): sum(shares.values())} if stage.joint else shares
        for name, count in passes.items():
            try:
                check_parts(network.train(), count, stage.grad_cache_chunks, name)
            except ConfigError as error:
                raise ConfigError(f"{self.where(('grad_cache_chunks',))}: {error}") from error

    def where(self, at: KeyPath) -> str:
        path = (*self.base, *at)
        return f"{self.config.place(path)}: {dotted(path)}"
