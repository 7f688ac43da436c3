"""An export leaves a whole result that agrees with the original, or nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reidx.errors import ConfigError, DataError, ReidxError
from reidx.export import layouts, write
from reidx.export.layouts import Layout
from reidx.export.write import export
from reidx.inference import ReID


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(7):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def test_folder_has_card_and_licence(small: ReID, tmp_path: Path, pictures: Path) -> None:
    (tmp_path / "terms.txt").write_text("For research only.")
    parity = export(small, tmp_path / "made" / "net", images=pictures, licence=tmp_path / "terms.txt")
    folder = tmp_path / "made" / "net"
    assert parity.images == 7 and parity.cosine == pytest.approx(1)
    assert sorted(path.name for path in folder.iterdir()) == ["LICENSE", "README.md", "model.safetensors", "reidx.json"]
    card = (folder / "README.md").read_text()
    assert "Timm with GlobalPool" in card and "64x32" in card and small.digest[:16] in card and "`LICENSE`" in card
    assert (folder / "LICENSE").read_text() == "For research only."
    assert [path.name for path in folder.parent.iterdir()] == ["net"]


def test_unknown_licence_is_stated(small: ReID, tmp_path: Path) -> None:
    export(small, tmp_path / "net")
    assert "Not known." in (tmp_path / "net" / "README.md").read_text()


def test_network_that_differs_is_not_left(small: ReID, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(model: ReID, path: Path, given: object):  # type: ignore[no-untyped-def]
        return lambda images: small.embed(images.flip(-1))

    monkeypatch.setitem(layouts.FILES, ".onnx", Layout("onnx", lambda model, path, given: path.write_text("x"), opened))
    with pytest.raises(ReidxError, match="does not agree"):
        export(small, tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(small: ReID, tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    with pytest.raises(ConfigError, match="already exists"):
        export(small, tmp_path / "net")
    assert list((tmp_path / "net").iterdir()) == []


def test_failed_write_leaves_nothing(small: ReID, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write, "card_of", full)
    with pytest.raises(ReidxError, match="net cannot be written: No space left on device"):
        export(small, tmp_path / "net")
    assert list(tmp_path.iterdir()) == []


def test_rest_of_an_interrupted_export_is_replaced(small: ReID, tmp_path: Path) -> None:
    (tmp_path / ".net.partial").mkdir()
    (tmp_path / ".net.partial" / "old").write_text("x")
    export(small, tmp_path / "net")
    assert [path.name for path in tmp_path.iterdir()] == ["net"]


def test_network_that_needs_cameras_is_refused(make, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    backbone = {"type": "vit_reid.ViT", "width": 64, "depth": 1, "cameras": 3}
    with pytest.raises(DataError, match="needs the camera of each image"):
        export(make(backbone, "ClassToken"), tmp_path / "net")
    assert list(tmp_path.iterdir()) == []


def test_network_that_ignores_cameras_is_exported(make, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    backbone = {"type": "vit_reid.ViT", "width": 64, "depth": 1}
    assert export(make(backbone, "ClassToken"), tmp_path / "net").cosine == pytest.approx(1)


def test_options_of_other_forms_are_refused(small: ReID, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--normalise"):
        export(small, tmp_path / "net", normalise=True)
    with pytest.raises(ConfigError, match="--licence"):
        export(small, tmp_path / "a.pt2", licence=tmp_path / "terms.txt")


def test_missing_folder_of_images_is_named(small: ReID, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no folder"):
        export(small, tmp_path / "net", images=tmp_path / "none")


def test_card_states_the_results_of_the_run(small: ReID, tmp_path: Path) -> None:
    card = {"stages": {"adapt": {"evaluation": {"metric": "cosine"}}}}
    (tmp_path / "result.json").write_text(json.dumps({"card": card, "metrics": {"mAP": 0.5414}}))
    export(small, tmp_path / "net", source=tmp_path)
    text = (tmp_path / "net" / "README.md").read_text()
    assert "mAP 54.14 (percent)" in text and "cosine distance" in text


@pytest.mark.parametrize(("content", "why"), [(None, "No such file"), (b"\xff\xfe", "it is no text in UTF-8")])
def test_licence_that_is_no_text_is_refused(small: ReID, tmp_path: Path, content: bytes | None, why: str) -> None:
    if content is not None:
        (tmp_path / "terms").write_bytes(content)
    with pytest.raises(ConfigError, match=f"--licence .*terms cannot be read: {why}"):
        export(small, tmp_path / "net", licence=tmp_path / "terms")
    assert not (tmp_path / "net").exists()


def test_licence_of_pretrained_weights_is_named(small: ReID, tmp_path: Path) -> None:
    backbone = {"type": "Timm", "name": "resnet18.a1_in1k", "pretrained": True}
    (tmp_path / "config.yaml").write_text(json.dumps({"stages": [{"model": {"backbone": backbone}}]}))
    export(small, tmp_path / "net", source=tmp_path)
    assert "`resnet18.a1_in1k` of timm: apache-2.0." in (tmp_path / "net" / "README.md").read_text()


def test_single_image_has_no_ranking(small: ReID, tmp_path: Path, pictures: Path) -> None:
    for file in list(pictures.iterdir())[1:]:
        file.unlink()
    with pytest.raises(DataError, match="at least two"):
        export(small, tmp_path / "net", images=pictures)


def test_generated_images_are_the_same_each_time(small: ReID) -> None:
    once, again = write._images(small, None, 9), write._images(small, None, 9)
    assert torch.equal(once, again) and once.min() >= 0 and once.max() <= 1 and len(once) == 9
