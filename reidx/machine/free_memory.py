"""How much memory this process can still get."""

from __future__ import annotations

from pathlib import Path


def free_memory() -> float:
    """Bytes of memory that can be had without swapping; infinite where the system does not say.

    The least of the machine's own memory, of the limits of the control groups (containers, batch systems), and of the limit
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
    """What a control group has left; files in the page cache count as free, as they give way."""
    try:
        left = float((folder / limit).read_text(encoding="ascii")) - float((folder / used).read_text(encoding="ascii"))
    except (OSError, ValueError):  # no such group, or no limit ("max")
        return float("inf")
    cached = _field(folder / "memory.stat", "inactive_file")
    return left + (cached if cached < float("inf") else 0.0)


def _field(path: Path, name: str) -> float:
    """The number behind a name in a file of names and numbers; infinite where there is none."""
    try:
        rows = [line.split() for line in path.read_text(encoding="ascii").splitlines()]
        return next((float(row[1]) for row in rows if row and row[0] == name), float("inf"))
    except (OSError, ValueError, IndexError):
        return float("inf")
