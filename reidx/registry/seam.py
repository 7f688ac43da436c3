"""Where reidx calls a component: whoever is at fault when that breaks is named, and what it promised is looked at.

:func:`call` is the one way in. What comes out of a component's code is one message: which component of which plugin, what
broke, in which line of its own, what it was given, and what a component of its kind has to return. A fault of the core's own
component stays the error that it is (the command line calls it a fault of the program), with a note that names the component.
What a plugin's component returns is looked at for its type and shape each time; under :func:`watching` all that a component
promised is checked (:mod:`reidx.registry.promises`).
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
from reidx.registry.describing import code_of, described, plain, raised_on_purpose
from reidx.registry.registry import KINDS, Entry

T = TypeVar("T")

_built: dict[tuple[str, type], Entry] = {}
"""The entries of the components that were built so far, by kind and class: an instance, or a copy, is found by its class."""

_watched: ContextVar[bool] = ContextVar("watched", default=False)


def built(entry: Entry, component: Any) -> Any:
    """``component``, from now on known as made by ``entry``."""
    _built[entry.kind, type(component)] = entry
    return component


def kind_of(component: Any) -> str:
    """The kind that an object was built as a component of; empty for one that no config made."""
    return next((kind for kind, made in _built if made is type(component)), "")


@contextlib.contextmanager
def watching(on: bool = True) -> Iterator[None]:
    """Context in which :func:`call` checks promises too; it costs a second look at all that is given and returned."""
    before = _watched.set(on)
    try:
        yield
    finally:
        _watched.reset(before)


def call(kind: str, component: Any, action: str, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    """What ``function``, code of ``component``, returns; raises as :func:`asked` does.

    ``action`` is the name of what is done, for messages and for :mod:`reidx.registry.promises`. Of a component that
    no config made nothing is known: it is called, and no more.
    """
    entry = _built.get((kind, type(component)))
    if entry is None:
        return function(*args, **kwargs)
    watched = _watched.get()
    if not watched and not entry.namespace:
        return asked(entry, action, function, *args, **kwargs)
    from reidx.registry.promises import kept, shaped  # takes torch

    look = kept if watched else shaped
    return asked(entry, action, functools.partial(look, entry, component, action, function), *args, **kwargs)


def calling(kind: str, component: Any, action: str) -> Callable[..., Any]:
    """The method ``action`` of a component, as a function that goes through :func:`call`."""
    return functools.partial(call, kind, component, action, getattr(component, action))


def asked(entry: Entry, action: str, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    """What ``function``, code of the component of ``entry``, returns.

    What it raises is a :class:`PluginError` with all that there is to say, if the component is a plugin's. An error of reidx
    stays what it is, with a note of the component, and so does any error of the core's own components. Memory that ran out, a
    full disk, processes that ended and signals from outside are nobody's fault here: they pass.
    """
    try:
        return function(*args, **kwargs)
    except BaseException as error:
        told = blamed(entry, action, function, args, kwargs, error)
        if told is error:
            raise
        raise told from error


def blamed(
    entry: Entry, action: str, function: Callable[..., Any], args: Any, kwargs: Mapping[str, Any], error: BaseException
) -> BaseException:
    """What shall be raised for an error on its way out of a component's code: see :func:`asked`."""
    if vars(error).get("blamed") or _outside(entry, error):
        return error
    vars(error)["blamed"] = True
    code = code_of(function)
    who = f"{entry.kind} {entry.name} (from {entry.distribution})"
    contract = contract_of_kind(entry.kind)
    if isinstance(error, ReidxError):
        if entry.namespace:
            line = own_line(entry, error, code)
            # what it raised itself is what it has to say; what came up deeper may be its own misuse of something
            _note(error, f"It came out of {who}, {action} ({line}).{f' {contract}.' if 'raised in' in line else ''}")
        return error
    given = f"{contract}; it was given {described(code, args, kwargs) or 'nothing'}."
    if not entry.namespace and isinstance(error, Exception) and not isinstance(error, StopIteration | Broken):
        _note(error, f"It was in {action} of {who}. {given}")
        return error
    how = "broke a promise in" if isinstance(error, Broken) else "failed in"
    at = _in_brackets(own_line(entry, error, code))
    said = f"{who} {how} {action}: {_said(error)}{at}. {given}"
    told: Exception = RuntimeError(said)
    if entry.namespace:
        told = PluginError(f"{said} This is a fault of the plugin, not of what was given: mend it there, or tell its authors.")
    vars(told)["blamed"] = True
    return told


def in_use(module: str) -> list[Entry]:
    """The entries of the components that were built of a module's classes."""
    return [entry for entry in _built.values() if entry.component.target.partition(":")[0] == module]


def own_line(entry: Entry, error: BaseException | None, code: Any = None) -> str:
    """The last line of a component's own package that an error came through, as ``file:line``, and the line where it was
    raised if that is another; where it came through none, the line where ``code`` begins, or the component's module."""
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
    """In one clause, what a component of a kind is called with and has to return."""
    kind = KINDS[name]
    return f"{'An' if name[0] in 'aeiou' else 'A'} {name} is given {kind.given} and returns {kind.returns}"


def _is_own(entry: Entry, frame: Any) -> bool:
    """Whether a frame runs code of a component's own package."""
    top = entry.component.target.partition(":")[0].partition(".")[0]
    if str(frame.f_globals.get("__name__", "")).partition(".")[0] == top:
        return True
    return frame.f_code.co_filename.startswith(_folder(entry))


def _folder(entry: Entry) -> str:
    """The folder of a component's own package; of a module that is in none, its file."""
    top = entry.component.target.partition(":")[0].partition(".")[0]
    home = str(getattr(sys.modules.get(top), "__file__", None) or "nowhere")
    return str(Path(home).parent) + os.sep if home.endswith("__init__.py") else home


def _outside(entry: Entry, error: BaseException) -> bool:
    """Whether an error is no doing of the component that it comes out of."""
    if isinstance(error, Terminated | BrokenExecutor) or out_of_memory(error):
        return True
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return True
    if isinstance(error, RuntimeError) and "DataLoader worker" in plain(error):
        return True
    processes = sys.modules.get("reidx.distributed")
    together = isinstance(error, RuntimeError) and processes is not None and processes.count() > 1
    if together and any(sign in plain(error) for sign in PEER_GONE):
        return True
    if type(error).__module__.startswith(("torch._dynamo", "torch.utils.checkpoint")):  # how torch leaves a forward pass
        return True
    handlers = {getattr(signal.getsignal(number), "__code__", None) for number in signal.valid_signals()}
    if any(frame.f_code in handlers for frame, _ in traceback.walk_tb(error.__traceback__)):
        return True
    return isinstance(error, KeyboardInterrupt) and not _raised_it(entry, error)


def _raised_it(entry: Entry, error: BaseException) -> bool:
    """Whether a plugin's own code raised an error itself."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(entry.namespace) and _is_own(entry, frames[-1]) and raised_on_purpose(error)


def _said(error: BaseException) -> str:
    if isinstance(error, Broken):
        return str(error)
    if isinstance(error, SystemExit):
        return f"it exits the program (SystemExit: {plain(error)})"
    return f"{type(error).__name__}: {plain(error)}".removesuffix(": ")


def _note(error: BaseException, note: str) -> None:
    vars(error).setdefault("__notes__", []).append(note)  # what add_note does, which Python 3.10 has not


def _in_brackets(text: str) -> str:
    return f" ({text})" if text else ""
