"""Entry point of the command line: run a command, and report an error as one message and an exit code.

Exit codes: 0 success; 1 an error, reported in one message (every :class:`~reidx.errors.ReidxError`: config, data, files, a
failed run), or a bug in the program, reported with its traceback; 2 a mistake in the command line itself; 130 interrupted
(SIGINT); 143 terminated (SIGTERM). If several processes of a job have the same error, only the first reports it.
"""

from __future__ import annotations

import argparse
import importlib
import io
import itertools
import os
import re
import shlex
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import reidx
from reidx.cli.parser import Parser
from reidx.errors import Exits, ReidxError, Terminated, reported_elsewhere, suggest
from reidx.machine.lifetimes import PARENT, end_with
from reidx.machine.threads import wait_briefly
from reidx.registry.describing import one_line

COMMANDS = {
    "train": "run an experiment, or resume it",
    "demo": "train on one synthetic domain, adapt to another, evaluate",
    "test": "evaluate weights, or finished runs on several data sets",
    "extract": "write the embeddings of images to a file",
    "cluster": "group your own images by person, without identities",
    "ablate": "run a grid of experiments that differ in some parts; compare them",
    "runs": "list the runs of a folder: state, epochs, metrics, time",
    "report": "write a page about runs: curves, labels, rankings, embeddings",
    "compare": "compare runs: config, code, data, metrics",
    "export": "write a network for ONNX, torch or other projects",
    "config": "print a config, merged and checked, with the origin of every value",
    "data": "request, check, show or pack a data set",
    "index": "make images searchable: build, add, remove, describe an index",
    "search": "find the images of an index that are most similar to others",
    "serve": "show a page on an index: pick or upload a query, see ranked images",
    "convert": "convert a weight file to safetensors, and show its layout",
    "recipes": "list the configs that are ready to train: data, stages, weights",
    "list": "list the components",
    "show": "show a component: keys, contract, source, example",
    "plugins": "list the installed plugins, and why one is not in use",
    "new-plugin": "write a new plugin from a template: a component, a config, tests",
    "completion": "print the script that completes commands in a shell",
}
"""The commands. Each is a module of this package (``_`` for ``-``), or a package if it has further commands below it, with
``add_arguments(parser)`` and ``run(arguments) -> exit code``."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``reidx`` with the given arguments (default: those of the process) and return the exit code."""
    _print_anything()
    wait_briefly()
    if parent := os.environ.pop(PARENT, ""):
        end_with(int(parent), signal.SIGTERM)
    words = list(sys.argv[1:] if argv is None else argv)
    before = list(itertools.takewhile(lambda word: word.startswith("-"), words))
    own = own_parser()
    flags = own.parse_args(before)
    debug = flags.debug or "--debug" in words
    try:
        if len(before) == len(words):  # no command, or --help
            print(own.format_help() + _command_table())
            return 0 if flags.help else 2
        code = _dispatch(words[len(before)], words[len(before) + 1 :])
        sys.stdout.flush()  # raises here, not at exit, if the reader is gone
        return code
    except KeyboardInterrupt as interrupt:
        if not reported_elsewhere(interrupt):
            print(f"\ninterrupted{_way_to_resume(words)}", file=sys.stderr)
        return 130
    except Terminated as end:  # already reported
        return int(str(end.code))
    except BrokenPipeError:  # `reidx list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        code = 2 if isinstance(error, _NoCommand) else 1
        if reported_elsewhere(error):
            return code
        expected = str(error) if isinstance(error, ReidxError | OSError) else _without_library(error)
        if debug or not expected:
            traceback.print_exc()
        said = expected or _unexpected(error)
        print("error:", said, *getattr(error, "__notes__", ()), file=sys.stderr)
        return code


def _print_anything() -> None:
    """Escape characters that stdout cannot encode (``\\u2013``), as stderr does; ignore output to a closed stdout."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


class _NoCommand(ReidxError):
    """The command line names an unknown command."""


def own_parser() -> Parser:
    """Return the parser of the options before a command."""
    parser = Parser(
        prog="reidx",
        usage="reidx [--help] [--version] [--debug] COMMAND …",
        description="Person re-identification experiments from interchangeable parts.",
        add_help=False,
    )
    parser.add_argument(
        "-h", "--help", action="store_true", help="show this message; after a command, the help of the command"
    )
    parser.add_argument("--version", action="version", version=f"reidx {reidx.__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _command_table() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
    return "\n".join(["", "commands:", *lines, "", "`reidx COMMAND --help` describes a command."])


def parser_of(name: str) -> Parser:
    """Return the parser of a command, by its name in :data:`COMMANDS`."""
    parser = Parser(prog=f"reidx {name}", description=_module_of(name).__doc__, allow_abbrev=False)
    add_command_arguments(parser, name)
    return parser


def add_command_arguments(parser: argparse.ArgumentParser, name: str) -> None:
    """Add the arguments of a command to its parser."""
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    _module_of(name).add_arguments(parser)


def _module_of(name: str) -> ModuleType:
    return importlib.import_module(f"reidx.cli.{name.replace('-', '_')}")


def _dispatch(name: str, words: list[str]) -> int:
    if name in COMMANDS:
        arguments = parser_of(name).parse_args(words)
        try:
            return int(_module_of(name).run(arguments))
        except (Exception, KeyboardInterrupt, Terminated):
            raise
        except BaseException as end:  # SystemExit(0) would look like success
            raise Exits(f"{type(end).__name__}({one_line(end)}) ended the program before it was done") from end
    hint = suggest(name, COMMANDS) or "`reidx --help` lists the commands."
    raise _NoCommand(f"There is no command {name!r}. {hint}")


def _way_to_resume(words: Sequence[str]) -> str:
    command = next((word for word in words if not word.startswith("-")), "")
    if command not in ("train", "demo", "ablate"):
        return ""
    given = any(word.startswith("--resume") for word in words)
    resume = ["--resume"] if command == "train" and not given else []  # the others always resume
    return f"; resume from the last checkpoint with: reidx {shlex.join([*words, *resume])}"


def _without_library(error: Exception) -> str:
    """Return the message for OpenCV without a library of the system, which mmengine imports; empty for another error."""
    library = re.match(r"(lib\S+): cannot open shared object file", str(error)) if isinstance(error, ImportError) else None
    if library is None or not any("cv2" in Path(frame.filename).parts for frame in traceback.extract_tb(error.__traceback__)):
        return ""
    return (
        f"OpenCV needs {library[1]}, which this machine lacks. Replace it by the variant without a display: "
        "pip uninstall -y opencv-python; pip install --force-reinstall --no-deps opencv-python-headless"
    )


def _unexpected(error: Exception) -> str:
    """Return the message for an unexpected error, which blames a plugin if the traceback passes through its code."""
    from reidx.registry.discovery import owner_of

    frame = traceback.extract_tb(error.__traceback__)[-1]
    said = f"unexpected {type(error).__name__}: {one_line(error)} ({frame.filename}:{frame.lineno})."
    if (owner := owner_of(error)) is not None:
        return f"{said} It came from {owner} This is a bug in the plugin, not in its input: fix it there."
    return f"{said} This is a bug in reidx, not in its input."
