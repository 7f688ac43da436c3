"""The shipped recipes match their snapshots and the interpretations in the README."""

from __future__ import annotations

import pytest

from reidx.testing import snapshots
from reidx.testing.snapshots import Stated

STATED = [
    Stated(
        "the table of interpretations in the README",
        ["global_patch::market1501.yaml", "global_patch::duke.yaml"],
        {
            "data.image_size": [384, 128],
            "stages.adapt": {
                "epochs": 60,
                "streams.target.sampler": {"type": "Shuffle", "batch": 40},
                "memories": {
                    "exemplars": {"stream": None, "when": "after"},
                    "patches": {"stream": "target", "when": "before"},
                    "centres": {"stream": None, "when": "before"},
                },
                "objective": [
                    {"loss": {"type": "MemoryContrast"}, "weight": 1.0, "from_epoch": 0},
                    {"loss": {"type": "global_patch.GSL"}, "weight": 1.0, "from_epoch": 5},
                    {"loss": {"type": "global_patch.PEDAL"}, "weight": 2.0, "from_epoch": 0},
                    {"loss": {"type": "global_patch.IPFL"}, "weight": 1.0, "from_epoch": 0},
                ],
            },
        },
    ),
    *(
        Stated(
            "all images once per epoch; the scale of PAUL's code for the data set",
            [f"global_patch::{name}.yaml"],
            {"stages.adapt": {"iters": iters, "objective.2.loss.scale": scale}},
        )
        for name, (iters, scale) in {"market1501": (323, 15.0), "duke": (413, 5.0)}.items()
    ),
]


@pytest.mark.parametrize("address", snapshots.recipes("global_patch"))
def test_recipe_matches_snapshot(address: str) -> None:
    snapshots.check(address)


@pytest.mark.parametrize("stated", STATED, ids=str)
def test_recipe_keeps_stated_values(stated: Stated) -> None:
    stated.check()
