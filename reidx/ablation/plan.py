"""The runs of a grid: which combinations are allowed, which are refused and why, what is done, what runs have in common."""

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
    """One training: a combination under one seed, in a folder of its own that is named by the config's hash."""

    config: Config
    home: Path

    @cached_property
    def hash(self) -> str:
        return self.config.hash  # worked out anew at each access, while a live table asks for it all the time

    @property
    def seed(self) -> int:
        return self.config.experiment.seed

    @property
    def folder(self) -> Path:
        """Where the run is written."""
        return self.home / "runs" / self.hash

    @property
    def config_file(self) -> Path:
        """The resolved config, with the origin of every value."""
        return self.home / "configs" / f"{self.hash}.yaml"

    @property
    def log(self) -> Path:
        """What its process tells: events, and at last why it failed."""
        return self.home / "logs" / f"{self.hash}.log"

    @cached_property
    def stages(self) -> tuple[str, ...]:
        """What stands for the outcome of each stage, by its config: equal in runs that share it."""
        return tuple(stage_key(self.config, number) for number in range(len(self.config.experiment.stages)))

    def stage_done(self, number: int) -> bool:
        """Whether a stage is finished, and left for other runs."""
        return (self.folder / f"{number + 1}-{self.config.experiment.stages[number].name}" / ORIGIN).is_file()

    def result(self) -> dict[str, Any] | None:
        """What the run came to; None as long as it is not done."""
        try:
            result = json.loads((self.folder / "result.json").read_text(encoding="utf-8"))
            whole = all(math.isfinite(value) for value in result["metrics"].values())
            return result if whole and result["card"]["config_hash"] == self.hash else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # also of a file that something else has written
            return None


@dataclass
class Row:
    """A combination: its name, the label of each axis, its runs by seed, or why there are none."""

    name: str
    labels: dict[str, str]
    runs: dict[int, Run] = field(default_factory=dict)
    refused: str | None = None


@dataclass(frozen=True)
class Plan:
    """A grid in ``home``, the folder of all its runs and results. The first row is the base."""

    grid: Grid
    home: Path
    rows: list[Row]

    @property
    def runs(self) -> list[Run]:
        """All runs, each once: combinations that come to the same config share theirs."""
        return list({run.hash: run for row in self.rows for run in row.runs.values()}.values())

    @property
    def refused(self) -> list[Row]:
        return [row for row in self.rows if row.refused is not None]

    def shared(self) -> dict[str, int]:
        """How many trainings of a stage are saved as runs share it, by the stage's name; those of runs that are alike."""
        saved: dict[str, int] = {}
        seen: set[str] = set()
        for run in self.runs:
            for stage, key in zip(run.config.experiment.stages, run.stages):
                if key in seen:
                    saved[stage.name] = saved.get(stage.name, 0) + 1
                seen.add(key)
        return saved


def plan_of(grid: Grid, home: Path) -> Plan:
    """The plan of a grid. Nothing is written.

    A combination whose parts do not fit each other is a row that is refused, with the reason. Raises :class:`ConfigError`
    if that is the base, with which all others are to be compared.
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
    """A config under another seed, which fits or not whatever the seed is."""
    tree = Tree({**config.data, "seed": seed}, {**config.tree.origins, ("seed",): Origin("ablate.seeds")})
    return replace(config, experiment=replace(config.experiment, seed=seed), tree=tree)


def held_by(run: Run, under_way: Sequence[Run]) -> Run | None:
    """The run under way that is training a stage which ``run`` shares, and which is better waited for; None if none is."""
    for other in under_way:
        for number, key in enumerate(run.stages):
            if key in other.stages and not run.stage_done(number) and not other.stage_done(other.stages.index(key)):
                return other
    return None
