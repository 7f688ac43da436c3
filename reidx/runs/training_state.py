"""Fields of a checkpoint beyond weights, optimiser and schedules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

from reidx.errors import CheckpointError

KEY = "reidx"
"""Key of these fields in a checkpoint, in addition to mmengine's own."""


@dataclass(frozen=True)
class TrainingState:
    """State of a stage after an epoch, as plain data and tensors.

    A run resumed from this state gives the same results as an uninterrupted one. Random generators need no field, because
    each epoch is seeded separately.
    """

    history: list[dict[str, float]]
    """Log entries of all epochs so far."""
    threads: int | None
    """Number of threads chosen for the next epoch; None if the number is fixed."""
    labels: dict[str, dict[str, Tensor]]
    """Arrays of each labelling, by name."""
    refiners: dict[str, dict[str, Any]]
    """State of each clusterer, refiner and matcher that has one, by labelling, position and class."""
    memories: dict[str, dict[str, Tensor]]
    """State of each memory, by name."""
    steps: int
    """Optimiser steps so far."""
    parameters: list[str]
    """Names of the optimiser's parameters, in the order of its state."""
    world_size: int
    """Number of processes in the job."""
    stamp: dict[str, Any] | None
    """Run, seed, stage and key that the checkpoint belongs to."""

    def put_into(self, checkpoint: dict[str, Any]) -> None:
        """Add the fields to a checkpoint."""
        checkpoint[KEY] = {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def of(cls, checkpoint: Mapping[str, Any]) -> TrainingState:
        """Read the fields of a checkpoint; raises :class:`CheckpointError` for missing or additional fields."""
        found = checkpoint.get(KEY)
        if not isinstance(found, Mapping):
            raise CheckpointError("This checkpoint was not written by reidx and cannot be resumed from.")
        names = {field.name for field in fields(cls)}
        if wrong := sorted(map(str, names ^ set(found))):
            raise CheckpointError(
                f"This checkpoint was written by another version of reidx (its fields differ in {', '.join(wrong)}) and "
                "cannot be resumed from."
            )
        return cls(**found)
