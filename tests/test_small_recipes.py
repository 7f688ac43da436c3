"""What a small recipe changes beside its network and its data stands in its plugin's README, key by key."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import reidx

ROOT = Path(__file__).parents[1]
ALONE = ("market1501_small", "market1501")
PAIR = ("market1501_c123_to_c456_small", "duke_to_market1501")
RECIPES = dict.fromkeys(("cluster_contrast", "spcl", "pplr", "lp", "global_patch"), ALONE)
RECIPES |= dict.fromkeys(("lf2", "mmt", "uda_baseline", "daam"), PAIR)
LEFT_OUT = ("name", "description", "data.domains", "model.backbone", "monitor", "precision", "interpolation")
"""Keys that are the network's and the data's, or change no number of the training."""


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Dotted keys with their values as text; a schedule is the names of its parts."""
    if path == "schedule":
        yield path, " + ".join(part["type"] for part in value) or "none"
    elif path == "optimizer.rates":
        yield path, ", ".join(f"{key}: {share}" for key, share in value.items()) or "none"
    elif isinstance(value, dict) and value:
        for key, child in value.items():
            yield from leaves(child, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and any(isinstance(child, dict) for child in value):
        for place, child in enumerate(value):
            yield from leaves(child, f"{path}.{place}")
    else:
        yield path, "null" if value is None else str(value)


def facts(address: str) -> dict[tuple[str, str], str]:
    """The value of each key of each stage, and of the keys that belong to none."""
    data = reidx.load_config(address).data
    found = {("", key): text for key, text in leaves({key: value for key, value in data.items() if key != "stages"})}
    for stage in data["stages"]:
        found |= {(stage["name"], key): text for key, text in leaves(stage)}
    return found


def table(plugin: str) -> str:
    """The rows that the README has: key, published, small."""
    small, published = RECIPES[plugin]
    own, other = facts(f"{plugin}::{small}.yaml"), facts(f"{plugin}::{published}.yaml")
    rows: dict[tuple[str, str, str], list[str]] = {}
    for stage, key in dict.fromkeys([*other, *own]):
        values = other.get((stage, key), "–"), own.get((stage, key), "–")
        if values[0] != values[1] and not any(left == key or f"{left}." in f"{key}." for left in LEFT_OUT):
            rows.setdefault((key, *values), []).append(stage)
    count = len({stage for stage, _ in own if stage})
    lines = [f"| `{small}.yaml` | `{published}.yaml` | small |", "|---|---|---|"]
    for (key, before, now), stages in rows.items():
        where = f" ({', '.join(stages)})" if count > 1 and 0 < len([s for s in stages if s]) < count else ""
        lines.append(f"| `{key}`{where} | {before} | {now} |")
    return "\n".join(lines)


@pytest.mark.parametrize("plugin", RECIPES)
def test_readme_lists_what_the_small_recipe_changes(plugin: str) -> None:
    readme = (ROOT / "plugins" / plugin / "README.md").read_text(encoding="utf-8")
    expected = table(plugin)
    assert f"\n{expected}\n\n" in readme, f"the table of plugins/{plugin}/README.md should be:\n{expected}"
