"""Each part of an experiment has its own seed, the same in every run."""

from __future__ import annotations

import itertools
import random

import numpy as np
import torch

from reidx.engine.seeding import seed_everything


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_the_same_key_gives_the_same_numbers() -> None:
    seed_everything(1, 2, 3)
    first = draws()
    assert draws() != first
    seed_everything(1, 2, 3)
    assert draws() == first


def test_keys_of_any_length_differ() -> None:
    """Stage k has the key (seed, k), its epochs (seed, k, epoch, rank): trailing zeros count too."""
    keys = [key for length in range(1, 6) for key in itertools.product((0, 1, 7), repeat=length)]
    assert len({seed_everything(*key) for key in keys}) == len(keys)


def test_initialisation_and_first_epoch_draw_differently() -> None:
    seed_everything(1, 0)
    weights = torch.rand(4)
    seed_everything(1, 0, 0, 0)
    assert not torch.equal(torch.rand(4), weights)
