"""What a capture holds: the calls of one forward pass, and the roots a walk starts from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from unvanish.preserve.tensors import KeptTensor
from unvanish.trace.axes import Walks
from unvanish.trace.births import Trouble
from unvanish.trace.cuts import Cut
from unvanish.trace.mixing import Mixed
from unvanish.trace.scaled import norm_of

Node = Any  # torch.autograd.graph.Node; its private sides are used in exact.py alone
Slot = tuple[Node, int]
Met = tuple[tuple[int, ...], Tensor, str]  # a shape, the tensor it meets, and the line where
PARAMETERS_ONLY = -1

LOSS_CALLS = {
    "cross_entropy", "nll_loss", "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy",
    "binary_cross_entropy_with_logits", "kl_div", "poisson_nll_loss", "gaussian_nll_loss", "soft_margin_loss",
    "multi_margin_loss", "ctc_loss",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Again:
    """How a call is made once more, on another tensor in place of the one it was given; ``shape``: of that one."""

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    shape: tuple[int, ...]


@dataclass(slots=True)
class Call:
    """One differentiable call: what ran, where it stands, and what it consumed."""

    index: int
    name: str
    module: str
    source: str
    part: str
    frames: tuple[tuple[str, int], ...]  # the modules running, outermost first: (path, how often it had been called)
    inputs: list[int]
    parameters: list[nn.Parameter]
    shape: tuple[int, ...]
    dtype: torch.dtype
    norm: float
    numel: int
    finite: bool
    probe: tuple[Any, ...] | None  # (func, args, kwargs): can be called on one other tensor
    again: Again | None = None  # where one tensor goes in and one comes out, of whatever shapes
    alone: tuple[Any, ...] | None = None  # of a normaliser: (func, args, kwargs), its tensors replaced by ones
    cuts: list[int] = field(default_factory=list)  # what it consumed that had left the graph before
    trouble: Trouble | None = None  # where its result is not finite
    off: bool = False  # multiplies by a constant that is zero throughout
    apart: float | None = None  # of a recurrence without bounds, the rms its steps give each by itself
    derivative: int = 0  # of torch.autograd.grad: 1 for a derivative, 2 for one of a derivative
    cosines: bool = False  # gives cosines: see ``trace.cosines``
    mixed: Mixed | None = None  # where it averages over rows, until that was measured
    slope: Any = False  # once asked for, that of ``flow.slopes.slope_of``

    @property
    def rms(self) -> float:
        return self.norm / math.sqrt(max(1, self.numel))

    @property
    def place(self) -> str:
        """What it is and in which module, such as "relu in features.3"."""
        return f"{self.name} in {self.module or 'the model'}"

    @property
    def place_and_line(self) -> str:
        """The same with the line that made it, where that is known."""
        return self.place + (f" at {self.source}" if self.source else "")


@dataclass(slots=True)
class Folded:
    """A call of one tensor that is made of weights alone: no call of the data's way, and part of one that takes it."""

    node: Node
    place_and_line: str
    shape: tuple[int, ...]
    probe: tuple[Any, ...]  # as that of a call


@dataclass(slots=True)
class Root:
    """Where a walk starts: one output of a node, and what is needed to make a cotangent for it."""

    slot: Slot
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    rms: float
    keeper: Node = None  # see keeper_of

    def let_go(self) -> None:
        """Keep the graph behind it no longer."""
        self.slot, self.keeper = (None, 0), None


