"""Small single-shot sets, one image of a person in each of two cameras, in ten halves of people: VIPeR, GRID, PRID2011."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from reidx.data.datasets.base import Counts, Dataset, Facts, Split, parse_number
from reidx.data.datasets.camera_split import split_identities
from reidx.data.datasets.folder import named_images
from reidx.errors import DataError

TRIALS = range(1, 11)
BACKGROUND = 0
"""Number of GRID's images of people who are in no probe."""
Row = tuple[str, int, int]
"""Path, identity and camera of an image."""


class SingleShot(Dataset):
    """A set whose people are divided into training and test people in one of ten ways, ``trial``.

    Test people are queries in one camera and gallery images in another; so are gallery images of people without a query.
    """

    parts: ClassVar[tuple[str, ...]]
    """Folder of the queries, folder of the gallery, and further files."""
    pattern: ClassVar[re.Pattern[str]]
    """Start of a file name; its groups are the identity and, where the name has it, the camera."""
    example: ClassVar[str]
    remarks: list[str]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.layouts = {"": cls.parts}

    def __init__(self, root: str, trial: int) -> None:
        if trial not in TRIALS:
            raise ValueError(f"trial is {trial}; the trials are {TRIALS[0]} to {TRIALS[-1]}.")
        _, base = self.locate(root)[0]
        self.root, self.version, self.dropped, self.remarks = str(base), f"trial {trial}", {}, []

    @classmethod
    def repeats(cls, **arguments: Any) -> tuple[str, Sequence[int]]:
        """The ten halves."""
        return "trial", TRIALS

    def camera_number(self, camera: int) -> int:
        return camera + 1

    def _read(self, part: str, camera: int | None = None) -> list[Row]:
        """The images of a folder, all of ``camera`` unless their names give it, from 1."""
        rows = []
        for path, match in named_images(Path(self.root) / part, self.pattern, self.example, self.dropped, self.remarks):
            seen = parse_number(match[2], "the camera", path) - 1 if camera is None else camera
            rows.append((path, parse_number(match[1], "the identity", path), seen))
        if not rows:
            raise DataError(f"{self.name}: {Path(self.root) / part} has no image.")
        return rows

    def _divide(self, query: list[Row], gallery: list[Row], trained: Iterable[int]) -> None:
        """Set the splits: ``trained`` are the training people, the others with images in both folders the test people."""
        learnt, both = set(trained), _people(query) & _people(gallery)
        self.train = Split.of([row for row in (*query, *gallery) if row[1] in learnt])
        self.query = Split.of([row for row in query if row[1] in both - learnt])
        self.gallery = Split.of([row for row in gallery if row[1] not in learnt])
        self.dropped["queries without a match"] = sum(row[1] not in both for row in query)
        for part, split in (("training", self.train), ("test", self.query)):
            if not len(split):
                raise DataError(f"{self.name} at {self.root}: too few people are in both folders for a {part} half.")


class VIPeR(SingleShot):
    """VIPeR, 632 people, one image in each of two cameras.

    VIPeR (Gray et al., PETS 2007). Folders ``cam_a`` and ``cam_b``, names ``PPP_AAA.bmp`` (person, angle of view). ``trial``
    (1 to 10) draws 316 people for training; the other 316 are the test. ``query`` is the camera of the queries, ``a`` or
    ``b``; the other one is the gallery. Results are means over ten random halves, in torchreid over both directions; its
    halves are others.

    ``root`` is the data set's own folder or one above: ``VIPeR``, ``viper``, ``viper/VIPeR``.

    Raises :class:`DataError` for a missing or empty folder and a name that does not parse.
    """

    name = "VIPeR"
    places = (".", "VIPeR", "viper", "viper/VIPeR")
    parts = ("cam_a", "cam_b")
    pattern = re.compile(r"(\d+)_", re.ASCII)
    example = "000_45.bmp"
    facts = Facts(
        request="https://vision.soe.ucsc.edu/node/178",
        layout="VIPeR/\n  cam_a/  000_45.bmp: person, angle of view\n  cam_b/",
        counts={"": {"train": Counts(632, 316), "query": Counts(316, 316), "gallery": Counts(316, 316)}},
    )

    def __init__(self, root: str, trial: int = 1, query: Literal["a", "b"] = "a") -> None:
        super().__init__(root, trial)
        self.direction = "a to b" if query == "a" else "b to a"
        sides = [self._read(part, camera) for camera, part in enumerate(self.parts)]
        asked, shown = sides if query == "a" else sides[::-1]
        both = _people(asked) & _people(shown)
        self.dropped["gallery images without a query"] = sum(row[1] not in both for row in shown)
        self._divide(asked, [row for row in shown if row[1] in both], draw_half(both, trial))

    def card(self) -> dict[str, Any]:
        """The usual card, with the direction of the test."""
        return {**super().card(), "direction": self.direction}


