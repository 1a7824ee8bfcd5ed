"""The function mode of one capture: which call made which node of the graph.

A ``TorchFunctionMode`` sees every differentiable torch call, functional ones and in-place ones too; global module hooks
(nothing is written into the user's modules) tell which module is running. Each new autograd node belongs to the call
from whose ``grad_fn`` it is first reached, so that a later walk over the graph knows whose cotangent it holds. What the
mode cannot see (custom autograd.Functions, extensions) is adopted as calls of its own when its result first shows up.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.overrides import TorchFunctionMode

from unvanish.trace.births import trouble_of
from unvanish.trace.calls import LOSS_CALLS, PARAMETERS_ONLY, Again, Call, Capture, Folded, Node, leaf_of, root_of
from unvanish.trace.cosines import are_cosines, divided_to_size
from unvanish.trace.cuts import Cuts
from unvanish.trace.ends import COPIES, all_meet, before_copies, unstretched
from unvanish.trace.mixing import mixed_of
from unvanish.trace.places import module_path, place
from unvanish.trace.recurrence import UNBOUNDED, size_apart
from unvanish.trace.scaled import norm_of
from unvanish.trace.structure import arguments, detached, given_to, rebuild, tensors

Seen = tuple[list[Tensor], list[Tensor], list[int]]
"""The tensors a call was given and those it made, and the cuts among what it was given."""

MOVED = {
    "Expand", "View", "UnsafeView", "ReshapeAlias", "AsStrided", "Unsqueeze", "Squeeze", "Transpose", "T", "Permute",
    "Clone", "ToCopy", "Select", "Slice",
}  # fmt: skip
"""Autograd's names for what puts the numbers of a tensor elsewhere, or leaves some out, and changes none of them."""

EMPTY = {"empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided"}


