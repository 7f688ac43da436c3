"""Notes on the data before a run starts, and their counts on its card."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import reidx
from reidx.cli.main import main
from reidx.engine.experiment import test as evaluate
from reidx.errors import ConfigError, DataError
from reidx.evaluation import SingleGalleryShot
from reidx.evaluation.protocols import drawn_trials
from reidx.testing.tiny import tiny_domain

FREE = {"domain": "target", "protocol": "NoCameraFilter"}
Row = tuple[str, int, int, str]


@pytest.fixture
def rows(domains_root: Path) -> list[Row]:
    """Return the images of the tiny target domain as path, identity, camera and split."""
    data = reidx.build("dataset", tiny_domain(domains_root))
    return [
        (os.path.abspath(path), int(who), int(camera), name)
        for name in ("train", "query", "gallery")
        for path, who, camera in zip(*(getattr(getattr(data, name), column) for column in ("paths", "ids", "cameras")))
    ]


@pytest.fixture
def config(experiment: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Return a function that writes the tiny experiment on a table of rows, and returns its path."""
    monkeypatch.chdir(tmp_path)

    def config(rows: list[Row], cameras: bool = True, **changes: Any) -> str:
        with open("people.csv", "w", newline="", encoding="utf-8") as file:
            written = [(path, who, camera if cameras else "", split) for path, who, camera, split in rows]
            csv.writer(file).writerows([("path", "pid", "camid", "split"), *written])
        data = {"image_size": [48, 24], "domains": {"target": {"type": "CSV", "path": "people.csv"}}}
        changes = {"stages": [{"name": "adapt", "epochs": 1, "iters": 1}], **changes}
        return str(experiment(data=data, **changes))

    return config


def renumbered(rows: list[Row], kept: int) -> list[Row]:
    """Return rows whose gallery shows only ``kept`` of the queries' people."""
    people = sorted({who for _, who, _, split in rows if split == "query"})[:kept]
    return [(path, who + 90_000 * (split == "gallery" and who not in people), c, split) for path, who, c, split in rows]


def test_queries_without_a_match_are_counted(rows, config, capsys):
    path = config(renumbered(rows, 2))
    whole = sum(split == "query" for *_, split in rows)
    people = {who for _, who, _, split in rows if split == "query"}
    lost = whole - sum(split == "query" and who in sorted(people)[:2] for _, who, _, split in rows)
    line = (
        f"target: {lost} of {whole} queries have no match in the gallery that counts under protocol market1501; "
        "they are left out of mAP, mINP and rank-k\n"
    )
    assert 0 < lost < whole
    card = evaluate(reidx.load_config(path), progress="plain").card["stages"]["adapt"]
    assert capsys.readouterr().err.count(line) == 1
    assert (card["evaluation"]["queries_without_match"], card["cameras_in_sampling"]) == (lost, False)
    assert main(["train", path, "--work-dir", "run", "--progress", "plain"]) == 0
    err = capsys.readouterr().err
    assert err.count(line) == 1 and err.index(line) < err.index("stage adapt")
    card = json.loads(Path("run/result.json").read_text())["card"]["stages"]["adapt"]
    assert card["evaluation"]["queries_without_match"] == lost and card["cameras_in_sampling"] is True
    assert main(["train", path, "--work-dir", "run", "--progress", "plain", "--resume"]) == 0
    assert capsys.readouterr().err.count(line) == 1


def test_matched_queries_are_not_reported(rows, config, capsys):
    card = evaluate(reidx.load_config(config(rows)), progress="plain").card["stages"]["adapt"]["evaluation"]
    assert (card["queries_without_match"], card["queries_in_gallery"], card["queries_that_found_a_copy"]) == (0, 0, 0)
    assert "queries" not in capsys.readouterr().err


@pytest.mark.parametrize("how", ["same path", "symbolic link", "hard link"])
def test_file_in_query_and_gallery_is_reported(rows, config, capsys, tmp_path, how):
    queries = [row for row in rows if row[3] == "query"]
    plain = evaluate(reidx.load_config(config(rows, cameras=False, evaluate=FREE)), progress="quiet").metrics

    def linked(number: int, path: str) -> str:
        if how == "same path":
            return path
        link = tmp_path / f"{number}.jpg"
        os.symlink(path, link) if how == "symbolic link" else os.link(path, link)
        return str(link)

    both = [*rows, *((linked(n, path), who, camera, "gallery") for n, (path, who, camera, _) in enumerate(queries))]
    result = evaluate(reidx.load_config(config(both, cameras=False, evaluate=FREE)), progress="plain")
    line = f"target: {len(queries)} of {len(queries)} queries are gallery images, too (the same file); an image is not its own "
    assert capsys.readouterr().err.count(line) == 1
    assert result.card["stages"]["adapt"]["evaluation"]["queries_in_gallery"] == len(queries)
    assert plain["mAP"] < 1 and result.metrics["mAP"] < 1