class GRID(SingleShot):
    """GRID, 250 people in an underground station, 775 distractors.

    QMUL GRID (Loy et al., CVPR 2009). Folders ``probe`` and ``gallery``, names ``PPPP_C_….jpeg`` (person, camera); person 0000
    of the gallery is background. ``trial`` (1 to 10) chooses one of the partitions that come with the images, in
    ``features_and_partitions.mat``: 125 people for training, the other 125 and all background for the test. Results
    are means over the ten.

    ``root`` is the data set's own folder or one above: ``underground_reid``, ``grid``, ``grid/underground_reid``, ``Grid``.

    Raises :class:`DataError` for a missing or empty folder, a name that does not parse and an unreadable partition.
    """

    name = "GRID"
    places = (".", "underground_reid", "grid", "grid/underground_reid", "Grid")
    parts = ("probe", "gallery", "features_and_partitions.mat")
    pattern = re.compile(r"(\d+)_([1-8])_", re.ASCII)
    example = "0001_1_25004_107_32_106_221.jpeg"
    facts = Facts(
        request="http://personal.ie.cuhk.edu.hk/~ccloy/downloads_qmul_underground_reid.html",
        layout=(
            "underground_reid/\n"
            "  probe/    0001_1_25004_107_32_106_221.jpeg: person, camera, …\n"
            "  gallery/  0000_… is background\n"
            "  features_and_partitions.mat"
        ),
        counts={"": {"train": Counts(250, 125), "query": Counts(125, 125), "gallery": Counts(900, 126)}},
    )

    def __init__(self, root: str, trial: int = 1) -> None:
        super().__init__(root, trial)
        probe, gallery = (self._read(part) for part in self.parts[:2])
        table = Path(self.root) / self.parts[2]
        trained = _partition(table, trial)
        if strange := sorted(trained - (_people(probe) & _people(gallery))):
            raise DataError(f"{table}, trial {trial} names person {strange[0]}, who is not in both probe and gallery.")
        self._divide([row for row in probe if row[1] != BACKGROUND], gallery, trained)


class PRID2011(SingleShot):
    """PRID2011, 200 people in two cameras, 549 distractors.

    PRID2011 (Hirzer et al., SCIA 2011), its single-shot version. Folders ``single_shot/cam_a`` and ``single_shot/cam_b``, names
    ``person_PPPP.png``. People 1 to 200 are in both cameras; later numbers mean different people in each. ``trial`` (1 to 10)
    draws 100 of the 200 for training; the other 100 are queries in camera A, against camera B with its 549 other people. Those
    of camera A are left out. Results are means over ten random halves; those of torchreid are others.

    ``root`` is the data set's own folder or one above: ``prid_2011``, ``prid2011``, ``prid2011/prid_2011``.

    Raises :class:`DataError` for a missing or empty folder and a name that does not parse.
    """

    name = "PRID2011"
    places = (".", "prid_2011", "prid2011", "prid2011/prid_2011")
    parts = ("single_shot/cam_a", "single_shot/cam_b")
    pattern = re.compile(r"person_(\d+)\.", re.ASCII)
    example = "person_0001.png"
    shared: ClassVar[int] = 200
    """Number of the last person who is in both cameras."""
    facts = Facts(
        request="https://www.tugraz.at/institute/icg/research/team-bischof/lrs/downloads/PRID11/",
        layout="prid_2011/\n  single_shot/cam_a/  person_0001.png\n  single_shot/cam_b/",
        counts={"": {"train": Counts(200, 100), "query": Counts(100, 100), "gallery": Counts(649, 649)}},
    )

    def __init__(self, root: str, trial: int = 1) -> None:
        super().__init__(root, trial)
        query, gallery = (self._read(part, camera) for camera, part in enumerate(self.parts))
        seen = [row for row in query if row[1] <= self.shared]
        self._divide(seen, gallery, draw_half(_people(seen) & _people(gallery), trial))
        self.dropped["people of camera A alone"] = len(query) - len(seen)


def draw_half(people: Iterable[int], trial: int) -> list[int]:
    """The training people of a trial: the first half, rounded down, of an order drawn from its number."""
    return split_identities(np.array(sorted(people), np.int64), trial)["target"].tolist()


def _people(rows: Iterable[Row]) -> set[int]:
    return {row[1] for row in rows}


def _partition(table: Path, trial: int) -> set[int]:
    """The training people of a trial: the third field of a cell of ``trainIdxAll``, as torchreid reads it."""
    from scipy.io import loadmat  # only GRID needs it
    from scipy.io.matlab import MatReadError

    try:
        cell = loadmat(str(table), variable_names=["trainIdxAll"])["trainIdxAll"].reshape(-1)[trial - 1]
        people = {int(person) for person in np.ravel(cell.reshape(-1)[0][2])}
    except (MatReadError, OSError, ValueError, TypeError, LookupError, AttributeError, NotImplementedError) as error:
        raise DataError(f"{table}: trial {trial} cannot be read ({error!r}). Unpack the archive again.") from error
    if not people:
        raise DataError(f"{table}: trial {trial} is empty. Unpack the archive again.")
    return people
