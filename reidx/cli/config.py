"""Print a config in full: bases merged, overrides applied, defaults filled in, everything checked."""

from __future__ import annotations

import argparse

from reidx.cli.experiment import add_config_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument("--changed", action="store_true", help="omit defaults: print only the keys from files and --set")
    parser.add_argument("--no-origins", action="store_true", help="omit the file and line of each value")


def run(arguments: argparse.Namespace) -> int:
    import reidx

    config = reidx.load_config(arguments.config, arguments.overrides)
    print(f"# hash {config.hash}")
    print(config.render(origins=not arguments.no_origins, changed=arguments.changed), end="")
    return 0
