"""Outlines of classes: signatures and declarations, built from the source without its imports.

The checks of an experiment need constructor signatures, class attributes and ``contract``; importing the classes needs
torch, which takes seconds. An outline has exactly these; its other methods are empty. If the source leaves anything open (a
base class of another package, a decorator, a value from torch), there is no outline, and the class itself must be imported.
"""

from __future__ import annotations
import __future__

import abc
import ast
import builtins
import copy
import functools
import importlib
import importlib.util
import sys
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from reidx.outline.hollow import Foreign, Network, OpenError, check_use, hollow
from reidx.outline.source import find_spec
from reidx.outline.syntax import (
    Function,
    bound_names,
    changed_names,
    free_names,
    last_name,
    mentioned_names,
    names_for_readers,
    stored_names,
)

SIGNED = ("__init__", "forward", "contract")
"""Methods whose signatures are kept, with defaults and annotations; ``contract`` also keeps its body."""

_MARKS = ("staticmethod", "classmethod", "property", "abstractmethod", "cached_property", "override", "setter")
_KEEP_SIGNATURE = ("no_grad", "enable_grad", "inference_mode", "span")  # decorators that an outline may omit
_CHANGE_CLASSES = ("__new__", "__init_subclass__", "__getattr__", "__getattribute__", "__set_name__")
_NETWORK = ("torch.nn.Module", "torch.nn.modules.Module", "torch.nn.modules.module.Module")
_LIBRARIES = ("torch", "mmengine", "timm")  # outlines of their classes have only the constructor's signature
_CLASS_MARKS = ("dataclass", "final", "total_ordering", "runtime_checkable")


def outline(target: str) -> type | None:
    """Return the outline of ``"module:Class"``, or None if the source leaves anything open."""
    module, _, name = target.partition(":")
    try:
        made = _source_of(module).value(name)
    except (OpenError, RecursionError):
        return None
    return made if isinstance(made, type) else None


@functools.cache
def _source_of(module: str) -> _Source:
    spec = find_spec(module)
    if spec is None or not (spec.origin or "").endswith(".py"):
        raise OpenError(module)
    try:
        tree = ast.parse(Path(str(spec.origin)).read_bytes())
    except (OSError, SyntaxError, ValueError) as error:
        raise OpenError(module) from error
    is_package = spec.submodule_search_locations is not None
    return _Source(module, str(spec.origin), module if is_package else module.rpartition(".")[0], tree)


