"""Whether the process that writes a run is still there, as far as this machine can tell."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any


def alive(facts: Mapping[str, Any]) -> bool:
    """True, too, where it runs on another machine, or nothing is known of it."""
    try:
        os.kill(int(facts.get("process", 0)), 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