def test_gallery_of_only_the_queries_is_refused(rows, config):
    queries = {who: row for row in rows for who in [row[1]] if row[3] == "query"}  # one image of each person
    both = [row for row in rows if row[3] == "train"]
    both += [(path, who, camera, split) for path, who, camera, _ in queries.values() for split in ("query", "gallery")]
    message = rf"no query has a match.* {len(queries)} of {len(queries)} queries are gallery images, too"
    with pytest.raises(DataError, match=message):
        evaluate(reidx.load_config(config(both, cameras=False, evaluate=FREE)))


def test_copies_of_queries_are_reported(rows, config, capsys, tmp_path):
    queries = [row for row in rows if row[3] == "query"][:3]
    copies = [(shutil.copy(path, tmp_path / f"{n}.jpg"), who, c, "gallery") for n, (path, who, c, _) in enumerate(queries)]
    path = config([*rows, *((str(copy), who, c, split) for copy, who, c, split in copies)], cameras=False, evaluate=FREE)
    card = evaluate(reidx.load_config(path), progress="plain").card["stages"]["adapt"]["evaluation"]
    assert card["queries_that_found_a_copy"] == 3 and card["queries_in_gallery"] == 0
    assert "queries have a copy of their file as the nearest match in the gallery" in capsys.readouterr().err


def test_notes_count_the_queries_of_each_trial(rows, config, capsys, tmp_path):
    queries = [row for row in rows if row[3] == "query"]
    people = {who for _, who, _, _ in queries}
    both = [row for row in rows if row[3] == "train"]
    both += [(path, who, camera, split) for path, who, camera, _ in queries for split in ("query", "gallery")]
    path, who, camera, _ = queries[0]
    both.append((shutil.copy(path, tmp_path / "copy.jpg"), who, camera, "gallery"))
    ids, cameras = np.array([who for _, who, _, split in both if split == "gallery"]), np.zeros(len(queries) + 1, np.int64)

    def first_trial(seed):
        known = ids[:-1], ids, cameras[:-1], cameras
        return drawn_trials(SingleGalleryShot(seed=seed, camera_filter=False), known)[0].gallery

    seed = next(seed for seed in range(9) if len(queries) not in first_trial(seed))  # a later trial draws the copy
    shot = {"type": "SingleGalleryShot", "camera_filter": False, "trials": 12, "seed": seed}
    path = config(both, cameras=False, evaluate={"domain": "target", "protocol": shot})
    card = evaluate(reidx.load_config(path), progress="plain").card["stages"]["adapt"]["evaluation"]
    err = capsys.readouterr().err
    drawn, whole = len(people), len(queries)  # the drawn queries, or all but one of them, find only themselves
    assert f"target: in a trial up to {drawn} of {whole} queries have no match in the gallery that counts" in err
    assert f"target: in a trial up to {drawn} of {whole} queries are gallery images, too (the same file)" in err
    assert (card["gallery"], card["trials"], card["queries_that_found_a_copy"]) == (drawn, 12, 1)
    assert drawn - 1 <= card["queries_without_match"] < drawn
    assert "1 of 18 queries have a copy of their file as the nearest match in the gallery" in err


@pytest.mark.parametrize(("known", "use"), [("none", True), ("one", True), ("all", False)])
def test_card_records_sampling_by_cameras(rows, config, known, use):
    changed = [(path, who, 0 if known == "one" else camera, split) for path, who, camera, split in rows]
    sampler = {"type": "PK", "identities": 4, "instances": 2, "use_cameras": use}
    stage = {"name": "adapt", "epochs": 1, "iters": 1, "streams": {"target": {"sampler": sampler}}}
    path = config(changed, cameras=known != "none", evaluate=FREE, stages=[stage])
    reidx.run(reidx.load_config(path), "run", progress="quiet")
    assert json.loads(Path("run/result.json").read_text())["card"]["stages"]["adapt"]["cameras_in_sampling"] is False


def test_step_of_one_image_is_refused(rows, config):
    sampler = {"type": "PK", "identities": 1, "instances": 1}
    path = config(rows, stages=[{"name": "adapt", "epochs": 1, "iters": 1, "streams": {"target": {"sampler": sampler}}}])
    message = r"experiment\.yaml:\d+: stages\.0\.streams\.target\.sampler: a step takes 1 image, but"
    with pytest.raises(ConfigError, match=message):
        reidx.run(reidx.load_config(path), "run", progress="quiet")
    assert not list(Path("run").rglob("*.pth"))
