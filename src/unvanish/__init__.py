"""Where did the gradient go, why, and what brings it back?

``unvanish.diagnose(problem)`` checks a torch model and says, per layer, how much of the error signal arrives.

PYTEST_DONT_REWRITE
"""

# The last word above is for pytest, which rewrites the packages of its plugins and would warn a program that imported
# this one before it called pytest.main().

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unvanish import lab as lab
    from unvanish import zoo as zoo
    from unvanish.health import assert_healthy
    from unvanish.pipeline import diagnose
    from unvanish.population.sweeping import sweep
    from unvanish.problem import Problem
    from unvanish.records import UnvanishError
    from unvanish.report import Report
    from unvanish.trials import fix
    from unvanish.watching.run import load_run
    from unvanish.watching.watch import watch

__version__ = "0.1.0"
__all__ = ["Problem", "Report", "UnvanishError", "assert_healthy", "diagnose", "fix", "load_run", "sweep", "watch"]

# Loaded on first use: importing the package must not cost an import of torch.
_LAZY = {
    "Problem": "problem",
    "Report": "report",
    "UnvanishError": "records",
    "assert_healthy": "health",
    "diagnose": "pipeline",
    "fix": "trials",
    "load_run": "watching.run",
    "sweep": "population.sweeping",
    "watch": "watching.watch",
}
_SUBMODULES = ("lab", "zoo")  # modules to be used by their own names, such as unvanish.lab.run


def __getattr__(name: str) -> Any:
    import importlib

    if name in _LAZY:
        return getattr(importlib.import_module(f"unvanish.{_LAZY[name]}"), name)
    if name in _SUBMODULES:
        return importlib.import_module(f"unvanish.{name}")
    raise AttributeError(f"module 'unvanish' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
