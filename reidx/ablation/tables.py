"""Readable results: a Markdown page with links to the cards of its runs, these cards, and a LaTeX table."""

from __future__ import annotations

import json
from pathlib import Path

from reidx.ablation.plan import Row
from reidx.ablation.results import Results, relative, run_conditions
from reidx.ablation.statistics import Difference, Spread
from reidx.runs.checkpoint import write_text
from reidx.runs.conditions import condition_lines, unfolded
from reidx.runs.metrics import DEVIATION, percent


def write_tables(results: Results, pictures: list[Path]) -> list[Path]:
    """Write ``results.md``, ``results.tex`` and the cards of all combinations; returns the first two.

    The page shows ``pictures``.
    """
    home = results.plan.home
    (home / "cards").mkdir(exist_ok=True)
    for row in results.plan.rows:
        if row.runs:
            write_text(home / results.card(row), card(results, row))
    write_text(home / "results.md", markdown(results, [relative(picture, home) for picture in pictures]))
    write_text(home / "results.tex", latex(results))
    return [home / "results.md", home / "results.tex"]


def markdown(results: Results, pictures: list[str] | None = None) -> str:
    """Render the page of results: the table, failed and refused combinations, pictures."""
    plan = results.plan
    done = len(results.found)
    seeds = ", ".join(map(str, plan.grid.seeds))
    lines = [f"# {_escaped(plan.grid.name)}", ""]
    lines += [f"{done} of {len(plan.runs)} runs done; design {plan.grid.design}, seeds {seeds}.", ""]
    if conditions := results.conditions():
        lines += [*(f"* {_escaped(line)}" for line in unfolded(conditions)), ""]
    names = _axes(results)
    head = [*(names or ["combination"]), "seeds"]
    for metric in results.shown:
        head += [metric, f"Δ {metric}"]
    numbers = 2 * len(results.shown)
    lines += [_line(list(map(_escaped, head))), _line(["---"] * (len(head) - numbers) + ["--:"] * numbers)]
    for row in plan.rows:
        if row.runs:
            cells = [_escaped(text) for text in ([row.labels[name] for name in names] or [row.name])]
            lines.append(_line([*cells, *_scores(results, row)]))
    lines += [
        "",
        "Percent, last epoch: mean ± standard deviation over seeds, linked to the cards of the runs. Δ: mean difference "
        "from the first row (the base), paired by seed, with its 95 % interval (t, not corrected for multiple comparisons); n "
        "is given where seeds are missing.",
    ]
    if any(name.endswith(DEVIATION) for result in results.found.values() for name in result["metrics"]):
        lines[-1] += " The deviation over the trials of each run is on its card."
    lines += _choices(results)
    if changed := results.other_provenance():
        lines += ["", "**These runs differ in provenance:**", "", *(f"* {_escaped(c)}" for c in changed)]
    failed = [
        f"* {_escaped(row.name)}, seed {seed} ([log]({relative(run.log, plan.home)})): {_escaped(results.failed[run.hash])}"
        for row in plan.rows
        for seed, run in row.runs.items()
        if run.hash in results.failed
    ]
    if failed:
        lines += ["", "## Failed", "", *failed]
    if plan.refused:
        refused = [f"* {_escaped(row.name)}: {_escaped(row.refused or '')}" for row in plan.refused]
        lines += ["", "## Refused combinations", "", *refused]
    for picture in pictures or []:
        lines += ["", f"![{Path(picture).stem}]({picture})"]
    return "\n".join(lines) + "\n"


def card(results: Results, row: Row) -> str:
    """Render the page of a combination: its runs by seed, with links to their files, and the card of the first one."""
    folder = results.plan.home / "cards"
    axes = (f"* {_escaped(name)}: {_escaped(label)}" for name, label in row.labels.items())
    lines = [f"# {_escaped(row.name)}", "", *axes, ""]
    cards = {f"seed {seed}": results.found[run.hash]["card"] for seed, run in row.runs.items() if run.hash in results.found}
    conditions = condition_lines({name: run_conditions(facts) for name, facts in cards.items()}, "differs by seed")
    if conditions:
        lines += [*(f"* {_escaped(line)}" for line in unfolded(conditions)), ""]
    names = results.metrics
    lines += [_line(["seed", "state", *map(_escaped, names), "run"]), _line(["---", "---", *["--:"] * len(names), "---"])]
    facts: dict[str, object] = {}
    for seed, run in row.runs.items():
        result = results.found.get(run.hash, {"metrics": {}, "card": {}})
        facts = facts or result["card"]
        scores = [percent(result["metrics"], name) if name in result["metrics"] else "–" for name in names]
        stages = [f"{n + 1}-{stage.name}" for n, stage in enumerate(run.config.experiment.stages)]
        there = {"card": run.folder / "result.json", "config": run.config_file, "log": run.log}
        there |= {f"{stage} epochs": run.folder / stage / "log.jsonl" for stage in stages}
        links = [f"[{name}]({relative(path, folder)})" for name, path in there.items() if path.is_file()]
        lines.append(_line([str(seed), results.state(run), *scores, f"`{run.hash}` {' '.join(links)}"]))
    if facts:
        shown = {key: value for key, value in facts.items() if key not in ("seed", "config_hash")}
        lines += ["", "Card of the first finished run:", "", "```json", json.dumps(shown, indent=1), "```"]
    return "\n".join(lines) + "\n"


