"""What is set for a whole process or thread: modes of torch, random states, hooks on all modules, patched functions."""

from __future__ import annotations

import gc
import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.modules import module as hooks
from torch.overrides import _get_current_function_mode_stack, _pop_mode, _push_mode
from torch.utils import _device, checkpoint

from unvanish.preserve.randomness import random_states

_EVERYWHERE = tuple(name for name in vars(hooks) if name.startswith("_global_") and "hooks" in name)
_autograd: Any = torch._C._autograd  # type: ignore[attr-defined]
_PATCHED = ("CheckpointFunction", "_checkpoint_hook")


class Settings:
    """A copy of all of them, to be set again."""

    def __init__(self) -> None:
        # A CUDA that nobody has started keeps no state yet.
        self.devices = ("cpu", "cuda") if torch.cuda.is_initialized() else ("cpu",)
        self.back: list[Callable[[], Any]] = []
        self.modes()
        self.back.append(random_states())
        for name in _PATCHED:
            if hasattr(checkpoint, name):
                self.keep(
                    lambda name=name: getattr(checkpoint, name), lambda v, name=name: setattr(checkpoint, name, v)
                )
        self.keep(gc.isenabled, lambda on: gc.enable() if on else gc.disable())
        self.keep(lambda: (warnings.filters, list(warnings.filters)), _set_filters)
        frames = getattr(sys.modules.get("torch._dynamo.eval_frame"), "_stance", None)
        if frames is not None:
            self.keep(lambda: frames, lambda v: setattr(sys.modules["torch._dynamo.eval_frame"], "_stance", v))

    def keep(self, read: Callable[[], Any], write: Callable[[Any], Any]) -> None:
        before = read()
        self.back.append(lambda: write(before))

    def modes(self) -> None:
        for device in self.devices:
            self.keep(
                lambda device=device: (torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)),
                lambda v, device=device: (
                    torch.set_autocast_enabled(device, v[0]),
                    torch.set_autocast_dtype(device, v[1]),
                ),
            )
        self.keep(torch.is_autocast_cache_enabled, torch.set_autocast_cache_enabled)
        self.keep(_autocast_depth, _set_autocast_depth)
        self.keep(torch.get_default_dtype, torch.set_default_dtype)
        self.keep(
            lambda: (
                torch.are_deterministic_algorithms_enabled(),
                torch.is_deterministic_algorithms_warn_only_enabled(),
            ),
            lambda v: torch.use_deterministic_algorithms(v[0], warn_only=v[1]),
        )
        self.keep(torch.is_anomaly_enabled, lambda on: torch.autograd.set_detect_anomaly(on))
        self.keep(_get_current_function_mode_stack, _set_mode_stack)
        self.keep(lambda: _device.CURRENT_DEVICE, lambda v: setattr(_device, "CURRENT_DEVICE", v))
        self.keep(_saved_tensor_hooks, _set_saved_tensor_hooks)
        self.keep(torch.is_grad_enabled, torch._C._set_grad_enabled)

    def put_back(self) -> None:
        """May be run again after it was cut short."""
        _drop_our_hooks()
        for each in self.back:
            each()

    def plain(self, home: torch.device) -> None:
        """The problem says where and under which precision it is checked; the place of the call does not."""
        if torch.get_default_device().type != home.type:
            _device.DeviceContext(home).__enter__()
        for device in self.devices:
            if torch.is_autocast_enabled(device):
                torch.set_autocast_enabled(device, False)
        if _autocast_depth() > 0:
            # Casts of weights are kept until the outermost autocast ends, which here is the caller's: weights that are
            # moved to measure what a step does would be read as they were, and our casts would be left to the caller.
            torch.set_autocast_cache_enabled(False)


def _drop_our_hooks() -> None:
    """Ours alone: another thread may have set hooks of its own meanwhile."""
    for name in _EVERYWHERE:
        known = getattr(hooks, name)
        for key, hook in list(known.items()):
            if str(getattr(hook, "__module__", "")).startswith("unvanish."):
                known.pop(key, None)
    held = {key for name in _EVERYWHERE for key, hook in getattr(hooks, name).items() if callable(hook)}
    for name in _EVERYWHERE:  # tables that only mark hooks as of some kind
        known = getattr(hooks, name)
        for key, hook in list(known.items()):
            if not callable(hook) and key not in held:
                known.pop(key, None)


def _set_mode_stack(wanted: list[Any]) -> None:
    now = _get_current_function_mode_stack()
    same = 0
    while same < min(len(now), len(wanted)) and now[same] is wanted[same]:
        same += 1
    for _ in now[same:]:
        _pop_mode()
    for mode in wanted[same:]:
        _push_mode(mode)


def _saved_tensor_hooks() -> Any:
    """The innermost pair; torch's checkpoints set theirs for a while, and an interrupt may leave them there."""
    read = getattr(_autograd, "_top_saved_tensors_default_hooks", None)
    return None if read is None else read(True)


def _set_saved_tensor_hooks(wanted: Any) -> None:
    while (now := _saved_tensor_hooks()) is not None and now != wanted:
        _autograd._pop_saved_tensors_default_hooks()


def _set_filters(kept: tuple[list[Any], list[Any]]) -> None:
    filters, before = kept
    if warnings.filters is not filters or filters != before:
        filters[:] = before
        warnings.filters = filters
        warnings._filters_mutated()  # type: ignore[attr-defined]


def _autocast_depth() -> int:
    torch.autocast_increment_nesting()
    return torch.autocast_decrement_nesting()


def _set_autocast_depth(depth: int) -> None:
    while _autocast_depth() > depth:
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()
