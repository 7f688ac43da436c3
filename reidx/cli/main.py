"""The frame of the command line: finds the command, runs it, and turns errors into one message and an exit code.

Exit codes: 0 done; 1 an error, told in one message (every :class:`~reidx.errors.ReidxError`: config, data, files, a run
that broke), or a fault of the program, with its traceback; 2 a mistake in the command line itself; 130 interrupted
(SIGINT); 143 terminated (SIGTERM). Of the processes of one job, the first to have an error tells it for all that have it.
"""

from __future__ import annotations

import argparse
import importlib
import io
import itertools
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Sequence
from types import ModuleType

import reidx
from reidx.cli.parser import Parser
from reidx.errors import Exits, ReidxError, Terminated, suggest, told_elsewhere
from reidx.machine.lifetimes import PARENT, end_with
from reidx.machine.threads import wait_briefly
from reidx.registry.describing import plain

COMMANDS = {
    "train": "run an experiment, or resume it",
    "demo": "two synthetic domains: train on one, adapt to the other, evaluate",
    "test": "evaluate weights under an experiment's config",
    "ablate": "run a grid of experiments that differ in some parts; compare them",
    "compare": "what differs between runs: config, code, data, metrics",
    "config": "print a config merged and checked, with the origin of every value",
    "recipes": "the configs that can be trained as they are: data, stages, weights",
    "list": "the components that experiments are made of",
    "show": "one component: keys, contract, source, an example",
    "plugins": "the installed plugins, and why one is not in use",
    "new-plugin": "write a plugin to begin with: a component, a config, tests",
    "completion": "print the script that completes commands in a shell",
}
"""The commands; each is a module here, ``_`` for ``-``, with ``add_arguments(parser)`` and
``run(arguments) -> exit code``."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``reidx`` with the given arguments (of the process by default) and return the exit code."""
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
        sys.stdout.flush()  # a reader that has gone away is noticed here, not at exit
        return code
    except KeyboardInterrupt as interrupt:
        if not told_elsewhere(interrupt):
            print(f"\ninterrupted{_way_to_resume(words)}", file=sys.stderr)
        return 130
    except Terminated as end:  # its line is out
        return int(str(end.code))
    except BrokenPipeError:  # `reidx list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        code = 2 if isinstance(error, _NoCommand) else 1
        if told_elsewhere(error):
            return code
        expected = isinstance(error, ReidxError | OSError)
        if debug or not expected:
            traceback.print_exc()
        said = str(error) if expected else _unexpected(error)
        print("error:", said, *getattr(error, "__notes__", ()), file=sys.stderr)
        return code


def _print_anything() -> None:
    """Make stdout write what its encoding does not have as ``\\u2013``, as stderr does; a stdout that is closed takes all."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


class _NoCommand(ReidxError):
    """The command line names no command that there is."""


def own_parser() -> Parser:
    """The parser of the options before a command."""
    parser = Parser(
        prog="reidx",
        usage="reidx [--help] [--version] [--debug] COMMAND …",
        description="Person re-identification experiments from interchangeable parts.",
        add_help=False,
    )
    parser.add_argument(
        "-h", "--help", action="store_true", help="show this message (after a command: its own)"
    )
    parser.add_argument("--version", action="version", version=f"reidx {reidx.__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _command_table() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
    return "\n".join(["", "commands:", *lines, "", "`reidx COMMAND --help` tells more about one."])


def parser_of(name: str) -> Parser:
    """The parser of a command of the core, by its name in :data:`COMMANDS`."""
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
        except BaseException as end:  # a SystemExit(0) would pass for success, and nothing has come of it
            raise Exits(f"the program was ended by {type(end).__name__}({plain(end)}) before it was done") from end
    hint = suggest(name, COMMANDS) or "`reidx --help` lists the commands."
    raise _NoCommand(f"There is no command {name!r}. {hint}")


def _way_to_resume(words: Sequence[str]) -> str:
    command = next((word for word in words if not word.startswith("-")), "")
    if command not in ("train", "demo", "ablate"):
        return ""
    given = any(word.startswith("--resume") for word in words)
    resume = ["--resume"] if command == "train" and not given else []  # the others always go on
    return f"; go on from the last checkpoint with: reidx {shlex.join([*words, *resume])}"


def _unexpected(error: Exception) -> str:
    """One message of an error that nobody foresaw: a plugin's fault where its code was on the way, else the program's."""
    from reidx.registry.discovery import owner_of

    frame = traceback.extract_tb(error.__traceback__)[-1]
    said = f"unexpected {type(error).__name__}: {plain(error)} ({frame.filename}:{frame.lineno})."
    if (owner := owner_of(error)) is not None:
        return f"{said} It came through {owner} This is a bug in the plugin, not in its input: fix it there."
    return f"{said} This is a fault of the program, not of what was given."
