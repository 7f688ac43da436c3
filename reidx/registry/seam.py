"""Calls of components, which attribute errors to the component and check its results.

All calls go through :func:`call`. An error in a plugin's component becomes one message with the component, its plugin, the
fault, the line in the plugin, the inputs, and the required result of its kind. An error in a core component keeps its type
(the command line reports it as a bug of reidx), with a note that names the component. Type and shape of a plugin's results
are checked at each call; under :func:`full_checks` all checks of :mod:`reidx.registry.promises` run.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import BrokenExecutor
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

from reidx.errors import NO_ROOM, PEER_GONE, Broken, PluginError, ReidxError, Terminated, out_of_memory
from reidx.registry.constructor import place_of
from reidx.registry.describing import code_of, describe_arguments, one_line, raised_on_purpose
from reidx.registry.registry import KINDS, Entry

T = TypeVar("T")

_built: dict[tuple[str, type], Entry] = {}
"""Entries of the components built so far, by kind and class, so that copies of an instance are found too."""

_full_checks: ContextVar[bool] = ContextVar("full_checks", default=False)


def record_built(entry: Entry, component: Any) -> Any:
    """Record that ``entry`` built ``component``, and return it."""
    _built[entry.kind, type(component)] = entry
    return component


def kind_of(component: Any) -> str:
    """Return the kind of a component built from a config; empty for other objects."""
    return next((kind for kind, made in _built if made is type(component)), "")


@contextlib.contextmanager
def full_checks(on: bool = True) -> Iterator[None]:
    """Context in which :func:`call` runs all checks, at the cost of a second pass over inputs and results."""
    before = _full_checks.set(on)
    try:
        yield
    finally:
        _full_checks.reset(before)


def call(kind: str, component: Any, action: str, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    """Call ``function`` of ``component`` and return its result; raises as :func:`call_attributed` does.

    ``action`` names the call, for messages and for :mod:`reidx.registry.promises`. An object that was not built from a
    config is called without checks.
    """
    entry = _built.get((kind, type(component)))
    if entry is None:
        return function(*args, **kwargs)
    full = _full_checks.get()
    if not full and not entry.namespace:
        return call_attributed(entry, action, function, *args, **kwargs)
    from reidx.registry.promises import fully_checked_call, shape_checked_call  # imports torch

    checked_call = fully_checked_call if full else shape_checked_call
    return call_attributed(entry, action, functools.partial(checked_call, entry, component, action, function), *args, **kwargs)


def checked_method(kind: str, component: Any, action: str) -> Callable[..., Any]:
    """Return the method ``action`` of a component as a function that goes through :func:`call`."""
    return functools.partial(call, kind, component, action, getattr(component, action))


def call_attributed(entry: Entry, action: str, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    """Call ``function``, code of the component of ``entry``, and return its result.

    An error in a plugin's component is raised as a :class:`PluginError` with all details. Errors of reidx, and any error of
    a core component, keep their type and get a note that names the component. Out-of-memory errors, a full disk, dead
    processes and signals are not the component's fault and pass unchanged.
    """
    try:
        return function(*args, **kwargs)
    except BaseException as error:
        raised = attribute_error(entry, action, function, args, kwargs, error)
        if raised is error:
            raise
        raise raised from error


def attribute_error(
    entry: Entry, action: str, function: Callable[..., Any], args: Any, kwargs: Mapping[str, Any], error: BaseException
) -> BaseException:
    """Return the exception to raise for an error in a component's code (see :func:`call_attributed`)."""
    if vars(error).get("attributed") or _not_at_fault(entry, error):
        return error
    vars(error)["attributed"] = True
    code = code_of(function)
    who = f"{entry.kind} {entry.name} (from {entry.distribution})"
    contract = contract_of_kind(entry.kind)
    if isinstance(error, ReidxError):
        if entry.namespace:
            line = own_line(entry, error, code)
            # an error that it raised itself is deliberate; one from deeper code may be a misuse of that code
            _note(error, f"It was raised in {who}, {action} ({line}).{f' {contract}.' if 'raised in' in line else ''}")
        return error
    given = f"{contract}; it was given {describe_arguments(code, args, kwargs) or 'nothing'}."
    if not entry.namespace and isinstance(error, Exception) and not isinstance(error, StopIteration | Broken):
        _note(error, f"It was in {action} of {who}. {given}")
        return error
    how = "violated its contract in" if isinstance(error, Broken) else "failed in"
    at = _in_brackets(own_line(entry, error, code))
    message = f"{who} {how} {action}: {_error_text(error)}{at}. {given}"
    raised: Exception = RuntimeError(message)
    if entry.namespace:
        advice = "This is a bug in the plugin, not in its input: fix it there, or report it to its authors."
        raised = PluginError(f"{message} {advice}")
    vars(raised)["attributed"] = True
    return raised


