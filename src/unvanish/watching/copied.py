"""A watched module that is saved or copied is saved and copied as it is without us: no hook of ours goes along."""

from __future__ import annotations

from typing import Any

from torch import nn

HOOKS = {
    "_forward_pre_hooks": ("_forward_pre_hooks_with_kwargs",),
    "_forward_hooks": ("_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
}
"""Where a module keeps its hooks, and what it keeps beside of each."""


def reduced(original: Any) -> Any:
    """``nn.Module.__reduce_ex__``, through which pickle, torch.save and copy.deepcopy take every module apart."""

    def reduce(self: Any, protocol: Any) -> Any:
        made = original(self, protocol)
        if not isinstance(made, tuple) or len(made) < 2:
            return made
        given = tuple(_without_ours(each) for each in made[1])  # a GraphModule hands what it holds to its maker
        return made[0], given, *(_without_ours(each) for each in made[2:3]), *made[3:]

    return reduce


def scripted(original: Any) -> Any:
    """What torch.jit.script makes of a module: it compiles the hooks as well, and ours are Python's."""

    def create(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        kept: list[tuple[Any, list[tuple[int, Any]]]] = []
        for each in module.modules():
            for name in HOOKS:
                hooks = getattr(each, name, {})
                if any(_is_ours(hook) for hook in hooks.values()):
                    kept.append((hooks, [*hooks.items()]))
        try:
            for hooks, items in kept:
                for key, hook in items:
                    if _is_ours(hook):
                        del hooks[key]
            return original(module, *args, **kwargs)
        finally:
            for hooks, items in kept:
                hooks.clear()
                hooks.update(items)

    return create


def _without_ours(state: Any) -> Any:
    if not isinstance(state, dict):
        return state
    changed: dict[str, Any] = {}
    for name, beside in HOOKS.items():
        ours = {key for key, hook in state.get(name, {}).items() if _is_ours(hook)}
        for each in (name, *beside) if ours else ():
            changed[each] = type(state[each])((key, value) for key, value in state[each].items() if key not in ours)
    return state | changed if changed else state


def _is_ours(hook: Any) -> bool:
    return str(getattr(hook, "__module__", "")).startswith("unvanish.watching.")
