"""Write a plugin to begin with: a package with a loss, a config that trains by it, and tests of both.

What is yours to change is in capitals; docs/plugins.md says what each kind of component is given and returns.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import shlex
from pathlib import Path
from string import Template

from reidx.errors import ReidxError
from reidx.registry.discovery import CORE, NAMESPACE, plugins
from reidx.registry.hookspecs import API

TEMPLATE = Path(__file__).parents[1] / "template"
SUFFIX = ".in"  # of the template's files, which are no modules, tests or configs of reidx


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="what configs will call it: lower-case letters, digits, underscores")
    parser.add_argument("--into", type=Path, default=Path(), metavar="FOLDER", help="where its folder is made (here)")


def run(arguments: argparse.Namespace) -> int:
    name = arguments.name
    if not re.fullmatch(NAMESPACE, name):
        raise ReidxError(f"No plugin is called {name!r}: write lower-case letters, digits and underscores, a letter first.")
    distribution, package = f"reidx-{name.replace('_', '-')}", f"reidx_{name}"
    taken = [plugin.origin for plugin in plugins() if (plugin.namespace or CORE) == name]
    if importlib.util.find_spec(package) is not None:
        taken.append(f"a package {package}")
    if taken:
        raise ReidxError(f"The name {name} is taken by {taken[0]}, which is installed; choose another.")
    home = arguments.into / distribution
    if home.exists():
        raise ReidxError(f"{home} is there already; nothing was written.")
    _write(TEMPLATE, home, {"name": name, "distribution": distribution, "package": package, "api": str(API)})
    print(*sorted(path for path in home.rglob("*") if path.is_file()), "\nGo on with:", sep="\n")
    install, test = shlex.join(["pip", "install", "-e", f"{home}[test]"]), shlex.join(["pytest", str(home)])
    print(install, f"reidx show {name}.Focal", f"reidx train {name}::demo.yaml", test, sep="\n")
    return 0


def _write(source: Path, home: Path, names: dict[str, str]) -> None:
    """A folder of the template, with its names filled in."""
    home.mkdir(parents=True)
    for found in source.iterdir():
        if found.is_dir():
            _write(found, home / (names["package"] if found.name == "package" else found.name), names)
        elif found.suffix == SUFFIX:
            text = Template(found.read_text(encoding="utf-8")).substitute(names)
            (home / found.stem).write_text(text, encoding="utf-8")
