"""Data sets that share Market-1501's grammar, each with its own cameras, names and folders."""

from pathlib import Path

import pytest

import reidx
from reidx.data.datasets import DukeMTMC, Market1501, MarketGrammar, PersonX, VeRi776
from reidx.errors import DataError
from reidx.registry.build import build

ROOT = Path(__file__).parents[2]

DUKE = {
    "bounding_box_train": ["0005_c2_f0046985.jpg", "0001_c8_f0046182.jpg", "Thumbs.db"],
    "query": ["0005_c1_f0046985.jpg"],
    "bounding_box_test": ["0005_c4_f0046985.jpg", "7139_c6_f0046985.jpg", "7139_c7_f0046985.jpg"],
}
PERSONX = {
    "bounding_box_train": ["0001_c10_0.jpg", "0001_c11_0.jpg", "0001_c12_0.jpg", "0001_c3_0.jpg"],
    "query": ["0002_c4_0.jpg"],
    "bounding_box_test": ["0002_c8_0.jpg"],
}
VERI = {
    "image_train": ["0001_c001_00016450_0.jpg", "0003_c020_00016450_1.jpg", "0001_c010_00016450_0.jpg"],
    "image_query": ["0002_c002_00030600_0.jpg"],
    "image_test": ["0002_c019_00030600_0.jpg", "0002_c002_00030600_1.jpg"],
}


def write(base: Path, folders: dict[str, list[str]]) -> Path:
    for folder, names in folders.items():
        (base / folder).mkdir(parents=True)
        for name in names:
            (base / folder / name).touch()
    return base


@pytest.mark.parametrize(
    ("dataset", "folders", "places"),
    [
        (DukeMTMC, DUKE, ["DukeMTMC-reID", "dukemtmcreid", "dukemtmcreid/DukeMTMC-reID"]),
        (DukeMTMC, DUKE, ["dukemtmc-reid", "dukemtmc-reid/DukeMTMC-reID"]),
        (PersonX, PERSONX, ["PersonX", "personx", "personx/PersonX"]),
        (VeRi776, VERI, ["VeRi", "VeRi-776", "veri", "veri/VeRi"]),
    ],
)
def test_each_is_found_in_its_customary_layouts(tmp_path, dataset, folders, places):
    for number, place in enumerate([".", *places]):
        root = tmp_path / f"{number:04d}_c9_f0"  # a folder's name is not read
        base = write(root / place, folders)
        assert Path(dataset(str(root)).root) == base
    with pytest.raises(DataError, match=", ".join(folders)) as error:
        dataset(str(tmp_path / "nowhere"))
    assert all(str(tmp_path / "nowhere" / place) in str(error.value) for place in places)


def test_duke_cameras_and_distractors(tmp_path):
    data = DukeMTMC(str(write(tmp_path, DUKE)))
    assert data.train.ids.tolist() == [1, 5] and data.train.cameras.tolist() == [7, 1]
    assert data.gallery.ids.tolist() == [5, 7139, 7139] and data.gallery.cameras.tolist() == [3, 5, 6]
    card = data.card()
    assert (card["name"], card["distractors"]) == ("DukeMTMC-reID", 2)
    assert card["dropped"] == {"junk": 0, "background": 0}


def test_duke_is_marked_as_withdrawn_everywhere():
    config = (ROOT / "configs/data/duke.yaml").read_text(encoding="utf-8")
    page = next(line for line in (ROOT / "docs/datasets.md").read_text(encoding="utf-8").splitlines() if "DukeMTMC" in line)
    for text in (DukeMTMC.__doc__ or "", config, page):
        assert "ithdrawn by its authors" in text or "authors withdrew it" in text


def test_a_market_under_dukes_name_is_refused(tmp_path):
    """Folders and beginnings of the names are the same."""
    write(tmp_path, {**DUKE, "query": ["0003_c1s1_000001_00.jpg"]})
    with pytest.raises(DataError, match=r"0003_c1s1_000001_00\.jpg: .* such as 0001_c2_f0046182\.jpg"):
        DukeMTMC(str(tmp_path))


def test_subclass_may_set_its_name_in_its_constructor(tmp_path):
    class Street(MarketGrammar):
        def __init__(self, root: str, street: str) -> None:
            self.name = f"People of {street}"
            super().__init__(root)

    write(tmp_path / "here", PERSONX)
    found = Street(str(tmp_path / "here"), "Elm Street")
    assert found.card()["name"] == "People of Elm Street" and len(found.train) == 4
    with pytest.raises(DataError, match="Street"):
        Street(str(tmp_path / "elsewhere"), "Elm Street")


def test_personx_cameras_follow_their_order(tmp_path):
    data = PersonX(str(write(tmp_path, PERSONX)))
    assert dict(zip([Path(p).name for p in data.train.paths], data.train.cameras.tolist())) == {
        "0001_c3_0.jpg": 0,
        "0001_c10_0.jpg": 3,
        "0001_c11_0.jpg": 4,
        "0001_c12_0.jpg": 5,
    }
    assert data.query.cameras.tolist() == [1] and data.gallery.cameras.tolist() == [2]


