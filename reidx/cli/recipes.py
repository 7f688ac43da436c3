"""List the configs that are ready to train, with their data, the epochs of their stages, and the weights they need.

The first column is the argument of `reidx train`. Data sets and weight files must be on this machine; weights of timm's
models are downloaded from the Hugging Face hub unless its cache has them.
"""

from __future__ import annotations

import argparse
from itertools import groupby

from reidx.cli.console import print_entries, print_heading
from reidx.config.recipes import Recipe, recipes
from reidx.errors import ReidxError, suggest
from reidx.registry.discovery import CORE, plugins


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("method", nargs="?", metavar="METHOD", help="list only the plugin of this method: lp, spcl, …")


def run(arguments: argparse.Namespace) -> int:
    titles = {plugin.namespace or CORE: plugin.info.title if plugin.info else "" for plugin in plugins()}
    if arguments.method is not None and arguments.method not in titles:
        hint = suggest(arguments.method, titles) or f"The methods are: {', '.join(titles)}."
        raise ReidxError(f"There is no method {arguments.method!r}. {hint}")
    found = [recipe for recipe in recipes() if arguments.method in (None, recipe.namespace)]
    for namespace, group in groupby(found, lambda recipe: recipe.namespace):
        print_heading(titles[namespace])
        print_entries([(recipe.address, _facts(recipe)) for recipe in group])
    hint = "\n`reidx config RECIPE --changed` prints a recipe, `reidx train RECIPE` trains it."
    print(hint if found else "There is no recipe.")
    return 0


def _facts(recipe: Recipe) -> str:
    data = [recipe.data[name] for name in ("source", "target") if name in recipe.data]
    sets = " to ".join(data) if len(data) == len(recipe.data) else ", ".join(recipe.data.values())
    stages = ", ".join(f"{name} {epochs}" for name, epochs in recipe.epochs.items())
    return f"{sets}; epochs: {stages}; weights: {', '.join(recipe.weights) or 'none'}"
