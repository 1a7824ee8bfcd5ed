"""What is said of a number that is not finite: where a repetition found it was born, and what was seen besides."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from unvanish.problem import name_of
from unvanish.records import Finding
from unvanish.report import Report
from unvanish.rules.events import EVENTS
from unvanish.watching.dated import dated
from unvanish.watching.replay import Replay
from unvanish.words.numbers import amount, listing

SUMMED = 3.0
"""log10 of the number of squares that a loss may add up: samples and outputs are hundreds as a rule."""

GRAPH = "a number was born that is not finite on the way to the loss, as the graph tells that the step has left: "


@dataclass(frozen=True)
class Scene:
    """What was seen of the step in which it was noticed.

    ``layers``: those whose gradient the optimizer saw is not finite. ``changed``: the backward had left it finite.
    ``broken``: those whose weights are not finite after the step. ``wholly``: the gradients of the step before were
    all read, and finite.
    """

    step: int
    loss: float = math.nan
    layers: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()
    changed: bool = False
    wholly: bool = False
    optimizer: Any = None


def findings_of(scene: Scene, found: Replay) -> list[Finding]:
    """What a repetition of the step showed, as findings with the step; where it showed nothing, what is known."""
    mine = [] if found.report is None else [f for f in found.report.findings if f.verdict == "nonfinite"]
    if mine and found.born != "loss":
        return [each.replace(message=dated("at", scene.step, each.message)) for each in mine]
    if found.born == "parameters":
        return [_of_the_step_before(scene, found.reason)]
    if found.born:
        code = "UV502" if found.born == "backward" else "UV501"
        what = {"data": "", "loss": "the loss made a number that is not finite: ", "graph": GRAPH}
        text = what.get(found.born, "a gradient is not finite: ") + found.reason
        return [_finding(code, scene.step, text, "forward" if found.born == "graph" else found.born)]
    if scene.layers:
        return [_finding("UV502", scene.step, _of_the_gradients(scene, found), "backward", scene.layers)]
    if math.isfinite(scene.loss):
        return [_finding("UV502", scene.step, f"a gradient is not finite: {found.reason}", "backward")]
    why = found.reason
    if found.masked and scene.loss == math.inf:
        why = (
            "the outputs of the model hold -inf, as a mask leaves it, and the loss of such an entry, as of a target"
            f" that is masked, is infinite{found.reason}"
        )
    elif found.report is not None:
        why = _of_large_outputs(scene.loss, found.report) or (
            "the outputs of the model and the signals that come back from the loss are finite, so it is a mean of"
            " nothing, a call whose slope is finite where it is not (the logarithm of a negative number), or a part of"
            f" the loss that sends nothing back{found.reason}"
        )
    return [_finding("UV501", scene.step, f"the loss is {scene.loss}: {why}", "loss")]


def _of_large_outputs(loss: float, report: Report) -> str:
    """Where squares of the outputs, added up, are more than their type holds; "" where they are not."""
    most = getattr(torch, report.flow.setting.dtype, None)
    sizes = [each.log10_rms for each in report.calls if each.part == "model" and each.log10_rms is not None]
    size = sizes[-1] if sizes else -math.inf
    if loss != math.inf or not isinstance(most, torch.dtype) or 2.0 * size + SUMMED < math.log10(torch.finfo(most).max):
        return ""
    return (
        f"the outputs of the model are finite, with an rms of {amount(size)}, and the sum of their squares is more than"
        f" {report.flow.setting.dtype} holds"
    )


def of_the_rate(scene: Scene) -> Finding:
    """The optimizer is about to move its weights by a learning rate that is no number."""
    rate = odd_rate(scene.optimizer)
    text = f"the learning rate of {name_of(scene.optimizer)} is {rate}, so its step leaves weights that are not finite"
    return _finding("UV505", scene.step, text, "learning rate")


def of_the_optimizer(scene: Scene) -> Finding:
    """The step itself left what is not finite, from gradients that were."""
    text = (
        f"the step of {name_of(scene.optimizer)} left weights that are not finite in {_few(scene.broken)}; loss and"
        f" gradients were finite{_about(scene.optimizer)}"
    )
    return _finding("UV505", scene.step, text, "optimizer", scene.broken)


def of_the_scale(step: int, skipped: int) -> Finding:
    """Steps that a scaler has left out are no fault."""
    event = EVENTS["UV808"]
    return Finding(
        code=event.code, verdict=event.verdict, level="note",
        message=f"at step {step}: {skipped} steps were skipped so far because the scaled loss overflowed; the loss"
        " itself is finite.",
    )  # fmt: skip


def odd_rate(optimizer: Any) -> float | None:
    """A learning rate that is not finite; that in the memory of a GPU is not asked, which would mean to wait."""
    for group in optimizer.param_groups:
        rate = group.get("lr")
        if isinstance(rate, torch.Tensor) and rate.is_cpu and rate.numel() == 1:
            rate = rate.item()
        if isinstance(rate, float) and not math.isfinite(rate):
            return rate
    return None


def _of_the_step_before(scene: Scene, names: str) -> Finding:
    if scene.step == 0:
        return _finding("UV501", 0, f"the weights were not finite before the first step: {names}", "parameters")
    seen = "loss and gradients" if scene.wholly else "the loss and the gradient of the first layer"
    text = (
        f"the weights are not finite since this step, whose forward and backward pass were in order ({seen} were"
        f" finite): either the step of {name_of(scene.optimizer)} itself left them so, or something that wrote into"
        f" them after it ({names}){_about(scene.optimizer)}"
    )
    return _finding("UV505", scene.step - 1, text, "parameters")


def _about(optimizer: Any) -> str:
    """What of the optimizer's own numbers explains it, as far as can be seen."""
    told: list[str] = []
    if what := next(filter(None, map(_no_eps, optimizer.param_groups)), ""):
        told.append(f"its eps is {what}, so that a gradient of exactly zero is 0 / 0")
    bad = {
        name
        for state in optimizer.state.values()
        if isinstance(state, dict)
        for name, value in state.items()
        if isinstance(value, torch.Tensor) and value.is_floating_point() and not bool(torch.isfinite(value).all())
    }
    if bad:
        which = " and ".join(sorted(bad))
        told.append(f"in its state {which} {'are' if len(bad) > 1 else 'is'} not finite either")
    return f"; {'; '.join(told)}" if told else ""


