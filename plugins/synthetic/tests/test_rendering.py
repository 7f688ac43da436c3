"""Rendered domains: same seed, same bytes; Market grammar; a fair benchmark; no half-written folder."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from reidx_synthetic.appearance import WARDROBES, Fabric, sample_appearance
from reidx_synthetic.camera import render_person, sample_camera
from reidx_synthetic.canvas import Canvas, plain
from reidx_synthetic.domain import render_domain
from reidx_synthetic.figure import Pose
from reidx_synthetic.person import draw_person

from reidx.errors import DataError
from reidx.evaluation.colour_control import colour_histogram

FOLDERS = ("bounding_box_train", "query", "bounding_box_test")
GRAMMAR = re.compile(r"(\d{4})_c([1-9])s([1-9])_(\d{6})_(\d{2})\.jpg")
SMALL = {"identities": (5, 12), "images_per_camera": 3, "cameras": 3, "size": (64, 32), "workers": 1}


def _read(root: Path) -> dict[str, bytes]:
    return {str(file.relative_to(root)): file.read_bytes() for file in sorted(root.rglob("*.*"))}


def _labels(folder: Path) -> list[tuple[int, int]]:
    """Return (pid, camera) of the folder's files in the order of their names."""
    found = [GRAMMAR.fullmatch(file.name) for file in sorted(folder.iterdir())]
    assert all(found), f"a name in {folder} is not in the grammar of Market-1501"
    return [(int(match[1]), int(match[2])) for match in found if match]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render_domain(tmp_path_factory.mktemp("domains") / "source", "source", seed=3, **SMALL)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render_domain(tmp_path_factory.mktemp("domains") / "target", "target", seed=3, **SMALL)


def test_seed_decides_every_byte(source: Path, tmp_path: Path) -> None:
    again = render_domain(tmp_path / "again", "source", seed=3, **SMALL)
    other = render_domain(tmp_path / "other", "source", seed=4, **SMALL)
    assert _read(again) == _read(source)
    images = {name: data for name, data in _read(other).items() if name.endswith(".jpg")}
    assert images.keys() == {name for name in _read(source) if name.endswith(".jpg")}
    assert all(data != (source / name).read_bytes() for name, data in images.items())


def test_picture_is_independent_of_order_and_count(
    source: Path, tmp_path: Path
) -> None:
    more = render_domain(
        tmp_path / "more", "source", seed=3, **{**SMALL, "identities": (4, 14), "cameras": 4}
    )
    name = "bounding_box_train/0004_c2s2_000401_00.jpg"
    assert (more / name).read_bytes() == (source / name).read_bytes()


