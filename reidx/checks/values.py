"""Would the parts of an experiment be built? Tried from the config alone, so that no value is refused hours into a run."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from reidx.checks.base import unusable
from reidx.config.components import own_spec
from reidx.config.node import KeyPath, dotted
from reidx.config.schema import OptimizerWiring, Stage, Term
from reidx.errors import ConfigError
from reidx.labels.pipeline import variations
from reidx.optim.mmengine_optim import PARAM_SCHEDULERS
from reidx.optim.optimizer import build_optimizer, schedules
from reidx.registry.build import build, entry_of

if TYPE_CHECKING:
    from reidx.config.config import Config


def check_values(config: Config) -> None:
    """Raise :class:`ConfigError` at the first value in any stage that a part's constructor refuses.

    Those parts that need a network or data to be built have their turn when a run begins
    (:mod:`reidx.checks.dry_build`): backbone, fusion, memories, alignments, samplers.
    """
    for spec in config.experiment.data.domains.values():
        _load("dataset", spec)
    for position, stage in enumerate(config.experiment.stages):
        _ValueChecker(config, ("stages", position)).run(stage)


def _load(kind: str, spec: dict[str, Any]) -> None:
    """Import the class of a part that is not built here; the core's own can be, and timm is not for a look at a config."""
    entry = entry_of(kind, spec)
    if entry.namespace:
        entry.load()


class _ValueChecker:
    def __init__(self, config: Config, base: KeyPath) -> None:
        self.config, self.base = config, base

    def run(self, stage: Stage) -> None:
        self.names(stage)
        for kind, specs in {
            "backbone": [stage.model.backbone],
            "fusion": [stage.model.fusion],
            "sampler": [stream.sampler for stream in stage.streams.values()],
            "memory": stage.memories.values(),
            "alignment": stage.alignment,
        }.items():
            for spec in specs:
                _load(kind, spec)
        for name, stream in stage.streams.items():
            size = self.config.experiment.data.image_size
            context = {"image_size": size, "mean": (0.5,) * 3, "std": (0.5,) * 3}
            self.part("transform", stream.transform, ("streams", name, "transform"), **context)
            for view, spec in stream.views.items():
                self.part("transform", spec, ("streams", name, "views", view), **context)
        for name, level in stage.labels.items():
            at: KeyPath = ("labels", "levels", name)
            if level.distance is not None:
                self.part("distance", level.distance, (*at, "distance"), device="cpu")
            clusterer = self.part("clusterer", level.clusterer, (*at, "clusterer"), seed=0)
            for index, spec in enumerate(level.refiners):
                place: KeyPath = (*at, "refiners", index)
                refiner = self.part("refiner", spec, place)
                try:
                    asked = variations(refiner, clusterer)
                except ConfigError as error:
                    raise self.refused(place, error) from error
                for settings in asked:
                    lacking = [key for key in settings if key not in level.clusterer]
                    if lacking:
                        raise ConfigError(
                            f"{self.where(place)}: {spec['type']} asks {level.clusterer['type']} for labels at another "
                            f"{', '.join(lacking)}, a setting that it does not have."
                        )
                    self.part("clusterer", {**level.clusterer, **settings}, place, seed=0)
        for index, term in enumerate(stage.objective):
            self.part("loss", term, ("objective", index))
        self.part("protocol", stage.evaluate.protocol, ("evaluate", "protocol"))
        self.optimizer(stage)

    def names(self, stage: Stage) -> None:
        """Raise for the name of a part that torch's modules have a use for themselves."""
        named: dict[KeyPath, str] = {("teachers", name): name for name in stage.teachers}
        named |= {("streams", name, "views", view): view for name, stream in stage.streams.items() for view in stream.views}
        named |= {("memories", name): name for name in stage.memories}
        own_norms = stage.domains if stage.model.domain_bn else []
        for at, name in [*named.items(), *((("model", "domain_bn"), domain) for domain in own_norms)]:
            if hasattr(nn.ModuleDict, name):
                raise ConfigError(f"{self.where(at)}: {unusable(name)}")

    def part(self, kind: str, spec: dict[str, Any], at: KeyPath, **context: Any) -> Any:
        return build(kind, own_spec(spec, Term if kind == "loss" else None), where=self.where(at), **context)

    def optimizer(self, stage: Stage) -> None:
        """Build the optimiser and the schedules over two parameters, shaped as a convolution's."""
        model = nn.Conv2d(1, 1, 1)
        try:
            with _uncompiled():
                optimizer = build_optimizer(model, own_spec(stage.optimizer, OptimizerWiring))
        except (TypeError, ValueError) as error:
            raise self.refused(("optimizer",), error) from error
        for index, schedule in enumerate(schedules(stage.schedule, max(stage.epochs, 1))):
            fixed = next((key for key in ("eta_min", "eta_max") if schedule.get(key)), None)
            own = "layer_decay" if stage.optimizer["layer_decay"] is not None else "rates" if stage.optimizer["rates"] else ""
            if fixed and own:
                at: KeyPath = ("schedule", index, fixed)
                raise ConfigError(
                    f"{self.where(at)} is one rate for all layers, but {own} gives each its own. Leave it out, or "
                    "use eta_min_ratio where the schedule has it."
                )
            try:
                PARAM_SCHEDULERS.build({**schedule, "optimizer": optimizer})
            except (TypeError, ValueError) as error:
                raise self.refused(("schedule", index), error) from error

    def where(self, at: KeyPath) -> str:
        path = (*self.base, *at)
        return f"{self.config.place(path)}: {dotted(path)}"

    def refused(self, at: KeyPath, error: Exception) -> ConfigError:
        return ConfigError(f"{self.where(at)}: {error}")


@contextlib.contextmanager
def _uncompiled() -> Iterator[None]:
    """Context in which an optimiser is made without torch's compiler, which takes longer to import than all else here."""
    decorated = torch.optim.Optimizer.add_param_group
    torch.optim.Optimizer.add_param_group = inspect.unwrap(decorated)  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.optim.Optimizer.add_param_group = decorated  # type: ignore[method-assign]
