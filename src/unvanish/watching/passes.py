"""Passes without gradients, such as a validation: nan in their outputs is no part of any step.

After each sampled step the first such pass of each model is looked at, and on the CPU, where reading a number waits for
nothing, the first hundred of a validation: what they gave is read once, and where it holds nan the pass is made again
under a check, which names the call.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from unvanish.records import Finding
from unvanish.trace.structure import tensors
from unvanish.watching.box import Entry, probe, versions
from unvanish.watching.dated import dated, undated
from unvanish.watching.norms import has_nan, local
from unvanish.watching.replay import Replay, forward_of
from unvanish.watching.watcher import Watcher


def odd_pass(watcher: Watcher, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> Any:
    """What is to be said of a pass that has just come to its end; None where its outputs hold no nan."""
    bad = [local(each.detach()) for each in tensors(outputs) if has_nan(each)]
    if not bad:
        return None
    level = "error" if any(_in_all_rows(each) for each in bad) else "note"  # a row that is masked whole can be meant
    mode = "train" if module.training else "eval"
    begin = f"in a pass of {type(module).__name__} without gradients, in {mode} mode,"
    if any(has_nan(each) for each in tensors((args, kwargs))):
        return _finding(watcher.step, f"{begin} the inputs hold nan, and so do the outputs.", "data", "note")
    held = [*module.named_parameters(), *module.named_buffers()]
    if names := [name for name, each in held if has_nan(each)]:
        text = f"{begin} the outputs hold nan, and so does {', '.join(names[:3])}."
        return _finding(watcher.step, text, "parameters", level)
    found = _again(watcher, module, args, kwargs, outputs)
    said = [] if found.report is None else [f for f in found.report.findings if f.verdict == "nonfinite"]
    if found.born == "forward" and said:
        text = undated(said[0].message)
        which = "" if level == "error" else " of some samples"
        text = dated("at", watcher.step, f"{begin} {text[:1].lower()}{text[1:]}")
        return said[0].replace(message=text.replace("the forward pass", f"the forward pass{which}", 1), level=level)
    which = "the outputs" if level == "error" else "some rows of the outputs"
    return _finding(watcher.step, f"{begin} {which} hold nan, and the inputs do not.", "forward", level)


def of_a_validation(module: nn.Module, outputs: Any) -> bool:
    """Whether the next passes are looked at as well: those of a rollout, in train mode, are many and small."""
    first = next(tensors(outputs), None)
    return not module.training and first is not None and first.is_cpu


def _in_all_rows(tensor: Tensor) -> bool:
    """Of several rows: a last batch of one that is masked whole, and a mean over no targets, can be meant."""
    bad = tensor.isnan()
    return bad.ndim > 0 and bad.size(0) > 1 and bool((bad.flatten(1).any(1) if bad.ndim > 1 else bad).all())


def _again(watcher: Watcher, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> Replay:
    if torch.is_inference_mode_enabled() or any(each.is_inference() for each in tensors((args, kwargs))):
        return Replay()
    kept = [(at, *probe(each)) for at, each in enumerate(tensors(outputs)) if each.is_floating_point()]
    home = next((each.device.type for each in module.parameters()), "cpu")
    cast = torch.get_autocast_dtype(home) if torch.is_autocast_enabled(home) else None
    random = torch.default_generator.get_state(), torch.cuda.get_rng_state_all() if home == "cuda" else None
    entry = Entry(module, args, kwargs, versions(args, kwargs), random, cast, module.training, kept)
    watcher.guard.busy(True)
    try:
        with torch.enable_grad():
            return forward_of(entry, watcher.table.models)
    finally:
        watcher.guard.busy(False)


def _finding(step: int, text: str, cause: str, level: Literal["error", "note"]) -> Finding:
    message = dated("at", step, text)
    return Finding(code="UV501", verdict="nonfinite", level=level, cause=cause, message=message)
