"""The step that is running, run once more from the black box under a full check, and put back as it was."""

from __future__ import annotations

import inspect
import math
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode

from unvanish.decide import decide
from unvanish.pipeline import look
from unvanish.preserve import random_states
from unvanish.problem import Problem
from unvanish.records import REPEATED, Flow, UnvanishError
from unvanish.report import Report
from unvanish.rules import judge
from unvanish.trace.structure import rebuild, tensors
from unvanish.watching.box import PROBE, SMALL, Box, Entry
from unvanish.watching.graph_birth import broke_in
from unvanish.watching.loss_graph import between, name_of, past_the_outputs, steep
from unvanish.watching.norms import local, spread
from unvanish.watching.processes import several

HANDED_ON = "what was made of the outputs of one watched module, and given to another, is not finite"
MOVED = "another optimizer has already moved weights of the model in this step, which can be run again only before"
WAITS = "to run it again would mean to wait for processes that are not running it"


class NoCollectives(TorchDispatchMode):
    """Refuses what all processes have to call together: the others are not running the step again."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace in ("c10d", "_c10d_functional", "c10d_functional"):
            raise UnvanishError(f"it calls {func.name()}, and {WAITS}")
        return func(*args, **(kwargs or {}))


def _sharded(module: nn.Module) -> bool:
    return type(module).__name__ == "FullyShardedDataParallel" or any(spread(p) for p in module.parameters(False))


@dataclass(frozen=True)
class Replay:
    """What a repetition of the step showed: a report, or the ``reason`` why there is none.

    ``born``: where the first number that is not finite came from: "data", "parameters", "forward", "loss", "backward",
    "graph" (in the forward pass or the loss, as the graph tells that it left), or "" where the step had none. ``past``:
    where a part of the loss takes the weights themselves, which no repetition of the model's calls sees, what is known
    of that part. ``masked``: the outputs hold -inf.
    """

    report: Report | None = None
    reason: str = ""
    born: str = ""
    past: str = ""
    masked: bool = False


def replay(
    box: Box, models: Mapping[str, nn.Module], moved: Container[int] = (), scale: float = 1.0, plain: bool = False
) -> Replay:
    """Run the step again, the call first whose numbers are not finite; the weights must be those of the step.

    ``moved``: ids of parameters that another optimizer has moved since. ``scale``: by which the loss was multiplied
    before its backward. ``plain``: run it with the signals of the loss itself, to see whether it was only the scale
    that overflowed; where these are not finite any more nothing is run.
    """
    if not box.entries:
        return Replay(reason=MOVED if box.moved else "no call of a watched module was seen in this step")
    for entry in box.entries:
        bad = [name for name, each in entry.module.named_parameters() if not _finite(local(each))]
        if bad:
            return Replay(born="parameters", reason=f"{', '.join(bad[:3])}{' …' if len(bad) > 3 else ''}")
        if not all(_finite(each) for each in tensors((entry.args, entry.kwargs)) if each.grad_fn is None):
            born_before = _before(box, entry, models, scale)
            return born_before or Replay(born="data", reason="the batch holds numbers that are not finite")
        if _empty(entry):
            return Replay(born="data", reason="the batch is empty, and a mean over no samples is nan")
    known: list[Replay] = []
    reached = [each for each in box.entries if each.signals] or box.entries
    for entry in sorted(reached, key=lambda each: any(id(p) in moved for p in each.module.parameters())):
        if not all(_finite(each) for each in tensors((entry.args, entry.kwargs))):
            known.append(Replay(reason=HANDED_ON))
        elif not plain or all(_finite(each) for each in entry.signals.values()):
            known.append(_again(entry, models, scale, plain, forward=not entry.signals and entry.made_nan))
            if known[-1].born in ("forward", "backward"):
                return known[-1]
    if any(_odd(each) for entry in reached for each in tensors((entry.args, entry.kwargs))):  # no call before made it
        return _of_graph(box, HANDED_ON)
    for found in known:
        if found.born:
            return Replay(None, _of_loss(box), "loss")
    without = [each for each in known if each.report is None]
    last = (without or known or [Replay(reason="nothing of it can be repeated")])[0 if without else -1]
    if last.report is None:
        return _of_graph(box, last.reason)
    if box.loss_birth:
        return Replay(last.report, _of_loss(box), "loss")
    masked = any(each.masked for each in box.entries)
    return Replay(last.report, _calls_of_loss(box), past=_past_the_outputs(box), masked=masked)


def _of_graph(box: Box, why: str) -> Replay:
    """What the graph tells of a step that cannot be run again."""
    if box.graph_birth:
        return Replay(reason=f"{box.graph_birth} ({why})", born="graph")
    steep_call, where = broke_in(box.loss, [each.module for each in box.entries]) if box.loss_finite else ("", "")
    if steep_call:
        return Replay(reason=f"it broke on the way back in {steep_call} ({why})", born="backward")
    # where processes add up their gradients it may have been in another one, which has more to tell
    return Replay(reason=f"it broke on the way back in {where}; {why}" if where else why)


def _odd(tensor: Tensor) -> bool:
    """Whether it holds nan or +infinity; -infinity can be a mask's, which is handed on as well."""
    return tensor.is_floating_point() and bool((tensor.detach().isnan() | tensor.detach().isposinf()).any())


