"""The device of this process, and bf16 support of a device: by its features, and by measured speed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import torch
from torch import nn

CPU = torch.device("cpu")

UNITS = ("avx512_bf16", "amx_bf16")
"""CPU features that multiply bf16, by their names in torch."""

ISA_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
"""Environment variables that limit the instruction set of oneDNN, torch's library for matrix products on a CPU."""

WITHOUT_UNITS = ("sse41", "avx", "avx2", "avx2_vnni", "avx2_vnni_2", "avx512_core", "avx512_core_vnni")
"""Limits under which no instruction multiplies bf16 faster than fp32."""

ROUNDS = 4
"""Number of timed steps per precision; the fastest one counts."""


def device_of_this_process() -> torch.device:
    """Return the accelerator of this process if there is one, else the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def bf16_units(device: torch.device = CPU) -> str | None:
    """Return the name of the units of ``device`` that multiply bf16 faster than fp32; None if none is usable."""
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        return f"CUDA capability {'.'.join(map(str, capability))}" if capability >= (8, 0) else None
    return None if _limit() or not _taken_by_onednn() else _built_in()


def no_bf16_units(device: torch.device = CPU) -> str:
    """Explain, in a clause about the device, why :func:`bf16_units` is None."""
    if device.type == "cuda":
        capability = ".".join(map(str, torch.cuda.get_device_capability(device)))
        return f"this GPU has no bf16 units (CUDA capability {capability}, below 8.0)"
    if limit := _limit():
        return f"{limit} allows no bf16 instructions"
    if unit := _built_in():
        return f"torch does not use the {unit} of this CPU (its library oneDNN is missing or takes no bf16)"
    return "this CPU has no bf16 units (neither avx512_bf16 nor amx_bf16)"


def bf16_speed(device: torch.device = CPU) -> float:
    """Measure the speed-up of a small convolutional step by bf16 over fp32; 0 if torch does not support bf16.

    The step takes a few milliseconds, or some tens of milliseconds if bf16 is emulated. On a CPU it runs on one thread,
    because several threads would also measure other work on the machine.
    """
    threads = torch.get_num_threads()
    try:
        if device.type == "cpu":
            torch.set_num_threads(1)
        quick, short = _step(device, low=False), _step(device, low=True)
        try:
            seconds = [(_seconds(quick, device), _seconds(short, device)) for _ in range(ROUNDS + 1)][1:]
        except RuntimeError:  # torch's error: "… needs the cpu support …"
            return 0.0
    finally:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
    return min(fp32 for fp32, _ in seconds) / min(bf16 for _, bf16 in seconds)


def _built_in() -> str | None:
    """Return the bf16 units of this CPU, whether or not they may be used."""
    known: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return next((unit for unit in UNITS if known.get(unit)), None)


def _limit() -> str | None:
    """Return the environment setting that disables the bf16 units, if any."""
    given = {name: os.environ[name] for name in ISA_LIMITS if os.environ.get(name, "").lower() in WITHOUT_UNITS}
    return next((f"{name}={value}" for name, value in given.items()), None)


def _taken_by_onednn() -> bool:
    """Return True if bf16 products use oneDNN; otherwise torch multiplies element by element."""
    if not torch.backends.mkldnn.is_available():
        return False
    supported: Callable[[], bool] | None = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return supported is None or supported()


def _step(device: torch.device, low: bool) -> Callable[[], None]:
    """Return a step of two convolutions over 4 maps of 64×32×16, larger on a GPU; draws no random numbers."""
    images, channels = (64, 256) if device.type == "cuda" else (4, 64)
    wide, narrow = (nn.utils.skip_init(nn.Conv2d, channels, channels, size, padding="same") for size in (3, 1))
    network = nn.Sequential(wide, nn.ReLU(), narrow).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for parameter in network.parameters():
        with torch.no_grad():
            parameter.copy_(torch.linspace(-0.1, 0.1, parameter.numel()).view(parameter.shape))
    maps = torch.linspace(-1, 1, images * channels * 32 * 16, device=device).view(images, channels, 32, 16)
    maps = maps.contiguous(memory_format=torch.channels_last).requires_grad_()

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=low):
            features = network(maps)
        features.float().mean().backward()

    return step


def _seconds(work: Callable[[], None], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    before = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - before
