"""Detection of bf16 units by a device's features, a limit of instructions, and a measured step."""

from __future__ import annotations

import pytest
import torch

from reidx.labels.neighbours import candidates
from reidx.machine import devices

CUDA = torch.device("cuda", 0)


@pytest.fixture
def cpu(monkeypatch: pytest.MonkeyPatch):
    """Return a function that fakes the CPU's features, and whether torch gives bf16 products to oneDNN."""

    def be(*features: str, onednn: bool = True) -> None:
        for name in devices.ISA_LIMITS:
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(features, True), raising=False)
        monkeypatch.setattr(devices, "_taken_by_onednn", lambda: onednn)

    return be


@pytest.mark.parametrize(
    ("features", "units"),
    [
        (("avx512_f", "avx512_bf16"), "avx512_bf16"),
        (("avx512_f", "avx512_bf16", "amx_bf16", "amx_tile"), "avx512_bf16"),
        (("amx_tile", "amx_bf16"), "amx_bf16"),
        (("avx512_f", "avx512_vnni"), None),
        (("avx2", "f16c"), None),
        ((), None),
    ],
)
def test_units_of_a_cpu_follow_from_its_features(cpu, features: tuple[str, ...], units: str | None) -> None:
    cpu(*features)
    assert devices.bf16_units() == units
    assert candidates.has_bfloat16() == (units is not None)  # the neighbour search uses the same rule
    assert units or "neither avx512_bf16 nor amx_bf16" in devices.no_bf16_units()


@pytest.mark.parametrize("name", devices.ISA_LIMITS)
@pytest.mark.parametrize(
    ("limit", "left"), [("AVX2", False), ("avx512_core", False), ("AVX512_CORE_BF16", True), ("ALL", True)]
)
def test_limit_of_instructions_is_honoured(cpu, monkeypatch, name: str, limit: str, left: bool) -> None:
    cpu("avx512_bf16")
    monkeypatch.setenv(name, limit)
    assert (devices.bf16_units() is not None) == left
    assert left or devices.no_bf16_units() == f"{name}={limit} allows no bf16 instructions"


def test_units_unused_by_torch_do_not_count(cpu) -> None:
    cpu("avx512_bf16", onednn=False)
    assert devices.bf16_units() is None and "torch does not use the avx512_bf16" in devices.no_bf16_units()


@pytest.mark.parametrize(
    ("capability", "units"), [((7, 5), None), ((8, 0), "CUDA capability 8.0"), ((9, 0), "CUDA capability 9.0")]
)
def test_units_of_a_gpu_follow_from_its_capability(monkeypatch, capability: tuple[int, int], units: str | None) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    assert devices.bf16_units(CUDA) == units
    assert units or "7.5, below 8.0" in devices.no_bf16_units(CUDA)


def test_speed_is_the_ratio_of_quickest_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([9.0, 9.0, 0.6, 0.4, 0.5, 0.2, 0.8, 0.3, 0.7, 0.9])  # fp32, bf16, in turns; the first pair warms up
    monkeypatch.setattr(devices, "_seconds", lambda work, device: next(seconds))
    assert devices.bf16_speed() == pytest.approx(0.5 / 0.2)


def test_refused_bf16_has_no_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(work, device):
        raise RuntimeError("mkldnn_bf16_gemm: needs the cpu support avx512bw, avx512vl and avx512dq")

    monkeypatch.setattr(devices, "_seconds", refuse)
    assert devices.bf16_speed() == 0


def test_measuring_changes_neither_random_numbers_nor_threads() -> None:
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    assert devices.bf16_speed() > 0
    assert torch.equal(torch.get_rng_state(), state) and torch.get_num_threads() == threads
