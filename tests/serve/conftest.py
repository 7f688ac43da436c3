"""A served gallery of drawn images."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from reidx.index import Index, Rows
from reidx.serve import Gallery, PageServer
from reidx.testing.mean_colours import MeanColours, draw_images


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return draw_images(tmp_path_factory.mktemp("drawn") / "images", 60)


@pytest.fixture(scope="module")
def server(images: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:
    """Serve 60 images of 3 cameras; the file of image 59 is missing."""
    network = MeanColours()
    features = np.concatenate([rows.numpy() for _, rows in network.stream(images)])
    gone = str(Path(images[59]).with_name('<b>gone & "away".png'))
    rows = Rows([*images[:59], gone], cameras=np.arange(60) % 3)
    index = Index.build(tmp_path_factory.mktemp("index") / "people <1>", features, rows, digest=network.digest)
    with PageServer(Gallery(index, network), port=0) as server:  # type: ignore[arg-type]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()
