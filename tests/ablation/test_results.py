"""Tables, records and pictures show the results of the runs, and each cell links to the card of its runs."""

from __future__ import annotations

import csv
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.stats import ttest_1samp

from reidx.ablation.plan import Plan, Run
from reidx.ablation.results import Results, as_text, write_records
from reidx.ablation.schedule import SweepListener, SweepState, sweep_state_of
from reidx.ablation.tables import latex, markdown
from reidx.ablation.writing import Reporting, write_results
from reidx.registry.retrieval_promises import TAKEN
from reidx.runs.result import LABELS

AXES = {"fusion": ["GlobalPool", "pplr.Stripes"], "refiners": [[], [{"type": "pplr.CrossAgreement", "k": 5}]]}


@pytest.fixture
def results(planned: Callable[..., Plan], finish: Callable[..., None]) -> Results:
    """A full design of two axes with one refused pair; one run failed, all others are done."""
    plan = planned(design="full", axes=AXES, seeds=[1, 2])
    for place, row in enumerate(plan.rows):
        for seed, run in row.runs.items():
            if (place, seed) != (3, 2):
                finish(run, **{"mAP": 0.5 + 0.1 * place + 0.01 * seed * (1 + place), "rank-1": 0.7})
    return Results(plan, {plan.rows[3].runs[2].hash: "out of | memory"})


