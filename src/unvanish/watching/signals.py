"""The forward and backward pass of a sampled step: error signals at the layers' outputs, activations that are shut."""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Callable, Iterable, Sized
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch._C import (  # pyright: ignore[reportAttributeAccessIssue]
    _len_torch_function_stack,
    _pop_torch_function_stack,
    _push_on_torch_function_stack,
)
from torch.overrides import TorchFunctionMode

from unvanish.trace.places import own_place
from unvanish.trace.structure import arguments
from unvanish.watching.casts import Casts
from unvanish.watching.guard import traced, transformed
from unvanish.watching.norms import norm
from unvanish.watching.shut import dead_and_saturated, flat_of
from unvanish.watching.table import Table

NODES = 100
"""So many nodes of the graph are looked through for the layer before another; a chain of sums can be long."""

SCRIPTED = (
    "a ScriptModule (torch.jit.script or torch.jit.trace) takes no hook: of its layers only gradients and weights are"
    " read, they are not judged, and no step can be run again; the nn.Module it was made from can be watched in full"
)
TRANSFORMED = (
    "what runs inside a transform of torch.func (grad, vmap, jacrev, …) is not seen: what of the loss went that way is"
    " missing in the error signals, and in the dead and saturated units"
)

FUSED = (
    "a frozen nn.TransformerEncoderLayer in eval mode runs as one kernel, and would run as others where activations"
    " are looked at: so dead and saturated units are not known"
)

NO_BACKWARD = (
    "of a step without a backward of its own (its gradients are those of the step before, or come from"
    " torch.autograd.grad or torch.func) only gradients, weights and updates are read: its loss, error signals and the"
    " gradient before clipping are not known"
)
COMPILED = (
    "inside a compiled module only gradients and weights are read, and its layers are not judged: a hook there would"
    " break its graph; "
)
AS_WRAPPED = COMPILED + "a check of the running batch (check_every=K) runs the module itself, and judges them"
IN_PLACE = COMPILED + (
    "where model.compile() has compiled it in place, or a function that calls it is compiled, its calls are not seen"
    " either, and no step can be run again; torch.compile(model) in its stead lets a check of the running batch"
    " (check_every=K) judge them"
)

HOPS = 4
"""Between a layer's output and its activation stand at most so many calls, such as a view or a scale."""


