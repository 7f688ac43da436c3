"""Choice of the precision of a run's stages on this device (``precision: auto``)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from reidx import distributed
from reidx.config.schema import Stage
from reidx.errors import ConfigError
from reidx.machine import devices
from reidx.machine.devices import device_of_this_process

TRIES = 3
"""Measurements of bf16 on a device with bf16 units; fp32 is chosen only if all of them find bf16 no faster."""


@dataclass(frozen=True)
class Precisions:
    """Precision ``of`` each stage by name; ``auto`` holds those chosen here, ``notes`` the reasons."""

    of: Mapping[str, str]
    auto: Mapping[str, str]
    notes: Sequence[str]

    def apply(self, stages: Sequence[Stage]) -> list[Stage]:
        """Return copies of the stages with their precision set."""
        return [replace(stage, precision=self.of[stage.name]) for stage in stages]  # type: ignore[arg-type]


def choose_precision(
    stages: Sequence[Stage], kept: Mapping[str, str] | None = None, finished: Collection[str] = ()
) -> Precisions:
    """Choose the precisions of a run's stages (:func:`choose`) on the first process's device, for all processes."""
    return distributed.on_rank_zero(lambda: choose(stages, device_of_this_process(), kept, finished))


def choose(
    stages: Sequence[Stage],
    device: torch.device,
    kept: Mapping[str, str] | None = None,
    finished: Collection[str] = (),
) -> Precisions:
    """Choose the precision of each stage on ``device``.

    For ``auto``, this is the precision that the run started with (``kept``, by stage), otherwise that of :func:`fastest`.
    Raises :class:`ConfigError` if a stage not in ``finished`` requires bf16 and torch refuses it on the device.
    """
    notes = []
    auto = {stage.name: (kept or {}).get(stage.name, "") for stage in stages if stage.precision == "auto"}
    begun = {name for name, precision in auto.items() if precision}
    if len(begun) < len(auto):
        found, note = fastest(device)
        notes.append(note)
        auto = {name: precision or found for name, precision in auto.items()}
    of = {stage.name: auto.get(stage.name, stage.precision) for stage in stages}
    bound = [n for n, precision in of.items() if precision == "bf16" and (n in begun or n not in auto) and n not in finished]
    if bound and devices.bf16_units(device) is None:
        notes.append(_emulated(device, begun=begun.issuperset(bound)))
    elif begun.difference(finished):
        notes.append(f"precision auto: {' and '.join(sorted({auto[name] for name in begun}))}, as when the run started")
    return Precisions(of, auto, notes)


def fastest(device: torch.device) -> tuple[str, str]:
    """The faster precision on a device, with the reason: bf16 if the device has bf16 units and a measured step is faster."""
    units = devices.bf16_units(device)
    if units is None:
        return "fp32", f"precision auto: fp32, as {devices.no_bf16_units(device)}"
    speed = 0.0
    for _ in range(TRIES):
        speed = max(speed, devices.bf16_speed(device))
        if speed > 1:
            return "bf16", f"precision auto: bf16 ({units}; a step of convolutions is {speed:.1f} times as fast as in fp32)"
    how = f"{1 / speed:.1f} times slower in bf16 than in fp32" if speed else "refused in bf16"
    return "fp32", f"precision auto: fp32, as a step of convolutions is {how} despite {units}"


def _emulated(device: torch.device, begun: bool) -> str:
    """Warning for bf16 on a device without bf16 units; raises :class:`ConfigError` if torch refuses bf16."""
    why, speed = devices.no_bf16_units(device), devices.bf16_speed(device)
    whose = "the run started in bf16 and keeps it" if begun else "the config sets bf16"
    way = "continue with --set precision=fp32 --resume-anyway" if begun else "set precision: auto (or fp32)"
    if not speed:
        raise ConfigError(f"precision: {whose}, which torch refuses here: {why}. To compute in fp32, {way}.")
    if speed > 1:
        return f"precision: bf16; {why}, but a step of convolutions is {speed:.1f} times as fast as in fp32"
    return (
        f"warning: precision: {whose}, but {why}: a step of convolutions is {1 / speed:.1f} times slower than in fp32. "
        f"To compute in fp32, {way}."
    )
