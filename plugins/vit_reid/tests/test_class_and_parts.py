"""The head of PASS against loops over the tokens, and a value by hand."""

from __future__ import annotations

import pytest
import torch
from reidx_vit_reid.class_and_parts import ClassAndParts
from torch import Tensor, nn

MAPS = torch.zeros(6, 4, 2, 1)


def tokens(parts: int = 3, width: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(6, width, generator=generator) + 1, torch.randn(6, parts, width, generator=generator)


def head(**settings: object) -> ClassAndParts:
    return ClassAndParts({"class_token": 4, "part_tokens": 4}, **settings)  # type: ignore[arg-type]


def unit(vector: Tensor) -> Tensor:
    return vector / (vector * vector).sum().sqrt()


def normalised(vectors: Tensor) -> Tensor:
    """BatchNorm of (B,D) with weight 1 and bias 0, dimension by dimension."""
    columns = [(x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt() for x in vectors.T]
    return torch.stack(columns, dim=1)


def combined(one: Tensor, parts: Tensor, how: str) -> Tensor:
    mean = sum(part / len(parts) for part in parts)
    return torch.cat([one, mean]) if how == "cat" else (one + mean) / 2  # type: ignore[arg-type]


@pytest.mark.parametrize("how", ["cat", "mean"])
@pytest.mark.parametrize("normalize", [True, False])
def test_one_neck_follows_the_combined_vector(how: str, normalize: bool) -> None:
    class_token, parts = tokens()
    made = head(combine=how, normalize=normalize)(MAPS, class_token, parts)
    before = torch.stack([combined(c, p, how) for c, p in zip(class_token, parts)])
    after = normalised(before)
    torch.testing.assert_close(made["token"], before)
    torch.testing.assert_close(made["embed"], torch.stack([unit(v) for v in after]) if normalize else after)
    expected = torch.stack([torch.stack([unit(v) for v in image]) for image in parts]) if normalize else parts
    torch.testing.assert_close(made["parts"], expected)
    torch.testing.assert_close(made["global"], torch.stack([unit(v) for v in class_token]) if normalize else class_token)


@pytest.mark.parametrize("how", ["cat", "mean"])
@pytest.mark.parametrize("normalize", [True, False])
def test_each_token_has_a_neck_before_they_are_combined(how: str, normalize: bool) -> None:
    class_token, parts = tokens()
    made = head(combine=how, necks="each", normalize=normalize)(MAPS, class_token, parts)
    lengths = unit if normalize else lambda v: v
    ones = [lengths(v) for v in normalised(class_token)]
    of_parts = torch.stack([torch.stack([lengths(v) for v in normalised(parts[:, p])]) for p in range(3)], dim=1)
    expected = torch.stack([combined(c, p, how) for c, p in zip(ones, of_parts)])
    torch.testing.assert_close(made["embed"], expected)
    torch.testing.assert_close(made["parts"], of_parts)
    torch.testing.assert_close(made["global"], torch.stack(ones))
    torch.testing.assert_close(made["token"], torch.stack([combined(c, p, how) for c, p in zip(class_token, parts)]))


def test_value_by_hand() -> None:
    # parts (3,0), (0,3), (0,0) have the mean (1,1); in evaluation mode a new BatchNorm divides by sqrt(1 + 1e-5)
    class_token, parts = torch.tensor([[1.0, -1.0]]), torch.tensor([[[3.0, 0.0], [0.0, 3.0], [0.0, 0.0]]])
    both = {"class_token": 2, "part_tokens": 2}
    cat = ClassAndParts(both).eval()(MAPS[:1], class_token, parts)
    assert cat["token"].tolist() == [[1.0, -1.0, 1.0, 1.0]] and cat["embed"].tolist()[0] == pytest.approx([0.5, -0.5, 0.5, 0.5])
    mean = ClassAndParts(both, combine="mean").eval()(MAPS[:1], class_token, parts)
    assert mean["token"].tolist() == [[1.0, 0.0]] and mean["embed"].tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize(("how", "wide"), [("cat", 8), ("mean", 4)])
def test_widths_are_declared(how: str, wide: int) -> None:
    assert head(combine=how).dims == {"embed": wide, "token": wide, "global": 4, "parts": 4}


@pytest.mark.parametrize("necks", ["one", "each"])
def test_biases_of_necks_are_not_trained(necks: str) -> None:
    fusion = head(necks=necks)
    norms = [module for module in fusion.modules() if isinstance(module, nn.BatchNorm1d)]
    assert [norm.num_features for norm in norms] == ([8] if necks == "one" else [4, 12])
    assert not any(norm.bias.requires_grad for norm in norms)


def test_another_number_of_parts_is_refused() -> None:
    with pytest.raises(ValueError, match="gives 2 part tokens, but part_tokens of the fusion is 3"):
        head()(MAPS, *tokens(parts=2))
    assert head(part_tokens=2, necks="each")(MAPS, *tokens(parts=2))["parts"].shape == (6, 2, 4)
    with pytest.raises(ValueError, match="needs tokens of one width"):
        ClassAndParts({"class_token": 4, "part_tokens": 6}, combine="mean")