def test_processes_render_the_same_bytes(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reidx_synthetic.domain.IMAGES_PER_WORKER", 40)
    parallel = render_domain(tmp_path / "parallel", "source", seed=3, **{**SMALL, "workers": 2})
    assert _read(parallel) == _read(source)


def test_counts_names_and_sizes_follow_the_arguments(source: Path) -> None:
    labels = {folder: _labels(source / folder) for folder in FOLDERS}
    assert len(labels["bounding_box_train"]) == 5 * 3 * 3
    assert sorted(labels["query"]) == [(pid, camera) for pid in range(6, 18) for camera in (1, 2, 3)]
    gallery = [label for label in labels["bounding_box_test"] if label[0] != 0]
    assert sorted(gallery) == sorted(labels["query"] * 2)
    assert len(labels["bounding_box_test"]) - len(gallery) == 6, (
        "expected one distractor for every second test identity"
    )
    manifest = json.loads((source / "synthetic.json").read_text())
    assert manifest["counts"] == {folder: len(labels[folder]) for folder in FOLDERS}
    for file in source.rglob("*.jpg"):
        with Image.open(file) as image:
            assert image.size == (32, 64) and image.mode == "RGB"


def test_every_query_has_a_cross_camera_match(target: Path) -> None:
    gallery = _labels(target / "bounding_box_test")
    for pid, camera in _labels(target / "query"):
        assert any(p == pid and c != camera for p, c in gallery)


def test_identities_are_disjoint_between_splits_and_domains(source: Path, target: Path) -> None:
    splits = [{pid for pid, _ in _labels(root / folder)} for root in (source, target) for folder in FOLDERS]
    source_train, source_query, _, target_train, target_query, _ = splits
    groups = [source_train, source_query, target_train, target_query]
    assert sum(map(len, groups)) == len(set.union(*groups))


def test_the_domains_look_different(source: Path, target: Path) -> None:
    def statistics(root: Path) -> tuple[float, float]:
        pictures = np.stack(
            [np.asarray(Image.open(file), float) for file in (root / "bounding_box_train").iterdir()]
        )
        return pictures.mean(), (pictures.max(-1) - pictures.min(-1)).mean()

    (bright, vivid), (dim, dull) = statistics(source), statistics(target)
    assert bright > 1.15 * dim and vivid > 1.15 * dull


def test_colour_alone_does_not_find_the_person(target: Path) -> None:
    """Colour histograms score a low mAP under Market-1501's protocol, but they match pictures of the same camera."""
    query, gallery = (sorted((target / folder).iterdir()) for folder in FOLDERS[1:])
    for stripes in (1, 3):
        similar = colour_histogram(query, stripes=stripes) @ colour_histogram(gallery, stripes=stripes).T
        precisions, same_camera = [], 0
        for row, (pid, camera) in zip(similar, _labels(target / "query")):
            ranked = [_labels_of(gallery[j]) for j in np.argsort(-row)]
            same_camera += ranked[0][1] == camera
            kept = [label for label in ranked if label != (pid, camera)]
            hits = [rank for rank, (other, _) in enumerate(kept, start=1) if other == pid]
            precisions.append(sum(i / rank for i, rank in enumerate(hits, start=1)) / len(hits))
        assert np.mean(precisions) < 0.25
        assert same_camera > 0.8 * len(query)


def _labels_of(file: Path) -> tuple[int, int]:
    match = GRAMMAR.fullmatch(file.name)
    assert match
    return int(match[1]), int(match[2])


def test_a_finished_folder_is_reused_untouched(source: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in source.rglob("*")}
    calls: list[int] = []
    assert (
        render_domain(source, "source", seed=3, progress=lambda done, total: calls.append(done), **SMALL)
        == source
    )
    assert not calls and before == {file: file.stat().st_mtime_ns for file in source.rglob("*")}


def test_other_rendering_in_folder_is_refused(source: Path) -> None:
    with pytest.raises(DataError, match=r"seed 3 \(requested: 5\).*Choose another folder"):
        render_domain(source, "source", seed=5, **SMALL)


@pytest.mark.parametrize("content", [None, "not json", "[]"])
def test_foreign_folder_is_refused_unchanged(tmp_path: Path, content: str | None) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").write_bytes(b"mine")
    if content is not None:
        (tmp_path / "photos" / "synthetic.json").write_text(content)
    with pytest.raises(DataError, match="photos"):
        render_domain(tmp_path / "photos", "source", **SMALL)
    assert (tmp_path / "photos" / "holiday.jpg").read_bytes() == b"mine"


@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupted_rendering_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr("reidx_synthetic.domain.IMAGES_PER_WORKER", 40)

    def interrupt(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render_domain(tmp_path / "half", "source", progress=interrupt, **{**SMALL, "workers": workers})
    assert list(tmp_path.iterdir()) == []


def test_empty_folder_is_filled_with_full_progress(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    calls: list[tuple[int, int]] = []
    tiny = {**SMALL, "identities": (1, 1), "images_per_camera": 2, "cameras": 2}
    render_domain(
        tmp_path / "empty", "target", progress=lambda done, total: calls.append((done, total)), **tiny
    )
    assert calls == [(i, 9) for i in range(1, 10)]
    assert (tmp_path / "empty" / "synthetic.json").is_file()


def test_slower_process_uses_the_finished_pictures(tmp_path: Path) -> None:
    tiny = {**SMALL, "identities": (1, 1), "images_per_camera": 2, "cameras": 2}

    def overtaken(done: int, total: int) -> None:
        if done == total:  # another process finishes just before the renaming
            render_domain(tmp_path / "domain", "target", **tiny)

    assert render_domain(tmp_path / "domain", "target", progress=overtaken, **tiny) == tmp_path / "domain"
    assert [path.name for path in tmp_path.iterdir()] == ["domain"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"domain": "moon"}, "source, target"),
        ({"identities": (3, 0)}, "1 or more"),
        ({"images_per_camera": 1}, "gallery"),
        ({"cameras": 1}, "another camera"),
        ({"size": (128, 4)}, "height, width"),
    ],
)
def test_arguments_that_make_no_benchmark_are_refused(
    tmp_path: Path, change: dict[str, object], named: str
) -> None:
    arguments = {"domain": "source", **SMALL, **change}
    with pytest.raises(DataError, match=named):
        render_domain(tmp_path / "x", **arguments)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_backpack_shows_only_from_behind() -> None:
    """From behind, a red bag covers much of the picture; from the front only its straps show."""
    look = next(
        look
        for seed in range(1000)
        if (look := sample_appearance(np.random.default_rng(seed), WARDROBES["source"])).bag == "backpack"
        and look.upper_fabric.pattern == "plain"
    )
    red = type(look)(
        **{
            **vars(look),
            "bag_colour": (1.0, 0.0, 0.0),
            "upper_fabric": Fabric((0, 0, 1), (0, 0, 1)),
            "shoes": (0, 0, 0),
        }
    )

    def share(yaw: float) -> float:
        canvas = Canvas(np.full((256, 128, 3), 0.5))
        draw_person(canvas, red, Pose(yaw, 0.0), (64, 245), 220 / red.height)
        return float(((canvas.rgb[..., 0] > 0.4) & (canvas.rgb[..., 1:].max(-1) < 0.05))[60:150].mean())

    assert share(np.pi) > 3 * share(0.0) > 0


