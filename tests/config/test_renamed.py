"""Configs of version 0.1: the first renamed or moved key is refused with its present name or place."""

from __future__ import annotations

from pathlib import Path

import pytest

import reidx
from reidx.config.renamed import RENAMED
from reidx.errors import ConfigError

EXPERIMENT = """\
name: small
data: {domains: {target: {type: Market1501, root: images}}}
model: {backbone: {type: Timm, name: test_resnet}}
streams: {target: {domain: target, labels: main}}
labels:
  domain: target
memories:
  rows:
    memory: LinearClassifier
objective:
  - loss: CrossEntropy
    memory: rows
evaluate:
  domain: target
optimizer:
  type: Adam
stages:
  - name: only
"""

PLACES = {
    "Stage": ("  - name: only", "    {}: 1", "stages.0."),
    "Labelling": ("  domain: target", "  {}: 1", "stages.0.labels."),
    "MemorySlot": ("    memory: LinearClassifier", "    {}: 1", "stages.0.memories.rows."),
    "Term": ("    memory: rows", "    {}: 1", "stages.0.objective.0."),
    "Evaluate": ("evaluate:", "  {}: 1", "stages.0.evaluate."),
    "optimizer": ("  type: Adam", "  {}: 1", "stages.0.optimizer."),
}
"""For each section of the schema: one of its lines, the line added below, and the path of its keys."""


def refused(tmp_path: Path, line: str, *more: str, instead: bool = False) -> str:
    """Return the message for the experiment with lines below ``line``, or instead of it, without the file's name."""
    assert line in EXPERIMENT.splitlines()
    text = EXPERIMENT.replace(line + "\n", "\n".join([*([] if instead else [line]), *more, ""]), 1)
    path = tmp_path / "old.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        reidx.load_config(path)
    return str(error.value).removeprefix(f"{path}:")


def test_unchanged_experiment_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "new.yaml").write_text(EXPERIMENT, encoding="utf-8")
    assert reidx.load_config(tmp_path / "new.yaml").experiment.name == "small"


@pytest.mark.parametrize(("section", "key"), [(section, key) for section, keys in RENAMED.items() for key in keys])
def test_renamed_key_names_its_present_name(tmp_path: Path, section: str, key: str) -> None:
    line, below, path = PLACES[section]
    number = EXPERIMENT.splitlines().index(line) + 2
    new = RENAMED[section][key]
    present = f"stages.0.{new}" if section == "optimizer" else path + new
    assert refused(tmp_path, line, below.format(key)) == f"{number}: {path}{key} is now {present}."


def test_the_levels_of_labels_are_labellings(tmp_path: Path) -> None:
    message = refused(tmp_path, "  domain: target", "  levels: {main: {}, coarse: {feature: pooled}}")
    assert message == "7: stages.0.labels.levels is now stages.0.labels.labellings."
    message = refused(tmp_path, "  domain: target", "  labellings: {main: {on: pooled}}")
    assert message == "7: stages.0.labels.labellings.main.on is now stages.0.labels.labellings.main.feature."


@pytest.mark.parametrize(
    ("line", "old", "message"),
    [
        ("  - loss: CrossEntropy", "  - type: CrossEntropy",
         "11: unknown key 'stages.0.objective.0.type'. Name the loss by stages.0.objective.0.loss: CrossEntropy, or "
         "{type: CrossEntropy, …} with its arguments."),
        ("    memory: LinearClassifier", "    type: LinearClassifier",
         "9: unknown key 'stages.0.memories.rows.type'. Name the memory by stages.0.memories.rows.memory: LinearClassifier, or "
         "{type: LinearClassifier, …} with its arguments."),
        ("stages:", "alignment: [{type: MMD}]\nstages:",
         "17: unknown key 'stages.0.alignment.0.type'. Name the alignment by stages.0.alignment.0.alignment: MMD, or "
         "{type: MMD, …} with its arguments."),
    ],
    ids=["loss", "memory", "alignment"],
)  # fmt: skip
def test_component_type_directly_in_slot(tmp_path: Path, line: str, old: str, message: str) -> None:
    assert refused(tmp_path, line, old, instead=True) == message


@pytest.mark.parametrize(
    ("line", "old", "message"),
    [
        ("  - loss: CrossEntropy", "  - loss: CrossEntropy\n    smoothing: 0.1",
         "12: unknown key 'stages.0.objective.0.smoothing'. Write an argument of the loss as stages.0.objective.0.loss: "
         "{type: CrossEntropy, smoothing: …}."),
        ("  - loss: CrossEntropy", "  - loss: {type: CrossEntropy}\n    smoothing: 0.1",
         "12: unknown key 'stages.0.objective.0.smoothing'. Write an argument of the loss as stages.0.objective.0.loss: "
         "{type: CrossEntropy, smoothing: …}."),
        ("    memory: LinearClassifier", "    memory: LinearClassifier\n    scale: 10",
         "10: unknown key 'stages.0.memories.rows.scale'. Write an argument of the memory as stages.0.memories.rows.memory: "
         "{type: LinearClassifier, scale: …}."),
        ("stages:", "alignment: [{alignment: MMD, feature: embed}]\nstages:",
         "17: unknown key 'stages.0.alignment.0.feature'. Write an argument of the alignment as "
         "stages.0.alignment.0.alignment: {type: MMD, feature: …}."),
        ("    memory: rows", "    memory: rows\n    wieght: 2",
         "13: unknown key 'stages.0.objective.0.wieght'. Did you mean weight? Write an argument of the loss as "
         "stages.0.objective.0.loss: {type: CrossEntropy, wieght: …}."),
        ("    memory: rows", "    memory: rows\n    temperature: 2",
         "13: unknown key 'stages.0.objective.0.temperature'. Write an argument of the loss as "
         "stages.0.objective.0.loss: {type: CrossEntropy, temperature: …}."),
    ],
    ids=["loss", "loss with a type", "memory", "alignment", "misspelt key", "argument similar to a key"],
)  # fmt: skip
def test_component_argument_among_slot_keys(tmp_path: Path, line: str, old: str, message: str) -> None:
    assert refused(tmp_path, line, old, instead=True) == message
