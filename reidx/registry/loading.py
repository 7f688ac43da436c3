"""Protection against plugins whose import crashes or hangs: report, remember and exclude them.

Before it imports a plugin, the process writes a note to a small file (:data:`NOTES`). A process that dies during the import
leaves its note behind; the next start then tries the import in a separate process. If that crashes or hangs too, the plugin
is excluded until it changes. If the first process was merely killed at that moment, the next start costs one trial import.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import platform
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from reidx.errors import PluginError
from reidx.outline.source import find_spec

T = TypeVar("T")

PATIENCE = 2.0
"""Seconds after which a slow import of a plugin is reported."""

TRIAL = 20.0
"""Time limit of a trial import, in seconds."""

NOTES = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "reidx" / "plugins"


class Loading:
    """Supervisor of the plugin imports of one start; ``everyone`` are the names of all installed plugins."""

    def __init__(self, everyone: Sequence[str]) -> None:
        self.everyone = list(everyone)
        self.note = NOTES / f"loading-{platform.node()}-{os.getpid()}.json"

    def way_out(self, namespace: str) -> str:
        """Return the advice for starting without a plugin."""
        return f"leave it out with REIDX_PLUGINS={','.join(name for name in self.everyone if name != namespace)}"

    def load(self, namespace: str, origin: str, module: str, action: Callable[[], T]) -> T:
        """Run ``action``, the import of one plugin, and return its result.

        After :data:`PATIENCE` seconds a line on stderr reports the slow import; a crash of the interpreter shows its place.
        """
        self._write({"namespace": namespace, "module": module, "stamp": stamp(module, origin)})
        said = f"reidx: loading plugin {namespace} ({origin}, module {module})"
        return named(said, self.way_out(namespace), action, PATIENCE)

    def done(self) -> None:
        """Remove the note, after all plugins have been read."""
        with contextlib.suppress(OSError):
            self.note.unlink()

    def kept_out(self, namespace: str, origin: str, module: str) -> str:
        """Return the reason if a plugin is excluded because an earlier import crashed or hung; else empty."""
        verdict = NOTES / f"kept-out-{namespace}.json"
        mark = stamp(module, origin)
        if not (known := _read(verdict)):
            left = [path for path in _left_behind() if _read(path).get("namespace") == namespace]
            if not left:
                return ""
            alike = [path for path in left if _read(path).get("stamp") == mark]
            reason = _trial(module) if alike else ""
            for path in left:
                with contextlib.suppress(OSError):
                    path.unlink()
            if not reason:
                return ""
            known = {"reason": reason, "stamp": mark}
            _put(verdict, known)
        if known.get("stamp") != mark:  # it was reinstalled or edited
            with contextlib.suppress(OSError):
                verdict.unlink()
            return ""
        return f"{known.get('reason')} (to try it again, delete {verdict}; to silence this line, {self.way_out(namespace)})"

    def _write(self, content: dict[str, Any]) -> None:
        _put(self.note, content)


def named(said: str, advice: str, action: Callable[[], T], patience: float) -> T:
    """Run ``action`` and return its result; after ``patience`` seconds a line on stderr names it.

    The name also appears as a frame in the traceback of an interpreter crash.
    """
    timer = threading.Timer(patience, _say, [f"{said} is taking long; {advice}"])
    timer.daemon = True
    timer.start()
    try:
        with _faults_shown(), _as_it_was():
            return eval(compile("action()", f"<{said}>", "eval"), {"action": action})
    finally:
        timer.cancel()


def stamp(module: str, origin: str) -> str:
    """Return a stamp of a plugin that changes when it is reinstalled or its module is edited."""
    spec = find_spec(module)
    try:
        state = os.stat(spec.origin or "") if spec is not None else None
    except OSError:
        state = None
    return f"{origin} {state.st_mtime_ns if state else 0} {state.st_size if state else 0}"


def _trial(module: str) -> str:
    """Import ``module`` in a separate process and describe a crash or hang; empty if the import returned or raised."""
    code = (
        f"import importlib, sys\ntry: importlib.import_module({module!r})\nexcept BaseException: pass\n"
        "print('\\nit came back', flush=True)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        ended = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TRIAL,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"importing {module} did not end within {TRIAL:.0f} s"
    except OSError:
        return ""
    if ended.stdout.rstrip().endswith(b"it came back"):
        return ""
    if ended.returncode < 0:
        with contextlib.suppress(ValueError):
            return f"importing {module} ended the process ({signal.Signals(-ended.returncode).name})"
    return f"importing {module} ended the process (exit code {ended.returncode})"


def _left_behind() -> list[Path]:
    """Return the notes of dead processes of this machine."""
    found = []
    for path in NOTES.glob(f"loading-{platform.node()}-*.json") if NOTES.is_dir() else ():
        number = path.stem.rpartition("-")[2]
        if number.isdigit() and int(number) != os.getpid() and not _lives(int(number)):
            found.append(path)
    return found


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _put(path: Path, content: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # without a folder for notes a plugin is tried each time
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content), encoding="utf-8")


def _say(line: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _as_it_was() -> Iterator[None]:
    """Context of an import, with its output sent to stderr.

    Raises :class:`PluginError`, and restores the old state, if the import changes the working directory or the handlers of
    Ctrl-C and SIGTERM.
    """
    folder = os.path.realpath(os.curdir)
    heard = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with contextlib.redirect_stdout(sys.stderr):
        yield
    changed = [number.name for number, handler in heard.items() if signal.getsignal(number) is not handler]
    for number, handler in heard.items():
        if number.name in changed and handler is not None:
            signal.signal(number, handler)
    if os.path.realpath(os.curdir) != folder:
        os.chdir(folder)
        changed.append("the working directory")
    if changed:
        raise PluginError(f"importing it changes {' and '.join(changed)} for the whole program")


@contextlib.contextmanager
def _faults_shown() -> Iterator[None]:
    """Context in which an interpreter crash prints the Python traceback."""
    mine = not faulthandler.is_enabled()
    if mine:
        try:
            faulthandler.enable()
        except (OSError, ValueError, RuntimeError, AttributeError):  # stderr is no file
            mine = False
    try:
        yield
    finally:
        if mine:
            faulthandler.disable()