@pytest.mark.parametrize(
    ("around", "along", "accent"), [(0.0, 0.02, True), (0.0, 0.07, False), (0.4, 0.12, True)]
)
def test_hoops_repeat_down_the_body(around: float, along: float, accent: bool) -> None:
    cloth = Fabric((1, 1, 1), (0, 0, 0), "hoops", pitch=0.1)
    colour = cloth(np.array([around]), np.array([along]))
    assert colour.tolist() == [[0, 0, 0]] if accent else [[1, 1, 1]]


def test_shapes_cover_their_area_when_cut() -> None:
    canvas = Canvas(np.zeros((60, 60, 3)), light=(0.0, 0.0, 1.0))
    canvas.ball((30, 30), (10, 20), plain((1, 1, 1)))
    assert canvas.rgb[..., 0].sum() == pytest.approx(np.pi * 10 * 20, rel=0.02)
    canvas = Canvas(np.zeros((60, 60, 3)), light=(0.0, 0.0, 1.0))
    canvas.tube((30, 10), (30, 50), [5, 15], plain((1, 1, 1)), rounded=False)
    assert canvas.rgb[..., 0].sum() == pytest.approx(40 * 20, rel=0.02)
    canvas.slab((-50, 70), (10, 10), plain((1, 1, 1)))  # outside: no error, no change
    assert canvas.rgb[..., 0].sum() == pytest.approx(40 * 20, rel=0.02)


def test_one_crop_of_any_size() -> None:
    rng = np.random.default_rng(0)
    camera, look = sample_camera(rng, "target", 0), sample_appearance(rng, WARDROBES["target"])
    image = render_person(look, camera, rng, size=(96, 40))
    assert image.size == (40, 96)
    assert np.asarray(image, float).std() > 5
