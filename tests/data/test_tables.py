"""Tables with mistakes: the message names the line, and no number is read as another."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reidx.data.datasets import CSV, Parquet
from reidx.data.decode import decode
from reidx.data.domains import Domains
from reidx.data.files import is_copy, same_files
from reidx.data.fingerprint import fingerprint
from reidx.errors import ConfigError, DataError
from reidx.registry.build import build
from reidx.testing.tiny import load_experiment, tiny_experiment

HEAD = "path,pid,camid,split"
SEPARATED = "separates the columns; the first line must be path,pid,camid,split, with commas."
ROWS = ["a.jpg,0,0,train", "b.jpg,1,0,train", "c.jpg,2,0,query", "d.jpg,2,1,gallery"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working directory with images ``a.jpg`` to ``f.jpg`` and links to the first."""
    monkeypatch.chdir(tmp_path)
    for name in "abcdef":
        (tmp_path / f"{name}.jpg").touch()
    (tmp_path / "linked.jpg").symlink_to("a.jpg")
    os.link("a.jpg", "hard.jpg")
    return tmp_path


def read(*rows: str, head: str = HEAD, end: str = "\n", encoding: str = "utf-8") -> CSV:
    Path("t.csv").write_bytes(end.join([head, *rows, ""]).encode(encoding))
    return CSV("t.csv")


def refusal(*rows: str, **how: str) -> str:
    with pytest.raises(DataError) as error:
        read(*rows, **how)
    return str(error.value).removeprefix("t.csv, ")


# ---- the form


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_spreadsheet_tables_are_read(folder, end, encoding):
    data = read(*(f"{n},{row},x" for n, row in enumerate(ROWS)), "", head=f",{HEAD}, note ", end=end, encoding=encoding)
    assert (data.train.ids.tolist(), data.gallery.cameras.tolist()) == ([0, 1], [1])
    assert data.notes() == []


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (HEAD + ",pid", "line 1: column pid is there twice (as 2 and 5). Leave one of them out."),
        (HEAD + ", path ", "line 1: column path is there twice (as 1 and 5). Leave one of them out."),
        (
            "path,pid,split",
            "line 1: no column camid; the first line must be path,pid,camid,split. If a column has another name, map it: "
            "names: {camid: NAME}.",
        ),
        (HEAD.replace(",", ";"), f"line 1: ';' {SEPARATED}"),
        (HEAD.replace(",", "\t"), f"line 1: {chr(9)!r} {SEPARATED}"),
        (HEAD + ",PID", "line 1: columns pid and PID; which one counts? Rename one of them."),
        (
            HEAD.replace("pid", "PID"),
            "line 1: no column pid; the first line must be path,pid,camid,split. Case counts: it has PID.",
        ),
    ],
)
def test_first_line_lacks_or_repeats_a_column(folder, head, message):
    assert refusal(*ROWS, head=head) == message


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("e.jpg,1", "line 6: 2 values, but line 1 names 4 columns."),
        ("e.jpg;1;0;train", "line 6: 1 value, but line 1 names 4 columns. ';' seems to separate them; use commas."),
        ("e,f.jpg,1,0,train", "line 6: 5 values, but line 1 names 4 columns. Put a value that contains a comma into quotes."),
        ('"e.jpg,1,0,train', "line 6: the row that begins here cannot be read: unexpected end of data."),
        ('"e".jpg,1,0,train', "line 6: the row that begins here cannot be read: ',' expected after '\"'."),
        ("e.jpg,1\0,0,train", "line 6: it holds a NUL character. Save the table as UTF-8 text."),
    ],
)
def test_broken_row_names_its_first_line(folder, row, message):
    assert refusal(*ROWS, row, *(["f.jpg,1,0,train"] if row[0] != '"' else [])) == message


def test_text_that_is_not_utf_8(folder):
    assert refusal(*ROWS, "é.jpg,1,0,train", encoding="latin-1") == "line 6: the text is not UTF-8. Save it as UTF-8."
    assert refusal(*ROWS, encoding="utf-16") == "line 1: the text is UTF-16. Save it as UTF-8."
    assert refusal(*ROWS, encoding="utf-32") == "line 1: the text is UTF-32. Save it as UTF-8."


