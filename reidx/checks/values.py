"""Trial construction of components from the config alone, so that no value fails hours into a run."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from reidx.checks.base import invalid_name_message
from reidx.config.node import KeyPath, dotted
from reidx.config.parts import Part, parts_of
from reidx.config.schema import Stage
from reidx.errors import ConfigError
from reidx.evaluation.protocols import check_metrics
from reidx.labels.pipeline import clusterer_variations
from reidx.optim.optimizer import build_optimizer, try_step
from reidx.optim.schedule import build_schedule, try_last_step, try_rates, with_ends
from reidx.registry.build import build, entry_of
from reidx.registry.registry import CONTEXT, KINDS

if TYPE_CHECKING:
    from reidx.config.config import Config


def check_values(config: Config) -> None:
    """Raise :class:`ConfigError` for the first value in any stage that a component's constructor rejects.

    Components that need a network or data (backbone, fusion, memories, alignments, samplers) are built at the start of a
    run (:mod:`reidx.checks.dry_build`).
    """
    for spec in config.experiment.data.domains.values():
        _load("dataset", spec)
    for position, stage in enumerate(config.experiment.stages):
        _ValueChecker(config, ("stages", position)).run(stage)


def _load(kind: str, spec: dict[str, Any]) -> None:
    """Import a plugin's class that is not built here; core classes import without fail, and timm is slow to import."""
    entry = entry_of(kind, spec)
    if entry.namespace:
        entry.load()


class _ValueChecker:
    def __init__(self, config: Config, base: KeyPath) -> None:
        self.config, self.base = config, base

    def run(self, stage: Stage) -> None:
        self.check_names(stage)
        known = {"image_size": self.config.experiment.data.image_size}
        built: dict[KeyPath, Any] = {}
        for part in parts_of(stage):
            if KINDS[part.kind].early:
                matched = {"labellings": part.holder.labellings} if part.kind == "matcher" else {}
                built[part.path] = made = self.build(part, **known, **matched)
                if part.kind == "protocol":
                    check_metrics(made)
            else:
                _load(part.kind, part.spec)
        for part in parts_of(stage):
            if part.kind == "refiner":
                try:
                    others = clusterer_variations(part, built)
                except ConfigError as error:
                    raise self.located_error(part.path, error) from error
                for other in others:
                    self.build(other)
        self.optimizer(stage)

    def check_names(self, stage: Stage) -> None:
        """Raise for a name that is already an attribute of torch's modules."""
        named: dict[KeyPath, str] = {("teachers", name): name for name in stage.teachers}
        named |= {("streams", name, "views", view): view for name, stream in stage.streams.items() for view in stream.views}
        named |= {("memories", name): name for name in stage.memories}
        own_norms = stage.domains if stage.model.domain_bn else []
        for at, name in [*named.items(), *((("model", "domain_bn"), domain) for domain in own_norms)]:
            if hasattr(nn.ModuleDict, name):
                raise ConfigError(f"{self.where(at)}: {invalid_name_message(name)}")

    def build(self, part: Part, **known: Any) -> Any:
        context = {name: CONTEXT[name][0] for name in KINDS[part.kind].context}
        return build(part.kind, part.spec, where=self.where(part.path), **{**context, **known})

    def optimizer(self, stage: Stage) -> None:
        """Build the optimiser and the schedules for the two parameters of a convolution, and try a step."""
        model, at = nn.Conv2d(1, 1, 1), self.where(("optimizer",))
        with _without_compiler():
            optimizer = build_optimizer(model, stage.optimizer, where=at)
        if entry_of("optimizer", stage.optimizer).namespace:
            try_step(optimizer, at)
        schedules = with_ends(stage.schedule, max(stage.epochs, 1), stage.iters)
        for index, schedule in enumerate(schedules):
            fixed = next((key for key in ("eta_min", "eta_max") if schedule.get(key)), None)
            own = next((key for key in ("layer_decay", "rates") if getattr(stage.optimization, key) not in (None, {})), "")
            if fixed and own:
                place = self.where(("schedule", index, fixed))
                raise ConfigError(
                    f"{place} is one rate for all layers, but optimization.{own} gives each its own. "
                    "Leave it out, or use eta_min_ratio where the schedule has it."
                )
            place = self.where(("schedule", index))
            try_last_step(build_schedule(schedule, optimizer, place), place)
        if schedules:
            with _without_compiler():
                optimizer = build_optimizer(model, stage.optimizer, where=at)
            try_rates(schedules, optimizer, stage.epochs, stage.iters, lambda index: self.where(("schedule", index)))

    def where(self, at: KeyPath) -> str:
        path = (*self.base, *at)
        return f"{self.config.place(path)}: {dotted(path)}"

    def located_error(self, at: KeyPath, error: Exception) -> ConfigError:
        return ConfigError(f"{self.where(at)}: {error}")


@contextlib.contextmanager
def _without_compiler() -> Iterator[None]:
    """Context for building an optimiser without importing torch's compiler, the slowest import of these checks."""
    decorated = torch.optim.Optimizer.add_param_group
    torch.optim.Optimizer.add_param_group = inspect.unwrap(decorated)  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.optim.Optimizer.add_param_group = decorated  # type: ignore[method-assign]
