"""The page: valid, self-contained, readable without colours and by a screen reader; numbers are those of the run."""

from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from reidx.cli.main import main
from reidx.errors import ReidxError
from reidx.html.measured import Measured
from reidx.html.page import render, write_report
from reidx.html.source import Source
from reidx.runs.result import StageResult
from reidx.runs.stored import read_run
from reidx.testing.browser import Browser, chromium

VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """Elements of a page as pairs of tag and attributes; raises :class:`AssertionError` for elements that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def test_page_is_valid_and_accessible(sources: list[Source]) -> None:
    text = render(sources)
    page = Page(text)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.elements:
        assert set((attributes.get("aria-labelledby") or "").split()) <= set(ids)
        for key in ("src", "href", "xlink:href"):
            assert (attributes.get(key) or "#").startswith(("#", "data:")), "an external resource"
    assert {link["href"] for link in page.all("a")} <= {f"#{name}" for name in ids}
    assert not re.search(r"https?://|url\(|@import|<script", text)
    assert page.all("img") and all(image["alt"] for image in page.all("img"))
    assert all(cell.get("scope") in ("row", "col") for cell in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table")) > 10
    charts = [svg for svg in page.all("svg") if svg.get("role") == "img"]
    assert len(charts) == len(page.all("desc")) > 10, "a chart has a text alternative"
    assert len(page.all("main")) == len(page.all("nav")) == len(page.all("h1")) == 1
    assert "<b>&'two" in "".join(page.words) and "<b>&'two" not in text, "names are escaped"


def test_page_has_no_pictures_unless_requested(sources: list[Source]) -> None:
    without = render([Source(one.name, one.run, one.measured) for one in sources])
    assert "data:image" in render(sources) and "data:image" not in without
    page = Page(without)
    assert page.all("img") == [] and "pictures of people" not in without
    assert {"✓", "✗"} <= {word.strip() for word in page.words}


def test_marks_and_scores_are_those_of_the_features(sources: list[Source], measured: Measured) -> None:
    ranked = render([Source("one", sources[0].run, measured)]).partition('id="ranked-lists"')[2].partition('id="worst')[0]
    query, gallery = (rows.double().numpy() for rows in measured.features)
    title = r'aria-label="Ranked list of Query (\d+): AP [\d.]+ %, first match at rank (\d+)">(.*?)</ol>'
    found = re.findall(title, ranked, re.DOTALL)
    assert len(found) == 8
    for number, first, entries in found:
        q = int(number)
        distances = np.sqrt(((gallery - query[q]) ** 2).sum(1))
        counts = (measured.gallery.ids != measured.query.ids[q]) | (measured.gallery.cameras != measured.query.cameras[q])
        order = [g for g in np.argsort(distances, kind="stable").tolist() if counts[g] and measured.gallery.ids[g] != -1]
        right = [measured.gallery.ids[g] == measured.query.ids[q] for g in order]
        assert int(first) == right.index(True) + 1
        assert [mark == "✓" for mark in re.findall("[✓✗]", entries)] == right[:10]
        shown = re.findall(r"<span>(\d+\.\d{3})</span>", entries)
        assert [float(text) for text in shown] == pytest.approx(distances[order[:10]], abs=6e-4)


def test_numbers_are_those_of_the_run(sources: list[Source], measured: Measured) -> None:
    last = sources[0].run.stages[0].last
    assert measured.evaluation.metrics["mAP"] == pytest.approx(last["mAP"], abs=1e-9)
    words = "".join(Page(render(sources[:1])).words)
    for name in ("mAP", "rank-1"):
        assert f"{100 * last[name]:.2f}" in words
    assert "recorded an mAP" not in words


def test_other_data_than_the_run_recorded_are_named(sources: list[Source]) -> None:
    changed = read_run(sources[0].run.folder)
    changed.stages[0].history[-1]["mAP"] = 0.99
    text = render([Source("one", changed, sources[0].measured)])
    assert "one recorded an mAP of 99.00" in text and "the data or the code have changed" in text


def test_run_without_data_keeps_its_curves(finished: Path, domains_root: Path, tmp_path: Path, capsys) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace(str(domains_root), str(tmp_path / "gone")))
    out = tmp_path / "page.html"
    assert main(["report", str(folder), "--out", str(out), "--progress", "quiet"]) == 0
    assert "run: Not measured: " in capsys.readouterr().out
    text = out.read_text(encoding="utf-8")
    page = Page(text)
    assert "<figcaption>loss</figcaption>" in text and "Adjusted Rand index" in text
    assert sum("Not measured: " in word for word in page.words) >= 6
    assert "Cluster 0: " in text, "the file of labels has the clusters"


def test_quick_page_of_an_unfinished_run(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    for name in ("result.json", "1-adapt/done.json"):
        (folder / name).unlink()
    (folder / "1-adapt/log.jsonl").write_text((folder / "1-adapt/log.jsonl").read_text().splitlines(keepends=True)[0])
    monkeypatch.setattr("reidx.html.page.measure", lambda *_: pytest.fail("it was measured"))
    for quick in (False, True):
        write_report([folder], tmp_path / "page.html", quick=quick, progress="quiet")
        words = "".join(Page((tmp_path / "page.html").read_text(encoding="utf-8")).words)
        assert "interrupted" in words and "1 of 2" in words
        assert ("because of --quick" in words) == quick


def test_stage_that_was_never_evaluated(sources: list[Source]) -> None:
    run = read_run(sources[0].run.folder)
    object.__setattr__(run, "stages", (StageResult("adapt", {}, [{"epoch": 1, "loss": 2.0}]),))
    assert "No stage has been evaluated yet." in render([Source("one", run, reason="Not measured.")])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{tmp}"], "is not a run: it has no experiment.json"),
        (["{tmp}/none"], "there is no such folder"),
        (["{run}", "{run}"], "is named twice"),
        (["{run}", "--out", "{tmp}"], "it is a folder"),
        (["{run}", "--out", "{tmp}/a/b.html"], "there is no folder"),
        (["{run}", "--map", "umap"], "pip install umap-learn"),
    ],
)
def test_bad_input_has_one_message(words, message, finished: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "umap", None)
    assert main(["report", *(word.format(tmp=tmp_path, run=finished) for word in words)]) == 1
    assert message in capsys.readouterr().err


def test_page_is_written_whole_or_not_at_all(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "page.html").write_text("the page before")

    def broken(*_: object) -> str:
        raise ReidxError("broken")

    monkeypatch.setattr("reidx.html.page.render", broken)
    with pytest.raises(ReidxError):
        write_report([finished], tmp_path / "page.html", quick=True, progress="quiet")
    assert (tmp_path / "page.html").read_text() == "the page before"


@pytest.mark.skipif(chromium() is None, reason="chromium is not installed")
def test_browser_shows_pictures_on_a_phone_and_in_the_dark(sources: list[Source], tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(render(sources), encoding="utf-8")
    colours = set()
    with Browser(400, 800) as browser:
        browser.open(path.as_uri())
        for width, dark in ((400, False), (400, True), (1200, False)):
            browser.emulate(width, 800, dark)
            assert browser.evaluate("document.documentElement.scrollWidth") <= width, "nothing is cut off"
            colours.add(browser.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert len(colours) == 2
        loaded = "Promise.all([...document.images].map(one => {one.loading = 'eager'; return one.decode()}))"
        assert browser.evaluate(f"{loaded}.then(all => all.length)") == len(Page(render(sources)).all("img"))
        assert browser.evaluate("[...document.images].every(one => one.naturalWidth > 0)")
        roles = browser.accessible()
        assert {"main", "navigation"} <= {role for role, _ in roles}
        assert any(role in ("image", "img") and "mAP" in name for role, name in roles)
        assert browser.problems == []