@pytest.mark.parametrize(
    ("begin", "what", "remedy"),
    [
        (b"PK\3\4", "a zip file", "Save the table as CSV"),
        (b"\x1f\x8b", "a gzip file", "Save the table as CSV"),
        (b"PAR1", "a Parquet file", "Read it with type: Parquet"),
    ],
)
def test_table_in_another_container_is_named(tmp_path, begin, what, remedy):
    (tmp_path / "a.csv").write_bytes(begin + bytes(range(256)))
    with pytest.raises(DataError, match=rf"a\.csv is {what}.*{remedy}"):
        CSV(str(tmp_path / "a.csv"))
    with pytest.raises(DataError, match="cannot be read as a table: it is a folder"):
        CSV(str(tmp_path))


def test_special_files_are_not_read(folder):
    with pytest.raises(DataError, match="/dev/zero cannot be read as a table"):
        CSV("/dev/zero")
    os.mkfifo("pipe.jpg")
    assert refusal(*ROWS, "pipe.jpg,1,0,train") == "line 6: there is no file ./pipe.jpg."


# ---- numbers


@pytest.mark.parametrize("text", ["1.0", "-1", "-2", "+7", "1e3", "nan", "٣", "²", "1_000"])
@pytest.mark.parametrize("column", ["pid", "camid"])
def test_wrong_whole_numbers_name_their_line(folder, text, column):
    row = f"e.jpg,{text},0,train" if column == "pid" else f"e.jpg,5,{text},train"
    assert refusal(*ROWS, row) == f"line 6: {column} is {text!r}; it must be a whole number from 0, a name, or empty."


@pytest.mark.parametrize("column", ["pid", "camid"])
def test_numbers_beyond_int64_are_refused_by_line(folder, column):
    def row(value: object) -> str:
        return f"e.jpg,{value},0,train" if column == "pid" else f"e.jpg,5,{value},train"

    for value in (2**63, 2**64 - 1, 2**64, 10**50):
        shown = value if value < 10**40 else "a number of 51 digits"
        assert refusal(*ROWS, row(value)).startswith(f"line 6: {column} is {shown};")
    assert refusal(*ROWS, row("1" * 4400)).startswith(f"line 6: {column} is a number of 4,400 digits; ")
    data = read(*ROWS, row(2**63 - 1))
    assert 2**63 - 1 in (data.train.ids if column == "pid" else data.train.cameras)


def test_a_number_in_two_spellings_is_refused(folder):
    assert refusal(*ROWS, "e.jpg,7,0,train", "f.jpg,007,0,train") == (
        "line 7: pid is '007', but t.csv, line 6 writes that number '7'. Write it in one way."
    )
    assert refusal(*ROWS, "e.jpg,3,01,train").startswith("line 6: camid is '01', but t.csv, line 5 writes that number '1'.")
    assert read(*ROWS, "e.jpg, 007 ,0,train", "f.jpg,007,0,train").train.ids.tolist() == [0, 1, 7, 7]


# ---- images


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a.jpg,0,0,train", "./a.jpg is the image of line 2, in train too."),
        ("./a.jpg,0,0,train", "././a.jpg is the image of line 2 (./a.jpg), in train too."),
        ("linked.jpg,0,0,train", "./linked.jpg is the image of line 2 (./a.jpg), in train too."),
        ("a.jpg,5,0,train", "./a.jpg is the image of line 2, under pid '5' here and '0' there."),
        ("a.jpg,5,0,gallery", "./a.jpg is the image of line 2, under pid '5' here and '0' there."),
        ("hard.jpg,5,0,train", "./hard.jpg is the image of line 2 (./a.jpg), under pid '5' here and '0' there."),
        ("a.jpg,0,3,train", "./a.jpg is the image of line 2, under camid '3' here and '0' there."),
        ("c.jpg,3,0,gallery", "./c.jpg is the image of line 4, under pid '3' here and '2' there."),
    ],
)
def test_repeated_image_names_both_lines(folder, row, message):
    assert refusal(*ROWS, row) == f"line 6: {message} Drop one of them."


def test_images_shared_with_training_are_reported(folder):
    data = read(*ROWS, "c.jpg,2,0,gallery")
    assert data.gallery.ids.tolist() == [2, 2] and data.notes() == []
    data = read(*ROWS, "a.jpg,0,0,gallery")
    assert data.notes() == ["1 training images are query or gallery images, too"]
    unlabelled = [row.replace("a.jpg,0", "a.jpg,").replace("b.jpg,1", "b.jpg,") for row in ROWS]
    assert len(read(*unlabelled, "b.jpg,1,0,gallery").gallery) == 2


# ---- location of the data


def test_absolute_path_among_relative_paths(folder):
    data = read(*ROWS[1:], f"{folder / 'a.jpg'},0,0,train")
    assert data.train.paths == ["./b.jpg", str(folder / "a.jpg")]
    assert fingerprint(data)["train"]["images"] == 2


