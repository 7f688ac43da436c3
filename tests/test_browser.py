"""The test browser sees a page, its errors, its keys and its accessible names."""

from __future__ import annotations

from pathlib import Path

import pytest

from reidx.testing.browser import Browser, chromium

pytestmark = pytest.mark.skipif(chromium() is None, reason="needs Chromium (apt-get install chromium)")

PAGE = """<!doctype html><html lang="en"><title>A page</title>
<style>body { color: black } @media (prefers-color-scheme: dark) { body { color: white } }</style>
<label for="a">Camera</label><input id="a"><input type="file" id="f">
<script>
document.addEventListener("keydown", (event) => { document.title = event.key; });
%s
</script>"""


def written(folder: Path, script: str = "") -> str:
    (folder / "page.html").write_text(PAGE % script)
    return (folder / "page.html").as_uri()


def test_browser_sees_keys_names_files_and_dark_mode(tmp_path: Path) -> None:
    with Browser(390, 800) as browser:
        browser.open(written(tmp_path))
        assert browser.evaluate("innerWidth") >= 390
        browser.press("ArrowRight")
        assert browser.evaluate("document.title") == "ArrowRight"
        assert ("textbox", "Camera") in browser.accessible()
        browser.choose_file("#f", tmp_path / "page.html")
        assert browser.evaluate("document.getElementById('f').files[0].name") == "page.html"
        assert browser.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
        browser.emulate(390, 800, dark=True)
        assert browser.evaluate("getComputedStyle(document.body).color") == "rgb(255, 255, 255)"
        browser.screenshot(tmp_path / "page.png")
        assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")
        assert browser.problems == []


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("console.error('broken');", "broken"),
        ("undefinedName();", "undefinedName"),
        ("document.body.append(Object.assign(new Image(), {src: 'gone.png'}));", "gone.png"),
    ],
)
def test_browser_reports_problems_of_a_page(tmp_path: Path, script: str, problem: str) -> None:
    with Browser() as browser:
        browser.open(written(tmp_path, script))
        browser.evaluate("1")
        assert any(problem in line for line in browser.problems)
