"""Packaging: the listed packages, configs, commands and Python versions match the repository."""

from __future__ import annotations

import configparser
import re
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
SETUPS = [ROOT / "setup.cfg", *sorted(ROOT.glob("plugins/*/setup.cfg"))]


def read(path: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(path, encoding="utf-8")
    return parser


def test_packages_are_the_folders_with_modules():
    """An unlisted folder would be missing from a wheel, though not from an editable install."""
    listed = set(read(ROOT / "setup.cfg")["options"]["packages"].split())
    folders = {".".join(file.parent.relative_to(ROOT).parts) for file in ROOT.glob("reidx/**/*.py")}
    assert listed == folders | {"reidx_configs"}


@pytest.mark.parametrize("setup", SETUPS, ids=lambda path: path.parent.name)
def test_distribution_has_its_build_file_and_pythons(setup):
    pyproject = (setup.parent / "pyproject.toml").read_text()
    assert pyproject == (ROOT / "pyproject.toml").read_text()
    assert len(pyproject.splitlines()) == 3
    assert read(setup)["options"]["python_requires"] == ">=3.10"


@pytest.mark.parametrize("setup", SETUPS[1:], ids=lambda path: path.parent.name)
def test_plugin_claims_the_namespace_of_its_folder(setup):
    point = read(setup)["options.entry_points"]["reidx.plugins"].split("=")
    assert point[0].strip() == setup.parent.name
    assert read(setup)["metadata"]["name"] == f"reidx-{setup.parent.name.replace('_', '-')}"


def test_makefile_and_setup_list_the_same_pythons():
    pythons = set(re.findall(r":: (3\.\d+)", (ROOT / "setup.cfg").read_text()))
    named = set(re.findall(r"python(3\.\d+)", (ROOT / "Makefile").read_text().partition("BIN")[0]))
    assert pythons == named == {"3.10", "3.11", "3.12", "3.13"}


def requirements(lines: str) -> list[Requirement]:
    texts = (line.partition(" #")[0].strip() for line in lines.splitlines())
    return [Requirement(text) for text in texts if text and not text.startswith(("#", "-", "%"))]


def test_cpu_requirements_match_the_setup() -> None:
    """The same packages and versions, but for faiss, and for OpenCV among the dependencies of mmengine."""
    listed = {str(part) for part in requirements((ROOT / "requirements/cpu.txt").read_text())}
    needed = requirements(read(ROOT / "setup.cfg")["options"]["install_requires"])
    mmengine = next(str(part) for part in needed if part.name == "mmengine")
    own = {str(part) for part in needed if not part.name.startswith(("faiss-", "mmengine"))} | {"faiss-cpu"}
    of_mmengine = {part.name for part in map(Requirement, metadata.requires("mmengine") or []) if part.marker is None}
    known = {part.name for part in needed}
    assert listed == own | {name.replace("opencv-python", "opencv-python-headless") for name in of_mmengine - known}
    for file in ("docs/install.md", "Dockerfile"):
        text = (ROOT / file).read_text().replace(" --no-cache-dir", "")
        assert "pip install -r requirements/cpu.txt\n" in text
        assert f"pip install --no-deps {mmengine} -e . $(printf -- '-e %s ' plugins/*/)\n" in text
    for setup in SETUPS[1:]:  # of the plugins
        assert all(part.name.startswith("reidx") for part in requirements(read(setup)["options"]["install_requires"]))


def test_lock_satisfies_the_setup() -> None:
    setup = read(ROOT / "setup.cfg")
    wanted = [setup["options"]["install_requires"], *setup["options.extras_require"].values()]
    locked = requirements((ROOT / "requirements/lock.txt").read_text())
    for part in (part for text in wanted for part in requirements(text)):
        pins = [pin for pin in locked if canonicalize_name(pin.name) == canonicalize_name(part.name)]
        assert pins, f"{part.name} is not in requirements/lock.txt: run make lock"
        for pin in pins:
            (version,) = (clause.version for clause in pin.specifier)
            assert part.specifier.contains(version), f"{pin} of requirements/lock.txt is not {part}: run make lock"


def test_install_page_names_every_extra() -> None:
    rows = re.findall(r"^\| (`.*?) \|", (ROOT / "docs/install.md").read_text().partition("| extra |")[2], re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert named == set(read(ROOT / "setup.cfg")["options.extras_require"])
