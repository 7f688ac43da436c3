"""The page about one run or several: its sections, rendered into one file."""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Sequence
from pathlib import Path

from reidx._version import __version__
from reidx.data.address import as_unicode
from reidx.errors import ConfigError, ReidxError
from reidx.html.activations import activation_maps
from reidx.html.blocks import Section
from reidx.html.cameras import camera_confusion
from reidx.html.clusters import cluster_browser
from reidx.html.curves import curves, labels
from reidx.html.embedding_map import check_method, embedding_map
from reidx.html.measured import measure
from reidx.html.rankings import cmc, ranked_lists, worst_queries
from reidx.html.source import Source
from reidx.html.summary import cards, differences, metrics, overview
from reidx.reporting.reporter import Mode, Reporter
from reidx.runs.checkpoint import write_text
from reidx.runs.stored import StoredRun, read_run


def write_report(
    folders: Sequence[Path],
    out: Path,
    images: bool = False,
    quick: bool = False,
    method: str = "tsne",
    progress: Mode | None = None,
) -> list[str]:
    """Write the page about the runs in ``folders`` to ``out``, atomically; return a line for each run that was not measured.

    Finished runs are measured again on their test sets, for the sections on queries, embeddings and cameras, unless
    ``quick``. ``images`` shows pictures of the people. ``method`` of the map is ``tsne`` or ``umap``. Raises
    :class:`ReidxError` for a folder without a run, a repeated one, and a path that cannot be written, before any measurement.
    """
    if out.is_dir() or not out.resolve().parent.is_dir():
        raise ConfigError(f"--out {out}: {'it is a folder' if out.is_dir() else f'there is no folder {out.parent}'}.")
    check_method(method)
    resolved = [folder.resolve() for folder in folders]
    if twice := next((folder for folder, path in zip(folders, resolved) if resolved.count(path) > 1), None):
        raise ConfigError(f"{twice} is named twice.")
    runs = [read_run(folder) for folder in folders]
    reporter = Reporter(progress)
    sources = [_source(run, name, images, quick, reporter) for run, name in zip(runs, _names(runs))]
    write_text(out, as_unicode(render(sources, method)))
    return [f"{source.name}: {source.reason}" for source in sources if source.reason and not quick]


def render(sources: Sequence[Source], method: str = "tsne") -> str:
    """Render the page of the runs as HTML, with every text escaped."""
    import jinja2

    templates = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    environment = jinja2.Environment(loader=templates, autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    environment.globals["fresh"] = itertools.count(1).__next__
    names = [source.name for source in sources]
    pictures = any(source.pictures for source in sources)
    return environment.get_template("page.html").render(
        title=f"Report of {names[0]}" if len(names) == 1 else f"Report of {len(names)} runs",
        subtitle=str(sources[0].run.folder) if len(names) == 1 else ", ".join(names),
        sections=sections(sources, method),
        version=__version__,
        date=datetime.datetime.now().strftime("%Y-%m-%d"),
        pictures="It contains pictures of people: share it only as the licence of the data allows." if pictures else "",
    )


def sections(sources: Sequence[Source], method: str = "tsne") -> list[Section]:
    """The sections of the page, in their order."""
    tested = [cmc, ranked_lists, worst_queries, camera_confusion, lambda of: embedding_map(of, method), activation_maps]
    found = [
        overview(sources),
        metrics(sources),
        differences(sources),
        curves(sources),
        labels(sources),
        *(section(sources) for section in tested),
        cluster_browser(sources),
        cards(sources),
    ]
    return [section for section in found if section is not None]


def _source(run: StoredRun, name: str, images: bool, quick: bool, reporter: Reporter) -> Source:
    """Measure a run if it is finished; otherwise the source has the reason."""
    if quick:
        return Source(name, run, reason="Not measured, because of --quick.", pictures=images)
    if run.state != "finished":
        return Source(name, run, reason=f"Not measured, because the run is not finished ({run.state}).", pictures=images)
    try:
        return Source(name, run, measure(run.folder, reporter), pictures=images)
    except (ReidxError, OSError) as error:
        return Source(name, run, reason=f"Not measured: {error}", pictures=images)


def _names(runs: Sequence[StoredRun]) -> list[str]:
    """The names of the folders, or their paths where two have the same name."""
    short = [run.name for run in runs]
    return short if len(set(short)) == len(short) else [str(run.folder) for run in runs]