def _empty(entry: Entry) -> bool:
    """Whether no tensor that it was given has a sample, as in a last batch that is cut too short."""
    rows = [each.size(0) for each in tensors((entry.args, entry.kwargs)) if each.ndim]
    return bool(rows) and not any(rows)


def _before(box: Box, entry: Entry, models: Mapping[str, nn.Module], scale: float) -> Replay | None:
    """A call before this one whose inputs are finite and whose forward is not: what it made was handed on, detached."""
    for other in box.entries[: box.entries.index(entry)]:
        if all(_finite(each) for each in tensors((other.args, other.kwargs))):
            found = _again(other, models, scale, False, forward=True)
            if found.born == "forward":
                return found
    return None


def _again(
    entry: Entry, models: Mapping[str, nn.Module], scale: float, plain: bool, forward: bool = False
) -> Replay:  # fmt: skip
    """``forward``: only the forward pass is asked for, and no signal needs to have come back."""
    came = entry.signals or ({at: torch.ones(()) for at, *_ in entry.outputs} if forward else {})
    if not came:
        return Replay(reason="no error signal came back to the outputs of the model")
    if any(isinstance(each, DistributedDataParallel) or _sharded(each) for each in entry.module.modules()):
        return Replay(reason=f"the model is spread over several processes, and {WAITS}")
    if entry.changed():
        return Replay(reason="the inputs of the step were changed in place since, so it cannot be run again")
    broken_loss = forward or not all(_finite(each) for each in came.values())
    try:
        inputs = rebuild(_inputs(entry), _alone)
        # what came back to the other outputs came through the loss, and would count twice beside it
        given = {at: each for at, each in came.items() if entry.loss not in came or at == entry.loss}
        signals = {at: torch.nan_to_num(each, 0.0, 0.0, 0.0) if broken_loss else each for at, each in given.items()}
        if plain:
            signals, scale = {at: each / scale for at, each in signals.items()}, 1.0
        model = _at_home(entry.module, models)
        problem = Problem(model, inputs, signals, _linear(entry), autocast=entry.autocast)
        with _as_then(entry), NoCollectives() if several() else nullcontext():
            flow = look(problem, "quick")
    except UnvanishError as error:
        return Replay(reason=f"the step could not be run again: {error}")
    if broken_loss and flow.nonfinite != "forward":  # of the signals that were put in their place nothing is to be said
        return Replay(reason="run again, its outputs are finite") if forward else Replay(born="loss")
    setting = flow.setting.replace(model=type(entry.module).__name__)
    flow = decide(_without(scale, flow.replace(asked=REPEATED, loss=None, zeros=(), setting=setting)))
    report = Report.from_flow(flow, judge(flow))
    if flow.nonfinite == "forward":
        return Replay(report, born="forward")
    return Replay(report, born="backward" if _broken(flow) else "")


def forward_of(entry: Entry, models: Mapping[str, nn.Module]) -> Replay:
    """The forward pass of this call alone."""
    return _again(entry, models, 1.0, False, forward=True)


def _without(scale: float, flow: Flow) -> Flow:
    """The walk carries the scaled signals, as the training does, or float16 would lose them; the report does not."""
    if scale == 1.0:
        return flow
    less = math.log10(scale)
    layers = [
        each.replace(**{
            name: value - less
            for name in ("log10_signal", "log10_grad_norm")
            if (value := getattr(each, name)) is not None
        })
        for each in flow.layers
    ]  # fmt: skip
    calls = [
        each if each.log10_signal is None else each.replace(log10_signal=each.log10_signal - less)
        for each in flow.calls
    ]
    return flow.replace(layers=tuple(layers), calls=tuple(calls))


class Around(nn.Module):
    """Stands for the watched module around a part of it that is called by itself."""

    def __init__(self, name: str, part: nn.Module) -> None:
        super().__init__()
        self.add_module(name, part)
        self.training = part.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        (part,) = self.children()
        return part(*args, **kwargs)


def _at_home(module: nn.Module, models: Mapping[str, nn.Module]) -> nn.Module:
    """The module inside of as many others as its path has parts, so that its layers have their full names."""
    for prefix, model in models.items():
        path = next((path for path, each in model.named_modules() if each is module), None)
        if path is not None:
            for name in reversed([part for part in f"{prefix}.{path}".split(".") if part]):
                module = Around(name, module)
            break
    return module