def test_veri_folders_and_three_digit_cameras(tmp_path):
    data = VeRi776(str(write(tmp_path, VERI)))
    assert data.train.ids.tolist() == [1, 1, 3] and data.train.cameras.tolist() == [0, 9, 19]
    assert data.query.cameras.tolist() == [1] and data.gallery.cameras.tolist() == [1, 18]
    assert data.card()["gallery"] == {"images": 2, "ids": 1, "cameras": 2}


@pytest.mark.parametrize(
    ("dataset", "folders", "name", "message"),
    [
        (DukeMTMC, DUKE, "0001_c9_f0000001.jpg", "camera 9 is out of range; DukeMTMC-reID has cameras 1, 2,"),
        (
            PersonX,
            PERSONX,
            "0001_c1_0.jpg",
            "camera 1 is out of range; PersonX has cameras 3, 4, 8, 10, 11, 12",
        ),
        (PersonX, PERSONX, "0001_c5_0.jpg", "camera 5 is out of range"),
        (PersonX, PERSONX, "0001c3.jpg", r"does not give identity and camera; .* such as 0001_c10"),
        (VeRi776, VERI, "0001_c021_00000000_0.jpg", "camera 21 is out of range"),
        (VeRi776, VERI, "0001_c000_00000000_0.jpg", "camera 0 is out of range"),
        (VeRi776, VERI, "vehicle.jpg", r"such as 0002_c002_00030600_0\.jpg"),
    ],
)
def test_wrong_file_name_shows_the_expected(tmp_path, dataset, folders, name, message):
    first = next(iter(folders))
    write(tmp_path, {**folders, first: [name]})
    with pytest.raises(DataError, match=message) as error:
        dataset(str(tmp_path))
    assert str(tmp_path / first / name) in str(error.value)


@pytest.mark.parametrize(("dataset", "folders"), [(PersonX, PERSONX), (VeRi776, VERI), (DukeMTMC, DUKE)])
def test_a_missing_or_empty_folder_is_named(tmp_path, dataset, folders):
    last = list(folders)[-1]
    write(tmp_path, {**folders, last: []})
    with pytest.raises(DataError, match=rf"{last} has no \.jpg image"):
        dataset(str(tmp_path))
    (tmp_path / last).rmdir()
    with pytest.raises(DataError, match=rf"is incomplete: it lacks {last}\."):
        dataset(str(tmp_path))


def test_identity_0_is_dropped_only_as_background(tmp_path):
    names = {
        "bounding_box_train": ["0000_c3_0.jpg", "0001_c3_0.jpg"],
        "query": ["0000_c3_0.jpg", "0002_c3_0.jpg"],
    }
    write(tmp_path, {**names, "bounding_box_test": ["0000_c4_0.jpg"]})
    person, nobody = PersonX(str(tmp_path)), Market1501(str(tmp_path))
    assert person.train.ids.tolist() == [0, 1] and person.query.ids.tolist() == [0, 2]
    assert person.distractors == 0
    assert nobody.train.ids.tolist() == [1] and nobody.query.ids.tolist() == [2]
    assert nobody.dropped["background"] == 2 and nobody.distractors == 1


@pytest.mark.parametrize(
    ("config", "dataset", "size"),
    [
        ("market1501", Market1501, (256, 128)),
        ("duke", DukeMTMC, (256, 128)),
        ("personx", PersonX, (256, 128)),
        ("veri776", VeRi776, (224, 224)),
    ],
)
def test_each_config_has_its_data_set(tmp_path, config, dataset: type[MarketGrammar], size):
    camera = (dataset.camera_numbers or [1])[0]
    for folder in dataset.folders.values():
        write(tmp_path, {folder: [f"0001_c{camera}_f0000000_0.jpg"]})
    (tmp_path / "mine.yaml").write_text(
        f"_base_: reidx::data/{config}.yaml\nname: mine\nmodel: {{backbone: {{type: Timm, name: test_vit}}}}\n"
        "stages: [{name: only, epochs: 0}]\n"
    )
    loaded = reidx.load_config(tmp_path / "mine.yaml", [f"data.domains.target.root={tmp_path}"]).experiment
    assert loaded.data.image_size == size and loaded.stages[0].evaluate.domain == "target"
    assert type(build("dataset", loaded.data.domains["target"])) is dataset


def test_msmt17_config_states_version_and_lists(tmp_path):
    text = "_base_: reidx::data/msmt17.yaml\nname: mine\nmodel: {backbone: {type: Timm, name: test_vit}}\n"
    (tmp_path / "mine.yaml").write_text(text + "stages: [{name: only, epochs: 0}]\n")
    target = reidx.load_config(tmp_path / "mine.yaml").experiment.data.domains["target"]
    assert target == {"type": "MSMT17", "root": "data", "version": "V1", "train": "trainval"}
