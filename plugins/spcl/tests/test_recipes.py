"""The shipped recipes match their snapshots and keep the values of the paper."""

from __future__ import annotations

import pytest

from reidx.testing import snapshots
from reidx.testing.snapshots import Stated

DATA_SETS = {  # type, steps per epoch, image size, domain_bn
    "market1501": ("Market1501", 400, [256, 128], False),
    "msmt17": ("MSMT17", 800, [256, 128], False),
    "personx": ("PersonX", 400, [256, 128], False),
    "veri776": ("VeRi776", 800, [224, 224], False),
    "msmt17_to_market1501": ("Market1501", 400, [256, 128], True),
}
STATED = [
    Stated(
        "Ge et al. 2020, implementation details",
        [f"spcl::{name}.yaml" for name in DATA_SETS],
        {
            "stages.adapt": {
                "epochs": 50,
                "model": {"backbone.name": "resnet50.tv_in1k", "fusion.pool": "avg"},
                "streams.*.sampler": {"identities": 16, "instances": 4, "singles": "once"},  # 64 images
                "evaluate.domain": "target",
            },
        },
    ),
    *(
        Stated(
            "the released code's commands",
            [f"spcl::{name}.yaml"],
            {
                "data": {"domains.target.type": kind, "image_size": size},
                "stages.adapt": {"iters": iters, "model.domain_bn": domain_bn},
            },
        )
        for name, (kind, iters, size, domain_bn) in DATA_SETS.items()
    ),
    Stated(
        "the plan of the small recipes: 51,200 images, the 12,936 of Market-1501 once between two labellings",
        ["spcl::market1501_small.yaml"],
        {"stages.adapt": {"epochs": 4, "iters": 200, "streams.target.sampler": {"identities": 16, "instances": 4}}},
    ),
]


@pytest.mark.parametrize("address", snapshots.recipes("spcl"))
def test_recipe_matches_snapshot(address: str) -> None:
    snapshots.check(address)


@pytest.mark.parametrize("stated", STATED, ids=str)
def test_recipe_keeps_stated_values(stated: Stated) -> None:
    stated.check()
