"""The shipped recipes match their snapshots and keep the values of the released code."""

from __future__ import annotations

import pytest

from reidx.testing import snapshots
from reidx.testing.snapshots import Stated

EMBED = {"feature": "embed", "memory": "proxies", "until_epoch": None}
OFFLINE = {**EMBED, "loss": {"type": "o2cap.OfflineAssociation", "temperature": 0.07, "hard": 50}}
ONLINE = {"type": "o2cap.OnlineAssociation", "temperature": 0.07, "hard": 50, "positives": 3, "image_share": 0.15}
O2CAP = [{**OFFLINE, "weight": 1.0, "from_epoch": 0}, {**EMBED, "loss": ONLINE, "weight": 1.0, "from_epoch": 0}]
CAP = [
    {**EMBED, "loss": {"type": "o2cap.IntraCamera", "temperature": 0.07}, "weight": 1.0, "from_epoch": 0},
    {**OFFLINE, "weight": 0.5, "from_epoch": 5},
]
PUBLISHED = ["o2cap::market1501.yaml", "o2cap::msmt17.yaml", "o2cap::cap_market1501.yaml", "o2cap::cap_msmt17.yaml"]
STATED = [
    Stated(
        "defaults of both released codes",
        PUBLISHED,
        {
            "data.image_size": [256, 128],
            "data.interpolation": "bicubic",
            "stages.adapt": {
                "epochs": 50,
                "model": {"backbone": {"name": "resnet50.tv_in1k", "pretrained": True}, "fusion.pool": "avg"},
                "streams.target.sampler": {"type": "o2cap.ProxyPK", "proxies": 8, "instances": 4},
                "labels.labellings.main": {"distance": {"k1": 20, "k2": 6}, "clusterer": {"eps": 0.5, "min_samples": 4}},
                "memories.proxies.memory.momentum": 0.2,
                "optimizer": {"type": "Adam", "lr": 3.5e-4, "weight_decay": 5e-4},
                # 0.01 + 0.99·e/10 of the rate in epoch e below 10
                "schedule": [
                    {"type": "LinearLR", "start_factor": 0.01, "end": 11},
                    {"type": "MultiStepLR", "milestones": [20, 40], "gamma": 0.1},
                ],
            },
        },
    ),
    Stated("O2CAP's released code", PUBLISHED[:2], {"stages.adapt": {"iters": 400, "objective": O2CAP}}),
    Stated("CAP's released code", PUBLISHED[2:], {"stages.adapt.objective": CAP}),
]


@pytest.mark.parametrize("address", snapshots.recipes("o2cap"))
def test_recipe_matches_snapshot(address: str) -> None:
    snapshots.check(address)


@pytest.mark.parametrize("stated", STATED, ids=str)
def test_recipe_keeps_stated_values(stated: Stated) -> None:
    stated.check()

