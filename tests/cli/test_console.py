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


@pytest.mark.parametrize("width", [80, 120])
def test_wide_table_is_printed_in_parts(printed, width):
    """All values are there, unbroken, and each part begins with the two columns that name its rows."""
    names = ["mAP", "rank-1", "rank-5", "rank-10", "mINP", "DIR@0.001", "DIR@0.01", "DIR@0.1", "TPR@0.0001", "AUC"]
    rows = [[f"run-{n}", "market1501", *(f"{n}{place:02}.00" for place in range(len(names)))] for n in (1, 2)]
    head = ["run", "set", *names]
    lines = printed(width, lambda: print_table(head, rows, repeated=2))
    parts = [part.splitlines() for part in "\n".join(lines).split("\n\n")]
    assert max(map(len, lines)) <= width and len(parts) == (2 if width == 80 else 1)
    assert [name for part in parts for name in part[0].split()[2:]] == names
    assert all(line.split()[:2] == row[:2] for part in parts for line, row in zip(part[1:], rows, strict=True))
    assert [value for part in parts for value in part[1].split()[2:]] == rows[0][2:]


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
