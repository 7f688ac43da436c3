"""The views of a map: their rows, their separate poolings and necks, and the cases in which they are equal."""

from __future__ import annotations

import pytest
import torch
from reidx_lp.multi_view import VIEWS, MultiView
from torch import Tensor, nn

from reidx.errors import DataError
from reidx.fusions.global_pool import GlobalPool


def maps(images: int = 6, channels: int = 3, height: int = 5, seed: int = 1) -> Tensor:
    return torch.rand(images, channels, height, 2, generator=torch.Generator().manual_seed(seed))


ROWS = {
    4: {"global": range(4), "upper": range(2), "lower": range(2, 4)},
    5: {"global": range(5), "upper": range(2), "lower": range(2, 4)},
}


def by_hand(x: Tensor, rows: range, p: float = 3.0) -> Tensor:
    """Generalised mean over the rows, each channel standardised over the batch, each vector divided by its length."""
    images, channels, _, width = x.shape
    table = [[0.0] * channels for _ in range(images)]
    for b in range(images):
        for c in range(channels):
            cells = [x[b, c, r, w].item() for r in rows for w in range(width)]
            table[b][c] = (sum(max(v, 1e-6) ** p for v in cells) / len(cells)) ** (1 / p)
    for c in range(channels):
        column = [row[c] for row in table]
        mean = sum(column) / images
        variance = sum((v - mean) ** 2 for v in column) / images
        for row in table:
            row[c] = (row[c] - mean) / (variance + 1e-5) ** 0.5
    return torch.tensor([[v / sum(w * w for w in row) ** 0.5 for v in row] for row in table])


@pytest.mark.parametrize("height", [4, 5])
def test_views_against_loops_over_rows(height: int) -> None:
    features = MultiView(3)(maps(height=height))
    for view, rows in ROWS[height].items():
        assert torch.allclose(features[view], by_hand(maps(height=height), rows), atol=1e-5), view


def test_only_global_has_the_odd_row() -> None:
    head, other = MultiView(3).eval(), maps()
    other[:, :, -1] += 1
    before, after = head(maps()), head(other)
    assert torch.equal(before["upper"], after["upper"])
    assert torch.equal(before["lower"], after["lower"])
    assert not torch.allclose(before["global"], after["global"], atol=1e-3)


def test_map_of_one_row_is_refused() -> None:
    with pytest.raises(DataError, match=r"map is 1 row high and has no halves\. Raise data\.image_size"):
        MultiView(3)(maps(height=1))
    assert set(MultiView(3)(maps(height=2))) == {"embed", "parts", *VIEWS}


def test_parts_are_the_halves() -> None:
    features = MultiView(3).eval()(maps())
    assert features["parts"].shape == (6, 2, 3)
    for part, half in enumerate(("upper", "lower")):
        assert torch.equal(features["parts"][:, part], features[half])


@pytest.mark.parametrize("pool", ["gem", "avg", "max", "avg+max"])
def test_equal_halves_give_equal_views(pool: str) -> None:
    half = maps(height=3)
    features = MultiView(3, pool).eval()(torch.cat([half, half], dim=2))
    for view in ("upper", "lower"):
        assert torch.allclose(features[view], features["global"], atol=1e-6)


def test_views_have_separate_poolings_and_necks() -> None:
    head = MultiView(3)
    trained = {name: p for name, p in head.named_parameters() if p.requires_grad}
    assert sorted(p.numel() for p in trained.values()) == [1, 1, 1, 3, 3, 3]  # exponents, weights of the norms
    optimizer = torch.optim.SGD(trained.values(), lr=0.1)
    (head(maps())["upper"] * torch.randn(6, 3, generator=torch.Generator().manual_seed(2))).sum().backward()
    optimizer.step()
    assert {name for name, p in trained.items() if p.grad is not None} == {n for n in trained if "upper" in n}
    for view in head.views.values():
        assert isinstance(view.neck, nn.BatchNorm1d)
        assert torch.equal(view.neck.bias, torch.zeros(3))
    assert head.views["upper"].pool.p.item() != 3.0 == head.views["lower"].pool.p.item()


def test_global_view_equals_global_pool() -> None:
    x = maps(images=8, height=6)
    head, plain = MultiView(3), GlobalPool(3)
    for mode in (True, False):
        assert torch.equal(head.train(mode)(x)["global"], plain.train(mode)(x)["global"])


def test_embed_is_global_or_concatenated_views() -> None:
    whole, three = MultiView(3), MultiView(3, test_views="concat")
    assert (whole.dims["embed"], three.dims["embed"]) == (3, 9)
    x = maps()
    assert torch.equal(whole(x)["embed"], whole.train()(x)["global"])
    features = three(x)
    assert torch.allclose(features["embed"].norm(dim=1), torch.ones(6), atol=1e-6)
    # three concatenated unit vectors have a length of √3
    expected = torch.cat([features["global"], features["upper"], features["lower"]], 1) / 3**0.5
    assert torch.allclose(features["embed"], expected, atol=1e-6)
