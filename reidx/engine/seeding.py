"""One seed for every epoch: the whole story of randomness and resuming.

Each epoch starts by seeding every generator from (seed, stage, epoch). So an epoch comes out the same whether the run
got there in one go or was killed and resumed, and nothing about generators has to be in a checkpoint. The seed is the
same in each process of a job: what is random about an image is drawn by all, and each takes what concerns its own.
"""

from __future__ import annotations

import random

import numpy as np
import torch


def seed_everything(*key: int) -> int:
    """Seed Python, NumPy and torch (every device) from a tuple of non-negative integers; the seed made of them."""
    seed = int(np.random.SeedSequence(key).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    return seed
