"""Odd files and lists of users, in one table: each is read correctly, or reported once, with its name and a remedy."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

import reidx
from reidx.data.datasets import CSV, MSMT17, ImageFolder, Market1501, RegDB
from reidx.data.decode import CorruptImage, decode
from reidx.data.images import ImageStore
from reidx.doctor.recognition import recognise
from reidx.errors import DataError, ReidxError
from reidx.runs.labels_file import write_labels
from reidx.testing.miniatures import MINIATURES

GREY = np.linspace(0, 255, 24 * 48).round().astype(np.uint8).reshape(48, 24)
COLOURS = np.stack([GREY, 255 - GREY, GREY // 2], -1)
RGB = Image.fromarray(COLOURS)


def encoded(image: Image.Image, kind: str, **settings: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def saved(image: Image.Image, kind: str, **settings: object) -> Callable[[], bytes]:
    return lambda: encoded(image, kind, **settings)


def cut(kind: str, **settings: object) -> Callable[[], bytes]:
    """Half of an image file."""

    def content() -> bytes:
        whole = encoded(RGB, kind, **settings)
        return whole[: len(whole) // 2]

    return content


def animated(kind: str) -> Callable[[], bytes]:
    others = [Image.new("RGB", RGB.size, colour) for colour in ("red", "blue")]
    return lambda: encoded(RGB, kind, save_all=True, append_images=others)


XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
)


def turned(kind: str, xmp: bool) -> Callable[[], bytes]:
    """The image turned by a quarter, with metadata that turn it back."""

    def content() -> bytes:
        exif, lying = Image.Exif(), RGB.transpose(Image.Transpose.ROTATE_90)
        exif[0x0112] = 6
        quality = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
        if not xmp:
            return encoded(lying, kind, exif=exif, **quality)
        if kind != "PNG":
            return encoded(lying, kind, xmp=XMP.encode(), **quality)
        text = PngImagePlugin.PngInfo()
        text.add_itxt("XML:com.adobe.xmp", XMP)
        return encoded(lying, kind, pnginfo=text)

    return content


DEEP = Image.fromarray(GREY.astype(np.uint16) * 257)
DARK = Image.fromarray(GREY.astype(np.uint16) * 16)
FINE = {"quality": 100, "subsampling": 0}

# the name of a file, its content, and the expected pixels or the report
IMAGES: dict[str, tuple[str, Callable[[], bytes], np.ndarray | str]] = {
    "truncated JPEG": ("a.jpg", cut("JPEG"), "runcated"),
    "truncated PNG": ("a.png", cut("PNG"), "Restore the file or drop it"),
    "truncated WebP": ("a.webp", cut("WEBP"), "Restore the file"),
    "truncated BMP": ("a.bmp", cut("BMP"), "truncated"),
    "truncated TIFF": ("a.tif", cut("TIFF"), "Restore the file or drop it"),
    "truncated PPM": ("a.ppm", cut("PPM"), "truncated"),
    "JPEG without its last bytes": ("a.jpg", lambda: encoded(RGB, "JPEG")[:-30], "image file is truncated"),
    "first bytes of a JPEG": ("a.jpg", lambda: encoded(RGB, "JPEG")[:20], "Restore the file"),
    "zero bytes": ("a.jpg", bytes, "it is empty (0 bytes). Restore the file or drop it"),
    "NUL bytes": ("a.jpg", lambda: bytes(5000), "its format is none of JPEG, PNG"),
    "text": ("a.jpg", lambda: b"<html>404 Not Found</html>", "its format is none of JPEG, PNG"),
    "PNG called JPEG": ("a.jpg", saved(RGB, "PNG"), COLOURS),
    "JPEG called PNG": ("a.png", saved(RGB, "JPEG", **FINE), COLOURS),
    "WebP called JPEG": ("a.JPG", saved(RGB, "WEBP", lossless=True), COLOURS),
    "GIF called JPEG": ("a.jpg", saved(RGB, "GIF"), "its format is none of JPEG, PNG"),
    "CMYK JPEG": ("a.jpg", saved(RGB.convert("CMYK"), "JPEG", **FINE), COLOURS),
    "CMYK TIFF": ("a.tif", saved(RGB.convert("CMYK"), "TIFF"), COLOURS),
    "grey": ("a.png", saved(Image.fromarray(GREY), "PNG"), np.stack([GREY] * 3, -1)),
    "grey JPEG": ("a.jpg", saved(Image.fromarray(GREY), "JPEG", quality=100), np.stack([GREY] * 3, -1)),
    "grey with alpha": ("a.png", saved(Image.fromarray(GREY).convert("LA"), "PNG"), np.stack([GREY] * 3, -1)),
    "alpha": ("a.png", saved(RGB.convert("RGBA"), "PNG"), COLOURS),
    "palette": ("a.png", saved(RGB.quantize(256), "PNG"), np.asarray(RGB.quantize(256).convert("RGB"))),
    "one bit": ("a.png", saved(Image.fromarray(GREY > 127), "PNG"), np.stack([255 * (GREY > 127)] * 3, -1)),
    "16 bits": ("a.png", saved(DEEP, "PNG"), np.stack([GREY] * 3, -1)),
    "16-bit TIFF": ("a.tif", saved(DEEP, "TIFF"), np.stack([GREY] * 3, -1)),
    "16 bits, dark": ("a.png", saved(DARK, "PNG"), "Scale the values of all images alike"),
    "float TIFF": ("a.tif", saved(Image.fromarray(GREY.astype(np.float32)), "TIFF"), "its values are floats"),
    "32-bit TIFF": ("a.tif", saved(Image.fromarray(GREY.astype(np.int32)), "TIFF"), "integers of 32 bits"),
    "animated WebP": ("a.webp", animated("WEBP"), "it holds 3 frames. Save the frame that counts"),
    "animated PNG": ("a.png", animated("PNG"), "it holds 3 frames"),
    "animated GIF called JPEG": ("a.jpg", animated("GIF"), "its format is none of JPEG, PNG"),
    "TIFF of pages": ("a.tif", animated("TIFF"), "it holds 3 frames"),
    **{
        f"{'XMP' if xmp else 'EXIF'} rotation of {kind}": (name, turned(kind, xmp), COLOURS)
        for kind, name in (("JPEG", "a.jpg"), ("PNG", "a.png"), ("WEBP", "a.webp"))
        for xmp in (False, True)
    },
    "unknown orientation": ("a.png", lambda: _oriented(999), COLOURS),
    "broken EXIF": ("a.jpg", lambda: _broken_exif(encoded(RGB, "JPEG", **FINE)), COLOURS),
}


def _oriented(value: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = value
    return encoded(RGB, "PNG", exif=exif)


def _broken_exif(jpeg: bytes) -> bytes:
    return jpeg[:2] + b"\xff\xe1\x00\x20Exif\0\0MM\0\x2a\0\0\0\x08\xff\xff" + bytes(14) + jpeg[2:]


@pytest.mark.parametrize("case", IMAGES)
@pytest.mark.filterwarnings("ignore:.*EXIF.*", "ignore:Corrupt EXIF")
def test_odd_image_is_read_or_reported(case, tmp_path):
    name, content, expected = IMAGES[case]
    (tmp_path / name).write_bytes(content())
    (tmp_path / "sound.png").write_bytes(encoded(RGB, "PNG"))
    data = ImageFolder(str(tmp_path))
    assert [os.path.basename(path) for path in data.train.paths] == sorted([name, "sound.png"])
    store = ImageStore(data.train.paths, (48, 24))
    place = data.train.paths.index(f"{tmp_path}/{name}")
    if isinstance(expected, str):
        with pytest.raises(CorruptImage) as error:
            store.batch([0, 1])
        message = str(error.value)
        assert message.startswith(f"{tmp_path / name} cannot be read as an image: ") and expected in message
        assert message.count("\n") == 0 and message.endswith(".")
    else:
        found = store.batch([0, 1])[place].permute(1, 2, 0).numpy().astype(int)
        assert np.abs(found - expected).mean() < 4


@pytest.mark.parametrize("name", ["a.gif", "a.heic", "a.svg", "a.mp4", "image", "a.jpg.part"])
def test_files_of_other_formats_are_counted(tmp_path, name):
    (tmp_path / "sound.png").write_bytes(encoded(RGB, "PNG"))
    (tmp_path / name).write_bytes(animated("GIF")() if name == "a.gif" else b"x")
    data = ImageFolder(str(tmp_path))
    assert len(data.train) == 1 and data.dropped == {"passed over": 1} and len(data.notes()) == 1
    table = tmp_path / "t.csv"
    table.write_text(f"path,pid,camid,split\n{name},,,train\n", encoding="utf-8")
    with pytest.raises(CorruptImage, match=f"{name} cannot be read as an image: its format is none of JPEG"):
        decode(CSV(str(table)).train.paths[0])


NAMES = [
    *("é.jpg", "e\u0301.jpg", "人.jpg", "🙂.jpg", "a b.jpg", " a.jpg", "-a.jpg", "a,b.jpg", "a;b.jpg", 'a"b.jpg', "a'b.jpg"),
    *("a\nb.jpg", "a\tb.jpg", "a%20b.jpg", "a#b.jpg", "a\\b.jpg", "{a}.jpg", "a\u2028b.jpg", "a\x85b.jpg", "\x1b[31ma.jpg"),
]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_read_listed_and_written(tmp_path, name):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(encoded(RGB, "PNG"))
    paths = ImageFolder(str(tmp_path / "in")).train.paths
    assert paths == [f"{tmp_path}/in/{name}"] and decode(paths[0]).size == (24, 48)
    write_labels(tmp_path, {"main": (paths, np.array([3]))})
    with (tmp_path / "labels.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file))[1] == [paths[0], "3", "main"]
    with (tmp_path / "t.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "pid", "camid", "split"), (f"./in/{name}", "", "", "train")])
    assert decode(CSV(str(tmp_path / "t.csv")).train.paths[0]).size == (24, 48)
    (tmp_path / "in" / name).write_bytes(b"")
    with pytest.raises(CorruptImage) as error:
        decode(paths[0])
    assert str(error.value).isprintable()


def test_name_that_is_not_utf_8(tmp_path):
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg")).write_bytes(encoded(RGB, "PNG"))
    except OSError:
        pytest.skip("the file system has names in UTF-8 only")
    paths = ImageFolder(str(tmp_path)).train.paths
    assert decode(paths[0]).size == (24, 48)
    write_labels(tmp_path, {"main": (paths, np.array([0]))})
    assert b"/caf\xe9.jpg,0,main\n" in (tmp_path / "labels.csv").read_bytes()


# ---- identities beyond 64 bits, in every grammar

BEYOND = str(2**63)


def _folder(root: Path) -> None:
    (root / BEYOND).mkdir(parents=True)
    (root / BEYOND / "a.jpg").touch()
    ImageFolder(str(root), ids="folder")


def _names(root: Path) -> None:
    root.mkdir()
    (root / f"{BEYOND}_c1.jpg").touch()
    ImageFolder(str(root), pattern=r"(?P<pid>\d+)_c(?P<camid>\d)")


def _csv(root: Path) -> None:
    root.mkdir()
    (root / "a.jpg").touch()
    (root / "t.csv").write_text(f"path,pid,camid,split\na.jpg,{BEYOND},0,train\n", encoding="utf-8")
    CSV(str(root / "t.csv"))


def _market(root: Path) -> None:
    for folder in ("bounding_box_train", "query", "bounding_box_test"):
        (root / folder).mkdir(parents=True)
        (root / folder / f"{BEYOND}_c1.jpg").touch()
    Market1501(str(root))


def _regdb(root: Path) -> None:
    write_regdb(root, "\n", True, BEYOND)
    RegDB(str(root))


def _msmt17(root: Path) -> None:
    write_msmt17(root, "\n", True, BEYOND)
    MSMT17(str(root))


@pytest.mark.parametrize("read", [_folder, _names, _csv, _market, _regdb, _msmt17])
def test_identity_beyond_64_bits_is_refused(read, tmp_path):
    with pytest.raises(DataError, match=f"{BEYOND}; the largest possible is {2**63 - 1}"):
        read(tmp_path / "data")


# ---- the ends of lines


def write_list(path: Path, rows: list[str], end: str, last: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((end.join(rows) + (end if last else "")).encode())


def write_regdb(root: Path, end: str, last: bool, who: str = "3") -> None:
    for split in ("train", "test"):
        for kind in ("Visible", "Thermal"):
            path = f"{kind}/1/{split}.bmp"
            (root / kind / "1").mkdir(parents=True, exist_ok=True)
            (root / path).touch()
            write_list(root / "idx" / f"{split}_{kind.lower()}_1.txt", [f"{path} {who}"], end, last)


def write_msmt17(root: Path, end: str, last: bool, who: str = "3") -> None:
    for split, folder in (("train", "train"), ("val", "train"), ("query", "test"), ("gallery", "test")):
        names = [f"0003/0003_{n}{len(split)}_01_0303morning_0015_{split}.jpg" for n in range(2)]
        for name in names:
            (root / folder / "0003").mkdir(parents=True, exist_ok=True)
            (root / folder / name).touch()
        write_list(root / f"list_{split}.txt", [f"{name} {who}" for name in names], end, last)


def write_table(root: Path, end: str, last: bool) -> None:
    root.mkdir(parents=True)
    for name in "abc":
        (root / f"{name}.jpg").touch()
    rows = ["path,pid,camid,split", "a.jpg,1,0,train", "b.jpg,2,0,query", "c.jpg,2,1,gallery"]
    write_list(root / "t.csv", rows, end, last)


LISTS = {
    "RegDB": (write_regdb, lambda root: RegDB(str(root))),
    "MSMT17": (write_msmt17, lambda root: MSMT17(str(root))),
    "CSV": (write_table, lambda root: CSV(str(root / "t.csv"))),
}


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("last", [True, False])
def test_lists_may_end_lines_in_any_way(name, end, last, tmp_path):
    write, read = LISTS[name]
    write(tmp_path / "plain", "\n", True)
    write(tmp_path / "other", end, last)
    plain, other = (read(tmp_path / folder) for folder in ("plain", "other"))
    for split in ("train", "query", "gallery"):
        one, two = getattr(plain, split), getattr(other, split)
        assert len(one) and [path.replace("plain", "other") for path in one.paths] == two.paths
        assert one.ids.tolist() == two.ids.tolist() and one.cameras.tolist() == two.cameras.tolist()


def test_rare_line_separators_belong_to_a_name(tmp_path):
    write_msmt17(tmp_path, "\n", True)
    name = "0003/0003_9_01_0303morning\u2028_0015.jpg"
    (tmp_path / "train" / name).touch()
    with (tmp_path / "list_train.txt").open("a", encoding="utf-8") as file:
        file.write(f"{name} 3")
    assert name in {os.path.relpath(path, tmp_path / "train") for path in MSMT17(str(tmp_path)).train.paths}


def test_links_in_a_circle_are_read_once(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(encoded(RGB, "PNG"))
    (tmp_path / "a" / "b").symlink_to("../a")
    (tmp_path / "c").symlink_to("d")
    (tmp_path / "d").symlink_to("c")
    data = reidx.build("dataset", {"type": "ImageFolder", "root": str(tmp_path)})
    assert [os.path.relpath(path, tmp_path) for path in data.train.paths] == ["a/1.png"]
    assert data.dropped == {"passed over": 3}


@pytest.mark.parametrize("root", ["x" * 5000, "a\0b", ""], ids=["long", "null", "empty"])
def test_impossible_folder_is_reported_by_every_data_set(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for spec in [*({**miniature.spec, "root": root} for miniature in MINIATURES), {"type": "CSV", "path": root}]:
        with pytest.raises(ReidxError):
            reidx.build("dataset", spec)
    with pytest.raises(ReidxError):
        recognise(Path(root or "none"))
