"""Argument parser that reports a mistake in the command line as one short line."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import NoReturn

from reidx.errors import excerpt, suggest
from reidx.registry.describing import LIMIT, one_line


class Parser(argparse.ArgumentParser):
    """argparse's parser, but an error is one line, without the usage of all options (exit code 2)."""

    def error(self, message: str) -> NoReturn:
        text = one_line(excerpt(message, LIMIT), 2 * LIMIT)
        self.exit(2, f"{self.prog}: error: {text}{self._hint(message)} (see `{self.prog} --help`)\n")

    def _hint(self, message: str) -> str:
        """Return a hint for an unknown option, or an empty string."""
        unknown = re.match(r"unrecognized arguments: (--[\w-]{1,40})", message)
        if unknown is None:
            return ""
        options = self._option_string_actions
        settable = ". Change a value of the config with --set KEY=VALUE" if "--set" in options else ""
        return f". {similar}" if (similar := suggest(unknown[1], options)) else settable


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """Return the type of an argument that is an integer from ``low`` to ``high``, in decimal digits."""

    def read(text: str) -> int:
        found = re.fullmatch(r"\s*([+-]?)0*([0-9]{1,20})\s*", text, re.ASCII)  # int() raises for thousands of digits
        if found and low <= (number := int(found[1] + found[2])) <= high:
            return number
        raise argparse.ArgumentTypeError(f"{excerpt(repr(text), 60)} is not an integer from {low} to {high}")

    return read
