"""A watched module that is saved or copied is saved and copied as it is without us: no hook of ours goes along."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HOOKS = {
    "_forward_pre_hooks": ("_forward_pre_hooks_with_kwargs",),
    "_forward_hooks": ("_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
}
"""Where a module keeps its hooks, and what it keeps beside of each."""


def reduced(original: Any) -> Any:
    """``nn.Module.__reduce_ex__``, through which pickle, torch.save and copy.deepcopy take every module apart."""

    def reduce(self: Any, protocol: Any) -> Any:
        made = original(self, protocol)
        if isinstance(made, tuple) and len(made) > 2 and isinstance(made[2], dict):
            return (*made[:2], _without_ours(made[2]), *made[3:])
        return made

    return reduce


def _without_ours(state: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(state)
    for name, beside in HOOKS.items():
        ours = {key for key, hook in found.get(name, {}).items() if _is_ours(hook)}
        for each in (name, *beside) if ours else ():
            found[each] = type(found[each])((key, value) for key, value in found[each].items() if key not in ours)
    return found


def _is_ours(hook: Any) -> bool:
    return str(getattr(hook, "__module__", "")).startswith("unvanish.watching.")