def latex(results: Results) -> str:
    """Render the table for a paper (booktabs); a comment after each row lists the hashes of its runs."""
    names = _axes(results) or ["combination"]
    head = [_tex(name) for name in names]
    for metric in results.shown:
        head += [_tex(metric), rf"$\Delta$ {_tex(metric)}"]
    lines = [
        "% percent, last epoch: mean +- standard deviation over seeds; Delta from the first row, paired by seed, 95% interval",
        *(f"% {line}" for line in results.conditions()),
        rf"\begin{{tabular}}{{{'l' * len(names)}{'rr' * len(results.shown)}}}",
        r"\toprule",
        " & ".join(head) + r" \\",
        r"\midrule",
    ]
    for row in results.plan.rows:
        if not row.runs:
            continue
        cells = [_tex(row.labels[name]) for name in _axes(results)] or [_tex(row.name)]
        planned = len(row.runs)
        for metric in results.shown:
            mean, difference = results.spread(row, metric), results.difference(row, metric)
            cells.append(_mean(mean, r" $\pm$ ", "--") + _fewer(mean, planned))
            cells.append(_delta(difference, "--") + _fewer(difference, planned))
        done = [run.hash for run in row.runs.values() if run.hash in results.found]
        lines.append(" & ".join(cells) + rf" \\ % runs: {' '.join(done)}")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _choices(results: Results) -> list[str]:
    """Render the effect of each choice over all settings of the other axes; empty without choices."""
    of_metrics = [results.choices(metric) for metric in results.shown]
    if not of_metrics[0]:
        return []
    head = ["axis", "choice", "against", "pairs"]
    for metric in results.shown:
        head += [f"Δ {_escaped(metric)}", "smallest … largest"]
    lines = ["", "## Effect of each choice", "", _line(head), _line(["---"] * 3 + ["--:"] * (1 + 2 * len(of_metrics)))]
    for same in zip(*of_metrics):
        cells = [_escaped(same[0].axis), _escaped(same[0].label), _escaped(same[0].against), str(same[0].pairs)]
        for choice in same:
            cells.append(_delta(choice.difference, "–") + _fewer(choice.difference, len(results.plan.grid.seeds)))
            cells.append(f"{min(choice.of_pairs):+.2f} … {max(choice.of_pairs):+.2f}" if choice.of_pairs else "–")
        lines.append(_line(cells))
    return [
        *lines,
        "",
        "Compared with the first value of the axis, all other choices being equal: the mean difference over all allowed pairs "
        "of rows, with its 95 % interval over seeds (t), and the smallest and largest pair (means over seeds). Only seeds in "
        "which all pairs are done count: – if there are none, n if there are fewer than planned. Choices with different "
        "numbers of pairs are means over different settings.",
    ]


def _axes(results: Results) -> list[str]:
    """Axes with a separate column: all of a full design; other designs name their rows instead."""
    grid = results.plan.grid
    return [axis.name for axis in grid.axes] if grid.design == "full" else []


def _scores(results: Results, row: Row) -> list[str]:
    """Cells of a row after its name, each linked to the row's card."""
    to = results.card(row).as_posix()
    count = len(results.scores(row, results.shown[0]))
    cells = [f"[{count}]({to})" if count == len(row.runs) else f"[{count} of {len(row.runs)}]({to})"]
    for metric in results.shown:
        cells.append(f"[{_mean(results.spread(row, metric), ' ± ', '–')}]({to})")
        difference = results.difference(row, metric)
        cells.append("" if difference is None else f"[{_delta(difference, '–')}{_fewer(difference, len(row.runs))}]({to})")
    return cells


def _mean(spread: Spread | None, sign: str, none: str) -> str:
    if spread is None:
        return none
    return f"{spread.mean:.2f}" + ("" if spread.deviation is None else f"{sign}{spread.deviation:.2f}")


def _delta(difference: Difference | None, none: str) -> str:
    if difference is None:
        return none
    interval = "" if difference.low is None else f" ({difference.low:+.2f} … {difference.high:+.2f})"
    text = f"{difference.mean:+.2f}{interval}"
    return text.replace("…", "to") if none == "--" else text


def _fewer(found: Spread | Difference | None, planned: int) -> str:
    """Number of seeds behind a value, if some are missing."""
    return "" if found is None or found.count == planned else f", n = {found.count}"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escaped(text: str) -> str:
    """Escape text for Markdown, on one line."""
    return " ".join("".join(f"\\{c}" if c in r"\`*_[]<>|&~$#" else c for c in text).split())


_TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "→": r"$\to$",
        "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}  # fmt: skip


def _tex(text: str) -> str:
    """Escape text for LaTeX, on one line."""
    shown = "".join(_TEX.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in " ".join(text.split()))
    return f"{{}}{shown}" if shown[:1] in ("[", "*") else shown  # after a line break these would be its arguments
