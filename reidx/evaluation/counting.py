"""The compiled loops of `evaluate`: exact distances, ranks of matches by counting the images ahead, nearest images."""

from __future__ import annotations

import numpy as np

from reidx.labels.compiled import compiled, squared_distance


@compiled
def exact_distances(start, stop, x, y, factor, offset, out):  # type: ignore[no-untyped-def]
    """Fill rows ``start`` to ``stop`` of ``out`` (B, G) with the distances by which `count_ranks` ranks."""
    shifted = offset.shape[1] > 0
    for q in range(start, stop):
        for g in range(y.shape[0]):
            out[q, g] = factor[q] * squared_distance(x[q], y[g]) + (offset[q, g] if shifted else 0.0)


@compiled
def nearest_of_groups(start, stop, block, error, x, y, factor, offset, bounds, out):  # type: ignore[no-untyped-def]
    """Fill rows of ``out`` (B, M) with the nearest gallery image of each group, by the distances of `count_ranks`.

    The images of group m are ``bounds[m]`` to ``bounds[m + 1]``. The first of equal ones counts.
    """
    shifted = offset.shape[1] > 0
    for q in range(start, stop):
        slack = factor[q] * error[q]
        for m in range(out.shape[1]):
            out[q, m] = bounds[m]
            if bounds[m + 1] == bounds[m] + 1:
                continue
            low = np.inf
            for g in range(bounds[m], bounds[m + 1]):
                low = min(low, factor[q] * block[q, g] + (offset[q, g] if shifted else 0.0))
            best = np.inf
            for g in range(bounds[m], bounds[m + 1]):
                shift = offset[q, g] if shifted else 0.0
                if factor[q] * block[q, g] + shift <= low + 2 * slack:
                    d = factor[q] * squared_distance(x[q], y[g]) + shift
                    if d < best:
                        best, out[q, m] = d, g


@compiled
def count_ranks(start, stop, block, error, skip, q_ids, g_ids, x, y, factor, offset, ap, inp, first, top):  # type: ignore[no-untyped-def]
    """Fill ``ap``, ``inp``, ``first`` and ``top`` for the queries ``start`` to ``stop`` of a block of distances."""
    gallery = block.shape[1]
    shifted = offset.shape[1] > 0
    distances, matches = np.empty(gallery, np.float64), np.empty(gallery, np.int64)
    ahead = np.empty(gallery + 1, np.int64)
    for q in range(start, stop):
        count = 0
        for g in range(gallery):
            if g_ids[g] == q_ids[q] and not skip[q, g]:
                d = factor[q] * squared_distance(x[q], y[g]) + (offset[q, g] if shifted else 0.0)
                place = count  # insertion keeps the matches sorted by (distance, index)
                while place > 0 and distances[place - 1] > d:
                    distances[place], matches[place] = distances[place - 1], matches[place - 1]
                    place -= 1
                distances[place], matches[place] = d, g
                count += 1
        if top.shape[1]:
            _nearest(block[q], error[q], skip[q], x[q], y, factor[q], offset[q], top[q])
        if count == 0:
            continue
        ahead[: count + 1] = 0
        slack = factor[q] * error[q]
        furthest = distances[count - 1]
        for g in range(gallery):
            d = factor[q] * block[q, g] + (offset[q, g] if shifted else 0.0)
            if d - slack > furthest or skip[q, g] or g_ids[g] == q_ids[q]:
                continue
            low, high = 0, count
            while low < high:  # the first match that may be behind g
                middle = (low + high) // 2
                if distances[middle] < d - slack:
                    low = middle + 1
                else:
                    high = middle
            if low < count and distances[low] <= d + slack:
                exact = factor[q] * squared_distance(x[q], y[g]) + (offset[q, g] if shifted else 0.0)
                while low < count and (
                    distances[low] < exact or (distances[low] == exact and matches[low] < g)
                ):
                    low += 1
            ahead[low] += 1
        rank, precision = 0, 0.0
        for m in range(count):
            rank += ahead[m] + 1
            precision += (m + 1) / rank
            if m == 0:
                first[q] = rank
        ap[q] = precision / count
        inp[q] = count / rank


@compiled
def nearest_images(start, stop, block, error, x, y, top):  # type: ignore[no-untyped-def]
    """Fill rows ``start`` to ``stop`` of ``top`` (B, k) with the nearest images of a block of distances (B, G)."""
    skip, offset = np.zeros(block.shape[1], np.bool_), np.zeros(0, np.float32)
    for q in range(start, stop):
        _nearest(block[q], error[q], skip, x[q], y, 1.0, offset, top[q])


@compiled
def _nearest(block, error, skip, x, y, factor, offset, top):  # type: ignore[no-untyped-def]
    """The nearest gallery indices by (distance, index), with exact distances where they can change the order."""
    shifted = offset.shape[0] > 0
    k, filled = top.shape[0], 0
    best = np.empty(k, np.float64)
    for g in range(block.shape[0]):
        if skip[g]:
            continue
        shift = offset[g] if shifted else 0.0
        if filled == k and factor * (block[g] - error) + shift > best[k - 1]:
            continue
        d = factor * squared_distance(x, y[g]) + shift
        place = filled
        while place > 0 and best[place - 1] > d:
            if place < k:
                best[place], top[place] = best[place - 1], top[place - 1]
            place -= 1
        if place < k:
            best[place], top[place] = d, g
        filled = min(filled + 1, k)
