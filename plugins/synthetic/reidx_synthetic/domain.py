"""Rendering of a whole synthetic domain to disk, with the file names of Market-1501."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Generator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from reidx.errors import DataError
from reidx.machine.lifetimes import end_with, replacement_folder
from reidx.machine.threads import available_cores
from reidx_synthetic.appearance import WARDROBES, Appearance, sample_appearance
from reidx_synthetic.camera import Camera, in_the_dark, render_person, sample_camera
from reidx_synthetic.infrared import in_infrared

VERSION = 1
"""Format version of visible pictures, incremented whenever the same arguments render different ones."""
INFRARED_VERSION = 2
"""Format version of infrared pictures, incremented in the same way."""

MANIFEST = "synthetic.json"
INFRARED = 10
"""Number from which infrared cameras are counted when they are drawn, so that they do not depend on the visible ones."""
FIRST_PID = {"source": 1, "target": 5001}
MAX_IDENTITIES = 4999
DISTRACTOR = 0
IMAGES_PER_WORKER = 400
"""Minimum number of pictures per worker; below it, starting another process costs more than it saves."""


@dataclass(frozen=True)
class Shot:
    """Picture to render; `index` counts the pictures of an identity under a camera."""

    folder: str
    pid: int
    camera: int
    index: int
    infrared: bool = False

    @property
    def name(self) -> str:
        sequence, frame = 1 + self.index % 2, self.pid * 100 + self.index
        return f"{self.pid:04d}_c{self.camera}s{sequence}_{frame:06d}_00.jpg"


def render_domain(
    root: Path,
    domain: str = "source",
    *,
    identities: tuple[int, int] = (150, 60),
    images_per_camera: int = 4,
    cameras: int = 4,
    infrared_cameras: int = 0,
    size: tuple[int, int] = (128, 64),
    seed: int = 0,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Render a synthetic domain into the folder `root`: `bounding_box_train`, `query` and `bounding_box_test`.

    `domain` is `"source"` or `"target"`, which differ in people, wardrobe, places, cameras and light. `identities` are the
    numbers of identities in the training and the test split; each of `cameras` cameras takes `images_per_camera` pictures of
    each identity; `size` is (height, width). The first test picture of each identity and camera is a query; the gallery holds
    the others and one false alarm (pid 0000) for every second test identity.
    The cameras after the first `cameras` are near-infrared cameras at night, `infrared_cameras` of them. With any, the queries
    are the infrared test pictures, and the gallery holds the visible ones.
    A picture depends only on the seed, domain, identity, camera and its index, never on `workers` (default: the cores
    that this process may use; more than one needs an importable `__main__`). `progress(done, total)` is called after each
    picture.

    The folder appears only when complete, with a manifest `synthetic.json`; a folder with the same arguments is reused.
    Raises DataError for arguments that give no valid benchmark, and if `root` holds anything else.
    """
    root = Path(root)
    _check(domain, identities, images_per_camera, cameras, infrared_cameras, size)
    shots = _shots(domain, identities, images_per_camera, cameras, infrared_cameras)
    counts = dict(sorted(Counter(shot.folder for shot in shots).items()))
    manifest = {
        "version": VERSION,
        "domain": domain,
        "identities": list(identities),
        "images_per_camera": images_per_camera,
        "cameras": cameras,
        "size": list(size),
        "seed": seed,
        "counts": counts,
    }
    if infrared_cameras:  # absent from the manifests of folders without them
        manifest |= {"infrared_cameras": infrared_cameras, "infrared_version": INFRARED_VERSION}
    if _is_finished(root, manifest):
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    with replacement_folder(root) as made:
        for folder in counts:
            (made / folder).mkdir()
        write = partial(_write, made, domain, cameras, size, seed)
        # closed before the draft is removed: after an interrupt no process may still write into it
        with closing(_each(write, shots, workers or available_cores())) as written:
            for done, _ in enumerate(written, start=1):
                if progress is not None:
                    progress(done, len(shots))
        (made / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        try:
            if root.is_dir():
                root.rmdir()  # empty, since _is_finished did not raise
            made.rename(root)
        except OSError:
            if not _is_finished(root, manifest):  # otherwise another process has rendered the same pictures
                raise
    return root


def _check(
    domain: str,
    identities: tuple[int, int],
    images_per_camera: int,
    cameras: int,
    infrared_cameras: int,
    size: tuple[int, int],
) -> None:
    if domain not in WARDROBES:
        raise DataError(
            f"render_domain: no synthetic domain {domain!r}; choose one of {', '.join(WARDROBES)}."
        )
    if len(identities) != 2 or min(identities) < 1 or sum(identities) > MAX_IDENTITIES:
        raise DataError(
            f"render_domain: identities={tuple(identities)}; give (train, test), 1 or more, {MAX_IDENTITIES} at most."
        )
    if not 2 <= images_per_camera <= 100:
        raise DataError(
            f"render_domain: images_per_camera={images_per_camera}; give 2 to 100: a query and its gallery."
        )
    if not 2 <= cameras <= 9:
        raise DataError(
            f"render_domain: cameras={cameras}; give 2 to 9, as a match must come from another camera."
        )
    if not 0 <= infrared_cameras <= 9 - cameras:
        raise DataError(f"render_domain: infrared_cameras={infrared_cameras}; give 0 to {9 - cameras}: 9 cameras in all.")
    if len(size) != 2 or min(size) < 16:
        raise DataError(
            f"render_domain: size={tuple(size)}; give (height, width) of at least 16 pixels each."
        )


def _shots(
    domain: str, identities: tuple[int, int], images_per_camera: int, cameras: int, infrared_cameras: int
) -> list[Shot]:
    """List all pictures of the domain, grouped by camera, so that a process paints few backdrops."""
    train, test = identities
    first = FIRST_PID[domain]
    shots = []
    for camera in range(1, cameras + infrared_cameras + 1):
        infrared = camera > cameras
        for pid in range(first, first + train + test):
            for index in range(images_per_camera):
                is_query = infrared if infrared_cameras else index == 0
                held_out = "query" if is_query else "bounding_box_test"
                folder = "bounding_box_train" if pid < first + train else held_out
                shots.append(Shot(folder, pid, camera, index, infrared))
        if infrared:
            continue
        false_alarms = range(camera - 1, (test + 1) // 2, cameras)
        shots += [Shot("bounding_box_test", DISTRACTOR, camera, index) for index in false_alarms]
    return shots


def _is_finished(root: Path, manifest: dict[str, object]) -> bool:
    """Return True if `root` holds exactly this rendering; raises DataError if it holds something else."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    remedy = "Choose another folder, or delete this one to render it again."
    try:
        found = json.loads((root / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise DataError(
            f"{root} exists, but is no finished synthetic domain (no readable {MANIFEST}). {remedy}"
        ) from None
    if found == manifest:
        return True
    known = found if isinstance(found, dict) else {}
    changes = [
        f"{key} {known.get(key)!r} (requested: {value!r})"
        for key, value in manifest.items()
        if known.get(key) != value
    ]
    raise DataError(f"{root} holds another synthetic domain: {', '.join(changes) or 'more keys'}. {remedy}")


def _each(write: Callable[[Shot], None], shots: list[Shot], workers: int) -> Generator[None, None, None]:
    workers = min(workers, -(-len(shots) // IMAGES_PER_WORKER))
    if workers <= 1:
        yield from map(write, shots)
        return
    # spawned, not forked: the caller may have threads or use a GPU
    spawned = get_context("spawn")
    with ProcessPoolExecutor(workers, spawned, initializer=end_with, initargs=(os.getpid(),)) as pool:
        try:
            yield from pool.map(write, shots, chunksize=50)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _write(root: Path, domain: str, cameras: int, size: tuple[int, int], seed: int, shot: Shot) -> None:
    code = FIRST_PID[domain]
    number = INFRARED + shot.camera - cameras - 1 if shot.infrared else shot.camera
    camera = _camera(seed, domain, number)
    rng = np.random.default_rng([seed, code, 2, shot.pid, number, shot.index])
    # passers-by belong to no split, so that no picture shows another identity of the benchmark
    passer_by = _person(seed, domain, 3, int(rng.integers(2**31)), shot.infrared)
    person = None if shot.pid == DISTRACTOR else _person(seed, domain, 0, shot.pid, shot.infrared)
    image = render_person(person, camera, rng, size=size, passer_by=passer_by)
    image.save(root / shot.folder / shot.name, quality=camera.quality)


@lru_cache(maxsize=4096)
def _person(seed: int, domain: str, group: int, number: int, infrared: bool) -> Appearance:
    key = [seed, FIRST_PID[domain], group, number]
    look = sample_appearance(np.random.default_rng(key), WARDROBES[domain])
    return in_infrared(look, np.random.default_rng([*key, 1])) if infrared else look


@lru_cache(maxsize=64)
def _camera(seed: int, domain: str, number: int) -> Camera:
    infrared = number >= INFRARED
    index = number - INFRARED if infrared else number - 1
    camera = sample_camera(np.random.default_rng([seed, FIRST_PID[domain], 1, number]), domain, index)
    return in_the_dark(camera) if infrared else camera
