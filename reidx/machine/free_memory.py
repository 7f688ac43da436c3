"""Memory available to this process."""

from __future__ import annotations

from pathlib import Path


def free_memory() -> float:
    """Return the bytes of memory available without swapping; infinite if the system does not report it.

    The minimum of the machine's free memory, of the limits of the control groups (containers, batch systems), and of the limit
    of the process (`ulimit -v`).
    """
    cgroup = Path("/sys/fs/cgroup")
    return max(
        0.0,
        min(
            _machine(),
            _limit(),
            _group(cgroup, "memory.max", "memory.current"),
            _group(cgroup / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
        ),
    )


def _machine() -> float:
    return _field(Path("/proc/meminfo"), "MemAvailable:") * 1024


def _limit() -> float:
    try:
        import resource
    except ImportError:  # Windows
        return float("inf")
    most = resource.getrlimit(resource.RLIMIT_AS)[0]
    taken = _field(Path("/proc/self/status"), "VmSize:") * 1024
    return float("inf") if most == resource.RLIM_INFINITY or taken == float("inf") else most - taken


def _group(folder: Path, limit: str, used: str) -> float:
    """Return the free memory of a control group; the page cache counts as free because it can be evicted."""
    try:
        left = float((folder / limit).read_text(encoding="ascii")) - float((folder / used).read_text(encoding="ascii"))
    except (OSError, ValueError):  # no such group, or no limit ("max")
        return float("inf")
    cached = _field(folder / "memory.stat", "inactive_file")
    return left + (cached if cached < float("inf") else 0.0)


def _field(path: Path, name: str) -> float:
    """Return the number after a name in a file of names and numbers; infinite if the name is missing."""
    try:
        rows = [line.split() for line in path.read_text(encoding="ascii").splitlines()]
        return next((float(row[1]) for row in rows if row and row[0] == name), float("inf"))
    except (OSError, ValueError, IndexError):
        return float("inf")
