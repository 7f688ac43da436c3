"""Shipped grids: their combinations, equal numbers of image passes, and short trainings of the mixes."""

from __future__ import annotations

import functools
import math
from pathlib import Path

import pytest

import reidx
from reidx.ablation.grid import read_grid
from reidx.ablation.plan import Plan, Row, plan_of
from reidx.config.schema import Stage
from reidx.testing.matrix.pairs import Combination, cover
from reidx.testing.tiny import shrunk, write_experiment

HOME = Path(__file__).parents[2] / "configs" / "ablations"
GRIDS = [path.relative_to(HOME).with_suffix("").as_posix() for path in sorted(HOME.rglob("*.yaml"))]
MIXES = [name for name in GRIDS if name.startswith(("mixes/", "heads_")) and not name.endswith("_synthetic")]

WITHOUT_PARTS = r"CrossAgreement needs 'parts', which fusion GlobalPool does not provide"
AGREEMENT = "refiner=cross agreement (PPLR)"
OF_WHOLES = {
    f"{memory}{AGREEMENT}": WITHOUT_PARTS for memory in ("", "memory=a row per image (SpCL), ", "memory=trained rows, ")
}
REFUSED = {
    "parts": {AGREEMENT: WITHOUT_PARTS},
    "heads_refiners_memories": OF_WHOLES,
    "heads_refiners_memories_synthetic": OF_WHOLES,
}
"""Combinations that are refused on purpose, with the reason."""

UNEQUAL = {"lf2_c123_to_c456": {"baseline of as many steps": 8704, "direct transfer": 0}}
"""Rows whose last stage has another number of image passes than the base's, as their names state."""


@functools.cache
def planned(name: str) -> Plan:
    return plan_of(read_grid(HOME / f"{name}.yaml"), Path("nowhere"))


def stages_of(row: Row) -> list[Stage]:
    return next(iter(row.runs.values())).config.experiment.stages


def passes(stage: Stage) -> int:
    """Count the images that pass through the trained networks in the whole stage."""
    sizes = {}
    for name, stream in stage.streams.items():
        sampler = stream.sampler
        size = sampler["batch"] if sampler["type"] == "Shuffle" else sampler["identities"] * sampler["instances"]
        sizes.update(dict.fromkeys((name, *stream.views), size))
    trained = ["student", *(name for name, teacher in stage.teachers.items() if teacher.type == "Peer")]
    seen = [stream for network in trained for stream in stage.network_streams.get(network, list(sizes))]
    return stage.epochs * stage.iters * sum(sizes[stream] for stream in seen)


@pytest.mark.parametrize("name", GRIDS)
def test_grid_refuses_only_expected_combinations(name: str) -> None:
    plan, expected = planned(name), REFUSED.get(name, {})
    assert {row.name for row in plan.refused} == set(expected)
    for row in plan.refused:
        assert expected[row.name] in (row.refused or "")
    allowed = [row for row in plan.rows if row.runs]
    assert len(allowed) > 1
    assert len(plan.runs) == sum(len(row.runs) for row in allowed), "two combinations are the same run"


@pytest.mark.parametrize("name", GRIDS)
def test_all_rows_have_equal_image_passes(name: str) -> None:
    allowed = [row for row in planned(name).rows if row.runs]
    base = passes(stages_of(allowed[0])[-1])
    others = {row.name: passes(stages_of(row)[-1]) for row in allowed if passes(stages_of(row)[-1]) != base}
    assert others == UNEQUAL.get(name, {})
    earlier: dict[str, set[int]] = {}
    for row in allowed:
        for stage in stages_of(row)[:-1]:
            earlier.setdefault(stage.name, set()).add(passes(stage))
    assert all(len(counts) == 1 for counts in earlier.values()), earlier
    if name != "parts":  # this grid is an example, not a comparison
        head = (HOME / f"{name}.yaml").read_text(encoding="utf-8").partition("_base_")[0]
        assert f"{base:,} image passes" in " ".join(head.replace("#", " ").split())


@pytest.mark.parametrize("twin", [name for name in GRIDS if name.endswith("_synthetic")])
def test_synthetic_grid_equals_the_real_grid(twin: str) -> None:
    real = planned(twin.removesuffix("_synthetic"))
    assert [row.name for row in planned(twin).rows] == [row.name for row in real.rows]
    for row in planned(twin).rows:
        for run in row.runs.values():
            domains = run.config.data["data"]["domains"]
            assert {spec["type"] for spec in domains.values()} == {"synthetic.People"}
            assert all(stage.model.backbone.get("weights") is None for stage in run.config.experiment.stages)
            levels = run.config.experiment.stages[-1].labels.values()
            sizes = {(level.distance["k1"], level.distance["k2"]) for level in levels if level.distance}
            assert sizes <= {(15, 4)}, f"{row.name}: k1 and k2 are those of real images"


def rows(name: str) -> list[str]:
    """Return names of allowed combinations: all of a list, and of a full design a few that hold each allowed pair of values."""
    grid, refused = read_grid(HOME / f"{name}.yaml"), REFUSED.get(name, {})
    if grid.design != "full":
        return [row for row in map(grid.called, grid.combinations()) if row not in refused]
    axes = [axis.values for axis in grid.axes]

    def row_of(chosen: Combination) -> str:
        return grid.called(tuple(values[position] for values, position in zip(axes, chosen)))

    found = cover([len(values) for values in axes], lambda chosen: refused.get(row_of(chosen)))
    return [row_of(chosen) for chosen in found.combinations]


ROWS = [(name, row) for name in MIXES for row in rows(name)]


@pytest.mark.parametrize(("name", "row"), ROWS, ids=[f"{name}: {row}" for name, row in ROWS])
def test_a_mix_trains(name: str, row: str, domains_root: Path, tmp_path: Path) -> None:
    planned_row = next(each for each in planned(name).rows if each.name == row)
    real = next(iter(planned_row.runs.values())).config
    path = write_experiment(tmp_path / "experiment.yaml", shrunk(real.data, domains_root))
    result = reidx.run(reidx.load_config(path), tmp_path / "run", progress="quiet")
    for stage in result.stages:
        assert len(stage.history) == 1
        assert math.isfinite(stage.last["loss"])
        assert stage.last["loss"] > 0
    # each term was computed
    assert {term.loss["type"] for term in real.experiment.stages[-1].objective} <= set(result.stages[-1].last)
    assert 0 < result.metrics["mAP"] <= 1
