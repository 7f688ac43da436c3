"""One-line descriptions of values, calls and foreign errors for messages."""

from __future__ import annotations

import dis
import functools
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

LIMIT = 400
"""Maximum length of foreign text in a message, in characters."""


def one_line(thing: object, limit: int = LIMIT) -> str:
    """Return ``str(thing)`` as one printable line of at most ``limit`` characters, even if ``str`` fails."""
    try:
        text = str(thing)
    except BaseException as error:  # a foreign __str__ may do anything, even exit
        return f"(its message cannot be shown: str() raised {type(error).__name__})"
    text = re.sub(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[@-_]?", "", text[: 8 * limit])
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= limit else f"{text[:limit]} …"


def raised_on_purpose(error: BaseException) -> bool:
    """Return True if a ``raise`` statement raised an error; a Ctrl-C surfaces at other instructions."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None:
        return False
    code, at = last.tb_frame.f_code.co_code, last.tb_lasti
    return code[at] == dis.opmap["RAISE_VARARGS"] and code[at + 1] > 0  # 0: a re-raise


def describe_arguments(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """Describe the arguments of a call: name, kind, shape and type of each."""
    return ", ".join(f"{name} {describe_value(value)}" for name, value in arguments_by_name(function, args, kwargs).items())


def arguments_by_name(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call by name."""
    try:
        names = [p.name for p in inspect.signature(function).parameters.values() if p.kind <= p.POSITIONAL_OR_KEYWORD]
    except (TypeError, ValueError):
        names = []
    names += [f"argument {number + 1}" for number in range(len(names), len(args))]
    return {**dict(zip(names, args)), **kwargs}


def describe_value(value: Any, depth: int = 0) -> str:
    """Describe one value: type, shape and device of an array, the items of a mapping, else its type."""
    try:
        if hasattr(value, "shape") and hasattr(value, "dtype"):
            kind = str(value.dtype).removeprefix("torch.")
            shape = "x".join(map(str, value.shape)) or "scalar"
            sparse = f" sparse ({value.nnz} entries)" if hasattr(value, "nnz") and hasattr(value, "indptr") else ""
            device = getattr(value, "device", None)
            return f"{kind} {shape}{sparse}{f' on {device}' if device is not None and str(device) != 'cpu' else ''}"
        if isinstance(value, Mapping) and depth < 2:
            items = list(value.items())[:12]
            return "{" + ", ".join(f"{one_line(key, 40)}: {describe_value(part, depth + 1)}" for key, part in items) + "}"
        if value is None or isinstance(value, bool | int | float):
            return one_line(value, 40)
        if isinstance(value, str):
            return one_line(repr(value), 60)
        if isinstance(value, list | tuple):
            return f"{type(value).__name__} of {len(value)}"
        labels: Any = getattr(value, "labels", None)
        return f"{type(value).__name__}{f' of {len(labels)} labels' if hasattr(labels, '__len__') else ''}"
    except Exception:  # a foreign object must not prevent the message
        return type(value).__name__


def code_of(function: Any) -> Any:
    """Return the function whose arguments and lines a message describes: ``forward`` of a module."""
    while isinstance(function, functools.partial):
        function = function.args[-1]  # wrappers (:func:`call`, the promises) take the wrapped function last
    if inspect.isclass(function):
        return function
    function = getattr(function, "forward", function)
    return function if inspect.isroutine(function) else type(function).__call__.__get__(function)
