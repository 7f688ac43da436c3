"""Evaluate weights under an experiment's config, or finished runs on their own and on other data sets, in one table."""

from __future__ import annotations

import argparse
from pathlib import Path

from reidx.cli.console import print_lines, print_table
from reidx.cli.experiment import add_progress_argument, add_set_argument, add_threads_argument
from reidx.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = (
        "%(prog)s CONFIG [--weights FILE] [--set KEY=VALUE …] [options]\n"
        "       %(prog)s RUN … [--on NAME=PATH] [--out FILE] [options]"
    )
    parser.add_argument(
        "config",
        nargs="+",
        metavar="CONFIG|RUN",
        help="a config (a YAML file, or reidx::demo.yaml), or the folders of finished runs",
    )
    add_set_argument(parser, "change a value, e.g. evaluate.metric=cosine; of runs, in each test")
    parser.add_argument(
        "--weights", type=Path, metavar="PATH", help="a checkpoint (default: the initial weights of the last stage)"
    )
    parser.add_argument(
        "--on",
        metavar="NAME=PATH",
        action="append",
        default=[],
        help="test the runs on this data set, under its usual protocol: a base config reidx::data/NAME.yaml or a data-set "
        "component, and its folder; repeat it for several (default: each run's own test domain). A set with several random "
        "splits (VIPeR) is tested on each, and the table has the means",
    )
    parser.add_argument(
        "--share", type=Path, metavar="DIR", help="use the packed images of this folder (reidx data pack); same numbers"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the table of the runs: .md, .json or .csv")
    parser.add_argument(
        "--rerank",
        action="store_true",
        help="also report re-ranked metrics, with the config's evaluate.rerank or the paper's k1=20, k2=6, lambda=0.3 "
        "(to change them: --set evaluate.rerank.k1=30)",
    )
    add_threads_argument(parser)
    add_progress_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    if len(arguments.config) > 1 or Path(arguments.config[0]).is_dir():
        return _test_runs(arguments)
    if arguments.on or arguments.out:
        raise ConfigError(f"--on and --out test finished runs: give their folders instead of {arguments.config[0]}.")
    import reidx

    config = reidx.load_config(arguments.config[0], arguments.overrides)
    from reidx.engine import experiment  # imports torch, so after the config is checked

    result = experiment.test(
        config,
        weights=arguments.weights,
        progress=arguments.progress,
        threads=arguments.threads or "auto",
        rerank=arguments.rerank,
        share=arguments.share,
    )
    print(result.table())
    return 0


def _test_runs(arguments: argparse.Namespace) -> int:
    """Test each run on each set, print the table, and return 1 if some cell failed."""
    if arguments.weights is not None:
        raise ConfigError("--weights belongs to a config; a run is tested with its last checkpoint.")
    from reidx.engine.cross_test import sets_of, test_runs
    from reidx.runs.cross_table import check_suffix, conditions, failures, table, write_table

    out: Path | None = arguments.out
    if out is not None:
        check_suffix(out)
    cells = test_runs(
        arguments.config,
        sets_of(arguments.on),
        arguments.overrides,
        arguments.rerank,
        arguments.progress,
        arguments.threads or "auto",
        arguments.share,
        lambda so_far: None if out is None else write_table(out, so_far),
    )
    lines = conditions(cells)
    print("\n".join(lines), end="\n\n" if lines else "")
    print_table(*table(cells), repeated=2)
    failed = failures(cells)
    if failed:
        print()
        print_lines(failed)
    return 1 if failed else 0
