"""Packaging: the listed packages, configs, commands and Python versions match the repository."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest

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
    assert pythons == named == {"3.10", "3.11", "3.12"}
