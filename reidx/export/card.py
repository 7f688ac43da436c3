"""The card of an exported network: how to use it, where it comes from, and under which licence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import timm
import yaml

from reidx.export.layouts import Layout
from reidx.export.parity import Parity
from reidx.inference import ReID
from reidx.runs.conditions import condition_lines, conditions_of

USES = {
    "reidx": 'from reidx import ReID\n\nmodel = ReID.load("{folder}")\nrows = model.embed("images/")    # (N, {dim}), length 1',
    "roboflow": 'from reid import ReIDModel\n\nmodel = ReIDModel.from_pretrained("{folder}")',
}


def card_of(model: ReID, layout: Layout, folder: str, source: Path, parity: Parity, licence: str) -> str:
    """The card as Markdown; ``source`` is the run or the file of weights, ``licence`` the name of the text's file or empty."""
    size = "x".join(map(str, model.image_size))
    trained = model.trained.model
    lines = [
        f"# {model.name}",
        "",
        f"A network for person re-identification: it turns an image of a person into {model.dim} numbers, and two images of "
        "a person have a large cosine.",
        "",
        "```python",
        USES[layout.name].format(folder=folder, dim=model.dim),
        "```",
        "",
        "| | |",
        "|---|---|",
        f"| network | {trained['backbone']['type']} with {trained['fusion']['type']}, feature `{model.trained.feature}` |",
        f"| images | {size}, RGB, resized with the filter {model.interpolation} |",
        f"| mean, std | {_row(model.mean)}, {_row(model.std)} |",
        f"| digest | {model.digest[:16]} |",
        f"| checked | {parity} |",
        "",
        *_training(source),
        "## Licence",
        "",
        *_licence(source, licence),
    ]
    return "\n".join(lines) + "\n"


def _row(values: tuple[float, ...]) -> str:
    return "[" + ", ".join(f"{value:g}" for value in values) + "]"


def _training(run: Path) -> list[str]:
    """The results of a run with their conditions; empty for a file."""
    try:
        result = json.loads((run / "result.json").read_text(encoding="utf-8"))
        card, metrics = result["card"], result["metrics"]
        name, stage = list(card["stages"].items())[-1]
    except (OSError, ValueError, LookupError, TypeError):
        return []
    measured = ", ".join(f"{key} {100 * value:.2f}" for key, value in metrics.items() if isinstance(value, float))
    conditions = condition_lines({name: conditions_of(card, stage)}, "by stage")
    return ["## Results", "", f"{measured} (percent).", "", *(f"    {line}" for line in conditions), ""] if measured else []


def _licence(source: Path, file: str) -> list[str]:
    """The licences that are known: a text given with the export, and those of timm's initial weights."""
    found = [f"The text is in `{file}`."] if file else []
    found += [f"Initial weights `{name}` of timm: {licence or 'timm names no licence'}." for name, licence in _initial(source)]
    return found or ["Not known. The licences of the data set and of the initial weights apply."]


def _initial(run: Path) -> list[tuple[str, str]]:
    """timm's pretrained models in a run's config, with the licences that timm records."""
    try:
        config: Any = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
        backbones = [stage["model"]["backbone"] for stage in config["stages"]]
    except (OSError, yaml.YAMLError, LookupError, TypeError):
        return []
    names = dict.fromkeys(b["name"] for b in backbones if b.get("type") == "Timm" and b.get("pretrained") is True)
    return [(name, str(getattr(timm.get_pretrained_cfg(name), "license", None) or "")) for name in names]