def test_fingerprint_is_independent_of_the_location(folder, tmp_path, monkeypatch):
    def made(home: Path, elsewhere: Path, absolute: bool) -> dict:
        home.mkdir(parents=True)
        elsewhere.mkdir(parents=True, exist_ok=True)
        for name in "abcd":
            (home / f"{name}.jpg").write_text(name)
        (elsewhere / "e.jpg").write_text("elsewhere")
        monkeypatch.chdir(home)
        rows = [str(home / row) for row in ROWS] if absolute else ROWS
        return fingerprint(read(*rows, f"{elsewhere / 'e.jpg'},1,0,train"))

    first = made(tmp_path / "one", tmp_path / "far", absolute=False)
    assert first == made(tmp_path / "deep" / "two", tmp_path / "far", absolute=False)
    assert first == made(tmp_path / "three", tmp_path / "other" / "place", absolute=True)
    monkeypatch.chdir(tmp_path / "one")
    Path("b.jpg").rename("z.jpg")
    renamed = fingerprint(read(*(row.replace("b.jpg", "z.jpg") for row in ROWS), f"{tmp_path / 'far' / 'e.jpg'},1,0,train"))
    assert renamed["train"] != first["train"] and renamed["query"] == first["query"]


def test_table_ids_are_int64(folder):
    assert read(*ROWS).train.ids.dtype == np.int64


# ---- further columns


def with_columns(*rows: str, names: tuple[str, ...] = ("clothes",)) -> CSV:
    Path("t.csv").write_text("\n".join([f"{HEAD},{','.join(names)}", *rows]), encoding="utf-8")
    return CSV("t.csv", columns=names)


@pytest.mark.parametrize(
    ("values", "numbers"),
    [
        (("red", "blue", "", "green"), [2, 0, -1, 1]),  # in sorted order over all splits
        (("7", "30", "", "7"), [7, 30, -1, 7]),
        (("7", "30", "x", ""), [1, 0, 2, -1]),  # texts, as one of them is
        (("", "", "", ""), [-1, -1, -1, -1]),
    ],
)
def test_further_columns_are_numbered(folder, values, numbers):
    data = with_columns(*(f"{row},{value}" for row, value in zip(ROWS, values)))
    splits = [data.train, data.query, data.gallery]
    assert np.concatenate([split.columns["clothes"] for split in splits]).tolist() == numbers
    assert all(split.columns["clothes"].dtype == np.int64 for split in splits)
    assert CSV.contract(columns=("clothes",)) == {"columns": {"clothes"}} and CSV.contract() == {"columns": frozenset()}


def test_further_columns_must_be_there_and_unambiguous(folder):
    rows = [f"{row},x" for row in ROWS]
    with pytest.raises(DataError, match="no column track"):
        Path("t.csv").write_text("\n".join([f"{HEAD},clothes", *rows]), encoding="utf-8")
        CSV("t.csv", columns=("clothes", "track"))
    with pytest.raises(DataError, match=r"line 6: \./c\.jpg is the image of line 4, under clothes 'y' here and 'x' there"):
        with_columns(*rows, "c.jpg,2,0,gallery,y")
    with pytest.raises(DataError, match="track is a number of 41 digits"):
        with_columns(*(f"{row},{'9' * 41}" for row in ROWS), names=("track",))
    for names in (("pid",), ("clothes", "clothes")):
        with pytest.raises(ValueError, match=f"columns has {names[0]!r}"):
            CSV("t.csv", columns=names)


def test_fingerprint_includes_further_columns(folder):
    prints = [fingerprint(with_columns(*(f"{row},{value}" for row in ROWS))) for value in "xyz"]
    assert prints[0] == prints[1]  # the same numbers
    other = fingerprint(with_columns(*(f"{row},{place}" for place, row in enumerate(ROWS))))
    assert other["train"]["columns"].keys() == {"clothes"}
    assert [key for key in other["train"] if other["train"][key] != prints[0]["train"][key]] == ["columns"]
    assert "columns" not in fingerprint(read(*ROWS))["train"]


# ---- names in place of numbers


def test_names_are_numbered_over_all_splits(folder):
    data = read("a.jpg,zoe,hall,train", "b.jpg,al,door,train", "c.jpg,bo,door,query", "d.jpg,bo,yard,gallery")
    splits = data.train, data.query, data.gallery
    assert [split.ids.tolist() for split in splits] == [[2, 0], [1], [1]]
    assert [split.cameras.tolist() for split in splits] == [[1, 0], [0], [2]]
    assert data.numbered == {"ids": ("al", "bo", "zoe"), "cameras": ("door", "hall", "yard")} and data.notes() == []
    assert [data.camera_name(camera) for camera in range(3)] == ["door", "hall", "yard"]


