"""The page in headless Chromium: pick, upload, filter, keys, names for screen readers, phones, dark mode."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from reidx.serve import PageServer
from reidx.testing.browser import Browser, chromium

pytestmark = pytest.mark.skipif(chromium() is None, reason="needs Chromium (apt-get install chromium)")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


def loaded(browser: Browser) -> bool:
    """Return True if the first images can be decoded; those that are not in view are loaded then."""
    first = "[...document.images].slice(0, 4)"
    return bool(browser.evaluate(f"Promise.all({first}.map((image) => image.decode())).then(() => true)"))


def problems(browser: Browser) -> list[str]:
    """Return the problems of the page, except the one image whose file is missing."""
    return [line for line in browser.problems if not line.endswith("/image/59")]


def test_query_is_picked_and_filtered_by_keys(browser: Browser, server: PageServer) -> None:
    browser.open(server.address)
    assert loaded(browser)
    for key in ("ArrowRight", "ArrowRight", "ArrowRight", "ArrowLeft", "ArrowDown", "ArrowUp"):
        browser.press(key)
    assert browser.evaluate("document.activeElement.querySelector('img').getAttribute('src')") == "/image/1"
    browser.press("Enter")
    browser.wait_for_load()
    assert browser.evaluate("location.search") == "?row=1" and loaded(browser)
    assert browser.evaluate("document.querySelectorAll('.grid li').length") == 20
    browser.evaluate("document.querySelector('select[name=camera]').value = '2'; document.forms[1].requestSubmit()")
    browser.wait_for_load()
    shown = browser.evaluate("[...document.querySelectorAll('.grid img')].map((image) => image.getAttribute('src'))")
    assert {int(path.rpartition("/")[2]) % 3 for path in shown} == {2}
    assert problems(browser) == []


def test_image_is_uploaded(browser: Browser, server: PageServer, images: list[str]) -> None:
    browser.open(server.address)
    browser.choose_file("input[type=file]", Path(images[23]))
    browser.evaluate("document.querySelector('form button').click()")
    browser.wait_for_load()
    assert browser.evaluate("document.querySelector('.grid img').getAttribute('src')") == "/image/23" and loaded(browser)
    assert problems(browser) == []


def test_screen_readers_get_names(browser: Browser, server: PageServer) -> None:
    browser.open(f"{server.address}?row=3")
    found = browser.accessible()
    for role, name in (
        ("heading", "Query"), ("heading", "The 20 most similar images"), ("combobox", "Camera"), ("combobox", "Results"),
        ("checkbox", "re-rank the first 100"), ("button", "Upload and search"), ("image", "image 003.png"),
    ):  # fmt: skip
        assert (role, name) in found, (role, name, [one for one in found if one[0] == role])
    links = [name for role, name in found if role == "link" and "similarity" in name]
    assert len(links) == 20 and links[0].startswith("1. similarity") and "camera" in links[0]
    assert browser.evaluate("document.documentElement.lang") == "en"


def test_page_fits_a_phone_and_turns_dark(browser: Browser, server: PageServer, tmp_path: Path) -> None:
    browser.emulate(360, 740)
    browser.open(f"{server.address}?row=3")
    assert browser.evaluate("document.documentElement.scrollWidth") <= 360
    tops = browser.evaluate("[...document.querySelectorAll('.grid li')].slice(0, 2).map((item) => item.offsetTop)")
    assert tops[0] == tops[1]  # two columns
    light = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    browser.emulate(360, 740, dark=True)
    dark = browser.evaluate("[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]")
    browser.screenshot(tmp_path / "dark.png")
    browser.emulate(1000, 800)
    assert light == "rgb(255, 255, 255)" and brightness(dark[0]) < 60 and brightness(dark[1]) > 200


def brightness(colour: str) -> float:
    return sum(float(part) for part in colour.partition("(")[2].rstrip(")").split(",")[:3]) / 3
