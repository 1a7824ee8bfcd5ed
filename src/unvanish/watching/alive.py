"""Whether the process that writes a run is still there, as far as this machine can tell."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def here() -> dict[str, Any]:
    """What a run file tells of the process that writes it: its number, and its machine without the name of it."""
    return {"process": os.getpid(), "host": _host()}


def _host() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:12]


def alive(facts: Mapping[str, Any]) -> bool:
    """True, too, where it runs on another machine, or nothing is known of it."""
    process = int(facts.get("process") or 0)
    if facts.get("host", _host()) != _host():
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return not _waits_to_be_buried(process)


def _waits_to_be_buried(process: int) -> bool:
    """Whether it has ended, and only its number is still taken, because nobody has asked how it ended (Linux)."""
    try:
        after_name = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
    except OSError:
        return False
    return after_name.split()[:1] == ["Z"]
