"""Print a config as it would be run: bases merged, overrides applied, defaults filled in, everything checked."""

from __future__ import annotations

import argparse

from reidx.cli.experiment import add_config_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument("--no-origins", action="store_true", help="leave out where each value comes from")


def run(arguments: argparse.Namespace) -> int:
    import reidx

    config = reidx.load_config(arguments.config, arguments.overrides)
    print(f"# hash {config.hash}")
    print(config.render(origins=not arguments.no_origins), end="")
    return 0
