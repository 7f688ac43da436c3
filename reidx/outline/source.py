"""Inspection of installed packages without importing them: locations, docstrings, signatures and digests.

``reidx list`` shows the first docstring line of every component; importing all components would import torch.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path


def find_spec(module: str) -> ModuleSpec | None:
    """Return the import spec of ``module``, or None; unlike importlib, does not import the parent packages."""
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
    """Return the folder of ``package``, or None if there is no such package."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def source_digest(module: str) -> str:
    """Hash all Python source of a top-level package or module to twelve hex digits; empty if none is found."""
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


def file_digest(path: str | Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    sha = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(1 << 20):
            sha.update(block)
    return sha.hexdigest()


def summary(target: str) -> str:
    """Return the first line of the docstring of ``"module:Class"``; empty if there is no such class or docstring."""
    module, _, name = target.partition(":")
    return _summary(module, name, frozenset())


def arguments(target: str) -> tuple[list[str], bool, str]:
    """Return the argument names of a constructor, whether it takes ``**`` arguments, and its ``file:line``.

    Reads the source of ``"module:Class"`` without importing it, so generated constructors are not found.
    """
    module, _, name = target.partition(":")
    for _ in range(16):  # a class without a constructor: continue at its first base
        home, node = _definition(module, name, frozenset())
        if node is None:
            break
        own = next((n for n in getattr(node, "body", ()) if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
        if isinstance(node, ast.FunctionDef) or own is not None:
            names, line = (own or node).args, (own or node).lineno  # type: ignore[union-attr]
            found = [a.arg for a in (*names.posonlyargs, *names.args, *names.kwonlyargs)][own is not None :]
            return found, names.kwarg is not None, f"{home.origin}:{line}" if home else ""
        if any("dataclass" in ast.unparse(mark) for mark in node.decorator_list):
            assigned = [n.target for n in node.body if isinstance(n, ast.AnnAssign)]
            return [t.id for t in assigned if isinstance(t, ast.Name)], False, f"{home.origin}:{node.lineno}" if home else ""
        base = next((b.id for b in node.bases if isinstance(b, ast.Name)), "")
        module, name = home.name if home else "", base
    return [], False, ""


def classes_in(module: str) -> list[str]:
    """Return the names of the classes that a module defines, in order."""
    spec = find_spec(module)
    statements = _statements(spec.origin or "") if spec else []
    return [node.name for node in statements if isinstance(node, ast.ClassDef)]


def imported_in(package: str) -> dict[str, str]:
    """Return the names that a package's ``__init__`` imports from its modules, each as ``"module:name"``."""
    spec = find_spec(package)
    taken = [node for node in _statements(spec.origin or "") if isinstance(node, ast.ImportFrom)] if spec else []
    homes = {id(node): importlib.util.resolve_name("." * node.level + (node.module or ""), package) for node in taken}
    return {a.asname or a.name: f"{homes[id(node)]}:{a.name}" for node in taken for a in node.names}


def _summary(module: str, name: str, seen: frozenset[str]) -> str:
    _, node = _definition(module, name, seen)
    return "" if node is None else (ast.get_docstring(node) or "").partition("\n")[0]


def _definition(
    module: str, name: str, seen: frozenset[str]
) -> tuple[ModuleSpec | None, ast.ClassDef | ast.FunctionDef | None]:
    """Return the module and the definition of a class or function, following imports."""
    spec = find_spec(module) if module else None
    if spec is None or module in seen:
        return None, None
    for node in _statements(spec.origin or ""):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return spec, node
        if isinstance(node, ast.ImportFrom) and any((a.asname or a.name) == name for a in node.names):
            original = next(a.name for a in node.names if (a.asname or a.name) == name)
            # a package is its own parent for relative imports, a plain module is not
            package = module if spec.submodule_search_locations is not None else module.rpartition(".")[0]
            source = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            return _definition(source, original, seen | {module})
    return None, None


@functools.cache
def _statements(file: str) -> list[ast.stmt]:
    try:
        return ast.parse(Path(file).read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return []