@dataclass(slots=True)
class Capture:
    """The calls of one forward pass and the graph that ties them. Short-lived; a walk consumes the graph."""

    model: nn.Module
    calls: list[Call] = field(default_factory=list)
    owner: dict[Node, int] = field(default_factory=dict)
    of_parameters: dict[Node, list[nn.Parameter]] = field(default_factory=dict)
    loss: float = math.nan
    loss_root: Root | None = None
    loss_index: int | None = None
    outputs: list[Root] = field(default_factory=list)
    inside: tuple[int, ...] = ()  # of a model that computes its own loss: the last calls with weights before it
    own_loss: bool = False  # the model computes its loss itself: there is no loss_fn, or one that only hands it on
    ends: list[Root] = field(default_factory=list)  # where the model's layers end that run inside the loss
    ends_in_loss: bool = False  # whether there were such, once they are let go of
    values: Any = None  # the outputs without their graph, in the user's structure
    given: list[Tensor] = field(default_factory=list)  # of these, those that no weight moves: a target handed on
    loss_call: tuple[Any, tuple[Any, ...], dict[str, Any], int] | None = None
    loss_input: Root | None = None
    compared: Met | None = None  # where outputs meet a target first in the loss
    met: dict[int, Met] = field(default_factory=dict)  # by call: shapes that meet there and both stretch
    replay: Callable[[], Any] = nullcontext  # what a call of this pass is repeated under: its precision
    batch: dict[int, KeptTensor] = field(default_factory=dict)  # by id: a forward pass may change its inputs in place
    hooked: set[str] = field(default_factory=set)
    random: bool = False  # whether the pass drew random numbers of torch's
    module_calls: dict[str, int] = field(default_factory=dict)
    outside: dict[int, tuple[nn.Parameter, str]] = field(default_factory=dict)  # by id: not the model's, and where used
    walks: Walks = field(default_factory=Walks)
    cuts: list[Cut] = field(default_factory=list)
    folded: list[Folded] = field(default_factory=list)

    def leading_to(self, ends: Iterable[int]) -> set[int]:
        """The calls from which one of these is reached, and they themselves."""
        found = set(ends)
        for call in reversed(self.calls):
            if call.index in found:
                found.update(call.inputs)
        return found

    def release(self) -> None:
        """Take the graph apart from its end, so that no chain of destructors runs deep."""
        self.loss_root, self.loss_input, self.values, self.loss_call, self.compared = None, None, None, None, None
        self.outputs.clear()
        self.given.clear()
        self.met.clear()
        self.ends.clear()
        self.of_parameters.clear()
        for each in self.folded:
            each.node = None
        nodes = sorted(self.owner, key=_age)
        self.owner.clear()
        while nodes:
            nodes.pop()
        for kept in self.batch.values():  # not before: a node may have kept what the pass made of it
            kept.put_back()
        self.batch.clear()


def _age(node: Node) -> int:
    """Its place in the order of the forward pass; −1 where its graph is gone, for which torch up to 2.7 crashes."""
    return -1 if is_gone(node) else node._sequence_nr()


def is_gone(node: Node) -> bool:
    """Whether this is what Python still holds of a custom Function whose node was freed: see keeper_of."""
    if is_custom(node):
        try:
            _ = node.metadata
        except RuntimeError:
            return True
    return False


def is_custom(node: Node) -> bool:
    """Whether it stands for a ``torch.autograd.Function`` written in Python."""
    return isinstance(node, torch.autograd.function.BackwardCFunction)


def keeper_of(tensor: Tensor) -> Node:
    """What keeps the node of a tensor alive without the tensor; None where holding the node does that.

    Before torch 2.13 the node of a custom Function belongs to its result and to the nodes that consume it: what Python
    holds is a part of it, which cannot be used once they are gone. A view's node consumes it (as in torch's
    own ``get_gradient_edge``).
    """
    if not is_custom(tensor.grad_fn) or functions_keep_themselves():
        return None
    with torch.enable_grad(), torch._C.DisableTorchFunction():
        return tensor.view_as(tensor).grad_fn


@cache
def functions_keep_themselves() -> bool:
    """Whether this torch keeps the node of a custom Function alive for who holds it in Python."""

    class Same(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

    with torch.inference_mode(False), torch.enable_grad(), torch._C.DisableTorchFunction():
        node = Same.apply(torch.ones((), device="cpu", requires_grad=True)).grad_fn
    return not is_gone(node)


def root_of(tensor: Tensor) -> Root:
    """The graph slot of a tensor, without keeping the tensor. Its rms is that of the entries that are finite."""
    norm = norm_of(tensor.detach())
    if not math.isfinite(norm):
        norm = norm_of(tensor.detach().nan_to_num(0.0, 0.0, 0.0))
    rms = norm / math.sqrt(max(1, tensor.numel()))
    slot = tensor.grad_fn, tensor.output_nr
    return Root(slot, tuple(tensor.shape), tensor.dtype, tensor.device, rms, keeper_of(tensor))


def axis_of(node: Node) -> int:
    """The axis that the node of a softmax keeps; counted from the end it comes as a number without a sign."""
    return node._saved_dim - 2**64 if node._saved_dim >= 2**63 else node._saved_dim


_ACCUMULATES = getattr(torch._C._functions, "AccumulateGrad", None)  # pyright: ignore[reportAttributeAccessIssue]


def leaf_of(node: Node) -> Any:
    """The parameter (or input) that a node accumulates into; a custom Function may keep a ``variable`` of its own."""
    if _ACCUMULATES is not None:
        return node.variable if type(node) is _ACCUMULATES else None
    leaf = getattr(node, "variable", None)
    return None if leaf is None or is_custom(node) else leaf
