"""README and documentation: the site builds, Python runs, YAML loads and commands parse."""

from __future__ import annotations

import dataclasses
import importlib
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml

import reidx
from reidx.ablation.grid import read_grid
from reidx.checks.load import load_config
from reidx.cli.main import COMMANDS, parser_of
from reidx.config import schema
from reidx.config.config import resolve
from reidx.config.files import ConfigFile
from reidx.config.renamed import RENAMED
from reidx.config.yaml_tree import load_node
from reidx.data.published import published_sets
from reidx.doctor.sources import image_settings, is_config
from reidx.errors import ConfigError
from reidx.registry.discovery import registry
from reidx.registry.registry import KINDS
from reidx.testing.miniatures import MINIATURES

ROOT = Path(__file__).parents[1]
PLUGINS = sorted(path.parent for path in ROOT.glob("plugins/*/setup.cfg"))
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md")), *(plugin / "README.md" for plugin in PLUGINS)]
LANGUAGES = {"python", "yaml", "diff", "bash", "ini", "text"}
READERS_OWN = {"mine.yaml", "experiment.yaml"}
"""Files of the reader, which a page may name without their content."""


@pytest.fixture
def generate(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Module that makes the generated pages."""
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    return importlib.import_module("generate")


@dataclass(frozen=True)
class Block:
    """Fenced block of a page, with the line at which its text begins."""

    page: Path
    line: int
    language: str
    text: str
    fragment: bool

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(*languages: str) -> Iterator[Block]:
    """Yield the blocks of all pages in the given languages."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for found in re.finditer(r"(<!-- fragment -->\n+)?^```(.*?)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            if found[2] in languages or (not languages and not found[2].startswith("{")):
                yield Block(page, text[: found.start(3)].count("\n") + 1, found[2], found[3], found[1] is not None)


def test_every_block_names_its_language() -> None:
    assert {block.language for block in blocks()} == LANGUAGES


def test_site_builds_without_warnings(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q", str(ROOT / "docs"), str(tmp_path)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    names = ("config", "components", "cli", "results")
    shown = {name: (tmp_path / f"{name}.html").read_text(encoding="utf-8") for name in names}
    assert "generated:" not in "".join(shown.values())
    assert "grad_cache_chunks" in shown["config"] and "calibrate" in shown["config"]
    assert all(entry.name in shown["components"] for entry in registry().entries())
    assert all(f"reidx {command}" in shown["cli"] for command in COMMANDS)
    assert "69.28" in shown["results"]


@pytest.mark.parametrize("page", [page for page in PAGES if "```python" in page.read_text(encoding="utf-8")], ids=str)
def test_python_runs(
    page: Path, experiment: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The blocks of a page run in one namespace, next to a file ``experiment.yaml``; fragments are only compiled."""
    experiment()
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in blocks("python"):
        if block.page == page:
            code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
            if not block.fragment:
                exec(code, names)
    if "Focal" in names:
        scores, targets = torch.randn(8, 5), torch.arange(8) % 5
        assert names["Focal"](gamma=0)(scores, targets).item() == pytest.approx(F.cross_entropy(scores, targets).item())
        assert names["Focal"](gamma=2)(scores, targets) < F.cross_entropy(scores, targets)


@pytest.mark.parametrize("block", list(blocks("yaml", "diff")), ids=str)
def test_yaml_has_known_keys(block: Block, tmp_path: Path) -> None:
    """Experiments and grids load; parts of one resolve within the smallest experiment, so that each key is known."""
    lines = block.text.splitlines()
    sides = [[line[1:] for line in lines if not line.startswith(other)] for other in "-+"]
    for number, side in enumerate(sides if block.language == "diff" else [lines]):
        file = tmp_path / f"{number}.yaml"
        given = yaml.safe_load("\n".join(side))
        if "_base_" in given or "stages" in given:
            file.write_text("\n".join(side) + "\n", encoding="utf-8")
            if "ablate" in given:
                assert list(read_grid(file).combinations())
            else:
                load_config(file)
        else:
            model = {"backbone": {"type": "Timm", "name": "test_resnet"}}
            least: dict[str, Any] = {"name": "part", "stages": [{"name": "only"}], "model": model}
            file.write_text(yaml.safe_dump(merged(least, given)), encoding="utf-8")
            resolve(load_node(file), [], str(file))


def merged(one: Any, other: Any) -> Any:
    """Merge two nested mappings; the second wins where both have a value or where it names a component."""
    if isinstance(one, dict) and isinstance(other, dict) and "type" not in other:
        return one | {key: merged(one.get(key), value) for key, value in other.items()}
    return other


def commands(block: Block) -> Iterator[list[str]]:
    """Yield the words after ``reidx`` of each command in a block that calls it."""
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["reidx"]:
            yield words[1:]
        elif "reidx" in words and words[words.index("reidx") - 1] == "-m":
            yield words[words.index("reidx") + 1 :]


@pytest.mark.parametrize("block", list(blocks("bash")), ids=str)
def test_commands_parse_and_their_configs_exist(block: Block) -> None:
    for words in commands(block):
        if words[0].startswith("-"):
            continue
        given = parser_of(words[0]).parse_args(words[1:])
        overrides = getattr(given, "overrides", [])
        if words[0] == "show":
            assert given.name.startswith("mine.") or registry().with_name(given.name)
        config = getattr(given, "config", None) or getattr(given, "grid", None)
        if isinstance(config, list):  # a config, or folders of runs
            config = config[0] if len(config) == 1 and not getattr(given, "on", None) else None
        if config is None or config in READERS_OWN or config.startswith("mine::"):
            continue
        if words[0] == "ablate":
            assert list(read_grid(config, overrides).combinations())
        elif words[0] == "data":  # the folder of a data set, or a config that need not be a whole experiment
            assert not is_config(config) or image_settings(config, overrides)
        else:
            load_config(config, overrides)


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda path: path.name)
def test_readme_keys_are_in_the_recipes(plugin: Path) -> None:
    sections = {field.name for cls in (schema.Experiment, schema.Stage) for field in dataclasses.fields(cls)}
    readme = (plugin / "README.md").read_text(encoding="utf-8")
    named = {tuple(text.split(".")) for text in re.findall(r"([a-z_]+(?:\.[\w*]+)+)(?==|`)", readme)}
    wanted = {keys for keys in named if keys[0] in sections and keys[-1] != "yaml"}
    for config in sorted(plugin.rglob("configs/**/*.yaml")):
        try:
            data = load_config(config).data if wanted else {"stages": []}
        except ConfigError:  # a base of recipes, which is incomplete
            continue
        wanted = {keys for keys in wanted if not any(has(part, keys) for part in (data, *data["stages"]))}
    assert not wanted


def has(data: Any, keys: tuple[str, ...]) -> bool:
    """Return whether a resolved config has a value at a path; a list takes numbers or names, and ``*`` any item."""
    if not keys:
        return True
    if isinstance(data, list):
        items = {str(number): item for number, item in enumerate(data)}
        items |= {item["name"]: item for item in data if isinstance(item, dict) and "name" in item}
        data = items
    if not isinstance(data, dict):
        return False
    if keys[0] == "*":
        return any(has(item, keys[1:]) for item in data.values())
    if keys[0] not in data and "labellings" in data:
        return has(data["labellings"], ("*", *keys))
    return keys[0] in data and has(data[keys[0]], keys[1:])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    for link in re.findall(r"\]\(((?!http)[^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), link


def test_readme_is_short_and_names_every_plugin() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 120
    for plugin in PLUGINS:
        assert f"`reidx-{plugin.name.replace('_', '-')}`" in readme


def test_plugin_guide_names_every_kind() -> None:
    guide = (ROOT / "docs/plugins.md").read_text(encoding="utf-8")
    for kind in KINDS.values():
        row = re.search(rf"^\| `{kind.name}` \|.*$", guide, re.MULTILINE)
        assert row is not None, kind.name
        assert set(re.findall(r"`(\w+)`", row[0].split("|")[-2])) == set(kind.context)


def test_every_key_has_its_meaning(generate: ModuleType) -> None:
    rows = [line for line in generate.keys().splitlines() if line.startswith("| `")]
    assert len(rows) > 70 and not [row for row in rows if row.endswith("|  |")]


def test_results_match_recipes_and_readmes(generate: ModuleType) -> None:
    rows = generate.read("results.csv")
    known = {(row["mAP"], row["rank1"]) for row in rows} | {tuple(row["first_stage"].split(" / ")) for row in rows}
    for row in rows:
        assert ConfigFile.at(row["recipe"]).file.is_file(), row["recipe"]
    for plugin in PLUGINS:
        measured = (plugin / "README.md").read_text(encoding="utf-8").partition("Measured with this package")[2]
        for cells in re.findall(r"^\| .*?\| \**(\d+\.\d\d)\** \| \**(\d+\.\d\d)\** \| \d", measured, re.MULTILINE):
            assert cells in known, f"{plugin.name}: {cells} is not in docs/data/results.csv"


def test_table_of_data_sets_is_complete(generate: ModuleType) -> None:
    named = [name for names in generate.TESTS.values() for name in names]
    own = {entry.name for entry in registry().entries("dataset") if "." not in entry.name}
    assert len(named) == len(set(named)) and set(named) == own
    for file, names in generate.TESTS.items():
        text = (ROOT / "tests/data" / file).read_text(encoding="utf-8")
        assert [name for name in names if not re.search(rf"\b{name}\b", text)] == [], file
    drawn = {miniature.spec["type"] for miniature in MINIATURES}
    published = {known.component for known in published_sets() if known.component in own}
    assert published <= drawn, "a published data set without a miniature"
    rows = generate.data_sets().splitlines()[2:]
    assert len(rows) == len(MINIATURES) + len(own - drawn)
    protocols = {spec["type"] for miniature in MINIATURES for spec in miniature.protocols}
    assert all(any(f"`{name}`" in row for row in rows) for name in own | protocols)


def test_changelog_has_every_renamed_key() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    for section, names in RENAMED.items():
        for old, new in names.items():
            old_key = f"{section}.{old}" if section == "optimizer" else old
            row = rf"^\| `([\w.]+\.)?{old_key}`.* \| `([\w.]+\.)?{new}` \|$"
            assert re.search(row, changelog, re.MULTILINE), (section, old)


def test_ablations_page_names_every_grid() -> None:
    page = (ROOT / "docs/ablations.md").read_text(encoding="utf-8")
    for grid in ROOT.glob("configs/ablations/**/*.yaml"):
        name = grid.relative_to(ROOT / "configs/ablations").with_suffix("").as_posix().removesuffix("_synthetic")
        assert f"`{name}`" in page, name


def test_version_in_the_citation() -> None:
    assert f"version = {{{reidx.__version__}}}" in (ROOT / "README.md").read_text(encoding="utf-8")