class Recorder(TorchFunctionMode):
    """The function mode of one capture."""

    def __init__(self, capture: Capture) -> None:
        super().__init__()
        self.capture = capture
        self.part = "model"
        named = list(capture.model.named_modules())
        self.names = {id(m): module_path(n) for n, m in named}
        parameters = [p for _, m in named for p in m._parameters.values() if p is not None]
        buffers = [b for _, m in named for b in m._buffers.values() if b is not None]
        self.parameters = set(map(id, parameters))
        self.frames: tuple[tuple[str, int], ...] = ()
        self.thread = threading.get_ident()
        self.others = {t.ident for t in threading.enumerate()} - {self.thread}
        self.cuts = Cuts(capture)
        self.copied: dict[int, tuple[Any, Tensor]] = {}  # by id of what repeats single rows: itself, and those
        self.disturbed = False  # whether a thread that was there before ran the model too
        # Tensors that depend on parameters and float buffers alone make no data edge (a normed or cast weight).
        self.weights: dict[int, Any] = {id(t): weakref.ref(t) for t in (*parameters, *buffers) if t.is_floating_point()}

    @contextmanager
    def watching_modules(self) -> Iterator[None]:
        def enter(module: nn.Module, args: Any) -> None:
            if (running := threading.get_ident()) != self.thread:  # hooks are everybody's, a capture is not
                self.disturbed |= running in self.others and id(module) in self.names
                return
            if type(module).__name__ == "OptimizedModule":  # torch.compile's wrapper: its inside is called next
                return
            name = self.names.get(id(module), self.frames[-1][0] if self.frames else "")
            counts = self.capture.module_calls
            counts[name] = counts.get(name, 0) + 1
            self.frames = (*self.frames, (name, counts[name]))

        def leave(module: nn.Module, args: Any, output: Any) -> None:
            if threading.get_ident() != self.thread:
                return
            self.adopt(output)
            if self.part == "loss" and id(module) in self.names and not any(path for path, _ in self.frames[:-1]):
                with torch._C.DisableTorchFunction():
                    made = [t for t in tensors(output) if t.grad_fn is not None and t.is_floating_point()]
                    self.capture.ends += [root_of(t) for t in made if not t.is_nested]
            if type(module).__name__ != "OptimizedModule":
                self.frames = self.frames[:-1]

        first = hooks.register_module_forward_pre_hook(enter)
        second = hooks.register_module_forward_hook(leave, always_call=True)
        try:
            yield
        finally:
            first.remove()
            second.remove()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if transformed():  # what comes out is adopted afterwards
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "call")
        if name == "register_hook":
            self.capture.hooked.add(place())
        if self.part == "model":
            self.capture.walks.note(name, args, kwargs)
        given = given_to(args, kwargs)
        for tensor in given:
            if tensor.requires_grad and (node := tensor.grad_fn) is not None and node not in self.capture.owner:
                self._adopt_node(tensor)
        out = func(*args, **kwargs)
        if name in EMPTY and isinstance(out, Tensor):
            with torch.no_grad():
                out.zero_()  # what the memory held before is no measurement
        if name in COPIES and given and isinstance(out, Tensor):
            with torch._C.DisableTorchFunction():
                if (rows := before_copies(given[0], out)) is not None:
                    self.copied[id(out)] = weakref.ref(out), rows
        if name == "__setitem__" and isinstance(args[0], Tensor):
            self.cuts.follow(name, given, self.cuts.among(given), [args[0]])
        elif isinstance(out, (Tensor, tuple, list)):
            made, behind = arguments(out), self.cuts.among(given)
            self.cuts.follow(name, given, behind, made)
            if self._weights_alone(given):
                for tensor in made:
                    self.weights[id(tensor)] = weakref.ref(tensor)
                self._own_as_weights(made)
                self._fold(func, name, args, kwargs, made)
            elif made:
                self._record(func, "T" if name == "__get__" else name, args, kwargs, (given, made, behind))
        return out

    def adopt(self, tree: Any) -> None:
        """Give an owner to results the mode did not see being made."""
        with torch._C.DisableTorchFunction():  # reading grad_fn is a call too, which the mode would see
            for tensor in () if transformed() else tensors(tree):
                if tensor.grad_fn is not None and tensor.grad_fn not in self.capture.owner:
                    self._adopt_node(tensor)

    def adopt_end(self, tree: Any) -> None:
        """Adopt what the model or the loss gives; what is made of parameters alone becomes a call there."""
        self.adopt(tree)
        with torch._C.DisableTorchFunction():
            for tensor in () if transformed() else tensors(tree):
                node = tensor.grad_fn
                if node is not None and self.capture.owner[node] == PARAMETERS_ONLY:
                    self.weights.pop(id(tensor), None)  # what the loss makes of it is a call
                    self.capture.owner[node] = len(self.capture.calls)
                    self._call(_name_of(node), set(), self.capture.of_parameters.pop(node), [tensor])

    def _weights_alone(self, given: list[Tensor]) -> bool:
        for tensor in given:  # a plain loop: it runs for each call
            known = self.weights.get(id(tensor))
            if known is None or known() is not tensor:
                return False
        return bool(given)

    def _own_as_weights(self, made: list[Tensor]) -> None:
        for tensor in made:
            if tensor.grad_fn is not None and tensor.grad_fn not in self.capture.owner:
                new, _, parameters = self._reach([tensor.grad_fn])
                for node in new:
                    self.capture.owner[node] = PARAMETERS_ONLY
                    self.capture.of_parameters[node] = parameters

    def _fold(self, func: Any, name: str, args: Any, kwargs: Any, made: list[Tensor]) -> None:
        alone = not any(isinstance(v, Tensor) for v in (*args[1:], *kwargs.values()))
        if alone and _one_to_one(args, made) and made[0].grad_fn is not None:
            where = f"{name} in {self.frames[-1][0] if self.frames else 'the model'} at {place()}"
            probe = func, tuple(args[1:]), {k: v for k, v in kwargs.items() if k != "inplace"}
            shape = tuple(min(size, 16) for size in made[0].shape)  # to try it on: a step is one of any number
            self.capture.folded.append(Folded(made[0].grad_fn, where, shape, probe))

    def _reach(self, start: list[Node]) -> tuple[dict[Node, list[Node]], set[int], list[nn.Parameter]]:
        """The nodes without an owner that ``start`` leads to, each with those it leads to next: reading them is dear.

        And the calls they consume and the leaves they end in.
        """
        owner, calls = self.capture.owner, set[int]()
        new: dict[Node, list[Node]] = {}
        leaves: dict[int, nn.Parameter] = {}
        stack = list(start)
        while stack:
            node = stack.pop()
            if node in new:
                continue
            index = owner.get(node)
            if index is not None:
                if index == PARAMETERS_ONLY:
                    leaves.update((id(p), p) for p in self.capture.of_parameters[node])
                else:
                    calls.add(index)
                continue
            leaf = leaf_of(node)
            if leaf is not None:
                leaves[id(leaf)] = leaf
                continue
            new[node] = [n for n, _ in node.next_functions if n is not None]
            stack += new[node]
        return new, calls, list(leaves.values())

    def _record(self, func: Any, name: str, args: Any, kwargs: Any, seen: Seen) -> None:
        given, made, behind = seen
        owner = self.capture.owner
        fresh = [t for t in made if (node := t.grad_fn) is not None and node not in owner]
        if not fresh:
            return
        new, inputs, leaves = self._reach([t.grad_fn for t in fresh])
        index = len(self.capture.calls)
        exits = {t.grad_fn for t in fresh}
        self._split_weights(new, exits)
        for node in new:
            owner.setdefault(node, index)
        call = self._call(name, inputs, leaves, fresh)
        if not call.finite:
            others = [t for t in given if not any(t is each for each in made) and self._unmade(t)]
            call.trouble = trouble_of(name, args, kwargs, others, fresh)
        call.cuts, call.off = behind, _times_zero(name, args)
        call.apart = size_apart(func, args) if name == UNBOUNDED else None
        call.derivative = self._derivative(given) if name == "grad" else 0
        call.cosines = len(inputs) == 1 and are_cosines(name, args, kwargs)
        if call.finite and self.part == "model":
            call.mixed = mixed_of(name, args, kwargs, fresh, lambda t: self._weights_alone([t]))
        if _one_to_one(args, made):
            if "norm" in name:
                call.alone = func, rebuild(tuple(args[1:]), _ones), rebuild(kwargs, _ones)
            if not call.parameters and not any(isinstance(v, Tensor) for v in (*args[1:], *kwargs.values())):
                call.probe = (func, tuple(args[1:]), {k: v for k, v in kwargs.items() if k != "inplace"})
        if self.capture.compared is None and (self.part == "loss" or name in LOSS_CALLS):
            self._remember_target(call, given)
        if not call.parameters:
            self._remember_meeting(call, given)
        if not call.parameters:
            call.again = _again(func, name, args, kwargs, made)
            if (sized := divided_to_size(name, args, fresh[0])) is not None:  # as one call would have made it
                call.again = Again(sized[0], (), sized[1], call.shape)
        if name in LOSS_CALLS and fresh[0].numel() == 1 and args and getattr(args[0], "grad_fn", None) is not None:
            self._remember_loss(func, args, kwargs, index)

    def _derivative(self, given: list[Tensor]) -> int:
        """How many times a derivative has been taken where one is taken of what is given."""
        calls = self.capture.calls
        waiting = [self.capture.owner.get(t.grad_fn, PARAMETERS_ONLY) for t in given if t.grad_fn is not None]
        seen, most = set[int](), 0
        while waiting:
            index = waiting.pop()
            if index >= 0 and index not in seen:
                seen.add(index)
                most = max(most, calls[index].derivative)
                waiting += calls[index].inputs if not calls[index].derivative else ()
        return 1 + most

    def _unmade(self, tensor: Tensor) -> bool:
        """Whether no recorded call has made it: a part of the batch, a mask, a weight."""
        return tensor.grad_fn is None or self.capture.owner.get(tensor.grad_fn, PARAMETERS_ONLY) == PARAMETERS_ONLY

    def _call(self, name: str, inputs: set[int], leaves: list[Any], made: list[Tensor]) -> Call:
        values = [t for t in made if t.is_floating_point()] or made[:1]
        if self.part == "model":
            strange = [p for p in leaves if isinstance(p, nn.Parameter) and id(p) not in self.parameters]
            self.capture.outside.update((id(p), (p, place())) for p in strange if id(p) not in self.capture.outside)
        norm = norm_of(values[0].detach()) if len(values) == 1 else math.hypot(*(norm_of(v.detach()) for v in values))
        call = Call(
            index=len(self.capture.calls),
            name=name,
            module=self.frames[-1][0] if self.frames else "",
            source=place(),
            part=self.part,
            frames=self.frames,
            inputs=sorted(inputs),
            parameters=[p for p in leaves if id(p) in self.parameters],
            shape=_shape_of(made[0]),
            dtype=made[0].dtype,
            norm=norm,
            numel=values[0].numel() if len(values) == 1 else sum(v.numel() for v in values),
            finite=math.isfinite(norm),
            probe=None,
        )
        if not call.finite:
            call.trouble = trouble_of(name, (), {}, (), made)
        self.capture.calls.append(call)
        return call

    def _split_weights(self, new: dict[Node, list[Node]], exits: set[Node]) -> None:
        """Inner nodes that reach leaves alone (the cached cast of a weight under autocast) belong to no call."""
        known = self.capture.of_parameters
        inner = [n for n, behind in new.items() if behind and n not in exits]
        changed = True
        while changed:
            changed = False
            for node in inner:
                if node in known:
                    continue
                found: dict[int, nn.Parameter] = {}
                for child in new[node]:
                    leaf = leaf_of(child)
                    if leaf is not None:
                        found[id(leaf)] = leaf
                    elif child in known:
                        found.update((id(p), p) for p in known[child])
                    else:
                        break
                else:
                    if found and all(id(p) in self.parameters for p in found.values()):
                        known[node] = list(found.values())
                        self.capture.owner[node] = PARAMETERS_ONLY
                        changed = True

    def _adopt_node(self, tensor: Tensor) -> None:
        new, _, _ = self._reach([tensor.grad_fn])
        for node in sorted(new, key=lambda n: n._sequence_nr()):
            _, inputs, leaves = self._reach([node])
            if _name_of(node) in MOVED and leaves and not inputs:  # a weight in another shape, as vmap takes it
                self.capture.owner[node], self.capture.of_parameters[node] = PARAMETERS_ONLY, leaves
                continue
            self.capture.owner[node] = len(self.capture.calls)
            self._call(_name_of(node), inputs, leaves, [tensor])

    def _unstretched(self, tensor: Tensor) -> Tensor:
        made, rows = self.copied.get(id(tensor), (None, tensor))
        return rows if made is not None and made() is tensor else unstretched(tensor)

    def _remember_target(self, call: Call, given: list[Tensor]) -> None:
        outputs = [t for t in given if t.grad_fn is not None]
        targets = [t for t in given if not t.requires_grad and t.numel() > 1 and not t.is_nested]
        if outputs and targets:
            both = outputs[0], targets[0]
            output, target = (self._unstretched(t) if t.layout is torch.strided else t for t in both)
            self.capture.compared = tuple(output.shape), target.detach(), call.source

    def _remember_meeting(self, call: Call, given: list[Tensor]) -> None:
        strided = all(t.layout is torch.strided and not t.is_nested for t in given)
        if len(given) == 2 and strided and given[0].requires_grad != given[1].requires_grad:
            output, target = map(self._unstretched, given if given[0].requires_grad else given[::-1])
            if target.numel() > 1 and all_meet(tuple(output.shape), tuple(target.shape)):
                self.capture.met[call.index] = tuple(output.shape), target.detach(), call.source

    def _remember_loss(self, func: Any, args: Any, kwargs: Any, index: int) -> None:
        first = self._unstretched(args[0]).expand(args[0].shape) if id(args[0]) in self.copied else args[0]
        cut = tuple(map(detached, (first, *args[1:]))), {k: detached(v) for k, v in kwargs.items()}
        self.capture.loss_call = (func, *cut, index)
        self.capture.loss_input = root_of(args[0])


