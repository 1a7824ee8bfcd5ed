"""Being told of each call of torch that a program makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.overrides import TorchFunctionMode


def name_of(func: Any) -> str:
    """What a function of torch is called; "" for an object without a name."""
    return getattr(func, "__name__", "")


class Listening(TorchFunctionMode):
    """Inside, ``heard(func, args, kwargs, out)`` is told of each call once it has been made."""

    def __init__(self, heard: Callable[[Any, Any, dict[str, Any], Any], Any]) -> None:
        super().__init__()
        self.heard = heard

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        self.heard(func, args, kwargs, out)
        return out
