"""Keeping freed memory: with glibc, freed blocks stay in the heap and are used again."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from reidx.machine.allocator import keep_freed_memory

CODE = """
import resource, torch
from reidx.machine.allocator import keep_freed_memory
torch.set_num_threads(1)
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(16 * 2**20)  # 64 MiB, freed at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
default = faults()
assert keep_freed_memory()
faults()  # the heap grows to what is needed
kept = faults()
assert kept * 10 < default, (kept, default)
"""


def test_pages_are_fetched_once() -> None:
    if platform.libc_ver()[0] != "glibc":
        assert not keep_freed_memory()
        pytest.skip("only glibc has this setting")
    # in a separate process: the setting cannot be undone
    subprocess.run([sys.executable, "-c", CODE], check=True)
