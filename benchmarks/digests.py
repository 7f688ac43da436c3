"""Digests of tiny trainings of all shipped recipes, to show that a refactoring changes no result.

Record them before and after the change, on the same machine with the same library versions, and compare the files.
A recording takes about ten minutes on one core.

python -m benchmarks.digests before.json
python -m benchmarks.digests after.json
python -m benchmarks.digests --compare before.json after.json --renames renames.txt

Recipes are the configs of the core and of all plugins, and each row of their grids. A config that is only part of a recipe is
completed with tiny domains, a backbone and, if it has no stages, a method. Each line of the table of renamed keys is
``old -> new``: the start of a dotted key, in which ``*`` stands for any one key, and its replacement. The first line that
matches a key applies. ``old ->`` is a removed key, ``-> new`` an added one.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import reidx
from reidx.ablation.grid import read_grid
from reidx.ablation.plan import plan_of
from reidx.runs import training_state
from reidx.testing.colours import draw_domains
from reidx.testing.tiny import tiny_domain, write_experiment

HOME = Path(__file__).parents[1]
GRIDS = "reidx::ablations/"

# ---- names of the package: keys of configs, of checkpoints and of reports

AT_MOST = {"epochs": 2, "iters": 2, "calibrate": 2, "from_epoch": 1, "until_epoch": 1, "identities": 4, "instances": 2}
AT_MOST |= {"batch": 8, "bn_group": 8, "k1": 8, "k2": 2, "min_samples": 2, "n_clusters": 10}
"""Upper limits, for every key of that name."""
INSTEAD = {"image_size": [96, 48], "precision": "fp32", "pretrained": False, "share": 0.03, "log": []}
BRIEFLY = AT_MOST | {"epochs": 1, "from_epoch": 0}
"""Lower limits for the rows of grids, because there are many."""
WEIGHTS = (".pth", ".safetensors")
"""Suffixes of weight files; a key that names one becomes null."""
TINY_BACKBONE = {"type": "Timm", "name": "test_resnet"}
COMPLETION: dict[str, Any] = {
    "name": "completed",
    "data": {"domains": {name: tiny_domain("tiny", name) for name in ("source", "target")}},
    "model": {"backbone": TINY_BACKBONE},
    "stages": [{"name": "adapt"}],
}
METHOD_UNDER = defaultdict(lambda: "cluster_contrast::usl.yaml", lf2="lf2::uda.yaml")
"""The method that is the base of a part without stages, by namespace."""
CLOCKED = ("seconds", "threads", "gpu_gb")
"""Prefixes of the reported numbers that differ between runs."""


def shrunk(value: Any, root: Path, brief: bool, key: str = "") -> Any:
    """Return a resolved experiment with the same parts that trains in seconds on the data sets in ``root``.

    A tiny backbone replaces those of timm. A ``brief`` experiment has fewer epochs and always the tiny backbone.
    """
    if isinstance(value, Mapping):
        if key == "backbone" and (brief or value["type"] == TINY_BACKBONE["type"]):
            return TINY_BACKBONE
        if "root" in value:  # a data set
            return tiny_domain(root, key if key == "source" else "target")
        small = {name: shrunk(child, root, brief, name) for name, child in value.items()}
        if {"eps", "min_samples"} <= small.keys():  # a clusterer; others have an eps too
            small["eps"] = 0.7
        return small
    if key in AT_MOST and isinstance(value, int):
        return min(value, (BRIEFLY if brief else AT_MOST)[key])
    if key in INSTEAD:
        return INSTEAD[key]
    if isinstance(value, list):
        return [shrunk(child, root, brief) for child in value]
    return None if isinstance(value, str) and value.endswith(WEIGHTS) else value


def group_of(path: Sequence[str]) -> str:
    """Return the group of a tensor in a checkpoint, given its keys from the outermost to the innermost.

    Raises :class:`ValueError` for a field without a group, because the comparison would miss it.
    """
    match path:
        case ["state_dict", name, *_]:
            return ".".join(name.split(".")[:2])  # networks.student
        case ["optimizer", *_]:
            return "optimizer"
        case [training_state.KEY, "memories", name, *_]:
            return f"state of memories.{name}"
        case [training_state.KEY, "labels" | "refiners", *_]:
            return "labels"
    raise ValueError(f"There is no group for the tensor {'.'.join(path)} of a checkpoint.")


def outcome(config: Any, folder: Path, share: Path) -> dict[str, dict[str, str]]:
    """Train an experiment and return the digests of each stage: networks, memories, labels, optimiser and reported numbers.

    Equal stages of several experiments are trained once and kept in ``share``.
    """
    result = reidx.run(config, folder, progress="quiet", threads=1, share=share)
    found = {}
    for stage in result.stages:
        groups: dict[str, list[bytes]] = defaultdict(list)
        checkpoints = sorted(folder.glob(f"*-{stage.name}/*.pth"))  # of single-digit epochs
        for path, leaf in leaves(torch.load(checkpoints[-1], weights_only=True) if checkpoints else {}):
            if isinstance(leaf, torch.Tensor):
                groups[group_of(path)].append(content(leaf))
        reports = [stage.before, *stage.history]
        numbers = [value for report in reports for name, value in report.items() if not name.startswith(CLOCKED)]
        groups["numbers"] = [repr(number).encode() for number in numbers]
        found[stage.name] = {name: digest(groups[name]) for name in sorted(groups)}
    return found


# ---- recipes


def recipes() -> Iterator[tuple[str, Any]]:
    """Yield the address and the resolved experiment of each shipped recipe and grid row, or the error that it raises."""
    for folder in [HOME / "configs", *sorted(HOME.glob("plugins/*/reidx_*/configs"))]:
        namespace = folder.parent.name.removeprefix("reidx_") if folder.parent != HOME else "reidx"
        for path in sorted(folder.rglob("*.yaml")):
            address = f"{namespace}::{path.relative_to(folder).as_posix()}"
            if not address.startswith(GRIDS):
                yield address, resolved(namespace, address)
                continue
            for number, row in enumerate(plan_of(read_grid(path), Path("nowhere")).rows):
                for run in list(row.runs.values())[:1]:  # the first seed; none if the parts do not fit
                    yield f"{address}, row {number}", run.config.data  # row names contain config keys, which may be renamed


def resolved(namespace: str, address: str) -> Any:
    """Return the experiment of a recipe or of a completed part of one, or the error if neither can be resolved."""
    with tempfile.TemporaryDirectory() as folder:
        completion = str(write_experiment(Path(folder) / "completion.yaml", COMPLETION))
        bases = [address], [completion, address], [completion, METHOD_UNDER[namespace], address]
        for base in bases:
            try:
                return reidx.load_config(write_experiment(Path(folder) / "recipe.yaml", {"_base_": base})).data
            except reidx.ReidxError as error:
                failure = error
    return failure


# ---- digests


def leaves(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the values of a tree with their keys; an empty mapping or list counts as a value."""
    children = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list | tuple) else ()
    if not children:
        yield path, node
    for key, child in children:
        yield from leaves(child, (*path, str(key)))


