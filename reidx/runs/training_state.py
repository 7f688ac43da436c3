"""The fields of a checkpoint beyond weights, optimiser and schedules, all listed in one place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

from reidx.errors import CheckpointError

KEY = "reidx"
"""The key of a checkpoint under which these fields stand, beside mmengine's own."""


@dataclass(frozen=True)
class TrainingState:
    """State of a stage after an epoch, as plain data and tensors.

    A run that is resumed from it continues as if it had never been stopped; randomness needs no field, as each epoch has a
    seed of its own.
    """

    history: list[dict[str, float]]
    """The log's entry of each epoch so far."""
    threads: int | None
    """The number of threads chosen for the next epoch; None where the number is fixed."""
    labels: dict[str, dict[str, Tensor]]
    """The arrays of each labelling, by name."""
    refiners: dict[str, dict[str, Any]]
    """The state of each clusterer and refiner that has one, by labelling, place and class."""
    memories: dict[str, dict[str, Tensor]]
    """The state of each memory, by name."""
    steps: int
    """Optimiser steps so far."""
    parameters: list[str]
    """The names of the optimiser's parameters, in the order of its state."""
    world_size: int
    """Processes that made each step."""
    stamp: dict[str, Any] | None
    """The run, seed, stage and key that the checkpoint belongs to."""

    def put_into(self, checkpoint: dict[str, Any]) -> None:
        """Add the fields to a checkpoint."""
        checkpoint[KEY] = {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def of(cls, checkpoint: Mapping[str, Any]) -> TrainingState:
        """The fields in a checkpoint; raises :class:`CheckpointError` where it lacks one, or has one more."""
        found = checkpoint.get(KEY)
        if not isinstance(found, Mapping):
            raise CheckpointError("This checkpoint was not written by reidx and cannot be resumed from.")
        names = {field.name for field in fields(cls)}
        if wrong := sorted(map(str, names ^ set(found))):
            raise CheckpointError(
                f"This checkpoint was written by another version of reidx (its fields differ in {', '.join(wrong)}) and cannot "
                "be resumed from."
            )
        return cls(**found)
