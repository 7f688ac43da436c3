"""Plan of a grid: its runs, refused combinations with reasons, finished runs and shared stages."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from reidx.ablation.grid import Grid
from reidx.checks.load import check_node
from reidx.config.config import Config
from reidx.config.node import Origin
from reidx.config.yaml_tree import Tree
from reidx.errors import ConfigError, ReidxError
from reidx.runs.stage_cache import ORIGIN, stage_key


@dataclass(frozen=True)
class Run:
    """One training: a combination with one seed, in a folder named by the config's hash."""

    config: Config
    home: Path

    @cached_property
    def hash(self) -> str:
        return self.config.hash  # Config computes it at every access, and the live table reads it constantly

    @property
    def seed(self) -> int:
        return self.config.experiment.seed

    @property
    def folder(self) -> Path:
        """Folder of the run."""
        return self.home / "runs" / self.hash

    @property
    def config_file(self) -> Path:
        """File of the resolved config, with the origin of every value."""
        return self.home / "configs" / f"{self.hash}.yaml"

    @property
    def log(self) -> Path:
        """Log of its process: events, and the error of a failed run."""
        return self.home / "logs" / f"{self.hash}.log"

    @cached_property
    def stages(self) -> tuple[str, ...]:
        """Keys of its stages, from the config alone; equal in runs that share a stage."""
        return tuple(stage_key(self.config, number) for number in range(len(self.config.experiment.stages)))

    def stage_done(self, number: int) -> bool:
        """Return true if a stage is finished and available to other runs."""
        return (self.folder / f"{number + 1}-{self.config.experiment.stages[number].name}" / ORIGIN).is_file()

    def result(self) -> dict[str, Any] | None:
        """Read the result of the run; None if it is not finished."""
        try:
            result = json.loads((self.folder / "result.json").read_text(encoding="utf-8"))
            whole = all(math.isfinite(value) for value in result["metrics"].values())
            return result if whole and result["card"]["config_hash"] == self.hash else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # or another program wrote the file
            return None


@dataclass
class Row:
    """A combination: its name, the label of each axis, and its runs by seed or the reason for its refusal."""

    name: str
    labels: dict[str, str]
    runs: dict[int, Run] = field(default_factory=dict)
    refused: str | None = None


@dataclass(frozen=True)
class Plan:
    """Plan of a grid in ``home``, the folder of its runs and results; the first row is the base."""

    grid: Grid
    home: Path
    rows: list[Row]

    @property
    def runs(self) -> list[Run]:
        """All runs, without duplicates: combinations with the same config share their runs."""
        return list({run.hash: run for row in self.rows for run in row.runs.values()}.values())

    @property
    def refused(self) -> list[Row]:
        return [row for row in self.rows if row.refused is not None]

    def shared(self) -> dict[str, int]:
        """Number of trainings that sharing saves, by stage name."""
        saved: dict[str, int] = {}
        seen: set[str] = set()
        for run in self.runs:
            for stage, key in zip(run.config.experiment.stages, run.stages):
                if key in seen:
                    saved[stage.name] = saved.get(stage.name, 0) + 1
                seen.add(key)
        return saved


def plan_of(grid: Grid, home: Path) -> Plan:
    """Plan a grid without writing anything.

    A combination with incompatible parts becomes a refused row with the reason. Raises :class:`ConfigError` if the base is
    refused, because all others are compared with it.
    """
    rows: list[Row] = []
    for combination in grid.combinations():
        labels = {axis.name: value.label for axis, value in zip(grid.axes, combination)}
        row = Row(grid.called(combination), labels)
        try:
            config = check_node(grid.root, grid.changes(combination), grid.path)
            row.runs = {seed: Run(_seeded(config, seed), home) for seed in grid.seeds}
        except ReidxError as error:
            if not rows:
                raise ConfigError(f"The base of the grid cannot be run. {error}") from error
            row.refused = str(error)
        rows.append(row)
    return Plan(grid, home, rows)


def _seeded(config: Config, seed: int) -> Config:
    """Copy of a config with another seed; its validity does not depend on the seed."""
    tree = Tree({**config.data, "seed": seed}, {**config.tree.origins, ("seed",): Origin("ablate.seeds")})
    return replace(config, experiment=replace(config.experiment, seed=seed), tree=tree)


def held_by(run: Run, under_way: Sequence[Run]) -> Run | None:
    """Running run that is training an unfinished stage shared by ``run``, which should wait for it; None if there is none."""
    for other in under_way:
        for number, key in enumerate(run.stages):
            if key in other.stages and not run.stage_done(number) and not other.stage_done(other.stages.index(key)):
                return other
    return None
