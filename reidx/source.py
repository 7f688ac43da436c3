"""Looking into installed packages without importing them: where a module lies, and what its classes say of
themselves.

``reidx list`` shows a line of every component's docstring; importing them all would import torch.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path


def find_spec(module: str) -> ModuleSpec | None:
    """The import spec of ``module``, or None; unlike importlib's it does not import the parent packages."""
    top, *parts = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):  # ValueError: a module that is running as a script has no spec
        return None
    for part in parts:
        if spec is None or spec.submodule_search_locations is None:
            return None
        spec = PathFinder.find_spec(f"{spec.name}.{part}", spec.submodule_search_locations)
    return spec


def package_folder(package: str) -> Path | None:
    """The folder of ``package``, or None when there is no such package."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def source_digest(module: str) -> str:
    """Twelve hex digits that stand for all Python source of a top-level package or module; empty where none is found."""
    folder, spec = package_folder(module), find_spec(module)
    if folder is not None:
        files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.py")}
    elif spec is not None and spec.origin and Path(spec.origin).is_file():
        files = {module: Path(spec.origin)}
    else:
        return ""
    sha = hashlib.sha256()
    for name in sorted(files):
        content = files[name].read_bytes()
        sha.update(f"{name}\0{len(content)}\0".encode() + content)
    return sha.hexdigest()[:12]


def summary(target: str) -> str:
    """The first line of the docstring of ``"module:Class"``; empty when there is no such class or
    docstring."""
    module, _, name = target.partition(":")
    return _summary(module, name, frozenset())


def _summary(module: str, name: str, seen: frozenset[str]) -> str:
    spec = find_spec(module)
    if spec is None or module in seen:
        return ""
    for node in _statements(spec.origin or ""):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return (ast.get_docstring(node) or "").partition("\n")[0]
        if isinstance(node, ast.ImportFrom) and any((a.asname or a.name) == name for a in node.names):
            original = next(a.name for a in node.names if (a.asname or a.name) == name)
            # a package is its own parent for relative imports, a plain module is not
            package = module if spec.submodule_search_locations is not None else module.rpartition(".")[0]
            source = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            return _summary(source, original, seen | {module})
    return ""


@functools.cache
def _statements(file: str) -> list[ast.stmt]:
    try:
        return ast.parse(Path(file).read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return []