class _Source:
    """Names of a module, evaluated on demand."""

    def __init__(self, name: str, file: str, package: str, tree: ast.Module) -> None:
        self.name, self.file, self.package, self.library = name, file, package, name.partition(".")[0] in _LIBRARIES
        self.module = types.ModuleType(name)
        self.names: dict[str, Any] = vars(self.module)
        self.defined: dict[str, ast.stmt] = {}
        self.open: set[str] = set()  # bound several times, changed later, or used by code that is not analysed
        self.foreign: set[str] = set()  # in `names` only for annotations
        self.for_readers: set[str] = set()
        for statement in tree.body:
            bound = bound_names(statement)
            self.for_readers.update(names_for_readers(statement))
            if bound is None:
                self.open.update(mentioned_names(statement))
            for one in bound or ():
                self.open.update({one} & self.defined.keys())
                self.defined[one] = statement
        self.open.update(one for one in changed_names(tree) if not isinstance(self.defined.get(one), ast.Import))

    def value(self, name: str) -> Any:
        """Return the value of a name of the module; raises :class:`OpenError`."""
        special = name.startswith("__") and name != "__name__"
        if name in self.open or name in self.foreign or special or ("*" in self.defined and name not in self.defined):
            raise OpenError(name)
        if name not in self.names and name in self.defined:
            self._make(name, self.defined[name])
        if name in self.names:
            return self.names[name]
        if hasattr(builtins, name):
            return getattr(builtins, name)
        raise OpenError(name)

    def _make(self, name: str, node: ast.stmt) -> None:
        if isinstance(node, ast.Import):
            alias = next(a for a in node.names if (a.asname or a.name.partition(".")[0]) == name)
            module = _imported(alias.name, self.name)
            self.names[name] = module if alias.asname else sys.modules[name]
        elif isinstance(node, ast.ImportFrom):
            original = next(a.name for a in node.names if (a.asname or a.name) == name)
            self.names[name] = _of_module(self._module_of(node), original, self.name)
        elif isinstance(node, ast.ClassDef):
            self.names[name] = self._class(node)
        elif isinstance(node, ast.FunctionDef):
            for part in (*node.decorator_list, *node.args.defaults, *node.args.kw_defaults):
                self._need(part)
            self._run([node], self.names)  # before the names that it calls: it may be recursive
            try:
                self._need(node)
            except OpenError:
                self.open.add(name)
                raise
        else:
            assert isinstance(node, ast.Assign | ast.AnnAssign)
            self._need(node.value)
            self._run([node], self.names)

    def _module_of(self, node: ast.ImportFrom) -> str:
        return importlib.util.resolve_name("." * node.level + (node.module or ""), self.package)

    def _need(self, node: ast.AST | None, besides: Iterable[str] = ()) -> None:
        """Evaluate the module's names in ``node``.

        Raises :class:`OpenError` if ``node`` may do more with an outlined class than an outline supports.
        """
        names = sorted(free_names(node) - set(besides))
        known = {name: self.value(name) for name in names}
        if node is not None and names:
            check_use(node, known, SIGNED)

    def _annotate(self, node: ast.AST | None) -> None:
        """Evaluate the names in an annotation, as :meth:`_need`, with placeholders for classes that are not imported."""
        for name in free_names(node):
            try:
                self.value(name)
            except OpenError:
                if isinstance(self.defined.get(name), ast.Import | ast.ImportFrom) and name not in self.open:
                    self.foreign.add(name)
                    self.names[name] = Foreign(name, (), {})
                elif name not in self.for_readers and not self.library:
                    raise

    def _annotation(self, node: ast.expr | None) -> ast.expr | None:
        """Return an annotation in the form of the class: without quotes, unless all annotations of the module are text."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "annotations" not in self.defined:
            text = node.value
            try:
                node = ast.parse(text, mode="eval").body
            except SyntaxError as error:
                raise OpenError(text) from error
        self._annotate(node)
        return node

    def _imports(self, decorator: ast.expr) -> bool:
        """Return True if a decorator is defined outside the module."""
        root = ast.unparse(decorator).partition("(")[0].partition(".")[0]
        return root not in self.open and isinstance(self.defined.get(root), ast.Import | ast.ImportFrom)

    def _class(self, node: ast.ClassDef) -> type:
        if self.library:
            return self._constructor(node)
        if getattr(node, "type_params", None):
            raise OpenError(node.name)
        if any(k.arg != "metaclass" or last_name(k.value) != "ABCMeta" for k in node.keywords):
            raise OpenError(node.name)
        if not all(last_name(mark) in _CLASS_MARKS and self._imports(mark) for mark in node.decorator_list):
            raise OpenError(node.name)
        bases = [self._base(base) for base in node.bases]
        for part in (*node.keywords, *node.decorator_list):
            self._need(part)
        attributes: set[str] = set()
        stubs: set[str] = set()
        body: list[ast.stmt] = [statement for s in node.body if (statement := self._member(s, attributes, stubs))]
        cls = self._built(node.name, bases, body, node.keywords, node.decorator_list)
        if (node.keywords and type(cls) is not abc.ABCMeta) or hasattr(cls, "_fields"):  # a named tuple keeps no text
            raise OpenError(node.name)
        hollow(cls, node, stubs)
        return cls

    def _constructor(self, node: ast.ClassDef) -> type:
        """Build the outline of a library's class: only its constructor."""
        init = [self._method(s, set()) for s in node.body if isinstance(s, ast.FunctionDef) and s.name == "__init__"]
        return self._built(node.name, [] if init else [self._base(base) for base in node.bases], init, [], [])

    def _built(
        self, name: str, bases: list[Any], body: list[ast.stmt], keywords: list[ast.keyword], decorators: list[ast.expr]
    ) -> type:
        known = {f"base{number}": base for number, base in enumerate(bases)}
        named: list[ast.expr] = [ast.Name(base, ast.Load()) for base in known]
        made = ast.ClassDef(name, named, keywords, body or [ast.Pass()], decorators)  # kept statements keep their line numbers
        if sys.version_info >= (3, 12):
            made.type_params = []
        return self._run([made], known)[name]

    def _base(self, node: ast.expr) -> Any:
        root, *rest = ast.unparse(node).split(".")
        imported = self.defined.get(root)
        if isinstance(imported, ast.ImportFrom) and root not in self.open:
            original = next(a.name for a in imported.names if (a.asname or a.name) == root)
            if ".".join([self._module_of(imported), original, *rest]) in _NETWORK:
                return Network
        if isinstance(imported, ast.Import) and ".".join([root, *rest]) in _NETWORK:
            return Network
        for name in free_names(node):
            self.value(name)
        return self._run([ast.Assign([ast.Name("base", ast.Store())], node)], {})["base"]

    def _member(self, node: ast.stmt, attributes: set[str], stubs: set[str]) -> ast.stmt | None:
        """Convert a statement of a class body for the outline."""
        if isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            return node
        if isinstance(node, Function) and node.name not in _CHANGE_CLASSES:
            if node.name != "contract":
                stubs.add(node.name)
            return self._method(node, {*attributes, *stubs})
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        if not targets or not all(isinstance(target, ast.Name) and target.id != "contract" for target in targets):
            raise OpenError(ast.unparse(node))
        assert isinstance(node, ast.Assign | ast.AnnAssign)
        if free_names(node.value) & stubs:
            raise OpenError(ast.unparse(node))
        self._need(node.value, attributes)
        if isinstance(node, ast.AnnAssign):
            node = copy.copy(node)
            node.annotation = self._annotation(node.annotation) or node.annotation
        attributes.update(target.id for target in targets if isinstance(target, ast.Name))
        return node

    def _method(self, node: Function, local: set[str]) -> ast.stmt:
        signed = node.name in SIGNED
        decorators = []
        for decorator in node.decorator_list:
            label = last_name(decorator)
            if label in _MARKS:
                self._need(decorator, local)
                decorators.append(decorator)
            elif signed and (label not in _KEEP_SIGNATURE or not self._imports(decorator)):
                raise OpenError(label)
        arguments = copy.deepcopy(node.args) if signed else copy.copy(node.args)
        if signed:
            for argument in (a for a in ast.walk(arguments) if isinstance(a, ast.arg)):
                argument.annotation = self._annotation(argument.annotation)
            for default in filter(None, (*arguments.defaults, *arguments.kw_defaults)):
                self._need(default, local)
        else:
            none: ast.expr = ast.Constant(None)
            arguments.defaults = [none] * len(arguments.defaults)
            arguments.kw_defaults = [none if default else None for default in arguments.kw_defaults]
        body: list[ast.stmt] = [ast.Pass()]
        if node.name == "contract":
            body = node.body
            for statement in body:
                self._need(statement, {*stored_names(node), *(a.arg for a in ast.walk(node) if isinstance(a, ast.arg))})
        made = ast.FunctionDef(node.name, arguments, body, decorators, node.returns if signed else None)
        ast.copy_location(made, node)
        if sys.version_info >= (3, 12):
            made.type_params = []
        return made

    def _run(self, statements: list[ast.stmt], into: dict[str, Any]) -> dict[str, Any]:
        """Execute statements into ``into``, after evaluating their names; annotations stay text."""
        tree = ast.fix_missing_locations(ast.Module(statements, []))
        code = compile(tree, self.file, "exec", __future__.annotations.compiler_flag, dont_inherit=True)
        present = self.name in sys.modules
        if not present:
            sys.modules[self.name] = self.module  # dataclasses resolve annotations through sys.modules
        try:
            exec(code, self.names, into)  # no new trust: the module would be imported otherwise
        except Exception as error:
            raise OpenError(str(error)) from error
        finally:
            if not present:
                del sys.modules[self.name]
        return into


def _of_module(module: str, name: str, asking: str) -> Any:
    """Return the value of ``name`` in another module; read from the source if the module must not be imported."""
    if _may_import(module):
        found = _imported(module, asking)
        if not hasattr(found, name):
            raise OpenError(f"{module}.{name}")
        return getattr(found, name)
    package = module.partition(".")[0]
    if module == "torch" or (package not in ("reidx", asking.partition(".")[0]) and not package.startswith("reidx_")):
        raise OpenError(module)
    return _source_of(module).value(name)


def _may_import(module: str) -> bool:
    return module in sys.modules or module.partition(".")[0] in {*sys.stdlib_module_names, "numpy"}


def _imported(module: str, asking: str) -> types.ModuleType:
    if not _may_import(module):
        raise OpenError(f"{asking} imports {module}")
    return importlib.import_module(module)