def test_names_among_numbers_are_reported(folder):
    data = read(*ROWS, "e.jpg,0x10,0,train")
    assert data.train.ids.tolist() == [0, 2, 1] and data.query.ids.tolist() == [3]
    assert data.notes() == ["pid has 1 names, such as '0x10' (t.csv, line 6), and 3 whole numbers; all are read as names"]


def test_columns_of_other_names_are_mapped(folder):
    Path("t.csv").write_text("file,person,cam,split,worn\na.jpg,7,1,train,red\n", encoding="utf-8")
    names = {"path": "file", "pid": "person", "camid": "cam", "clothes": "worn"}
    data = CSV("t.csv", columns=("clothes",), names=names)
    assert (data.train.ids.tolist(), data.train.cameras.tolist()) == ([7], [1])
    assert data.train.columns["clothes"].tolist() == [0] and data.numbered == {"clothes": ("red",)}
    with pytest.raises(DataError, match=r"line 1: no column camera; the first line must be file,person,camera,split\."):
        CSV("t.csv", names={"path": "file", "pid": "person", "camid": "camera"})


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"id": "pid"}, r"names has 'id', which is not read; it can map path, pid, camid, split\."),
        ({"pid": "camid"}, "names gives pid and camid the same column 'camid' of the table"),
        ({"x": "left"}, "names has 'x', which is not read"),
        ({"pid": 3}, "'names' is"),
    ],
)
def test_wrong_mapping_of_columns_is_refused(folder, names, message):
    read(*ROWS)
    with pytest.raises(ConfigError, match=message):
        build("dataset", {"type": "CSV", "path": "t.csv", "names": names})


def test_config_may_map_columns(folder, domains_root):
    read(*ROWS)
    table = {"type": "CSV", "path": "t.csv", "names": {"pid": "person"}}
    config = load_experiment(folder, tiny_experiment(domains_root, data={"domains": {"target": table}}))
    assert config.data["data"]["domains"]["target"]["names"] == {"pid": "person"}


# ---- crops


def boxed(*rows: str, **arguments: object) -> CSV:
    """Read rows of crops of ``wide.png``, an image of 40 by 20 pixels whose columns count from 0 and rows from 100."""
    across, down = np.meshgrid(np.arange(40), np.arange(20))
    Image.fromarray(np.stack([across, 100 + down, 0 * down], -1).astype(np.uint8)).save("wide.png")
    Path("t.csv").write_text("\n".join([f"{HEAD},x,y,w,h", *rows]), encoding="utf-8")
    return CSV("t.csv", boxes=True, **arguments)


CROPS = [
    *("wide.png,0,0,train,3,5,4,2", "wide.png,1,0,train,0,0,40,20"),
    *("wide.png,2,0,query,1,1,9,9", "wide.png,2,1,gallery,30,10,10,10", "wide.png,2,1,gallery,1,1,9,8"),
]


def test_boxes_crop_their_images(folder):
    data = boxed(*CROPS)
    assert data.train.paths == ["./wide.png#xywh=3,5,4,2", "./wide.png#xywh=0,0,40,20"]
    crop = np.asarray(decode(data.train.paths[0]))
    assert crop.shape == (2, 4, 3) and crop[..., 0].tolist() == [[3, 4, 5, 6]] * 2 and crop[:, 0, 1].tolist() == [105, 106]
    assert (np.asarray(decode(data.train.paths[1])) == np.asarray(decode("wide.png"))).all()


def test_crops_of_a_file_are_different_images(folder):
    data = boxed(*CROPS)
    assert len(same_files(data.query.paths, data.gallery.paths)) == 0 and not is_copy(*data.gallery.paths)
    spec = {"type": "CSV", "path": "t.csv", "boxes": True}
    settings = {"image_size": [4, 4], "interpolation": "bilinear", "workers": 0, "cache_gb": 1.0}
    store = Domains({**settings, "domains": {"target": spec}}).images("target", "gallery")
    assert store.batch([0, 1])[:, 0].float().mean((1, 2)).tolist() == pytest.approx([34.5, 5], abs=1)
    same = boxed(*CROPS, "wide.png,2,0,gallery,1,1,9,9")
    assert same_files(same.query.paths, same.gallery.paths).tolist() == [[0, 2]]
    assert is_copy(same.query.paths[0], same.gallery.paths[2])
    assert refusal_of_box("wide.png,0,0,train,3,5,4,2") == (
        "./wide.png is the image of line 2, in train too. Drop one of them."
    )


