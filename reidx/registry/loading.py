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
    """Supervisor of the plugin imports of one start; ``namespaces`` are the names of all installed plugins."""

    def __init__(self, namespaces: Sequence[str]) -> None:
        self.namespaces = list(namespaces)
        self.note = NOTES / f"loading-{platform.node()}-{os.getpid()}.json"

    def exclusion_advice(self, namespace: str) -> str:
        """Return the advice for starting without a plugin."""
        return f"leave it out with REIDX_PLUGINS={','.join(name for name in self.namespaces if name != namespace)}"

    def load(self, namespace: str, origin: str, module: str, action: Callable[[], T]) -> T:
        """Run ``action``, the import of one plugin, and return its result.

        After :data:`PATIENCE` seconds a line on stderr reports the slow import; a crash of the interpreter shows its place.
        """
        self._write({"namespace": namespace, "module": module, "stamp": stamp(module, origin)})
        name = f"reidx: loading plugin {namespace} ({origin}, module {module})"
        return report_if_slow(name, self.exclusion_advice(namespace), action, PATIENCE)

    def remove_note(self) -> None:
        """Remove the note, after all plugins have been read."""
        with contextlib.suppress(OSError):
            self.note.unlink()

    def exclusion_reason(self, namespace: str, origin: str, module: str) -> str:
        """Return the reason if a plugin is excluded because an earlier import crashed or hung; else empty."""
        reason_file = NOTES / f"kept-out-{namespace}.json"
        mark = stamp(module, origin)
        if not (known := _read_json(reason_file)):
            notes = [path for path in _notes_of_dead_processes() if _read_json(path).get("namespace") == namespace]
            if not notes:
                return ""
            unchanged = [path for path in notes if _read_json(path).get("stamp") == mark]
            reason = _try_import(module) if unchanged else ""
            for path in notes:
                with contextlib.suppress(OSError):
                    path.unlink()
            if not reason:
                return ""
            known = {"reason": reason, "stamp": mark}
            _write_json(reason_file, known)
        if known.get("stamp") != mark:  # it was reinstalled or edited
            with contextlib.suppress(OSError):
                reason_file.unlink()
            return ""
        advice = self.exclusion_advice(namespace)
        return f"{known.get('reason')} (to try it again, delete {reason_file}; to silence this line, {advice})"

    def _write(self, content: dict[str, Any]) -> None:
        _write_json(self.note, content)


def report_if_slow(name: str, advice: str, action: Callable[[], T], patience: float) -> T:
    """Run ``action`` and return its result; after ``patience`` seconds a line on stderr names it.

    The name also appears as a frame in the traceback of an interpreter crash.
    """
    timer = threading.Timer(patience, _print_to_stderr, [f"{name} is taking long; {advice}"])
    timer.daemon = True
    timer.start()
    try:
        with _crash_traceback(), _unchanged_process_state():
            return eval(compile("action()", f"<{name}>", "eval"), {"action": action})
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


def _try_import(module: str) -> str:
    """Import ``module`` in a separate process and describe a crash or hang; empty if the import returned or raised."""
    code = (
        f"import importlib, sys\ntry: importlib.import_module({module!r})\nexcept BaseException: pass\n"
        "print('\\nit came back', flush=True)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        process = subprocess.run(
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
    if process.stdout.rstrip().endswith(b"it came back"):
        return ""
    if process.returncode < 0:
        with contextlib.suppress(ValueError):
            return f"importing {module} ended the process ({signal.Signals(-process.returncode).name})"
    return f"importing {module} ended the process (exit code {process.returncode})"


def _notes_of_dead_processes() -> list[Path]:
    """Return the notes of dead processes of this machine."""
    found = []
    for path in NOTES.glob(f"loading-{platform.node()}-*.json") if NOTES.is_dir() else ():
        number = path.stem.rpartition("-")[2]
        if number.isdigit() and int(number) != os.getpid() and not _is_running(int(number)):
            found.append(path)
    return found


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # without a folder for notes a plugin is tried each time
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content), encoding="utf-8")


def _print_to_stderr(line: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _unchanged_process_state() -> Iterator[None]:
    """Context of an import, with its output sent to stderr.

    Raises :class:`PluginError`, and restores the old state, if the import changes the working directory or the handlers of
    Ctrl-C and SIGTERM.
    """
    folder = os.path.realpath(os.curdir)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with contextlib.redirect_stdout(sys.stderr):
        yield
    changed = [number.name for number, handler in handlers.items() if signal.getsignal(number) is not handler]
    for number, handler in handlers.items():
        if number.name in changed and handler is not None:
            signal.signal(number, handler)
    if os.path.realpath(os.curdir) != folder:
        os.chdir(folder)
        changed.append("the working directory")
    if changed:
        raise PluginError(f"importing it changes {' and '.join(changed)} for the whole program")


@contextlib.contextmanager
def _crash_traceback() -> Iterator[None]:
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
