"""Comparison of runs, finished or not: config, provenance, and metrics by stage."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reidx.config.yaml_text import write_scalar
from reidx.config.yaml_tree import load_tree
from reidx.errors import ReidxError
from reidx.runs.conditions import condition_lines, conditions_of
from reidx.runs.epoch_log import Report, epochs_in
from reidx.runs.manifest import RECORD
from reidx.runs.metrics import DEVIATION, RERANKED, metric_names, metrics_in
from reidx.runs.result import LABELS


@dataclass(frozen=True)
class Comparison:
    """Rows of text for tables; ``names`` are the headings of the runs' columns."""

    names: list[str]
    about: list[tuple[str, ...]]
    config: list[tuple[str, ...]]
    """Keys of the config that differ, with the value in each run."""
    provenance: list[tuple[str, ...]]
    """Code, data, processes, versions and machine that differ, with the value in each run."""
    metrics: list[tuple[str, ...]]
    """State of a stage (before the first epoch, last epoch, or latest epoch so far), a metric, its value in each run."""
    conditions: list[str]
    """Lines on the conditions of the metrics: what all runs share, then the conditions that differ with the runs of each."""
    values: list[tuple[str, str, list[float | None]]]
    """The metrics as numbers: fractions, and counts of clusters and outliers."""


@dataclass(frozen=True)
class _Found:
    folder: Path
    record: dict[str, Any]
    config: dict[str, Any]
    card: dict[str, Any] | None
    states: dict[tuple[str, str], Report]
    conditions: dict[str, dict[str, str]]
    """Conditions of each stage that is finished or has an evaluation; empty where its card is not written yet."""


def compare(folders: Sequence[Path]) -> Comparison:
    """Compare the runs in ``folders``.

    Raises :class:`ReidxError` for fewer than two folders, for duplicates, and for a folder without a run.
    """
    if len(folders) < 2:
        raise ReidxError("Name at least two runs to compare.")
    resolved = [folder.resolve() for folder in folders]
    twice = next((folder for folder, path in zip(folders, resolved) if resolved.count(path) > 1), None)
    if twice is not None:
        raise ReidxError(f"{twice} is named twice.")
    runs = [_read(folder) for folder in folders]
    names = _names(runs)
    seeds = [run.config.get("seed") for run in runs]
    states = ["done" if run.card else "unfinished" for run in runs]
    about: list[tuple[str, ...]] = [
        (name, str(run.folder), str(run.record["hash"]), str(seed), state)
        for name, run, seed, state in zip(names, runs, seeds, states)
    ]
    cards = [{key: run.card[key] for key in ("versions", "machine") if key in run.card} if run.card else {} for run in runs]
    provenances = [{**run.record.get("provenance", {}), **own} for run, own in zip(runs, cards)]
    unknown = None if all(run.card for run in runs) else "not known yet"
    return Comparison(
        names,
        about,
        _differing([run.config for run in runs], None),
        _differing(provenances, unknown),
        _metrics(runs),
        _conditions(names, runs),
        _values(runs),
    )


def _read(folder: Path) -> _Found:
    record = folder / RECORD
    if not folder.is_dir():
        raise ReidxError(f"{folder} is not a run: {'it is a file' if folder.exists() else 'there is no such folder'}.")
    if not record.is_file():
        inside = sorted(path.parent.relative_to(folder) for path in folder.glob(f"*/{RECORD}"))
        inside += sorted(path.parent.relative_to(folder) for path in folder.glob(f"runs/*/{RECORD}"))
        hint = f" It contains runs: {', '.join(str(folder / name) for name in inside[:5])}." if inside else ""
        raise ReidxError(f"{folder} is not a run: it has no {RECORD}.{hint}")
    try:
        read = json.loads(record.read_text(encoding="utf-8"))
        result = folder / "result.json"
        card = json.loads(result.read_text(encoding="utf-8"))["card"] if result.is_file() else None
        states = _states(folder)
        conditions = _conditions_in(folder, card or {}, dict.fromkeys(stage for stage, _ in states))
        assert isinstance(read["hash"], str) and isinstance(read.get("provenance", {}), dict)
        assert card is None or isinstance(card, dict)
    except (OSError, ValueError, KeyError, AssertionError, TypeError, AttributeError) as error:
        raise ReidxError(f"{folder} is not a complete run: its record or results cannot be read ({error}).") from error
    return _Found(folder, read, load_tree(folder / "config.yaml").data, card, states, conditions)


def _states(folder: Path) -> dict[tuple[str, str], Report]:
    """Metrics by stage and moment: before the first epoch, and the last epoch or the latest so far."""
    states: dict[tuple[str, str], Report] = {}
    stages = (path for path in folder.iterdir() if path.is_dir() and path.name.partition("-")[0].isdecimal())
    for path in sorted(stages, key=lambda path: int(path.name.partition("-")[0])):
        stage = path.name.partition("-")[2]
        if (path / "done.json").is_file():
            done = json.loads((path / "done.json").read_text(encoding="utf-8"))
            states[stage, "before"] = _numbers(done["before"])
            states[stage, "last epoch"] = _numbers(done["history"][-1]) if done["history"] else {}
        elif committed := epochs_in(path / "log.jsonl"):
            entry = _numbers(committed[-1])
            states[stage, f"epoch {entry['epoch']} so far"] = entry
    return states


def _conditions_in(folder: Path, card: dict[str, Any], stages: Iterable[str]) -> dict[str, dict[str, str]]:
    """Conditions by stage, from the card of the run or, while it is unfinished, from those of its finished stages."""
    cards = dict(card.get("stages", {}))
    for path in folder.glob("*-*/done.json"):
        cards.setdefault(path.parent.name.partition("-")[2], json.loads(path.read_text(encoding="utf-8")).get("card", {}))
    return {stage: conditions_of(card, cards.get(stage, {}), seed=False) for stage in stages}


