"""Digests of trainings: they cover every tensor of a checkpoint, and a comparison follows renamed keys."""

from __future__ import annotations

import pytest

from benchmarks.digests import compare, group_of, read_renames

TABLE = """
stages.*.objective.*.on -> stages.*.objective.*.feature
stages.*.objective.*.loss -> stages.*.objective.*.loss.type
stages.*.objective.*.weight -> stages.*.objective.*.weight
stages.*.objective.* -> stages.*.objective.*.loss
idle ->
-> stages.*.rerank
"""


def test_comparison_names_only_differences() -> None:
    def record(digest: str, **experiment: object) -> dict[str, object]:
        return {"experiment": experiment, "digests": {"adapt": {"labels": "0", "networks.student": digest}}}

    old = {"loss": "Triplet", "margin": 0.3, "on": "embed", "weight": 1.0}
    new = {"loss": {"type": "Triplet", "margin": 0.3}, "feature": "embed", "weight": 1.0}
    before = {"a": record("1", idle=3, stages=[{"objective": [old, old]}]), "gone": {"failed": "Error: why"}}
    after = {"a": record("1", stages=[{"objective": [new, new], "rerank": None}])}
    renames = read_renames(TABLE)
    assert compare(before, after, renames) == ["gone: only before"]
    new["weight"] = 2.0
    after = {"a": record("2", stages=[{"objective": [new]}]), "gone": before["gone"]}
    assert compare(before, after, renames) == [
        "a: stages.0.objective.0.weight is 2.0, was 1.0",
        *(f"a: stages.0.objective.1.{key} is not there, was {value}" for key, value in
          (("feature", "embed"), ("loss.margin", 0.3), ("loss.type", "Triplet"), ("weight", 1.0))),
        "a: other digests: adapt networks.student",
        *["gone: Error: why"] * 2,
    ]  # fmt: skip


def test_every_checkpoint_tensor_has_a_group() -> None:
    groups = {
        "networks.student": ("state_dict", "networks.student.backbone.conv1.weight"),
        "memories.rows": ("state_dict", "memories.rows.weight"),
        "optimizer": ("optimizer", "state", "0", "exp_avg"),
        "state of memories.rows": ("reidx", "memories", "rows", "weight"),
        "labels": ("reidx", "refiners", "main: PLI", "last"),
    }
    assert [group_of(path) for path in groups.values()] == list(groups)
    with pytest.raises(ValueError, match=r"reidx\.teachers\.mean"):
        group_of(("reidx", "teachers", "mean"))