def entries_built_from(module: str) -> list[Entry]:
    """Return the entries of the components built from a module's classes."""
    return [entry for entry in _built.values() if entry.component.target.partition(":")[0] == module]


def own_line(entry: Entry, error: BaseException | None, code: Any = None) -> str:
    """Return the last ``file:line`` of a component's own package in a traceback, and the line of the raise if different.

    If the traceback has no such line: the first line of ``code``, or the component's module.
    """
    home, _, name = entry.component.target.partition(":")
    found = deepest = ""
    link = error
    while link is not None:
        for frame, line in traceback.walk_tb(link.__traceback__):
            file = frame.f_code.co_filename
            deepest = f"{file}:{line}"
            if _is_own(entry, frame):
                found = deepest if not file.startswith("<") else f"{frame.f_globals.get('__file__', '')}, {deepest}"
        link = link.__cause__
    if found:
        return found if found.endswith(deepest) or isinstance(error, Broken) else f"{found}; raised in {deepest}"
    module = sys.modules.get(home)
    file = str(getattr(module, "__file__", None) or "")
    places = [place_of(code), place_of(getattr(module, name, None))]
    return next((place for place in places if file and place.startswith((file, _folder(entry)))), file or places[0])


def contract_of_kind(name: str) -> str:
    """Describe the inputs and the required result of a kind, in one clause."""
    kind = KINDS[name]
    return f"{'An' if name[0] in 'aeiou' else 'A'} {name} is given {kind.given} and returns {kind.returns}"


def _is_own(entry: Entry, frame: Any) -> bool:
    """Return True if a frame runs code of a component's own package."""
    top = entry.component.target.partition(":")[0].partition(".")[0]
    if str(frame.f_globals.get("__name__", "")).partition(".")[0] == top:
        return True
    return frame.f_code.co_filename.startswith(_folder(entry))


def _folder(entry: Entry) -> str:
    """Return the folder of a component's own package, or the file of a top-level module."""
    top = entry.component.target.partition(":")[0].partition(".")[0]
    home = str(getattr(sys.modules.get(top), "__file__", None) or "nowhere")
    return str(Path(home).parent) + os.sep if home.endswith("__init__.py") else home


def _not_at_fault(entry: Entry, error: BaseException) -> bool:
    """Return True if an error was not caused by the component that it passed through."""
    if isinstance(error, Terminated | BrokenExecutor) or out_of_memory(error):
        return True
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return True
    if isinstance(error, RuntimeError) and "DataLoader worker" in one_line(error):
        return True
    processes = sys.modules.get("reidx.distributed")
    together = isinstance(error, RuntimeError) and processes is not None and processes.count() > 1
    if together and any(sign in one_line(error) for sign in PEER_GONE):
        return True
    if type(error).__module__.startswith(("torch._dynamo", "torch.utils.checkpoint")):  # how torch leaves a forward pass
        return True
    handlers = {getattr(signal.getsignal(number), "__code__", None) for number in signal.valid_signals()}
    if any(frame.f_code in handlers for frame, _ in traceback.walk_tb(error.__traceback__)):
        return True
    return isinstance(error, KeyboardInterrupt) and not _raised_deliberately(entry, error)


def _raised_deliberately(entry: Entry, error: BaseException) -> bool:
    """Return True if a plugin's own code raised an error."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(entry.namespace) and _is_own(entry, frames[-1]) and raised_on_purpose(error)


def _error_text(error: BaseException) -> str:
    if isinstance(error, Broken):
        return str(error)
    if isinstance(error, SystemExit):
        return f"it exits the program (SystemExit: {one_line(error)})"
    return f"{type(error).__name__}: {one_line(error)}".removesuffix(": ")


def _note(error: BaseException, note: str) -> None:
    vars(error).setdefault("__notes__", []).append(note)  # same as add_note, which Python 3.10 lacks


def _in_brackets(text: str) -> str:
    return f" ({text})" if text else ""
