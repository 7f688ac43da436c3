"""Layout of entries, lines and paragraphs within the width of a terminal."""

from __future__ import annotations

import pytest

from reidx.cli.console import print_entries, print_lines, print_paragraphs, print_table

DOCSTRING = """One vector an image, from a map of any
size.

Args:
    name: a model, with or
        without a tag.
    weights: a file.

Rules:

* first, which
  goes on;
* second.
"""


@pytest.fixture
def printed(capsys, monkeypatch):
    """Return the lines that a call prints at a width."""

    def printed(width, function, *arguments):
        monkeypatch.setenv("COLUMNS", str(width))
        function(*arguments)
        return capsys.readouterr().out.splitlines()

    return printed


def test_paragraphs_keep_sections_and_bullets(printed):
    assert printed(80, print_paragraphs, DOCSTRING) == [
        "One vector an image, from a map of any size.",
        "",
        "Args:",
        "    name: a model, with or without a tag.",
        "    weights: a file.",
        "",
        "Rules:",
        "",
        "* first, which goes on;",
        "* second.",
    ]


def test_long_item_hangs_below_its_beginning(printed):
    lines = printed(40, print_paragraphs, "Args:\n    name: " + "word " * 12)
    assert lines[1].startswith("    name: word") and lines[2].startswith(" " * 8 + "word")
    assert max(map(len, lines)) <= 40
    lines = printed(40, print_paragraphs, "* " + "word " * 12)
    assert lines[1].startswith("  word") and not lines[1].startswith("   ")


def test_last_column_wraps_first(printed):
    lines = printed(40, print_table, ("key", "value"), [("x" * 20, "y" * 30)])
    assert lines == [f"key{' ' * 19}value", f"{'x' * 20}  {'y' * 18}", f"{' ' * 22}{'y' * 12}"]


def test_wide_columns_wrap_and_lose_nothing(printed):
    lines = printed(60, print_table, ("key", "one", "two"), [("k" * 20, "1" * 64, "2" * 64)])
    assert max(map(len, lines)) <= 60
    text = "".join(lines)
    assert [text.count(letter) for letter in "k12"] == [20 + 1, 64, 64]  # and the k of the heading


def test_entries_wrap_below_their_text(printed):
    lines = printed(40, print_entries, [("PK", "word " * 12), ("Shuffle", "short")])
    assert lines[0].startswith("  PK       word") and lines[1].startswith(" " * 11 + "word")
    assert lines[-1] == "  Shuffle  short" and max(map(len, lines)) <= 40


def test_texts_stand_below_long_names(printed):
    name = "x" * 60
    assert printed(80, print_entries, [(name, "short"), ("PK", "more")]) == [f"  {name}", "      short", "  PK", "      more"]
    assert printed(140, print_entries, [(name, "short")]) == [f"  {name}  short"]


def test_entries_in_a_pipe_are_one_line(capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    print_entries([("PK", "word " * 100)])
    assert capsys.readouterr().out.count("\n") == 1


def test_lines_hang_at_the_edge(printed):
    lines = printed(40, print_lines, ["paper: " + "word " * 12])
    assert lines[1].startswith("  word") and max(map(len, lines)) <= 40
