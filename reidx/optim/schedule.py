"""Schedules of the learning rate, by epoch or by step."""

from __future__ import annotations

import itertools
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from torch.optim import Optimizer

from reidx.errors import ConfigError, require
from reidx.optim.mmengine_optim import OptimWrapper, ParamScheduler
from reidx.registry.build import build, entry_of, signature_of
from reidx.registry.seam import call


class Schedule(ParamScheduler, ABC):
    """Learning rate as a multiple of the optimiser's: a subclass defines :meth:`factor`.

    The schedule sets the rate from epoch ``begin`` up to, but not including, epoch ``end``, counted from 0, or between these
    steps of the stage if not ``by_epoch``. Outside this range the rate does not change. A subclass with further arguments
    sets its attributes before it calls this constructor, which computes the first rate::

        class Inverse(Schedule):
            def __init__(self, optimizer, power: float = 0.5, begin: int = 0, end: int | None = None, by_epoch: bool = True):
                self.power = power
                super().__init__(optimizer, begin, end, by_epoch)

            def factor(self, t: int) -> float:
                return (1 + t) ** -self.power
    """

    def __init__(
        self, optimizer: Optimizer | OptimWrapper, begin: int = 0, end: int | None = None, by_epoch: bool = True
    ) -> None:
        super().__init__(optimizer, "lr", begin, NEVER if end is None else end, by_epoch=by_epoch)

    @abstractmethod
    def factor(self, t: int) -> float:
        """Return the factor on each group's own rate, ``t`` epochs or steps after ``begin``."""

    def _get_value(self) -> list[float]:
        factor = self.factor(self.last_step)
        return [base * factor for base in self.base_values]


NEVER = 10**9
"""The end of a schedule without an end."""

TRIED = 100_000
"""Steps of a stage whose rates are tried before training."""


def build_schedule(spec: Mapping[str, Any], optimizer: Optimizer | OptimWrapper, where: str = "schedule") -> ParamScheduler:
    """Build the schedule of ``spec`` for an optimiser; raises :class:`ConfigError` for a value that it rejects."""
    schedule: ParamScheduler = build("schedule", spec, where=where, optimizer=optimizer)
    call("schedule", schedule, "its constructor", _check_unit, schedule, signature_of(entry_of("schedule", spec)))
    return schedule


def _check_unit(schedule: ParamScheduler, arguments: Collection[str]) -> None:
    """Raise :class:`Broken` for a schedule by step without an argument that says so: its ``end`` would count epochs."""
    counts = schedule.by_epoch or "end" not in arguments or "by_epoch" in arguments
    require(counts, "it counts steps and has an argument `end`, but none `by_epoch`: add it, so that its end counts steps")


def try_last_step(schedule: ParamScheduler, where: str) -> None:
    """Set the rates of the last epoch or step of a schedule.

    Raises :class:`ConfigError` if it fails because its length, such as ``total_steps``, is shorter.
    """
    if schedule.end - schedule.begin < 2 or schedule.end >= NEVER:
        return
    place = {"_global_step": schedule.end - 2, "last_step": schedule.end - schedule.begin - 2}
    schedule.load_state_dict({**schedule.state_dict(), **place})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # no step of the optimiser came before
            call("schedule", schedule, "step", schedule.step)
    except ValueError as error:
        unit = "epochs" if schedule.by_epoch else "steps"
        raise ConfigError(
            f"{where}: {type(schedule).__name__} fails within its {schedule.end - schedule.begin} {unit}: {error}. Set its "
            "length to this number, or end it earlier."
        ) from error


def try_rates(
    specs: Sequence[Mapping[str, Any]], optimizer: Optimizer, epochs: int, iters: int, where: Callable[[int], str]
) -> None:
    """Step the schedules ``specs`` through a stage of ``epochs`` epochs of ``iters`` steps, in the order of a run.

    Tries each step in the range of a schedule by step, and the first one of all other epochs; of these the first :data:`TRIED`.
    ``where`` maps the number of a schedule to its place in the config. Raises :class:`ConfigError` for the first epoch and step
    with a rate that is negative or not finite; it names the schedule that was the first to set one.
    """
    schedules, at_fault = [], 0
    for number, spec in enumerate(specs):  # each sets the first rate
        at_fault = at_fault if _odd_rates(optimizer) else number
        schedules.append(build_schedule(spec, optimizer, where(number)))
    dense = min(max((schedule.end for schedule in schedules if not schedule.by_epoch), default=0), epochs * iters)
    steps = itertools.chain(range(dense), range(-(-dense // iters) * iters, epochs * iters, iters))
    order = sorted(enumerate(schedules), key=lambda numbered: numbered[1].by_epoch)  # those by step come first
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no step of the optimiser comes between
        for step in itertools.islice(steps, TRIED):
            for number, schedule in order if step else ():
                if step % iters == 0 or not schedule.by_epoch:
                    at_fault = at_fault if _odd_rates(optimizer) else number
                    call("schedule", schedule, "step", schedule.step)
            if odd := _odd_rates(optimizer):
                place = f"epoch {step // iters + 1} of {epochs}" + (f", step {step % iters + 1} of {iters}" if dense else "")
                raise ConfigError(
                    f"{where(at_fault)}: {type(schedules[at_fault]).__name__} sets a learning rate of {odd[0]:g} in {place}. "
                    "Correct its values, or end it earlier."
                )


def _odd_rates(optimizer: Optimizer) -> list[float]:
    """The learning rates that are negative or not finite."""
    return [float(group["lr"]) for group in optimizer.param_groups if not 0 <= group["lr"] < math.inf]


def with_ends(specs: Sequence[Mapping[str, Any]], epochs: int, iters: int) -> list[dict[str, Any]]:
    """Return schedule specs with an explicit ``end``: the stage's last epoch, or its last step for ``by_epoch: false``.

    mmengine's default end is the run's length at construction. Resuming restores the old value, which would freeze the
    learning rate of an extended run.
    """
    ends = [epochs if spec.get("by_epoch", True) else epochs * iters for spec in specs]
    return [
        {**spec, "end": end} if spec.get("end") is None and "end" in signature_of(entry_of("schedule", spec)) else dict(spec)
        for spec, end in zip(specs, ends)
    ]
