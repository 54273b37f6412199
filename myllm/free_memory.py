"""How much main memory this process may still take: the system's, or the container's where that is less."""

from __future__ import annotations

from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")
_V2 = ("memory.max", "memory.current", "memory.stat")
_V1 = ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat")


def free_bytes(cgroup: Path = CGROUP) -> int:
    """Bytes that can be allocated before something is swapped or killed."""
    available: int = psutil.virtual_memory().available
    limits = [free for names in (_V2, _V1) if (free := _free_in_cgroup(cgroup, *names)) is not None]
    return min([available, *limits])


def _free_in_cgroup(cgroup: Path, limit_file: str, usage_file: str, stat_file: str) -> int | None:
    """The limit less what is used; cached file pages count as free, since they go when memory is short."""
    try:
        limit, usage = (cgroup / limit_file).read_text().strip(), int((cgroup / usage_file).read_text())
        stat = dict(line.split() for line in (cgroup / stat_file).read_text().splitlines())
    except (OSError, ValueError):
        return None
    if not limit.isdecimal():  # "max"
        return None
    cached = int(stat.get("inactive_file", stat.get("total_inactive_file", 0)))
    return int(limit) - usage + cached