def cells(page: str) -> list[list[str]]:
    """Return the rows of the first table of a Markdown page, its head first."""
    lines = page.partition("\n|")[2].partition("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_page_shows_mean_spread_and_paired_difference(results: Results) -> None:
    head, _, *rows = cells(markdown(results))
    assert head == ["fusion", "refiners", "seeds", "mAP", "Δ mAP", "rank-1", "Δ rank-1", "mINP", "Δ mINP"]
    assert all(len(row) == len(head) for row in rows) and len(rows) == 3  # one pair is refused
    assert rows[0][:3] == ["GlobalPool", "none", "[2](cards/01-base.md)"] and rows[0][4] == ""
    assert rows[0][3] == "[51.50 ± 0.71](cards/01-base.md)"
    # seeds 73, 76 against 51, 52: differences 22, 24, t(0.975, 1) = 12.7062, s/√n = 1
    assert rows[1][4].startswith("[+23.00 (+10.29 … +35.71)](cards/")
    assert rows[2][2].startswith("[1 of 2](")
    assert rows[2][3].startswith("[84.00](")
    assert "…" not in rows[2][4]
    assert rows[2][4].startswith("[+33.00, n = 1](") and "n =" not in rows[1][4]
    assert rows[0][7] == "[–](cards/01-base.md)"  # mINP is unknown


def test_conditions_stand_above_each_table(results: Results, evaluated: Callable[..., None]) -> None:
    runs = [run for row in results.plan.rows for run in row.runs.values() if run.result() is not None]
    for run in runs:
        evaluated(run, **({"metric": "cosine"} if run is runs[0] else {}))
    write_results(results)
    home = results.plan.home
    page, card = (home / "results.md").read_text(), (home / "cards/01-base.md").read_text()
    shared = "* protocol market1501 (own camera ignored) · no flip · last epoch · fp32\n"
    above = page.partition("\n| ")[0]
    assert f"{shared}* differs by combination: cosine distance (base, seed 1); euclidean distance (base, seed 2 / " in above
    assert f"{shared}* differs by seed: cosine distance (seed 1); euclidean distance (seed 2)\n\n| seed" in card
    assert "% differs by combination: cosine distance (base, seed 1)" in (home / "results.tex").read_text()


def test_choices_are_compared_all_else_being_equal(results: Results) -> None:
    page = markdown(results).partition("## Effect of each choice")[2]
    head, _, *rows = cells(page)
    assert head[:6] == ["axis", "choice", "against", "pairs", "Δ mAP", "smallest … largest"]
    # only with refiners none, as GlobalPool is refused with the other refiner; as in the first table
    assert rows[0][:6] == ["fusion", "pplr.Stripes", "GlobalPool", "1", "+23.00 (+10.29 … +35.71)", "+23.00 … +23.00"]
    # 84 against 73 of seed 1; seed 2 lacks one of the two
    assert rows[1][:6] == ["refiners", "pplr.CrossAgreement(k=5)", "none", "1", "+11.00, n = 1", "+11.00 … +11.00"]
    assert all(len(row) == len(head) for row in rows)
    assert len(rows) == 2
    assert rows[0][8:] == ["–", "–"]


def test_choice_is_averaged_over_complete_seeds(
    planned: Callable[..., Plan], finish: Callable[..., None]
) -> None:
    plan = planned(design="full", axes={"clusterer.eps": [0.5, 0.6], "stages.adapt.epochs": [1, 2, 3]}, seeds=[1, 2, 3, 4])
    drawn = np.random.default_rng(0)
    known: dict[tuple[str, str, int], float] = {}
    for row in plan.rows:
        for seed, run in row.runs.items():
            score = drawn.uniform(20, 30)
            if (row.name, seed) not in (("clusterer.eps=0.6, stages.adapt.epochs=2", 2), ("stages.adapt.epochs=3", 4)):
                known[row.labels["clusterer.eps"], row.labels["stages.adapt.epochs"], seed] = score
                finish(run, mAP=score / 100)
    pairs = {
        ("clusterer.eps", "0.6", "0.5"): [(("0.6", e), ("0.5", e)) for e in ("1", "2", "3")],
        ("stages.adapt.epochs", "2", "1"): [((d, "2"), (d, "1")) for d in ("0.5", "0.6")],
        ("stages.adapt.epochs", "3", "1"): [((d, "3"), (d, "1")) for d in ("0.5", "0.6")],
    }
    whole = {"clusterer.eps": (1, 3), "2": (1, 3, 4), "3": (1, 2, 3)}  # seeds in which every pair is complete
    found = Results(plan, {}).choices("mAP")
    assert [(choice.axis, choice.label, choice.against) for choice in found] == list(pairs)
    for choice, of in zip(found, pairs.values()):
        seeds = whole.get(choice.axis) or whole[choice.label]
        table = np.array([[known[(*own, seed)] - known[(*other, seed)] for own, other in of] for seed in seeds])
        interval = ttest_1samp(table.mean(1), 0).confidence_interval(0.95)
        assert choice.difference is not None
        assert (choice.pairs, choice.difference.count) == (len(of), len(seeds))
        assert choice.difference.mean == pytest.approx(table.mean())
        assert (choice.difference.low, choice.difference.high) == pytest.approx((interval.low, interval.high))
        assert choice.of_pairs == pytest.approx(table.mean(0)) and max(choice.of_pairs) - min(choice.of_pairs) > 0.1


def test_choice_without_a_complete_seed_is_missing(planned: Callable[..., Plan], finish: Callable[..., None]) -> None:
    plan = planned(design="full", axes=AXES, seeds=[1, 2])
    for row in plan.rows:
        if row.name != "fusion=pplr.Stripes":  # this row is in the only pair of both choices
            for run in row.runs.values():
                finish(run, mAP=0.5)
    _, _, *rows = cells(markdown(Results(plan, {})).partition("## Effect of each choice")[2])
    assert [row[:6] for row in rows] == [
        ["fusion", "pplr.Stripes", "GlobalPool", "1", "–", "–"],
        ["refiners", "pplr.CrossAgreement(k=5)", "none", "1", "–", "–"],
    ]


def test_choice_without_an_allowed_pair_is_dropped(planned: Callable[..., Plan], finish: Callable[..., None]) -> None:
    plan = planned(design="full", axes={"refiners": AXES["refiners"], "clusterer.eps": [0.5, 0.6]})
    # a fusion without parts has none to agree with
    assert len(plan.refused) == 2
    for run in plan.runs:
        finish(run, mAP=0.5)
    assert [choice.axis for choice in Results(plan, {}).choices("mAP")] == ["clusterer.eps"]


@pytest.mark.parametrize("section", [{"design": "full", "axes": {"clusterer.eps": [0.5, 0.6]}},
                                     {"design": "full", "axes": {"clusterer.eps": [0.5, 0.6], "stages.adapt.epochs": [1]}},
                                     {"axes": {"clusterer.eps": [0.5, 0.6], "stages.adapt.epochs": [1, 2]}}])  # fmt: skip
def test_one_axis_has_no_choices_to_average(
    section: dict[str, Any], planned: Callable[..., Plan], finish: Callable[..., None]
) -> None:
    plan = planned(**section)
    for run in plan.runs:
        finish(run, mAP=0.5)
    assert Results(plan, {}).choices("mAP") == [] and "Effect of each choice" not in markdown(Results(plan, {}))


def test_missing_runs_are_listed_with_reasons(results: Results) -> None:
    page = markdown(results)
    assert "5 of 6 runs done" in page
    assert r"seed 2 ([log](logs/" in page and r"out of \| memory" in page.partition("## Failed")[2]
    assert "refiners=pplr.CrossAgreement(k=5): " in page.partition("## Refused")[2].replace("\\", "")


def test_every_link_has_a_target(results: Results) -> None:
    for run in results.plan.runs:
        run.log.parent.mkdir(parents=True, exist_ok=True)
        run.log.touch()
    write_results(results)
    pages = [results.plan.home / "results.md", *results.plan.home.glob("cards/*.md")]
    links = [(page, link) for page in pages for link in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8"))]
    assert len(links) > 20
    assert not [link for page, link in links if not (page.parent / link).is_file()]
    card = (results.plan.home / "cards/01-base.md").read_text(encoding="utf-8")
    assert card.count("/result.json)") == 2
    assert '"torch": "2"' in card
    assert "| 51.00 |" in card


def test_records_hold_everything(results: Results) -> None:
    write_results(results)
    with open(results.plan.home / "results.csv", encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["state"] for row in rows].count("done") == 5 and len(rows) == 7
    assert rows[0]["fusion"] == "GlobalPool" and rows[0]["last clusters"] == "7"
    assert float(rows[0]["mAP"]) == pytest.approx(0.51)
    assert (results.plan.home / rows[0]["card"]).is_file()
    failed = next(row for row in rows if row["state"] == "failed")
    assert failed["reason"] == "out of | memory" and failed["mAP"] == ""
    assert next(row for row in rows if row["state"] == "refused")["reason"]


def test_trials_and_own_metrics_are_in_all_files(planned: Callable[..., Plan], finish: Callable[..., None]) -> None:
    plan = planned(axes={"clusterer.eps": [0.7, 0.6]})
    finish(plan.runs[0], mAP=0.5, mAP_sd=0.01, **{"rank/2_x": 0.75, "rank/2_x_sd": 0.02})
    finish(plan.runs[1], mAP=0.6, **{"rank/2_x": 0.7})
    results = Results(plan, {})
    names = {path.name for path in write_results(results)}
    assert {"scores-mAP.png", "scores-rank_2_x.png"} <= names
    page, card = markdown(results), (plan.home / "cards/01-base.md").read_text(encoding="utf-8")
    head, _, base, other = cells(page)
    shown = ("mAP", "rank-1", "mINP", r"rank/2\_x")
    assert head[1:] == ["seeds", *(f"{delta}{name}" for name in shown for delta in ("", "Δ "))]
    assert base[-2] == "[75.00](cards/01-base.md)" and other[-1].startswith("[-5.00](")
    assert "The deviation over the trials of each run is on its card." in page
    assert "| 50.00 ± 1.00 | – | – | – | – | 75.00 ± 2.00 |" in card
    with open(plan.home / "results.csv", encoding="utf-8", newline="") as handle:
        row = next(csv.DictReader(handle))
    assert (row["mAP"], row["mAP_sd"], row["rank/2_x"], row["rank/2_x_sd"]) == ("0.5", "0.01", "0.75", "0.02")
    assert r"rank/2\_x" in latex(results)


def test_axis_named_like_a_column_loses_nothing(planned: Callable[..., Plan], finish: Callable[..., None]) -> None:
    names = ["state", "axis state", "mAP", "seed", "combination", "last loss", "own"]
    plan = planned(axes={name: {"a": {}, f"{name} b": {"epochs": 2 + place}} for place, name in enumerate(names)})
    finish(plan.runs[0], mAP=0.5)
    base, *others = Results(plan, {}).records()
    assert (base["state"], base["mAP"], base["seed"], base["combination"], base["last loss"]) == ("done", 0.5, 1, "base", 0.5)
    columns = [next(column for column in base if record[column] == f"{name} b") for name, record in zip(names, others)]
    assert columns == ["axis state", "axis axis state", "axis mAP", "axis seed", "axis combination", "axis last loss", "own"]
    assert [record["combination"] for record in others] == [f"{name}={name} b" for name in names]


@pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="pyarrow is not installed")
def test_metrics_cannot_replace_another_column(results: Results) -> None:
    axes = set(results.plan.rows[0].labels)
    fixed = {name for name in results.records()[0] if not name.startswith("last ")} - axes - set(results.metrics)
    assert {name for name in fixed if not name.startswith("axis ")} | set(LABELS) == set(TAKEN)


def test_parquet_is_the_same_table(results: Results) -> None:
    from pyarrow import parquet

    write_results(results)
    table = parquet.read_table(results.plan.home / "results.parquet").to_pylist()
    assert table == results.records()


def test_latex_is_a_table_of_equal_rows(results: Results) -> None:
    text = latex(results)
    body = text.partition("\\midrule\n")[2].partition("\\bottomrule")[0].strip().splitlines()
    columns = re.search(r"\{tabular\}\{(\w+)\}", text)
    assert columns is not None and len(body) == 3
    for line, row in zip(body, [row for row in results.plan.rows if row.runs]):
        shown, _, comment = line.partition(" % runs: ")
        assert shown.count(" & ") + 1 == len(columns[1]) and shown.endswith(r"\\")
        assert comment.split() == [run.hash for run in row.runs.values() if run.hash in results.found]
    assert "& 84.00, n = 1 & +33.00, n = 1 &" in body[2] and "n =" not in body[0] + body[1]
    assert r"51.50 $\pm$ 0.71" in body[0] and "+23.00 (+10.29 to +35.71)" in body[1]
    assert r"\Delta$ mAP" in text and "_" not in text.replace(r"\_", "")


def test_pictures_include_a_map_for_full_designs(
    results: Results, planned: Callable[..., Plan], finish: Callable[..., None]
) -> None:
    written = {path.name for path in write_results(results)}
    assert {"scores-mAP.png", "scores-rank-1.png", "map-mAP.png"} <= written
    with Image.open(results.plan.home / "scores-mAP.png") as picture:
        assert picture.width > 600 and len(picture.convert("L").getcolors(1 << 24) or []) > 20
    single = planned(axes=AXES)
    assert not [path for path in write_results(Results(single, {})) if path.name.startswith("map")]


def test_labels_of_any_text(planned: Callable[..., Plan], finish: Callable[..., None]) -> None:
    odd = {r"$\badcmd$": {}, "[a|b] " + "long " * 60: {"stages.adapt.epochs": 4}, "*<x>": {"stages.adapt.epochs": 5}}
    plan = planned(design="full", axes={"a|b": odd, "epochs of": {"_": {}, "^": {"clusterer.eps": 0.4}}})
    assert not plan.refused
    for run in plan.runs:
        finish(run, mAP=0.5)
    names = {path.name for path in write_results(Results(plan, {}))}
    assert {"results.md", "results.csv", "scores-mAP.png", "map-mAP.png"} <= names
    of_rows, of_choices = markdown(Results(plan, {})).split("## Effect of each choice")
    for page, first in ((of_rows, r" a\|b "), (of_choices, " axis ")):
        head, _, *rows = (re.split(r"(?<!\\)\|", line) for line in page.splitlines() if line.startswith("|"))
        assert {len(head)} == {len(row) for row in rows} and head[1] == first
    body = latex(Results(plan, {})).splitlines()
    assert not [line for line in body if line.startswith(("[", "*"))] and any(line.startswith("{}[a") for line in body)
    assert r"{}*\textless{}x\textgreater{}" in "".join(body)


def test_failed_plots_do_not_end_an_ablation(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    ended_runs: list[str] = []

    class Told(SweepListener):
        def ended(self, sweep: SweepState, run: Run) -> None:
            ended_runs.append(run.hash)

    sweep = sweep_state_of(results.plan)
    reporting, run = Reporting(Told()), results.plan.runs[0]
    reporting.ended(sweep, run)
    page = results.plan.home / "results.md"
    assert "5 of 6 runs done" in page.read_text(encoding="utf-8") and ended_runs == [run.hash]
    page.unlink()
    monkeypatch.setattr("reidx.ablation.plots.scores", lambda *_: 1 / 0)
    reporting.ended(sweep, run)
    assert page.is_file() and len(ended_runs) == 2
    with pytest.raises(ZeroDivisionError):
        write_results(results)


def test_files_of_an_earlier_plan_are_removed(results: Results, planned: Callable[..., Plan]) -> None:
    write_results(results)
    home = results.plan.home
    (home / "cards/notes.md").touch()
    write_results(Results(planned(axes={"fusion": AXES["fusion"]}), {}))
    assert {path.name for path in home.glob("cards/*")} == {"01-base.md", "02-fusion-pplr-stripes.md", "notes.md"}
    assert not (home / "map-mAP.png").exists() and (home / "scores-mAP.png").exists()


@pytest.mark.parametrize("text", ["[]", "null", '{"card": null, "metrics": {}}', '{"card": {"config_hash": "HASH"}}', "{",
                                  '{"card": {"config_hash": "HASH"}, "metrics": {"mAP": null}}',
                                  '{"card": {"config_hash": "HASH"}, "metrics": {"mAP": NaN}}'])  # fmt: skip
def test_damaged_result_does_not_count(text: str, results: Results) -> None:
    run = results.plan.runs[0]
    (run.folder / "result.json").write_text(text.replace("HASH", run.hash))
    assert run.result() is None
    write_results(results)
    assert "4 of 6 runs done" in (results.plan.home / "results.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("text", ["[]", "{}", "null", '{"history": [null]}', '{"hist'])
def test_other_damaged_files_cost_only_their_values(text: str, results: Results) -> None:
    run = results.plan.runs[0]
    for path in ("1-adapt/done.json", "experiment.json"):
        (run.folder / path).write_text(text)
    (results.plan.runs[1].folder / "experiment.json").write_text('{"provenance": {"code": "x"}}')
    write_results(results)
    record = results.records()[0]
    assert record["state"] == "done"
    assert record["mAP"] == pytest.approx(0.51)
    assert record["last clusters"] is None


def test_page_reports_runs_of_different_code(planned: Callable[..., Plan], finish: Callable[..., None]) -> None:
    plan = planned(axes={"fusion": ["GlobalPool", "pplr.Stripes"]})
    for run, code in zip(plan.runs, ({"reidx": "a"}, {"reidx": "b", "pplr": "c"})):
        finish(run, {"code": code, "torch": "2"}, mAP=0.5)
    assert Results(plan, {}).other_provenance() == ['code.reidx: "a" → "b"']
    assert "These runs differ in provenance" in markdown(Results(plan, {}))


def test_page_before_any_run_is_done(planned: Callable[..., Plan]) -> None:
    plan = planned(axes={"clusterer.eps": [0.7, 0.6]})
    written = write_results(Results(plan, {}))
    assert [path.name for path in written][:3] == ["results.md", "results.tex", "results.csv"]
    assert "0 of 2 runs done" in written[0].read_text(encoding="utf-8")
    assert not Path(plan.home / "scores-mAP.png").exists()


FORMULAS = ["=1+1", "+1+1", "-1+1", "@SUM(1)", "\t=1", "\r=1", "\n=1", " =1", "=HYPERLINK(\"http://x\",\"y\")", "-", "'x",
            "''=1", "\u22121", "\uff1d1", "=a,b", '="a"\nb']  # fmt: skip


@pytest.mark.parametrize("label", [*FORMULAS, "plain", "a=b", "1", "-1", "+0.5", "-1e-3", "", "eps = 0.5", "a'b", "-+ 0.02"])
def test_no_cell_begins_like_a_formula(label: str) -> None:
    cell = as_text(label)
    assert cell.removeprefix("'") == label
    try:
        float(label.replace("\u2212", "x"))  # a number is no formula
    except ValueError:
        assert not cell.lstrip().startswith(("=", "+", "-", "@", "\u2212", "\uff1d"))
        assert not cell.startswith(("\t", "\r", "\n"))


def test_records_with_labels_like_formulas_read_back(planned: Callable[..., Plan], finish: Callable[..., None]) -> None:
    labels = {label: {"clusterer.eps": 0.4 + 0.01 * n} for n, label in enumerate(["=1+1", "@x", "-a | <b>", "+c", "'d", "-1"])}
    plan = planned(design="full", axes={"=axis": labels})
    for run in plan.runs:
        finish(run, mAP=0.5)
    found = Results(plan, {})
    plan.home.mkdir(parents=True, exist_ok=True)
    write_records(found)
    with open(plan.home / "results.csv", encoding="utf-8", newline="") as handle:
        head, *rows = csv.reader(handle)
    assert head[1] == "'=axis" and [row[1].removeprefix("'") for row in rows] == list(labels)
    assert [row[1] for row in rows] == ["'=1+1", "'@x", "'-a | <b>", "'+c", "''d", "-1"]
    assert all(not cell.startswith(("=", "+", "@")) for row in rows for cell in row)
    assert "| -a \\| \\<b\\> |" in markdown(found)