class Signals:
    """Hooks that are there only while a step is sampled. ``guard`` wraps each, so that none can stop the training."""

    def __init__(self, table: Table, guard: Callable[[Any], Any]) -> None:
        self.table, self.guard = table, guard
        self.hooks: dict[int, Any] = {}
        self.seen: dict[int, Any] = {}  # of each place the function that its hook calls
        self.squares: dict[int, list[Any]] = {}  # of each layer the norms of what came back, on a device as tensors
        # of each layer and call, what follows upon its output: an activation, and perhaps another
        self.shares: dict[tuple[int, int], list[Any]] = {}
        self.made: dict[Any, int] = {}
        self.sources: dict[int, str] = {}  # where each layer was called first
        self.autocast = ""  # the type that a layer was run in, where that is not the one of its weights
        self.asked: set[int] = set()  # layers of which it was looked for the one before
        self.before: dict[int, int] = {}  # that whose output it was first given, -1 where there is none
        self.compiled: set[int] = set()
        self.others: set[Any] = set()  # functions that combine tensors, or read what a tensor is: no activations
        self.hidden: weakref.WeakValueDictionary[int, nn.Module] = weakref.WeakValueDictionary()  # in a compiled one
        self.fused: weakref.WeakSet[nn.Module] = weakref.WeakSet()
        self.casts, self.casting = Casts(), False  # whether the call that runs is to be looked at for them
        self.open = False
        self.gauging = False  # the sizes of outputs are asked for as well
        self.outputs: dict[int, list[float | Tensor]] = {}  # of each layer log10 of the rms of what each call gave
        self.unread: dict[str, None] = {}  # what could not be read, and why

    def arm(self) -> None:
        """Set the hooks for the next forward pass; those that are there already stay."""
        if len(self.hooks) == len(self.table):
            return
        roots = list(self.table.models.values())
        hidden = {*self.hidden, *(id(inner) for root in roots for inner in _compiled(root))}
        for root in roots:
            self.fused.update(_fused(root))
        fused = {id(inner) for layer in self.fused for inner in layer.modules()}
        for place in self.table:
            module = None if place.module is None else place.module()
            if module is None or place.at in self.hooks or id(module) in fused:
                continue
            if isinstance(module, torch.jit.ScriptModule):
                self.unread[SCRIPTED] = None
                continue
            if id(module) in hidden:
                self.compiled.add(place.at)
                continue
            if place.at not in self.seen:
                comes_back = self.guard(functools.partial(self._signal, place.at))
                self.seen[place.at] = self.guard(functools.partial(self._output, place.at, comes_back))
            self.hooks[place.at] = module.register_forward_hook(self.seen[place.at])

    def looks_at_activations(self) -> bool:
        """Whether the activations of a call can be looked at without another way through it."""
        if any(not each.training for each in self.fused):
            self.unread[FUSED] = None
            return False
        return not self.compiled

    def let_go(self, places: Iterable[int]) -> None:
        """Other modules have come into these places."""
        for at in places:
            self.asked.discard(at)
            if at in self.hooks:
                self.hooks.pop(at).remove()

    def disarm(self) -> None:
        while self.hooks:
            self.hooks.popitem()[1].remove()

    def _output(self, at: int, comes_back: Callable[[Tensor], None], _: nn.Module, given: Any, outputs: Any) -> None:
        if traced():
            return
        if transformed():
            self.unread[TRANSFORMED] = None
            return
        if at not in self.sources:
            self.sources[at] = own_place()
            home = next((each.device.type for each in self.table.places[at].parameters), "cpu")
            if torch.is_autocast_enabled(home):
                self.autocast = str(torch.get_autocast_dtype(home)).removeprefix("torch.")
        if at not in self.asked and given and not self.open and torch.is_grad_enabled():
            self._find_before(at, given)
        with torch._C.DisableTorchFunction():  # or what is asked of a tensor here would pass by the mode below
            if self.gauging and not self.open:
                self._gauge(at, outputs)
            for tensor in (outputs,) if isinstance(outputs, Tensor) else arguments(outputs):
                if tensor.requires_grad:
                    if tensor.grad_fn is not None:
                        self.made[tensor.grad_fn] = at
                        if self.casting and not self.open:
                            self.casting = not self.casts.look(at, tensor.grad_fn)
                    tensor.register_hook(comes_back)

    def _gauge(self, at: int, outputs: Any) -> None:
        """The root mean square of the first tensor that it gives."""
        first = outputs if isinstance(outputs, Tensor) else next(iter(arguments(outputs)), None)
        if first is not None and first.numel():
            self.outputs.setdefault(at, []).append(norm(first) / math.sqrt(first.numel()))

    def sizes(self) -> dict[int, float]:
        """Of each layer log10 of the rms of its largest output."""
        return {at: log10(max(map(float, values))) for at, values in self.outputs.items()}

    def _find_before(self, at: int, given: Any) -> None:
        """The nearest layer from which the inputs of this one come, once and for all: branches have a common one."""
        self.asked.add(at)
        waiting = [each.grad_fn for each in arguments(given) if each.grad_fn is not None]
        for seen, node in enumerate(waiting):
            if node in self.made:
                self.before[at] = self.made[node]
                return
            if seen == NODES:
                return  # not known, which is not the same as none
            waiting += [ahead for ahead, _ in node.next_functions if ahead is not None and ahead not in waiting]
        self.before[at] = -1

    def _signal(self, at: int, cotangent: Tensor) -> None:
        if self.open:  # not in torch.autograd.grad, whose gradients are no parameter's
            size = norm(cotangent)
            self.squares.setdefault(at, []).append(size)

    def activation(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Look at a call that may be an activation, before it runs: it may write over its input."""
        inputs, more = args[0], args[1:]
        if inputs.grad_fn is None or any(isinstance(each, Tensor) for each in (*more, *kwargs.values())):
            return
        if traced():
            return
        if transformed():
            self.unread[TRANSFORMED] = None
            return
        if inputs.is_complex():  # no side of a complex number is flat
            return
        if (made_by := self._call_of(inputs.grad_fn)) is None:
            return
        try:
            flat = flat_of(func, more, kwargs)
            if flat is not None:
                shut = dead_and_saturated(flat, inputs)
                self.shares.setdefault(made_by, []).append(shut)
        except RuntimeError as error:  # the transforms of torch.func do not let everything be asked
            reason = str(error).partition("\n")[0].rstrip(".")
            name = getattr(func, "__name__", str(func))
            self.unread[f"dead and saturated units of {name} were not counted: {reason}"] = None

    def _call_of(self, node: Any) -> tuple[int, int] | None:
        """The layer whose call this comes from, and which of its calls that is: its node, which lives as long."""
        for _ in range(HOPS):
            if node in self.made:
                return self.made[node], id(node)
            ahead = [each for each, _ in node.next_functions if each is not None and not hasattr(each, "variable")]
            if len(ahead) != 1:
                return None
            node = ahead[0]
        return None

    def take(self, samples: int) -> tuple[dict[int, float], dict[int, tuple[float, float]]]:
        """Of each layer log10(√N·‖∂L/∂y‖), N = ``samples``, over all backward passes since; then (saturated, dead)."""
        groups = *self.squares.values(), *self.shares.values()
        if not {*map(type, chain.from_iterable(groups))} <= {float, tuple}:
            _fetch(groups)
        root = math.sqrt(max(1, samples))
        found = {at: log10(math.hypot(*values) * root) for at, values in self.squares.items()}
        shares: dict[int, tuple[float, float]] = {}
        for (at, _), values in self.shares.items():  # of several calls, what is shut in all
            call = values[0]
            if len(values) > 1:  # what one shuts, no other opens
                call = max(each[0] for each in values), max(each[1] for each in values)
            shares[at] = (min(shares[at][0], call[0]), min(shares[at][1], call[1])) if at in shares else call
        self.forget()
        return found, shares

    def forget(self) -> None:
        self.squares.clear()
        self.shares.clear()
        self.outputs.clear()
        self.made.clear()


class Activations(TorchFunctionMode):
    """Shows every call of a forward pass to ``signals``, and changes none."""

    def __init__(self, signals: Signals) -> None:
        super().__init__()
        self.look = signals.guard(signals.activation)
        self.others = signals.others
        self.busy = False  # it looks at a call: torch has taken it away for so long, and puts it back itself

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if args and type(args[0]) is Tensor and func not in self.others:
            if any(isinstance(each, Tensor) for each in args[1:]) or getattr(func, "__name__", "") in (
                "__get__",
                "__set__",
            ):
                self.others.add(func)
            elif args[0].requires_grad:
                self.busy = True
                try:
                    self.look(func, args, kwargs or {})
                finally:
                    self.busy = False
        return func(*args, **(kwargs or {}))

    def leave(self) -> None:
        """As the end of ``with``, also where others were entered since: a forward that was left never came to it."""
        above: list[Any] = []
        while _len_torch_function_stack() and (mode := _pop_torch_function_stack()) is not self:
            above.append(mode)
        while above:
            _push_on_torch_function_stack(above.pop())


def _compiled(root: nn.Module) -> list[nn.Module]:
    """The modules inside compiled ones: a hook that comes after the first call is not run there, or not taken."""
    found: list[nn.Module] = []
    for module in root.modules():
        whole = isinstance(module, torch.jit.ScriptModule)
        if whole or hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None:
            found.extend(module.modules())
    return found


def _fused(root: nn.Module) -> list[nn.Module]:
    """The frozen layers that torch can run as one kernel, and does not where one of their modules has a hook.

    In eval mode, that is, and without gradients: a model that is trained may call them so.
    """
    layers = [each for each in root.modules() if isinstance(each, nn.TransformerEncoderLayer)]
    return [each for each in layers if not any(p.requires_grad for p in each.parameters())]


def _fetch(groups: Iterable[list[Any]]) -> None:
    """Put numbers in the place of tensors, and pairs in that of tensors of two; of a device: one wait for all."""
    places = [(values, at) for values in groups for at, each in enumerate(values) if isinstance(each, Tensor)]
    known = iter(torch.cat([values[at].reshape(-1).double() for values, at in places]).tolist())
    for values, at in places:
        values[at] = next(known) if values[at].numel() == 1 else (next(known), next(known))


def log10(value: float) -> float:
    """−inf of 0; what is not a number or infinite is +inf."""
    if value == 0.0:
        return -math.inf
    return math.log10(value) if 0.0 < value < math.inf else math.inf


def unread(losses: Sized, samples: Iterable[int], signals: Signals) -> list[str]:
    """Notes of what is not read in a step with these ``losses``, of so many ``samples`` by layer, and why."""
    compiled = AS_WRAPPED if any(samples) else IN_PLACE
    without = [] if losses else [NO_BACKWARD]
    return [*without, *signals.unread, *([compiled] if signals.compiled else [])]
