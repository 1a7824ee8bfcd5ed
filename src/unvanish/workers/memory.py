"""How much memory a process holds and how much there is, as Linux tells; elsewhere nothing is known."""

from __future__ import annotations

import math
import os
from pathlib import Path

SPARED = 0.8
"""The share of the free memory that workers may have together: the rest is for what runs beside them."""


def resident(pid: int) -> int:
    """Bytes of main memory that a process holds; 0 where that is not known."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def share(workers: int) -> float:
    """Bytes that each of so many workers may hold, if they share what is free; inf where that is not known."""
    return SPARED * min(_free_in_machine(), _free_in_group()) / max(1, workers)


def _free_in_machine() -> float:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return math.inf
    kilobytes = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), None)
    return math.inf if kilobytes is None else 1024.0 * int(kilobytes)


def _free_in_group() -> float:
    """What is left to a container; what its files hold in memory can be had back and does not count."""
    for folder, names in (
        ("/sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")),
        ("/sys/fs/cgroup/memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")),
    ):
        try:
            most, taken = (int(Path(folder, name).read_text()) for name in names[:2])
            lines = dict(line.split() for line in Path(folder, "memory.stat").read_text().splitlines())
        except (OSError, ValueError):  # no such group, or one without a limit
            continue
        return float(most - taken + int(lines.get(names[2], 0)))
    return math.inf


def size(count: float) -> str:
    """ "3.2 GiB", "410 MiB"."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
