"""The prose of the repository is plain English: no phrase of the list stands in a docstring, comment, message or page."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("reidx", "plugins", "tests", "configs", "benchmarks", "docs")
NOT_PROSE = {"snapshots", "_build", "generated"}

# a phrase, and what an engineer would write
BANNED = {
    r"\banew\b": "again, from scratch",
    r"\bh(?:a|u)ngs? on\b": "depends on",
    r"\b(?:go|goes|gone|going|went) on with\b": "continue, resume",
    r"\bc[ao]me to\b": "was, resulted in",
    r"\b(?:is|are|was|were|be|been|being) (?:told|said)\b": "receives, reports, states",
    r"\bof (?:its|their|his|our|your|my) own\b": "its own …, a separate …",
    r"\bbeside\b": "next to, besides, together with",
    r"\bst(?:ands?|ood) still\b": "does not change",
    r"\bas they stand\b": "unchanged",
    r"\bwhatever it\b": "(name the thing)",
    r"\bwhat it is\b": "(name the thing)",
    r"\bnothing else than\b": "only",
    r"\bone and all\b": "all",
    r"\bthereof\b": "of it",
    r"(?<!\d )\bsections? \d": "paper and equation",
}
PHRASES = re.compile("|".join(BANNED), re.IGNORECASE)
WITHOUT_NOUN = re.compile(r"(?:What|How|Whose|Whether|Where|Who|Which|Whatever|Whoever)\b(?!.*\?)")


def prose_of_python(text: str) -> Iterator[tuple[int, str]]:
    """The lines of comments and strings of Python code, with their numbers."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING) or tokenize.tok_name[token.type] == "FSTRING_MIDDLE":
            yield from enumerate(token.string.splitlines(), token.start[0])


def banned(path: Path, text: str) -> list[str]:
    """A line ``file:line: phrase -> better`` for each banned phrase."""
    lines = prose_of_python(text) if path.suffix == ".py" else enumerate(text.splitlines(), 1)
    found = []
    for number, line in lines:
        for match in PHRASES.finditer(line):
            better = next(better for phrase, better in BANNED.items() if re.match(phrase, match[0], re.IGNORECASE))
            found.append(f"{path.name}:{number}: {match[0]!r} -> {better}")
    return found


def without_noun(text: str) -> list[str]:
    """The first lines of docstrings that begin with a clause (``What …``) in place of a verb or a noun."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = [ast.get_docstring(node) or "" for node in ast.walk(ast.parse(text)) if isinstance(node, documented)]
    return [first for first in (docstring.partition("\n")[0] for docstring in docstrings) if WITHOUT_NOUN.match(first)]


def pages() -> list[Path]:
    """All files with prose: code, configs, pages."""
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".md", ".yaml", ".in")]
    files = [path for path in files if not NOT_PROSE & set(path.parts) and ".egg-info" not in str(path)]
    return [*(path for path in sorted(files) if path != Path(__file__)), *sorted(ROOT.glob("*.md"))]


def test_no_file_has_a_banned_phrase() -> None:
    found = [line for path in pages() for line in banned(path.relative_to(ROOT), path.read_text(encoding="utf-8"))]
    assert found == []


def test_docstrings_begin_with_a_verb_or_a_noun() -> None:
    code = [path for path in pages() if path.suffix == ".py"]
    found = [f"{path.relative_to(ROOT)}: {first}" for path in code for first in without_noun(path.read_text(encoding="utf-8"))]
    assert found == []


@pytest.mark.parametrize("phrase", ["built anew", "It hangs on", "Section 3.1", "a file of its own", "we came to", "beside it"])
def test_phrase_is_found_in_each_kind_of_prose(phrase: str) -> None:
    for code in (f'"""{phrase}."""\n', f"x = 1  # {phrase}\n", f'x = f"{{y}} {phrase}"\n', f'"""One.\n\n{phrase}\n"""\n'):
        assert banned(Path("a.py"), code), code
    assert banned(Path("a.md"), f"One.\n{phrase}\n")[0].startswith("a.md:2:")


def test_names_in_code_are_not_prose() -> None:
    assert banned(Path("a.py"), "beside = anew(section=3)\n") == []


def test_clause_as_first_line_is_found() -> None:
    assert without_noun('def f():\n    """What it returns."""\n') == ["What it returns."]
    assert without_noun('def f():\n    """Return the gallery."""\n') == []
