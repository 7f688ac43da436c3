"""Opening images: depths, modes, rotations, formats, and files refused before they take memory."""

from __future__ import annotations

import os
import resource
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from reidx.data.datasets import Split
from reidx.data.decode import MAX_SIDE, CorruptImage, decode, is_image
from reidx.data.images import ImageStore
from reidx.evaluation.ranked_list import FRAME, GAP, HEAD, ranked_list
from reidx.evaluation.results import Details

GREY = np.linspace(0, 255, 24 * 48).round().astype(np.uint8).reshape(48, 24)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(decode(str(path))).astype(int)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(path: Path, width: int, height: int, bits: int, colour: int, rows: bytes) -> Path:
    """Write a PNG that Pillow itself cannot write."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


# ---- depths


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm", "a-12.pgm"])
def test_sixteen_bit_grey_becomes_eight_bit_grey(tmp_path, name):
    path = tmp_path / name
    if name == "a-12.pgm":  # its header states that 4095 is white
        path.write_bytes(b"P5\n24 48\n4095\n" + (GREY.astype(np.uint16) * 16).astype(">u2").tobytes())
    elif name == "a.pgm":
        path.write_bytes(b"P5\n24 48\n65535\n" + (GREY.astype(np.uint16) * 257).astype(">u2").tobytes())
    else:
        Image.fromarray(GREY.astype(np.uint16) * 257).save(path)
    assert np.abs(pixels(path) - GREY[..., None]).max() <= 1


def test_sixteen_bits_are_rounded_to_nearest(tmp_path):
    values = np.array([[0, 128, 129, 385, 386, 32896, 65406, 65407, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert pixels(tmp_path / "a.png")[0, :, 0].tolist() == [round(v / 257) for v in values[0].tolist()]


def test_sixteen_bits_per_colour_are_read(tmp_path):
    colours = np.stack([GREY, 255 - GREY, GREY // 2], -1)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in colours.astype(np.uint16) * 257)
    assert (pixels(png(tmp_path / "a.png", 24, 48, 16, 2, rows)) == colours).all()


def test_sixteen_bits_of_few_levels_are_refused(tmp_path):
    Image.fromarray(GREY.astype(np.uint16) * 16 + 2000).save(tmp_path / "thermal.png")
    with pytest.raises(CorruptImage, match=r"thermal\.png cannot be read .* fill 17 of 256 levels\. Scale the values"):
        ImageStore([str(tmp_path / "thermal.png")], (48, 24))[0]
    Image.fromarray(GREY.astype(np.uint16) * 0).save(tmp_path / "black.tif")
    with pytest.raises(CorruptImage, match=r"black\.tif .* fill 1 of 256 levels"):
        decode(str(tmp_path / "black.tif"))
    twelve = b"".join(b"\0" + row.repeat(3).astype(">u2").tobytes() for row in GREY.astype(np.uint16) * 8)
    with pytest.raises(CorruptImage, match=r"colours\.png .* fill 8 of 256 levels"):
        decode(str(png(tmp_path / "colours.png", 24, 48, 16, 2, twelve)))


def test_few_levels_are_found_despite_broken_pixels(tmp_path):
    thermal = GREY.astype(np.uint16) // 4 + 7000
    thermal[3, 3], thermal[9, 9], thermal[20, 1] = 65535, 0, 40000
    Image.fromarray(thermal).save(tmp_path / "hot.png")
    with pytest.raises(CorruptImage, match=r"hot\.png .* fill 1 of 256 levels"):
        decode(str(tmp_path / "hot.png"))


def tiff(path: Path, values: np.ndarray, photometric: int, planar: int = 1, sample_format: int = 1) -> Path:
    """Write an uncompressed little-endian TIFF of a kind that Pillow itself cannot write."""
    height, width, count = values.shape
    data = (np.moveaxis(values, 2, 0) if planar == 2 else values).astype(values.dtype.newbyteorder("<")).tobytes()
    strips = count if planar == 2 else 1
    lists = {
        **{256: [width], 257: [height], 258: [values.itemsize * 8] * count, 259: [1], 262: [photometric]},
        **{273: [0] * strips, 277: [count], 278: [height], 279: [len(data) // strips] * strips, 284: [planar]},
        339: [sample_format] * count,
    }
    start = 8 + 2 + 12 * len(lists) + 4
    longs = sum(len(numbers) * 4 for numbers in lists.values() if len(numbers) > 1)
    lists[273] = [start + longs + strip * (len(data) // strips) for strip in range(strips)]
    entries = more = b""
    for tag, numbers in lists.items():
        packed = struct.pack(f"<{len(numbers)}I", *numbers)
        entries += struct.pack("<HHI", tag, 4, len(numbers))
        entries += packed if len(numbers) == 1 else struct.pack("<I", start + len(more))
        more += packed if len(numbers) > 1 else b""
    path.write_bytes(b"II*\0" + struct.pack("<IH", 8, len(lists)) + entries + bytes(4) + more + data)
    return path


def test_tiff_with_white_zero_is_inverted(tmp_path):
    path = tiff(tmp_path / "a.tif", 65535 - GREY[..., None].astype(np.uint16) * 257, photometric=0)
    assert (pixels(path) == GREY[..., None]).all()
    assert (pixels(tiff(tmp_path / "b.tif", 255 - GREY[..., None], photometric=0)) == GREY[..., None]).all()


def test_tiffs_that_pillow_misreads_are_refused(tmp_path):
    colours = np.stack([GREY, 255 - GREY, GREY // 2], -1)
    deep = colours.astype(np.uint16) * 257
    assert (pixels(tiff(tmp_path / "whole.tif", deep, photometric=2)) == colours).all()
    assert (pixels(tiff(tmp_path / "planes.tif", colours, photometric=2, planar=2)) == colours).all()
    with pytest.raises(CorruptImage, match=r"a\.tif .* planes of more than 8 bits"):
        decode(str(tiff(tmp_path / "a.tif", deep, photometric=2, planar=2)))
    signed = (GREY[..., None].astype(int) - 128).astype(np.int8)
    for values in (signed, signed.astype(np.int16) * 256):
        with pytest.raises(CorruptImage, match=r"b\.tif .* signed integers"):
            decode(str(tiff(tmp_path / "b.tif", values, photometric=1, sample_format=2)))


def test_empty_file_and_missing_palette_are_named(tmp_path):
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(CorruptImage, match=r"empty\.jpg cannot be read as an image: it is empty \(0 bytes\)"):
        decode(str(tmp_path / "empty.jpg"))
    rows = b"".join(b"\0" + row.tobytes() for row in GREY)
    with pytest.raises(CorruptImage, match=r"p\.png .* its palette is missing"):
        decode(str(png(tmp_path / "p.png", 24, 48, 8, 3, rows)))


def test_eight_bits_may_be_of_one_grey(tmp_path):
    Image.fromarray(GREY * 0 + 30).save(tmp_path / "a.png")
    assert (pixels(tmp_path / "a.png") == 30).all()


@pytest.mark.parametrize(
    ("values", "what"),
    [
        (GREY.astype(np.float32) / 255, "floats"),
        (GREY.astype(np.float32), "floats"),
        (GREY.astype(np.int32) * 257, "integers of 32 bits"),
    ],
)
def test_images_without_known_white_are_refused(tmp_path, values, what):
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(CorruptImage, match=rf"a\.tif cannot be read as an image: its values are {what}.*8 bits"):
        decode(str(tmp_path / "a.tif"))


def test_transparency_is_dropped_without_a_warning(tmp_path, recwarn):
    colours = Image.fromarray(np.stack([GREY, 255 - GREY, GREY], -1))
    plain = colours.quantize(16)
    plain.save(tmp_path / "a.png", transparency=bytes(range(16)))
    assert (pixels(tmp_path / "a.png") == np.asarray(plain.convert("RGB"))).all()
    colours.putalpha(0)
    colours.save(tmp_path / "b.png")
    assert (pixels(tmp_path / "b.png") == np.asarray(colours.convert("RGB"))).all()
    assert not recwarn.list


# ---- orientation


XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
)


def write_lying(folder: Path, how: str) -> Path:
    """Write ``GREY`` turned by a quarter, with metadata that says how to turn it back."""
    lying = Image.fromarray(GREY).convert("RGB").transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    path = folder / f"a.{'png' if 'PNG' in how else 'webp' if 'WebP' in how else 'jpg'}"
    if how == "XMP of a PNG":
        text = PngImagePlugin.PngInfo()
        text.add_itxt("XML:com.adobe.xmp", XMP)
        lying.save(path, pnginfo=text)
    else:
        note = {"xmp": XMP.encode()} if "XMP" in how else {"exif": exif}
        lying.save(path, **note, **({"lossless": True} if path.suffix == ".webp" else {"quality": 100}))
    return path


@pytest.mark.parametrize("how", ["EXIF", "EXIF of a PNG", "EXIF of a WebP", "XMP", "XMP of a PNG", "XMP of a WebP"])
def test_rotation_in_any_metadata_is_applied(tmp_path, how):
    path = write_lying(tmp_path, how)
    assert pixels(path).shape == (48, 24, 3)
    assert np.abs(pixels(path) - GREY[..., None]).mean() < 1.5
    assert np.abs(ImageStore([str(path)], (48, 24))[0].permute(1, 2, 0).numpy().astype(int) - GREY[..., None]).mean() < 1.5


def test_ranked_list_shows_rotated_images(tmp_path):
    sheets = []
    for name in ("upright", "lying"):
        (tmp_path / name).mkdir()
        path = write_lying(tmp_path / name, "EXIF of a PNG")
        if name == "upright":
            Image.fromarray(GREY).convert("RGB").save(path)
        side = Split([str(path)], np.array([1]), np.array([0]))
        shown = Details(np.array([1.0]), np.array([1]), np.array([[0]]))
        sheets.append(np.asarray(ranked_list(side, side, shown, size=(48 + 2 * FRAME, 24 + 2 * FRAME))))
    assert (sheets[0] == sheets[1]).all()
    top, left = GAP + HEAD + FRAME, GAP + FRAME
    assert (sheets[1][top : top + 48, left : left + 24] == GREY[..., None]).all()


# ---- formats


@pytest.mark.parametrize("name", ["a.JPG", "a.jpeg", "a.png", "a.bmp", "a.webp", "a.TIFF", "a.ppm", "a.pgm"])
def test_the_formats_that_are_read(tmp_path, name):
    Image.fromarray(GREY).convert("L" if name == "a.pgm" else "RGB").save(tmp_path / name)
    assert is_image(name)
    assert np.abs(pixels(tmp_path / name) - GREY[..., None]).mean() < 3


@pytest.mark.parametrize("written", ["EPS", "PDF", "GIF", "ICO", "TGA", "SGI"])
def test_other_formats_are_refused_despite_suffix(tmp_path, written):
    Image.fromarray(GREY).convert("RGB").save(tmp_path / "a.jpg", format=written)
    with pytest.raises(CorruptImage, match=r"a\.jpg cannot be read as an image: its format is none of JPEG, PNG, BMP, WEBP"):
        decode(str(tmp_path / "a.jpg"))
    assert not is_image(f"a.{written.lower()}")


@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.webp"])
def test_several_frames_are_refused(tmp_path, name):
    frames = [Image.new("RGB", (24, 48), colour) for colour in ("red", "blue", "green")]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    with pytest.raises(CorruptImage, match=r"it holds 3 frames\. Save the frame that counts"):
        decode(str(tmp_path / name))


def test_preview_inside_a_jpeg_is_ignored(tmp_path):
    whole, preview = Image.new("RGB", (24, 48), (200, 0, 0)), Image.new("RGB", (8, 8), (0, 0, 200))
    whole.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[preview])
    assert pixels(tmp_path / "a.jpg")[..., 0].min() > 190


def test_special_files_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    for path in (tmp_path / "a.jpg", tmp_path, Path("/dev/zero")):
        with pytest.raises(CorruptImage, match="it is not a regular file"):
            decode(str(path))


# ---- size


@pytest.mark.parametrize(("width", "height"), [(40_000, 40_000), (10_000, 10_000), (MAX_SIDE + 1, 1), (1, MAX_SIDE + 1)])
@pytest.mark.filterwarnings("ignore:Image size")
def test_too_many_pixels_are_refused_early(tmp_path, width, height):
    path = png(tmp_path / "bomb.png", width, height, 1, 0, bytes(1000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CorruptImage, match=r"bomb\.png .*67,108,864.* Shrink the image or drop it\."):
        decode(str(path))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # kilobytes
    side = Split([str(path)], np.array([1]), np.array([0]))
    with pytest.raises(CorruptImage, match=r"bomb\.png"):
        ranked_list(side, side, Details(np.array([1.0]), np.array([1]), np.array([[0]])))


def test_the_longest_side_is_read(tmp_path):
    Image.new("RGB", (MAX_SIDE, 1), (9, 8, 7)).save(tmp_path / "a.png")
    assert ImageStore([str(tmp_path / "a.png")], (4, 2))[0][:, 0, 0].tolist() == [9, 8, 7]
