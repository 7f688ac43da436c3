"""The HTML of the page: forms, the query, ranked images; readable without scripts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import PurePath
from urllib.parse import parse_qs, urlencode

from reidx.errors import DataError
from reidx.index.results import Result
from reidx.serve.gallery import FIRST, Gallery, Query

COUNTS = (10, 20, 50, 100)
"""Numbers of results to choose from."""

PAGE = 48
"""Images of the index on a page without a query."""


@dataclass(frozen=True)
class View:
    """The state of the page, which is its address."""

    query: Query | None = None
    camera: int | None = None
    count: int = 20
    rerank: bool = False
    start: int = 0

    @classmethod
    def of(cls, text: str) -> View:
        """Read the query string of an address; raises :class:`DataError` for values that the page never writes."""
        given = {name: values[-1] for name, values in parse_qs(text, max_num_fields=20).items()}
        row, camera = (_whole(given, name) for name in ("row", "camera"))
        count, start = _whole(given, "count") or 20, _whole(given, "start") or 0
        if count not in COUNTS or start < 0:
            raise DataError("The address is not one of this page: count or start is out of range.")
        token = given.get("upload")
        query = Query(token=token) if token else None if row is None else Query(row=row)
        return cls(query, camera, count, given.get("rerank") == "1", start)

    def address(self) -> str:
        """Return the address of the page in this state."""
        return f"/?{urlencode(self.fields())}"

    def fields(self) -> dict[str, str | int]:
        """Return the values of the address; those that are as usual are left out."""
        found: dict[str, str | int] = {}
        if self.query is not None:
            found |= {"upload": self.query.token} if self.query.token else {"row": self.query.row or 0}
        if self.camera is not None:
            found["camera"] = self.camera
        if self.count != 20:
            found["count"] = self.count
        if self.rerank:
            found["rerank"] = 1
        if self.start:
            found["start"] = self.start
        return found


def _whole(given: dict[str, str], name: str) -> int | None:
    text = given.get(name, "")
    if not text:
        return None
    if not text.lstrip("-").isascii() or not text.lstrip("-").isdigit() or len(text) > 18:
        raise DataError(f"The address is not one of this page: {name} is not a whole number.")
    return int(text)


def search_page(gallery: Gallery, view: View) -> str:
    """Return the page of a view: the results of its query, or images to pick from."""
    head = _forms(gallery, view)
    if view.query is None:
        return _document(gallery, head + _to_pick(gallery, view))
    results = gallery.search(view.query, view.count, view.camera, view.rerank)
    return _document(gallery, head + _query(gallery, view.query) + _ranked(results, view))


def error_page(gallery: Gallery, message: str) -> str:
    """Return a page with a message and the forms."""
    return _document(gallery, f'<p role="alert" class="error">{escape(message)}</p>{_forms(gallery, View())}')


def _document(gallery: Gallery, body: str) -> str:
    count, name = f"{len(gallery.index):,} images", escape(gallery.index.folder.name)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Search in {name}</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/style.css">
<script src="/keys.js" defer></script>
</head>
<body>
<a class="skip" href="#images">Skip to the images</a>
<header><h1><a href="/">Search in {name}</a></h1><p>{count}, network {escape(gallery.network.name)}</p></header>
<main>
{body}
</main>
</body>
</html>
"""


def _forms(gallery: Gallery, view: View) -> str:
    cameras = "".join(_option(camera, f"camera {camera}", camera == view.camera) for camera in gallery.cameras)
    camera = f'<label>Camera <select name="camera"><option value="">all</option>{cameras}</select></label>' if cameras else ""
    counts = "".join(_option(count, str(count), count == view.count) for count in COUNTS)
    hidden = {name: value for name, value in replace(view, start=0).fields().items() if name in ("row", "upload")}
    kept = "".join(f'<input type="hidden" name="{name}" value="{escape(str(value))}">' for name, value in hidden.items())
    checked = " checked" if view.rerank else ""
    return f"""<form action="/queries" method="post" enctype="multipart/form-data">
<label>Query image <input type="file" name="image" accept="image/*" required></label>
<button>Upload and search</button>
</form>
<form action="/" method="get">
{kept}{camera}
<label>Results <select name="count">{counts}</select></label>
<label><input type="checkbox" name="rerank" value="1"{checked}> re-rank the first {FIRST}</label>
<button>{"Search again" if hidden else "Show"}</button>
</form>
"""


def _option(value: int, text: str, selected: bool) -> str:
    return f'<option value="{value}"{" selected" if selected else ""}>{escape(text)}</option>'


def _query(gallery: Gallery, query: Query) -> str:
    if query.token:
        return _section("Query", "query", f'<img src="/upload/{escape(query.token)}" alt="the uploaded image">')
    name = escape(_file_name(gallery.index.rows.paths[query.row or 0]))
    return _section("Query", "query", f'<img src="/image/{query.row}" alt="image {name}"><p>{name}</p>')


def _ranked(results: Sequence[Result], view: View) -> str:
    items = (
        _item(result.row, replace(view, query=Query(row=result.row)), result.path, [
            f"{result.rank}. similarity {result.similarity:.3f}",
            *([] if result.camera is None else [f"camera {result.camera}"]),
            *([] if result.id is None else [f"identity {result.id}"]),
            *([f"time {result.time}"] if result.time else []),
        ])
        for result in results
    )  # fmt: skip
    of = "" if view.camera is None else f" of camera {view.camera}"
    return _section(f"The {len(results)} most similar images{of}", "images", _grid(items))


def _to_pick(gallery: Gallery, view: View) -> str:
    rows, total = gallery.images(view.start, PAGE, view.camera)
    paths = gallery.index.rows.paths
    items = (_item(row, replace(view, query=Query(row=row), start=0), paths[row], []) for row in rows)
    steps = {"earlier": max(0, view.start - PAGE)} if view.start else {}
    if view.start + PAGE < total:
        steps["later"] = view.start + PAGE
    links = " ".join(f'<a href="{escape(replace(view, start=at).address())}">{name} images</a>' for name, at in steps.items())
    pages = f'<nav aria-label="Pages">{links}</nav>' if links else ""
    return _section("Pick a query, or upload one", "images", _grid(items) + pages)


def _section(title: str, name: str, content: str) -> str:
    head = f'<section id="{name}" aria-labelledby="{name}-title">\n<h2 id="{name}-title">{escape(title)}</h2>'
    return f"{head}\n{content}\n</section>\n"


def _grid(items: Iterable[str]) -> str:
    return f'<ol class="grid">\n{"".join(items)}</ol>'


def _item(row: int, target: View, path: str, facts: Sequence[str]) -> str:
    name = escape(_file_name(path))
    lines = "".join(f"<span>{escape(fact)}</span>" for fact in facts)
    return (
        f'<li><a href="{escape(target.address())}"><img src="/image/{row}" alt="" loading="lazy">'
        f'{lines}<span class="name">{name}</span></a></li>\n'
    )


def _file_name(path: str) -> str:
    return PurePath(path).name
