"""The rendered domains as a data set, drawn on first use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from reidx.data.datasets.market import MarketGrammar
from reidx_synthetic.domain import VERSION, render_domain


class People(MarketGrammar):
    """A small domain of rendered people, for experiments without a download.

    A domain, ``source`` or ``target``, drawn into ``root/DOMAIN-seedSEED`` on first use.

    ``identities`` are those of the training and of the test split, each seen ``images_per_camera`` times by each of
    ``cameras`` cameras; ``size`` is (height, width) in pixels. ``progress(done, total)`` is called during the drawing.

    Raises :class:`DataError` for arguments that make no valid benchmark, or if that folder holds something else.
    """

    name = "Synthetic"

    def __init__(
        self,
        root: str = "data/synthetic",
        domain: str = "source",
        identities: tuple[int, int] = (150, 60),
        images_per_camera: int = 4,
        cameras: int = 4,
        size: tuple[int, int] = (128, 64),
        seed: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.name = f"Synthetic {domain}"
        self.version = f"v{VERSION} seed {seed}"
        folder = Path(root).expanduser() / f"{domain}-seed{seed}"
        train, test = identities
        height, width = size
        render_domain(
            folder,
            domain,
            identities=(train, test),
            images_per_camera=images_per_camera,
            cameras=cameras,
            size=(height, width),
            seed=seed,
            progress=progress,
        )
        super().__init__(str(folder))
