"""Each stem sees the images of its modality, and the shared layers see all."""

from __future__ import annotations

import pytest
import torch
from reidx_usl_vi.backbone import TwoStem

from reidx.errors import ConfigError, DataError
from reidx.fusions.global_pool import GlobalPool
from reidx.models.backbones import Timm
from reidx.models.network import Network

SIZE = (64, 32)
OF = {"type": "Timm", "name": "test_resnet"}


def images(count: int) -> torch.Tensor:
    return torch.randn(count, 3, *SIZE, generator=torch.Generator().manual_seed(0))


def test_new_stems_compute_the_map_of_the_resnet() -> None:
    torch.manual_seed(0)
    plain = Timm("test_resnet", image_size=SIZE).eval()
    torch.manual_seed(0)
    double = TwoStem(OF, image_size=SIZE).eval()
    for modality in (torch.tensor([0, 1, 1, 0]), torch.zeros(4, dtype=torch.long), torch.ones(4, dtype=torch.long)):
        assert torch.allclose(double(images(4), modality), plain(images(4)), atol=1e-6)
    assert (double.out_channels, double.nonnegative) == (plain.out_channels, plain.nonnegative)
    assert (double.mean, double.std) == (plain.mean, plain.std)


def test_stems_start_from_a_checkpoint_of_the_resnet() -> None:
    plain, double = Timm("test_resnet", image_size=SIZE), TwoStem(OF, image_size=SIZE).eval()
    network = Network(double, GlobalPool(double.out_channels), image_size=SIZE)
    plain(images(8))  # moves the statistics of the BatchNorms
    state = {f"backbone.{name}": value for name, value in plain.state_dict().items()}
    state |= {f"fusion.{name}": value for name, value in network.fusion.state_dict().items()}
    network.load_state_dict(network.refit(state, SIZE, "checkpoint"))
    for modality in (torch.tensor([0, 1, 1, 0]), torch.ones(4, dtype=torch.long)):
        assert torch.allclose(double(images(4), modality), plain.eval()(images(4)), atol=1e-6)
    own = network.state_dict()
    assert all(value is own[name] for name, value in network.refit(own, SIZE, "checkpoint").items())


def test_stems_learn_from_their_modality_only() -> None:
    double, modality = TwoStem(OF, image_size=SIZE), torch.tensor([1, 0, 1, 1, 0])
    made = double(images(5), modality)
    made[modality == 0].sum().backward()
    visible, infrared = (next(stem.parameters()).grad for stem in double.stems)
    assert visible is not None and visible.abs().sum() > 0
    assert infrared is not None and infrared.abs().sum() > 0  # through the shared BatchNorms
    double.zero_grad()
    double.eval()(images(5), modality)[modality == 0].sum().backward()
    visible, infrared = (next(stem.parameters()).grad for stem in double.stems)
    assert visible is not None and visible.abs().sum() > 0
    assert infrared is None or infrared.abs().sum() == 0


def test_statistics_of_a_stem_are_those_of_its_images() -> None:
    double, modality = TwoStem(OF, image_size=SIZE).train(), torch.tensor([1, 0, 1, 0])
    norms = [next(m for m in stem.modules() if isinstance(m, torch.nn.BatchNorm2d)) for stem in double.stems]
    before = [norm.running_mean.clone() for norm in norms if norm.running_mean is not None]
    double(images(2), modality[[1, 3]])
    assert norms[0].running_mean is not None and not torch.equal(norms[0].running_mean, before[0])
    assert norms[1].running_mean is not None and torch.equal(norms[1].running_mean, before[1])


def test_unknown_modality_is_refused() -> None:
    double = TwoStem(OF, image_size=SIZE)
    with pytest.raises(DataError, match=r"neither 0 \(visible\) nor 1 \(infrared\)"):
        double(images(2), torch.tensor([0, -1]))


def test_other_networks_are_refused() -> None:
    with pytest.raises(ConfigError, match="no stem to double"):
        TwoStem({"type": "Timm", "name": "test_vit"}, image_size=SIZE)
