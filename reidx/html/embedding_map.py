"""Section with a map of the embeddings of some people: t-SNE or UMAP, by identity and by camera."""

from __future__ import annotations

import string
from collections.abc import Sequence

import numpy as np

from reidx.errors import ConfigError
from reidx.html.blocks import Row, Section
from reidx.html.charts import STYLES, Glyph, Map, in_square
from reidx.html.measured import Measured
from reidx.html.source import Source, measured_parts

PEOPLE, EACH, OTHERS = 12, 16, 300
"""Identities that are drawn as letters, images of each, and further images as dots."""
METHODS = {"tsne": "t-SNE", "umap": "UMAP"}


def embedding_map(sources: Sequence[Source], method: str) -> Section:
    """Two drawings of the same map of gallery images: with letters for identities, with numbers for cameras."""
    blocks: list[object] = []
    for _, measured in measured_parts(sources, blocks):
        blocks.append(Row(_maps(measured, method)))
    intro = (
        f"Gallery images by {METHODS[method]}: {PEOPLE} people as letters, others as dots. Near images have similar "
        "embeddings; distances between groups mean nothing. One letter with several cameras is good; cameras apart "
        "are not."
    )
    return Section("map", "Map", intro, blocks)


def check_method(method: str) -> None:
    """Raise :class:`ConfigError` if the package of a method is not installed."""
    if method == "umap":
        try:
            import umap  # noqa: F401
        except ImportError as error:
            raise ConfigError("--map umap needs the package umap-learn: pip install umap-learn, or use --map tsne.") from error


def project(features: np.ndarray, method: str) -> np.ndarray:
    """Project features (N,D) to two dimensions (N,2), the same for equal features."""
    if method == "umap":
        import umap

        return np.asarray(umap.UMAP(n_components=2, random_state=0, n_jobs=1).fit_transform(features))
    from sklearn.manifold import TSNE

    perplexity = min(30.0, max(1.0, (len(features) - 1) / 3))
    return TSNE(2, perplexity=perplexity, init="pca", random_state=0).fit_transform(features)


def sample(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Choose people evenly among those with the most images, and dots among all other images; returns positions of both."""
    known, counts = np.unique(ids[ids > 0] if (ids > 0).any() else ids, return_counts=True)
    often = known[counts >= np.median(counts)]
    people = often[np.unique(np.linspace(0, len(often) - 1, min(PEOPLE, len(often))).round().astype(int))]
    chosen = np.concatenate([np.flatnonzero(ids == who)[:EACH] for who in people])
    rest = np.flatnonzero(~np.isin(ids, people))
    return chosen, rest[np.unique(np.linspace(0, len(rest) - 1, min(OTHERS, len(rest))).astype(int))] if len(rest) else rest


def _maps(measured: Measured, method: str) -> list[Map]:
    gallery = measured.gallery
    assert gallery.ids is not None
    chosen, rest = sample(gallery.ids)
    places = np.concatenate([chosen, rest])
    points = project(measured.features[1].flatten(1)[places].float().numpy(), method)
    square = in_square(points.tolist())
    people, cameras = np.unique(gallery.ids[chosen]), np.unique(gallery.cameras[chosen])
    dots = [Glyph(x, y, "", -1, "") for x, y in square[len(chosen) :]]
    letters, numbers = [], []
    for (x, y), place in zip(square, chosen.tolist()):
        who, camera = int(np.searchsorted(people, gallery.ids[place])), int(np.searchsorted(cameras, gallery.cameras[place]))
        name = measured.camera(int(gallery.cameras[place]))
        title = f"identity {gallery.ids[place]}, camera {name}"
        letters.append(Glyph(x, y, string.ascii_uppercase[who], who % STYLES, title))
        numbers.append(Glyph(x, y, name, camera % STYLES, title))
    near = _nearest(points[: len(chosen)])
    same_person, same_camera = (float((c[chosen][near] == c[chosen]).mean()) for c in (gallery.ids, gallery.cameras))
    size = f"{len(chosen)} images of {len(people)} people as letters, {len(rest)} others as dots."
    return [
        Map(
            "By identity",
            [*dots, *letters],
            f"{size} For {100 * same_person:.0f} % of them the nearest on the map shows the same person.",
            [(string.ascii_uppercase[n], n % STYLES, f"identity {who}") for n, who in enumerate(people.tolist())],
        ),
        Map(
            "By camera",
            [*dots, *numbers],
            f"The same map. For {100 * same_camera:.0f} % of the images the nearest on the map is of the same camera.",
            [(measured.camera(c), n % STYLES, f"camera {measured.camera(c)}") for n, c in enumerate(cameras.tolist())],
        ),
    ]


def _nearest(points: np.ndarray) -> np.ndarray:
    """The nearest other point (N,) of each of the points (N,2)."""
    from scipy.spatial import cKDTree

    return np.asarray(cKDTree(points).query(points, 2)[1])[:, 1]
