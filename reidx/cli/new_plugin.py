"""Write a new plugin from a template: a package with a loss, a config that trains with it, and tests of both.

Replace the words in capitals. docs/plugins.md lists the inputs and outputs of each kind of component.
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
SUFFIX = ".in"  # keeps the template's files from being taken for modules, tests or configs of reidx


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name", metavar="NAME", help="name of the plugin in configs: lower-case letters, digits, underscores"
    )
    parser.add_argument(
        "--into",
        type=Path,
        default=Path(),
        metavar="FOLDER",
        help="parent of the new folder (default: the current folder)",
    )


def run(arguments: argparse.Namespace) -> int:
    name = arguments.name
    if not re.fullmatch(NAMESPACE, name):
        raise ReidxError(f"{name!r} is not a valid plugin name: use a-z, 0-9 and _, starting with a letter.")
    distribution, package = f"reidx-{name.replace('_', '-')}", f"reidx_{name}"
    taken = [plugin.origin for plugin in plugins() if (plugin.namespace or CORE) == name]
    if importlib.util.find_spec(package) is not None:
        taken.append(f"a package {package}")
    if taken:
        raise ReidxError(f"The name {name} is taken by {taken[0]}, which is installed; choose another.")
    home = arguments.into / distribution
    if home.exists():
        raise ReidxError(f"{home} already exists; nothing was written.")
    _write(TEMPLATE, home, {"name": name, "distribution": distribution, "package": package, "api": str(API)})
    print(*sorted(path for path in home.rglob("*") if path.is_file()), "\nNext steps:", sep="\n")
    install, test = shlex.join(["pip", "install", "-e", f"{home}[test]"]), shlex.join(["pytest", str(home)])
    print(install, f"reidx show {name}.Focal", f"reidx train {name}::demo.yaml", test, sep="\n")
    return 0


def _write(source: Path, home: Path, names: dict[str, str]) -> None:
    """Write a folder of the template, with the names filled in."""
    home.mkdir(parents=True)
    for found in source.iterdir():
        if found.is_dir():
            _write(found, home / (names["package"] if found.name == "package" else found.name), names)
        elif found.suffix == SUFFIX:
            text = Template(found.read_text(encoding="utf-8")).substitute(names)
            (home / found.stem).write_text(text, encoding="utf-8")