def _times_zero(name: str, args: Any) -> bool:
    """Whether one of the factors is a constant that is zero throughout: what the other is plays no part."""
    if name.strip("_") not in ("mul", "rmul", "imul", "multiply"):
        return False
    fixed = (a for a in args if not isinstance(a, Tensor) or not a.requires_grad)
    return any(not bool(a.any()) if isinstance(a, Tensor) else a == 0 for a in fixed)


def _shape_of(tensor: Tensor) -> tuple[int, ...]:
    """The shape; that of all entries together where the parts of a nested tensor have shapes of their own."""
    return (sum(part.numel() for part in tensor.unbind()),) if tensor.is_nested else tuple(tensor.shape)


def _name_of(node: Node) -> str:
    return type(node).__name__.partition("Backward")[0] or type(node).__name__


def _one_to_one(args: Any, made: list[Tensor]) -> bool:
    if not args or not isinstance(args[0], Tensor) or len(made) != 1:
        return False
    given, result = args[0], made[0]
    if given.is_nested or result.is_nested:
        ragged = any(t.is_nested and t.layout is torch.strided for t in (given, result))  # no shape to ask for
        return not ragged and result.shape == given.shape
    return result.shape == given.shape


def _ones(tensor: Tensor) -> Tensor:
    return torch.ones(tensor.shape, dtype=torch.float64, device="cpu") if tensor.is_floating_point() else tensor