def _of_loss(box: Box) -> str:
    """Which call between the model and the loss it was, as far as the graph tells."""
    given = "finite, or -inf as a mask leaves it" if any(each.masked for each in box.entries) else "finite"
    if box.loss_birth:
        return f"it was born at {box.loss_birth}, between the outputs of the model, which are {given}, and the loss"
    if not box.loss_finite:
        return f"the outputs of the model are {given}, and it is not{_calls_of_loss(box)}"
    nodes = between(box.loss, set(box.ends))
    if suspects := steep(nodes):
        return (
            "the outputs of the model and the loss are finite, and the signal that comes back from the loss is not; of"
            f" the calls between them {' and '.join(suspects)} can have an infinite slope"
        )
    return (
        "the outputs of the model are finite, and the signal that comes back from the loss is not"
        f"{_calls_of_loss(box) or ' (its calls were not seen)'}"
    )


def _past_the_outputs(box: Box) -> str:
    nodes = between(box.loss, set(box.ends))
    if not past_the_outputs(nodes, {id(p) for each in box.entries for p in each.module.parameters()}):
        return ""
    names = " and ".join(steep(nodes))
    return f"; of the calls of the loss {names} can have an infinite slope" if names else _calls_of_loss(box)


def _calls_of_loss(box: Box) -> str:
    calls = ", ".join(dict.fromkeys(name_of(node) for node in between(box.loss, set(box.ends))))
    return f" (its calls: {calls})" if calls else ""


def _broken(flow: Flow) -> bool:
    return bool(flow.nonfinite) or any(each.log10_grad_norm in (math.inf,) for each in flow.layers)


def _inputs(entry: Entry) -> Any:
    if not entry.kwargs:
        return entry.args
    if not entry.args:
        return entry.kwargs
    bound = inspect.signature(entry.module.forward).bind(*entry.args, **entry.kwargs)
    if any(
        p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and p.name in bound.arguments
        for p in bound.signature.parameters.values()
    ):
        raise UnvanishError("the model takes positional and further named arguments at once")
    return dict(bound.arguments)


def _alone(tensor: Tensor) -> Tensor:
    """An input without the graph of another module behind it, which the backward of the step has used up."""
    return tensor if tensor.grad_fn is None else tensor.detach().requires_grad_()


def _linear(entry: Entry) -> Any:
    """A loss of value zero, which no large number can overflow, with the signals as its gradient."""
    # the check nudges what is exactly zero, to see what it shuts: the outputs are others then, and not by the model
    zeros = [p for p in entry.module.parameters() if p.requires_grad and not is_lazy(p) and not bool(p.detach().any())]

    def loss_fn(outputs: Any, signals: dict[int, Tensor]) -> Tensor:
        given = list(tensors(outputs))
        for at, probe, version in entry.outputs:
            if probe is None or probe._version != version:  # written over since
                continue
            here = given[at].detach()
            if not _same(here if here.numel() <= SMALL else here.reshape(-1)[:PROBE], probe) and not any(
                bool(each.detach().any()) for each in zeros
            ):
                raise UnvanishError(
                    "the model gave other outputs the second time, so its forward has a state of its own (a counter, a"
                    " generator of its own, or data that has changed), or ran with other weights than it has now (lent"
                    " by functional_call, or moved since by an optimizer of two passes)"
                )
        shown = {at: _without_masks(given[at]) for at in signals}
        moved = {at: each - each.detach() for at, each in shown.items()}
        parts = [(moved[at] * signal.to(moved[at].dtype)).sum() for at, signal in signals.items()]
        return torch.stack([each.float() if each.element_size() < 4 else each for each in parts]).sum()

    return loss_fn


def _without_masks(outputs: Tensor) -> Tensor:
    """-inf, which no signal moves, less itself would be nan."""
    masked = outputs.detach() == -math.inf
    return outputs.masked_fill(masked, 0.0) if bool(masked.any()) else outputs


def _same(one: Tensor, other: Tensor) -> bool:
    """Equal but for rounding: kernels may add up in another order the second time; half precision has three digits."""
    return one.shape == other.shape and bool(
        torch.allclose(one.double(), other.double(), rtol=1e-3, atol=1e-6, equal_nan=True)
    )


def _finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor.detach()).all())


@contextmanager
def _as_then(entry: Entry) -> Iterator[None]:
    """The mode and the random state of the call; afterwards those of now."""
    put_back = random_states()
    mode = entry.module.training
    modes = [(each, each.training) for each in entry.module.modules()] if mode != entry.training else []

    def start(module: nn.Module, args: Any) -> None:
        torch.set_rng_state(entry.random[0])
        if entry.random[1] is not None:
            torch.cuda.set_rng_state_all(entry.random[1])

    hook = entry.module.register_forward_pre_hook(start, prepend=True)
    try:
        if modes:
            entry.module.train(entry.training)
        yield
    finally:
        hook.remove()
        for module, training in modes:
            module.training = training
        put_back()