def content(tensor: torch.Tensor) -> bytes:
    """Return the type, the shape and all bytes of a tensor."""
    tensor = tensor.detach().contiguous()
    return f"{tensor.dtype} {tuple(tensor.shape)} ".encode() + tensor.view(-1).view(torch.uint8).numpy().tobytes()


def digest(values: Iterable[bytes]) -> str:
    """Return the SHA-256 of a multiset of values; it depends neither on their names nor on their order."""
    return hashlib.sha256(b"".join(sorted(hashlib.sha256(value).digest() for value in values))).hexdigest()


def record(pattern: str) -> dict[str, dict[str, Any]]:
    """Return the experiment and the digests of each recipe whose address matches a pattern.

    Recipes that shrink to the same experiment share one training.
    """
    found: dict[str, dict[str, Any]] = {}
    trained: dict[str, dict[str, dict[str, str]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        draw_domains(root / "domains", images_per_camera=3, cameras=6)
        for address, experiment in recipes():
            if not fnmatch.fnmatch(address, pattern):
                continue
            started = time.process_time()
            try:
                if isinstance(experiment, Exception):
                    raise experiment
                small = shrunk(experiment, root / "domains", address.startswith(GRIDS)) | {"name": "tiny", "description": ""}
                text = json.dumps(small, sort_keys=True)
                if text not in trained:
                    config = reidx.load_config(write_experiment(root / "tiny.yaml", small))
                    with tempfile.TemporaryDirectory(dir=root) as work_dir:
                        trained[text] = outcome(config, Path(work_dir) / "run", root / "shared")
                found[address] = {"experiment": experiment, "digests": trained[text]}
            except Exception as error:
                found[address] = {"failed": f"{type(error).__name__}: {error}"}
            print(f"{time.process_time() - started:6.1f} s  {address}  {found[address].get('failed', '')}", flush=True)
    print(f"{len(found)} recipes, {len(trained)} trainings, {sum('failed' in each for each in found.values())} failed")
    return found


# ---- differences

Rename = tuple[tuple[str, ...], tuple[str, ...]]
"""The start of a key, and its replacement."""


def read_renames(text: str) -> list[Rename]:
    """Return the renames in a table; lines without an arrow are comments."""
    sides = [line.partition("->")[::2] for line in text.splitlines() if "->" in line]
    return [tuple(tuple(filter(None, side.strip().split("."))) for side in line) for line in sides]  # type: ignore[misc]


def renamed(experiment: Any, renames: Sequence[Rename]) -> dict[str, Any]:
    """Return the values of an experiment by their dotted keys after renaming."""
    values: dict[str, Any] = {}
    for path, value in leaves(experiment):
        for old, new in renames:
            if len(path) >= len(old) and all(own in (key, "*") for key, own in zip(path, old)):
                wild = iter([key for key, own in zip(path, old) if own == "*"])
                start = [next(wild) if key == "*" else key for key in new]
                values |= {".".join([*start, *path[len(old) :]]): value} if new else {}
                break
        else:
            values[".".join(path)] = value
    return values


def compare(before: Mapping[str, Any], after: Mapping[str, Any], renames: Sequence[Rename] = ()) -> list[str]:
    """Return a line for each difference: a missing or failed recipe, a changed value in its experiment, changed digests."""
    removed, added = [rename for rename in renames if rename[0]], [(new, ()) for old, new in renames if not old]
    lines = [f"{address}: only {'before' if address in before else 'after'}" for address in sorted({*before} ^ {*after})]
    for address in sorted({*before} & {*after}):
        one, other = before[address], after[address]
        lines += [f"{address}: {each['failed']}" for each in (one, other) if "failed" in each]
        if "failed" in one or "failed" in other:
            continue
        old, new = renamed(one["experiment"], removed), renamed(other["experiment"], added)
        keys = [key for key in sorted({*old, *new}) if old.get(key, leaves) != new.get(key, leaves)]
        lines += [f"{address}: {key} is {new.get(key, 'not there')}, was {old.get(key, 'not there')}" for key in keys]
        digests, others = (dict(leaves(each["digests"])) for each in (one, other))
        parts = [" ".join(path) for path in sorted({*digests, *others}) if digests.get(path) != others.get(path)]
        lines += [f"{address}: other digests: {', '.join(parts)}"] if parts else []
    return lines


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("output", nargs="?", default="digests.json", help="the file to write")
    options.add_argument("--only", default="*", metavar="PATTERN", help="addresses of recipes, for example lf2::*")
    options.add_argument("--compare", nargs=2, metavar=("BEFORE", "AFTER"), help="print the differences of two such files")
    options.add_argument("--renames", metavar="FILE", help="the table of renamed keys")
    chosen = options.parse_args()
    if chosen.compare:
        renames = read_renames(Path(chosen.renames).read_text(encoding="utf-8") if chosen.renames else "")
        before, after = (json.loads(Path(path).read_text(encoding="utf-8")) for path in chosen.compare)
        differences = compare(before, after, renames)
        print("\n".join(differences) or f"all {len(before)} recipes agree")
        sys.exit(bool(differences))
    found = record(chosen.only)
    Path(chosen.output).write_text(json.dumps(found, indent=1, sort_keys=True), encoding="utf-8")
    sys.exit(any("failed" in each for each in found.values()))


if __name__ == "__main__":
    main()
