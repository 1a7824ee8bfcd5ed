"""What a benchmark ran on: versions and processor, for the JSON beside its numbers."""

from __future__ import annotations

import importlib.metadata
import platform
import shlex
import sys
from pathlib import Path


def provenance(threads: int) -> dict[str, object]:
    """The command, the versions and the machine of this run; no host name and no path."""
    given = [each if not Path(each).is_absolute() else f"…/{Path(each).name}" for each in sys.argv[1:]]
    command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *given])
    versions = {name: importlib.metadata.version(name) for name in ("torch", "unvanish")}
    machine = {"processor": _processor(), "threads": threads, "system": platform.system()}
    return {"command": command, "versions": {"python": platform.python_version(), **versions}, "machine": machine}


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
