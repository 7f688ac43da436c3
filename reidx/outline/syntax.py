"""Syntactic analysis of source: names bound, used and changed."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator
from typing import TypeGuard

Function = ast.FunctionDef | ast.AsyncFunctionDef

_CHANGING = {name for kind in (list, set, dict) for name in vars(kind) if not name.startswith("__")}
_CHANGING -= {*vars(tuple), *vars(frozenset), "get", "items", "keys", "values", "fromkeys"}


def bound_names(node: ast.stmt) -> list[str] | None:
    """Return the names that a module-level statement binds if it does nothing else; None for other statements."""
    if isinstance(node, ast.Import):
        return [alias.asname or alias.name.partition(".")[0] for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [alias.asname or alias.name for alias in node.names]
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Assign) and all(isinstance(target, ast.Name) or _is_text(target) for target in node.targets):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return [node.target.id] if node.value else []
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return []
    return [] if _for_readers(node) else None


def names_for_readers(node: ast.stmt) -> list[str]:
    """Return the names bound only for annotations, under ``if TYPE_CHECKING``."""
    return [name for part in node.body for name in bound_names(part) or ()] if _for_readers(node) else []


def _for_readers(node: ast.stmt) -> TypeGuard[ast.If]:
    if not isinstance(node, ast.If) or node.orelse:
        return False
    return ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def changed_names(tree: ast.Module) -> Iterator[str]:
    """Yield the names whose values a module may change after binding them.

    A change is a statement in any function, an assignment within an expression, or a module-level call that receives the
    value itself.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Global):
            yield from node.names
        elif isinstance(node, ast.NamedExpr):
            yield node.target.id
        elif isinstance(node, ast.Attribute | ast.Subscript) and _changes(node):
            root = node.value
            while isinstance(root, ast.Attribute | ast.Subscript):
                root = root.value
            yield from [root.id] if isinstance(root, ast.Name) else ()
    for statement in tree.body:
        value = [statement.value] if isinstance(statement, ast.Assign | ast.AnnAssign) else []
        for run in filter(None, [*value, *getattr(statement, "decorator_list", ())]):
            for call in (part for part in ast.walk(run) if isinstance(part, ast.Call) and not _only_reads_arguments(part)):
                yield from (part.id for part in call.args if isinstance(part, ast.Name))


def _changes(node: ast.Attribute | ast.Subscript) -> bool:
    stored = not isinstance(node.ctx, ast.Load) and not _is_text(node)
    return stored or (isinstance(node, ast.Attribute) and node.attr in _CHANGING)


def _only_reads_arguments(call: ast.Call) -> bool:
    """Return True for a call of a built-in function that does not change its arguments."""
    name = call.func.id if isinstance(call.func, ast.Name) else ""
    return hasattr(builtins, name) and name not in ("setattr", "delattr", "exec", "eval")


def _is_text(node: ast.expr) -> bool:
    """Return True for the attributes ``__doc__`` and ``__module__``, which affect no behaviour."""
    return isinstance(node, ast.Attribute) and node.attr in ("__doc__", "__module__")


def mentioned_names(node: ast.AST) -> Iterator[str]:
    """Yield all names in a statement, bound or used."""
    for part in ast.walk(node):
        if isinstance(part, ast.Name):
            yield part.id
        elif isinstance(part, ast.alias):
            yield part.asname or part.name.partition(".")[0]
        elif isinstance(part, Function | ast.ClassDef):
            yield part.name


def free_names(node: ast.AST | None) -> set[str]:
    """Return the names that ``node`` uses but does not bind, without annotations of functions in it."""
    if node is None:
        return set()
    inner = {a.arg for a in ast.walk(node) if isinstance(a, ast.arg)} | stored_names(node)
    hints = [a.annotation for a in ast.walk(node) if isinstance(a, ast.arg | ast.AnnAssign) and a.annotation]
    hints += [f.returns for f in ast.walk(node) if isinstance(f, Function) and f.returns]
    skipped = {id(part) for hint in hints for part in ast.walk(hint)}
    names = (part for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load))
    return {part.id for part in names if id(part) not in skipped} - inner


def attribute_names(node: ast.AST) -> frozenset[str]:
    """Return the names of all attributes that ``node`` mentions."""
    return frozenset(part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute))


def stored_names(node: ast.AST) -> set[str]:
    """Return the names that ``node``, or a function in it, binds."""
    stored = {part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}
    stored |= {part.name for part in ast.walk(node) if part is not node and isinstance(part, Function | ast.ClassDef)}
    stored |= {part.name for part in ast.walk(node) if isinstance(part, ast.ExceptHandler) and part.name}
    return stored | {a.asname or a.name.partition(".")[0] for a in ast.walk(node) if isinstance(a, ast.alias)}


def last_name(node: ast.expr) -> str:
    """Return the last name of a decorator: ``no_grad`` for ``torch.no_grad()``."""
    node = node.func if isinstance(node, ast.Call) else node
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
