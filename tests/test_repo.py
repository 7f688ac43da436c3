"""Rules of the repository: layout, direction of imports, plugins as separate distributions, docstrings, docs."""

from __future__ import annotations

import ast
import configparser
import re
from pathlib import Path

import pytest

from reidx.outline.syntax import free_names

ROOT = Path(__file__).parents[1]
CORE = sorted((ROOT / "reidx").rglob("*.py"))
PLUGINS = sorted(path.parent for path in ROOT.glob("plugins/*/setup.cfg"))

# From top to bottom: a room may import the rooms below it, but none in its own layer or above.
LAYERS = (
    {"__main__"},
    {"testing", "cli"},
    {"html"},
    {"ablation"},
    {"serve"},
    {"index"},
    {"export"},
    {"__init__"},
    {"inference"},
    {"engine"},
    {"doctor"},
    {"reporting", "checks"},
    {"runs"},
    {"evaluation", "optim"},
    {"alignments", "fusions", "losses", "memories"},
    {"models", "labels"},
    {"data"},
    {"config"},
    {"registry"},
    {"outline", "contracts", "machine"},
    {"distributed", "profiling"},
    {"errors", "_version"},
)


def imports(path: Path) -> set[str]:
    """Return the modules that a file imports anywhere."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            whole = node.module == "reidx"  # `from reidx import …` takes a module or a public name
            found |= {f"reidx.{alias.name}" for alias in node.names} if whole else {node.module}
    return found


def room(module: str) -> str:
    """Return the room of a module of the core: a folder of ``reidx/`` or a module directly in ``reidx/``."""
    return module.split(".")[1] if "." in module else "__init__"


def test_no_room_imports_from_above() -> None:
    floor = {name: number for number, names in enumerate(LAYERS) for name in names}
    files = [path for path in CORE if "template" not in path.parts]
    own = {path: path.relative_to(ROOT / "reidx").with_suffix("").parts[0] for path in files}
    assert set(own.values()) == set(floor), "every room must be in exactly one layer"
    wrong = []
    for path in files:
        for name in imports(path):
            if name == "reidx" or name.startswith("reidx."):
                above = room(name) != own[path] and floor.get(room(name), 99) <= floor[own[path]]
                if above:
                    wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert wrong == []


def test_core_imports_no_plugin() -> None:
    packages = {p.name for plugin in PLUGINS for p in plugin.iterdir() if (p / "__init__.py").is_file()}
    for path in CORE:
        assert not {name.split(".")[0] for name in imports(path)} & packages, path
    for plugin in PLUGINS:
        for path in plugin.rglob("*.py"):
            assert not any(name.split(".")[0] == "mmengine" for name in imports(path)), path


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda path: path.name)
def test_each_plugin_is_a_separate_distribution(plugin: Path) -> None:
    config = configparser.ConfigParser()
    config.read(plugin / "setup.cfg")
    name = config["metadata"]["name"]
    assert name == f"reidx-{plugin.name.replace('_', '-')}"
    assert plugin.name in config["options.entry_points"]["reidx.plugins"]
    assert len((plugin / "pyproject.toml").read_text().strip().splitlines()) == 3
    readme = (plugin / "README.md").read_text(encoding="utf-8")
    assert name in readme
    assert "## Deviations" in readme
    assert "## Numbers" in readme
    assert list((plugin / "tests").glob("test_*.py"))


def test_modules_hold_one_concept() -> None:
    for path in [*CORE, *(p for plugin in PLUGINS for p in plugin.rglob("*.py"))]:
        assert path.stem not in ("utils", "util", "helpers", "misc"), path
        if path.name != "schema.py":  # a list of keys with their meanings, of any length
            assert len(path.read_text(encoding="utf-8").splitlines()) <= 350, path


def test_public_names_have_docstrings() -> None:
    bare = []
    for path in [*CORE, *(p for plugin in PLUGINS for p in plugin.glob("reidx_*/*.py"))]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if not ast.get_docstring(tree):
            bare.append(str(path.relative_to(ROOT)))
        for node in tree.body:
            public = isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not node.name.startswith("_")
            hook = public and any("hookimpl" in ast.unparse(d) for d in node.decorator_list)
            command = "cli" in path.relative_to(ROOT).parts and node.name in ("add_arguments", "run") if public else False
            if public and not hook and not command and not ast.get_docstring(node):
                bare.append(f"{path.relative_to(ROOT)}:{node.name}")
    assert not bare


def test_faults_page_names_existing_tests() -> None:
    page = (ROOT / "docs/faults.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:plugins/\w+/)?tests/[\w/]+\.py)::(test_\w+)`", page)
    assert len(set(named)) > 30 and page.count("::test_") == len(named)
    for path, test in set(named):
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{path}::{test}"
    for row in re.findall(r"^\| .*", page.partition("## The machine")[2], re.MULTILINE):
        assert "::test_" in row or row.endswith(" tests |"), f"no test: {row}"


def test_type_checking_imports_serve_only_annotations() -> None:
    """Names imported under ``if TYPE_CHECKING`` are missing at run time: a rare branch would fail."""
    for file in [*CORE, *ROOT.glob("plugins/*/reidx_*/**/*.py"), *ROOT.glob("benchmarks/*.py")]:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        asides = [s for s in tree.body if isinstance(s, ast.If) and ast.unparse(s.test) == "TYPE_CHECKING"]
        only = {a.asname or a.name for aside in asides for a in ast.walk(aside) if isinstance(a, ast.alias)}
        for part in (part for statement in tree.body if only and statement not in asides for part in ast.walk(statement)):
            if isinstance(part, ast.FunctionDef):  # a function may import the names itself
                again = {a.asname or a.name for a in ast.walk(part) if isinstance(a, ast.alias)}
                assert not free_names(part) & only - again, f"{file}: {part.name}"