def _conditions(names: Sequence[str], runs: Sequence[_Found]) -> list[str]:
    """Lines on the conditions: those on which the runs agree in every stage, then the others, by stages that have the same."""
    stages = dict.fromkeys(stage for run in runs for stage in run.conditions)
    found = {
        stage: {name: run.conditions[stage] for name, run in zip(names, runs) if stage in run.conditions} for stage in stages
    }
    known = {stage: [facts for facts in of_runs.values() if facts] for stage, of_runs in found.items()}
    everything = dict.fromkeys(fact for of_runs in known.values() for facts in of_runs for fact in facts)
    agreed = {fact for fact in everything if all(len({facts.get(fact) for facts in all_}) < 2 for all_ in known.values())}
    common = {stage: _only(of_runs[0], agreed) for stage, of_runs in known.items() if of_runs}
    by_lines: dict[tuple[str, ...], list[str]] = {}
    for stage, of_runs in found.items():
        others = {name: _only(facts, everything.keys() - agreed) for name, facts in of_runs.items()}
        lines = condition_lines(others, "differs by run")
        if known[stage] and (unknown := [name for name, facts in of_runs.items() if not facts]):
            lines.append(f"conditions not known: {', '.join(unknown)}")
        if lines:
            by_lines.setdefault(tuple(lines), []).append(stage)
    headed = len(by_lines) > 1 or any(len(same) < len(found) for same in by_lines.values())
    parts = [([f"{', '.join(same)}:"] if headed else []) + list(lines) for lines, same in by_lines.items()]
    return [*condition_lines(common, "by stage"), *(line for part in parts for line in part)]


def _only(facts: Mapping[str, str], names: Collection[str]) -> dict[str, str]:
    return {name: text for name, text in facts.items() if name in names}


def _numbers(report: Report) -> Report:
    """Numeric entries of a report; raises :class:`AttributeError` if it is not a mapping."""
    return {name: value for name, value in report.items() if isinstance(value, (int, float))}


def _names(runs: Sequence[_Found]) -> list[str]:
    """Short names of runs: folder names if they are distinct, otherwise paths."""
    short = [run.folder.resolve().name for run in runs]
    return short if len(set(short)) == len(short) else [str(run.folder) for run in runs]


def _differing(trees: Sequence[Mapping[str, Any]], absent: str | None) -> list[tuple[str, ...]]:
    """Leaves in which plain trees differ: the dotted path, then the value in each tree."""
    leaves = [dict(_leaves(tree, "")) for tree in trees]
    rows = []
    for path in dict.fromkeys(path for one in leaves for path in one):
        values = [one.get(path, absent or "–") for one in leaves]
        if len(set(values)) > 1:
            rows.append((path, *values))
    return rows


def _leaves(value: Any, path: str) -> list[tuple[str, str]]:
    """Dotted paths of all leaves with their values as text; list items with a ``name`` are addressed by it."""
    if isinstance(value, Mapping) and value:
        children = [(str(key), child) for key, child in value.items()]
    elif isinstance(value, list) and value:
        named = all(isinstance(child, Mapping) and "name" in child for child in value)
        children = [(str(child["name"] if named else place), child) for place, child in enumerate(value)]
    else:
        return [(path, json.dumps(value) if isinstance(value, (Mapping, list)) else write_scalar(value))]  # "1" is not 1
    return [leaf for key, child in children for leaf in _leaves(child, f"{path}.{key}" if path else key)]


def _metrics(runs: Sequence[_Found]) -> list[tuple[str, ...]]:
    rows = []
    for state, metric, reports in _measured(runs):
        cells = [_cell(report, reports[0] if n else {}, metric) for n, report in enumerate(reports)]
        rows.append((state, metric, *cells))
    return rows


def _values(runs: Sequence[_Found]) -> list[tuple[str, str, list[float | None]]]:
    return [(state, metric, [report.get(metric) for report in reports]) for state, metric, reports in _measured(runs)]


def _measured(runs: Sequence[_Found]) -> Iterator[tuple[str, str, list[Report]]]:
    """Yield each state of a stage with each of its metrics, and the reports of all runs."""
    for stage, moment in dict.fromkeys(state for run in runs for state in run.states):
        reports = [_shown(run.states.get((stage, moment), {})) for run in runs]
        found = dict.fromkeys(name for report in reports for name in report)
        plain, better = ([name for name in found if name.startswith(RERANKED) == side] for side in (False, True))
        names = [*metric_names(name for name in plain if name not in LABELS), *metric_names(better)]
        for metric in (*names, *(name for name in LABELS if name in found)):
            yield f"{stage}, {moment}", metric, reports


def _shown(report: Report) -> Report:
    """The metrics of a report, the re-ranked ones as ``reranked_NAME``, and the numbers of its labels."""
    better = {f"{RERANKED}{name}": value for name, value in metrics_in(report, reranked=True).items()}
    return {**metrics_in(report), **better, **{name: report[name] for name in LABELS if name in report}}


def _cell(report: Report, first: Report, metric: str) -> str:
    """Value of a metric, ± its deviation over trials, and the difference from the first run in brackets."""
    if metric not in report:
        return "–"
    scale, form = (1, "{:.3f}" if metric == "ari" else "{:.0f}") if metric in LABELS else (100, "{:.2f}")
    text, deviation = form.format(scale * report[metric]), report.get(f"{metric}{DEVIATION}")
    text += "" if deviation is None else f" ± {form.format(scale * deviation)}"
    if metric not in first:
        return text
    return f"{text} ({form.replace(':', ':+').format(scale * (report[metric] - first[metric]))})"
