"""The reason why a run's last session failed, in a file of its folder that the next session removes."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from reidx.errors import CheckpointError, ConfigError, ReidxError
from reidx.registry.describing import one_line
from reidx.runs.checkpoint import write_text

NAME = "failure.json"


@contextlib.contextmanager
def failure_noted(folder: Path, begun: Callable[[], bool]) -> Iterator[None]:
    """Context manager that writes the message of a failure into the run's ``folder``, once the session has ``begun``.

    An interruption (Ctrl-C, SIGTERM) is no failure, and neither is a refused config or file: the folder stays as it is. A
    note that cannot be written is left out: the failure itself is raised.
    """
    try:
        yield
    except (CheckpointError, ConfigError):
        raise
    except Exception as error:
        if begun():
            known = isinstance(error, ReidxError | OSError)
            reason = str(error) if known else f"{type(error).__name__}: {one_line(error)}"
            with contextlib.suppress(OSError, ReidxError):
                write_text(folder / NAME, json.dumps({"reason": reason}, indent=1, ensure_ascii=False))
        raise


def remove_note(folder: Path) -> None:
    """Remove the note of an earlier session, if there is one."""
    (folder / NAME).unlink(missing_ok=True)


def noted_failure(folder: Path) -> str | None:
    """Read the reason why the last session failed; None if there is none."""
    try:
        found = json.loads((folder / NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return str(found.get("reason", "")) if isinstance(found, dict) else None
