"""Best candidates of all rows among each other; each product serves both of its rows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from reidx.labels.compiled import side_by_side
from reidx.labels.neighbours.shortlists import Shortlists

_TILE = 768  # rows; a tile's products stay in the cache of one core


def mutual_candidates(x: Tensor, count: int, penalty: Tensor | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return, for each row i, the `count` rows j of the largest scores x_i·x_j - penalty_j, (N, count) in no order.

    Also returns the least of these scores (N,). Takes half of the N²·D multiplications, since x_i·x_j = x_j·x_i; memory
    N·count.
    """
    n, threads = len(x), torch.get_num_threads()
    lists = Shortlists(n, count)
    tiles = 2 * threads * -(-n // (2 * threads * _TILE))
    edges = np.linspace(0, n, tiles + 1).astype(np.int64).tolist()
    largest = max(np.diff(edges))
    off = np.zeros(n, np.float32) if penalty is None else penalty.numpy()
    numbers = np.arange(n)

    def work(start: int, stop: int, pairs: list[tuple[int, int]]) -> None:
        products, scores = torch.empty(largest**2, dtype=x.dtype), torch.empty(largest**2, dtype=torch.float32)
        for pair in pairs[start:stop]:
            a, b = (slice(edges[tile], edges[tile + 1]) for tile in pair)
            product = products[: len(x[a]) * len(x[b])].view(len(x[a]), len(x[b]))
            torch.mm(x[a], x[b].T, out=product)
            score = product if x.dtype == torch.float32 else scores[: product.numel()].view(product.shape).copy_(product)
            if a == b:
                lists.add(numbers[a], (score if penalty is None else score - penalty[a]).numpy(), a.start)
            else:
                lists.add_both(score.numpy(), off, a.start, b.start)

    for pairs in _rounds(tiles):
        side_by_side(work, threads, len(pairs), pairs)
    return lists.best()


def _rounds(tiles: int) -> Iterator[list[tuple[int, int]]]:
    """Yield every pair of tiles once, in rounds in which no tile occurs twice, so that threads never share a row.

    The first round pairs each tile with itself; the others are a round-robin tournament (circle method). `tiles` is even.
    """
    yield [(tile, tile) for tile in range(tiles)]
    circle = tiles - 1
    for middle in range(circle):
        yield [
            (circle, middle),
            *(((middle + step) % circle, (middle - step) % circle) for step in range(1, tiles // 2)),
        ]
