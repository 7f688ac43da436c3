"""How the C library hands memory back, which decides half the speed of a CNN on a CPU."""

from __future__ import annotations

import ctypes
import platform

# the parameters of glibc's mallopt(3)
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Whether the process now keeps memory that tensors have freed, to use it again.

    By default glibc returns every large block to the kernel and fetches it anew, zeroed page by page, for the next
    activation: a step of a small CNN spends more time there than in arithmetic. Afterwards the process holds the
    largest amount it ever had in use. Elsewhere than on glibc nothing is done and the answer is ``False``.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = {_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 64 * 2**20}
    taken = [mallopt(key, value) for key, value in settings.items()]
    return taken == [1] * len(settings)
