"""A BatchNorm for each domain: the results of two networks that share all but their BatchNorms."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from reidx.models.domain_norm import for_each_domain, network_of_domain, select_domain
from reidx.models.forward import forward_in_parts
from reidx.models.inference import fast_inference
from reidx.models.network import Network, build_network

MODEL = {
    "backbone": {"type": "Timm", "name": "test_resnet"},
    "fusion": {"type": "GlobalPool", "pool": "avg"},
    "bn_group": 4,
    "freeze": [],
}


def network(domains: tuple[str, ...] = ("a", "b")) -> Network:
    torch.manual_seed(0)
    return build_network({**MODEL, "domain_bn": True}, (48, 24), domains=domains)


def images(seed: int, count: int = 8) -> Tensor:
    return torch.randn(count, 3, 48, 24, generator=torch.Generator().manual_seed(seed)) * (seed + 1) + seed


def plain() -> Network:
    torch.manual_seed(0)
    return build_network({**MODEL, "domain_bn": False}, (48, 24))


def test_each_domain_has_its_own_batch_norm() -> None:
    shared, alone = network().train(), {name: plain().train() for name in ("a", "b")}
    for step, name in enumerate(("a", "b", "a")):
        select_domain(shared, name)
        assert torch.equal(shared(images(step))["embed"], alone[name](images(step))["embed"])
    for name, one in alone.items():
        theirs = network_of_domain(shared, name).state_dict()
        for key, value in one.state_dict().items():
            assert torch.equal(theirs[key], value), key
    assert not torch.equal(alone["a"].fusion.neck.running_mean, alone["b"].fusion.neck.running_mean)


def test_gradient_reaches_only_norms_of_its_domain() -> None:
    shared = network().train()
    select_domain(shared, "b")
    shared(images(0))["pooled"].square().sum().backward()
    moved = {name for name, p in shared.named_parameters() if p.grad is not None and bool(p.grad.any())}
    assert any(".of.b." in name for name in moved) and not any(".of.a." in name for name in moved)
    assert any(".of." not in name for name in moved)


def test_extraction_is_that_of_the_domain() -> None:
    shared = network().train()
    for name, seed in (("a", 0), ("b", 3)):
        select_domain(shared, name)
        shared(images(seed))
    shared.eval()
    for name in ("a", "b"):
        select_domain(shared, name)
        expected = shared(images(5))["embed"]
        fast = fast_inference(network_of_domain(shared, name))
        assert torch.allclose(fast(images(5))["embed"], expected, atol=1e-4)
    one = plain()
    assert network_of_domain(one, "a") is one


def test_weights_for_all_are_given_to_each() -> None:
    shared, before = network(), plain().train()
    before(images(2))
    shared.load_state_dict(for_each_domain(shared, before.state_dict()))
    for name in ("a", "b"):
        state = network_of_domain(shared, name).state_dict()
        assert all(torch.equal(state[key], value) for key, value in before.state_dict().items())
    own = shared.state_dict()
    assert for_each_domain(shared, own).keys() == own.keys()


def test_recomputed_parts_use_their_domains_norm() -> None:
    """Backward repeats the forward pass of each part, when another domain has been entered in the meantime."""
    whole = network().train()
    parted = copy.deepcopy(whole)
    for net, parts in ((whole, 1), (parted, 2)):
        outputs = [forward_in_parts(net, images(seed), None, parts, name)[1]["pooled"] for seed, name in enumerate(("a", "b"))]
        nn.functional.mse_loss(*outputs).backward()
    for (name, one), other in zip(whole.named_parameters(), parted.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None), name
        if one.grad is not None and other.grad is not None:
            assert torch.allclose(one.grad, other.grad, atol=1e-5), name


def test_frozen_parts_of_one_domain_stay_frozen() -> None:
    torch.manual_seed(0)
    model = {**MODEL, "domain_bn": True, "freeze": ["backbone.model.layer1*"]}
    shared = build_network(model, (48, 24), domains=("a", "b")).train()
    select_domain(shared, "b")
    one = fast_inference(network_of_domain(shared, "b"))
    select_domain(shared.eval(), "b")
    assert torch.allclose(one(images(1))["embed"], shared(images(1))["embed"], atol=1e-4)
