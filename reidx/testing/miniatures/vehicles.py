"""Vehicles: VehicleID (no cameras), VERI-Wild (cameras in a table), and VeRi-776 with its tracks."""

from __future__ import annotations

from pathlib import Path

from reidx.testing.miniatures.base import Miniature, draw

SQUARE = (32, 32)
CAMERAS = (17, 23, 101)
"""Cameras of each vehicle of VERI-Wild."""


def write_vehicleid(folder: Path) -> None:
    """Draw ``VehicleID_V1.0``, with the test lists of 800 and 1,600 vehicles (three and four here)."""
    base = folder / "VehicleID_V1.0"
    (base / "train_test_split").mkdir(parents=True)
    number = 0
    lines: dict[int, list[str]] = {}
    for vehicle, images in ((1, 2), (2, 2), (3, 2), (4, 3), (5, 3), (6, 2), (7, 2)):
        for _ in range(images):
            number += 1
            draw(base / "image" / f"{number:07d}.jpg", vehicle, 0, number, SQUARE)
            lines.setdefault(vehicle, []).append(f"{number:07d} {vehicle}\n")
    for name, vehicles in (("train_list", (1, 2, 3)), ("test_list_800", (4, 5, 6)), ("test_list_1600", (4, 5, 6, 7))):
        text = "".join(line for vehicle in vehicles for line in lines[vehicle])
        (base / f"train_test_split/{name}.txt").write_text(text, encoding="utf-8")


def write_veri_wild(folder: Path) -> None:
    """Draw ``VERI-Wild`` with the small test; vehicle 7 is in no query."""
    base = folder / "VERI-Wild"
    (base / "train_test_split").mkdir(parents=True)
    info = ["id/image;Camera ID;Time;Model;Type;Color"]
    lists: dict[str, list[str]] = {"train_list": [], "test_3000_query": [], "test_3000": []}
    number = 0
    for vehicle in range(1, 8):
        for camera in CAMERAS:
            number += 1
            image = f"{vehicle:05d}/{number:06d}"
            draw(base / "images" / f"{image}.jpg", vehicle, camera, number, SQUARE)
            info.append(f"{image};{camera};2018-03-10 14:34:27;Model;Sedan;white")
            asked = vehicle < 7 and camera == CAMERAS[0]
            lists["train_list" if vehicle < 4 else "test_3000_query" if asked else "test_3000"].append(image)
    for name, lines in {**lists, "vehicle_info": info}.items():
        (base / f"train_test_split/{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_veri776(folder: Path) -> None:
    """Draw ``VeRi`` with tracks of two images; the queries are the first images of the tracks under camera 1."""
    base = folder / "VeRi"
    tracks = []
    for vehicle in range(1, 6):
        for camera in (1, 2, 20):
            names = [f"{vehicle:04d}_c{camera:03d}_{frame:08d}_0.jpg" for frame in (30 * camera, 30 * camera + 5)]
            for number, name in enumerate(names):
                draw(base / ("image_train" if vehicle < 4 else "image_test") / name, vehicle, camera, number, SQUARE)
            if vehicle >= 4:
                tracks.append(f"{vehicle:04d}_c{camera:03d}_{30 * camera:08d}.jpg {' '.join(names)} ")
                if camera == 1:
                    draw(base / "image_query" / names[0], vehicle, camera, 0, SQUARE)
    (base / "test_track.txt").write_text("\n".join(tracks) + "\n", encoding="utf-8")


VERI = {"train": (18, 3, 3), "query": (2, 2, 1), "gallery": (12, 2, 3)}
MINIATURES = (
    Miniature(
        "VehicleID",
        write_vehicleid,
        {"type": "VehicleID"},
        {"train": (6, 3, 0), "query": (8, 3, 0), "gallery": (8, 3, 0)},
        ({"type": "SingleGalleryShot", "camera_filter": False, "rest": True},),
    ),
    Miniature(
        "VERI-Wild",
        write_veri_wild,
        {"type": "VERIWild"},
        {"train": (9, 3, 3), "query": (3, 3, 1), "gallery": (9, 4, 3)},
    ),
    Miniature(
        "VeRi-776 with tracks",
        write_veri776,
        {"type": "VeRi776", "tracks": True},
        VERI,
        ({"type": "Grouped", "gallery": "track", "nearest": True}, {"type": "Market1501"}),
    ),
)