def _no_eps(group: Mapping[str, Any]) -> str:
    """The eps of a group, where it is 0 in the number type of its weights; "" where it is none."""
    eps = group.get("eps")
    if not isinstance(eps, float | int):
        return ""
    types = {p.dtype for p in group["params"] if torch.is_floating_point(p) and not torch.tensor(eps, dtype=p.dtype)}
    names = " and ".join(sorted(str(each).removeprefix("torch.") for each in types))
    return "" if not types else "0" if eps == 0 else f"{eps:g}, which is 0 in {names}"


def _of_the_gradients(scene: Scene, found: Replay) -> str:
    what = f"the gradient of {_few(scene.layers)} is not finite"
    if scene.changed:
        return f"{what}, and the backward had left it finite: something wrote into it before the optimizer's step"
    if found.report is None:
        return f"{what}: {found.reason}"
    if found.past:
        return (
            f"{what}, though what comes back through the outputs of the model gives a finite one: the loss takes the"
            f" weights, or gradients by them, past these outputs as well, as a gradient penalty does{found.past}"
        )
    return (
        f"{what}, and the same step run again gives a finite one, so no call of the model made it: a hook on a tensor"
        " or on a gradient did, or something wrote into it between the backward and the optimizer's step"
    )


def _few(names: Sequence[str]) -> str:
    kind = ("layer " if len(names) == 1 else "layers ") if names[0][:1].isdigit() else ""
    return f"{kind}{listing(names)}"


def _finding(code: str, step: int, text: str, cause: str, layers: tuple[str, ...] = ()) -> Finding:
    return Finding(
        code=code, verdict="nonfinite", level="error", layers=layers, cause=cause, message=f"{dated('at', step, text)}."
    )