def test_fingerprint_includes_the_boxes(folder):
    first = fingerprint(boxed(*CROPS))
    other = fingerprint(boxed(*(row.replace("3,5,4,2", "3,5,4,3") for row in CROPS)))
    assert [key for key in first["train"] if first["train"][key] != other["train"][key]] == ["files"]
    assert first["train"]["sizes"] == other["train"]["sizes"] and first["query"] == other["query"]


def refusal_of_box(row: str) -> str:
    with pytest.raises(DataError) as error:
        boxed(*CROPS, row)
    return str(error.value).removeprefix("t.csv, line 7: ")


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ("0,0,0,5", "w is '0'; a box has whole numbers of pixels: x and y from 0, w and h from 1."),
        ("-1,0,5,5", "x is '-1'; a box has"),
        ("0,1.5,5,5", "y is '1.5'; a box has"),
        ("0,0,5,", "h is ''; a box has"),
        ("36,0,5,5", "the box x 36, y 0, w 5, h 5 is not inside ./wide.png, which is 40 pixels wide and 20 high."),
        ("0,16,5,5", "the box x 0, y 16, w 5, h 5 is not inside"),
        ("99999999999,0,1,1", "x is '99999999999'; a box has"),
    ],
)
def test_wrong_boxes_name_their_line(folder, box, message):
    assert refusal_of_box(f"wide.png,0,0,train,{box}").startswith(message)


def test_boxes_need_readable_images(folder):
    assert refusal_of_box("a.jpg,0,0,train,0,0,1,1").startswith("./a.jpg cannot be read as an image: it is empty (0 bytes)")
    assert refusal_of_box("no.jpg,0,0,train,0,0,1,1") == "there is no file ./no.jpg."


def test_boxes_are_those_of_the_upright_image(folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 10), (9, 9, 9)).save("lying.png", exif=exif)
    data = boxed("lying.png,0,0,train,0,20,10,10")
    assert decode(data.train.paths[0]).size == (10, 10)
    with pytest.raises(DataError, match="which is 10 pixels wide and 30 high"):
        boxed("lying.png,0,0,train,20,0,10,10")


# ---- Parquet


def parquet(values: dict[str, list[object]], /, **arguments: object) -> Parquet:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(values), "t.parquet")
    return Parquet("t.parquet", **arguments)


COLUMNS = {"path": ["a.jpg", "b.jpg", "c.jpg"], "pid": [3.0, 3.0, 4.0], "camid": ["hall", "door", "hall"]}


def test_parquet_is_read_as_a_table(folder):
    data = parquet({**COLUMNS, "split": ["train", "query", "gallery"], "worn": [None, 2, 2]}, columns=("worn",))
    assert (data.train.ids.tolist(), data.query.ids.tolist(), data.gallery.cameras.tolist()) == ([3], [3], [1])
    assert data.train.columns["worn"].tolist() == [-1] and data.numbered == {"cameras": ("door", "hall")}
    unlabelled = parquet({**COLUMNS, "pid": [None, float("nan"), None], "split": ["train"] * 3})
    assert unlabelled.train.ids is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pid": [3.5, 3.0, 4.0]}, r"t\.parquet, row 1: pid is '3\.5'; it must be a whole number from 0"),
        ({"path": ["a.jpg", "z.jpg", "c.jpg"]}, r"t\.parquet, row 2: there is no file \./z\.jpg"),
        ({"path": ["a.jpg", "b.jpg", "a.jpg"]}, r"row 3: \./a\.jpg is the image of row 1, under pid '4' here and '3' there"),
        ({"camid": ["hall", "", "hall"]}, "row 2: camid is empty, but row 1 has one"),
    ],
)
def test_wrong_parquet_values_name_their_row(folder, changes, message):
    with pytest.raises(DataError, match=message):
        parquet({**COLUMNS, "split": ["train"] * 3, **changes})


def test_unreadable_parquet_is_named(folder, monkeypatch):
    with pytest.raises(DataError, match=r"there is no column split; it needs path, .*map it: names: \{split: NAME\}"):
        parquet(COLUMNS)
    for name in ("a.jpg", "none.parquet", "."):
        with pytest.raises(DataError, match="cannot be read as a Parquet table"):
            Parquet(name)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"needs pyarrow \(pip install 'reidx\[parquet\]'\)\. Or save the table as CSV"):
        Parquet("t.parquet")