def _again(func: Any, name: str, args: Any, kwargs: Any, made: list[Tensor]) -> Again | None:
    """How to make the call on another tensor: the others among its arguments may only say which entries go where."""
    if len(made) != 1 or not args or not isinstance(args[0], Tensor) or args[0].is_nested:
        return None
    rest = tuple(args[1:])
    if name == "batch_norm" and kwargs.get("training") and kwargs.get("weight") is None:
        rest = (None, None)  # of the batch alone: the running statistics, which it writes, are left out
    if name.endswith("_as"):  # of the second tensor only the shape or the type counts
        rest = tuple(_hollow(a) if isinstance(a, Tensor) else a for a in rest)
    elif (rest or kwargs) and any(t.is_floating_point() or t.is_complex() for t in arguments((rest, kwargs))):
        return None
    return Again(func, rest, {k: v for k, v in kwargs.items() if k != "inplace"}, tuple(args[0].shape))


def _hollow(tensor: Tensor) -> Tensor:
    """One of the same shape and type that holds a single number."""
    return torch.zeros((), dtype=tensor.dtype, device=tensor.device).expand(tensor.shape)


def transformed() -> bool:
    """Whether this is inside torch.func, where tensors are wrapped and cannot be read."""
    return torch._C._functorch.peek_interpreter_stack() is not None  # type: ignore[attr-defined]
