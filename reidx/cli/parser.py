"""The parser of a command: a mistake in the command line is one line of reasonable length, whatever was typed."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import NoReturn

from reidx.errors import excerpt
from reidx.registry.describing import LIMIT, plain


class Parser(argparse.ArgumentParser):
    """argparse's, that ends the program with one line instead of all options before it (exit code 2)."""

    def error(self, message: str) -> NoReturn:
        said = plain(excerpt(message, LIMIT), 2 * LIMIT)
        self.exit(2, f"{self.prog}: error: {said} (`{self.prog} --help` shows what there is)\n")


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """The type of an argument that is a whole number from ``low`` to ``high``, in decimal digits."""

    def read(text: str) -> int:
        found = re.fullmatch(r"\s*([+-]?)0*([0-9]{1,20})\s*", text, re.ASCII)  # int() raises for thousands of digits
        if found and low <= (number := int(found[1] + found[2])) <= high:
            return number
        raise argparse.ArgumentTypeError(f"{excerpt(repr(text), 60)} is no whole number from {low} to {high}")

    return read
