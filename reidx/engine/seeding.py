"""One seed per epoch, which makes resumed runs identical to uninterrupted ones.

Each epoch starts by seeding every generator from (seed, stage, epoch). An epoch therefore gives the same result whether or
not the run was killed and resumed before it, and checkpoints need no generator state. All processes of a job use the same
seed: each draws the random numbers of the whole batch and uses those for its images.
"""

from __future__ import annotations

import random

import numpy as np
import torch


def seed_everything(*key: int) -> int:
    """Seed Python, NumPy and torch (every device) from non-negative 32-bit integers; returns the combined seed."""
    # SeedSequence pads short keys with zeros: without the length, (s, k) would equal (s, k, 0, 0)
    seed = int(np.random.SeedSequence((len(key), *key)).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    return seed
