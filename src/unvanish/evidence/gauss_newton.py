"""Products with the Gauss-Newton matrix G = Jᵀ H J: J of the outputs by the parameters, H of the loss by the outputs.

No matrix is ever made. J v is had by differentiating Jᵀu once more with respect to u, H y by differentiating the loss
alone twice, Jᵀy by an ordinary backward pass.

Source: Schraudolph 2002, Fast curvature matrix-vector products for second-order gradient descent.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from unvanish.evidence.moving import loss_again, outputs_again
from unvanish.evidence.normalisers import PushedNorms
from unvanish.evidence.output_loss import OutputLoss
from unvanish.flow.look import Look
from unvanish.trace.calls import LOSS_CALLS
from unvanish.trace.listening import Listening, name_of
from unvanish.trace.scaled import log10_of, norm_of, shift
from unvanish.trace.structure import inner_loss, tensors

WHOLE = 0.01  # two ways to the same number may differ by this much of it, in bfloat16 too
NOT_TWICE = "an operation of the model has no second derivative"


class GaussNewton:
    """J, H and Jᵀ of one forward pass, as three products. A direction has one tensor (or None) a parameter."""

    def __init__(self, look: Look, output_loss: OutputLoss, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = list(parameters)
        self.batches = True  # until an operation is met that cannot be
        with torch.enable_grad(), double_differentiable():
            with PushedNorms():
                outputs = _watched(look)
            if [t.shape for t in outputs] != [t.shape for t in output_loss.now]:
                raise RuntimeError("the outputs of two forward passes do not match")
            self.outputs = [t for t in outputs if t.requires_grad]
            every = [t.detach().requires_grad_(t.requires_grad) for t in outputs]
            self.leaves = [t for t in every if t.requires_grad]
            self.residual = torch.autograd.grad(
                output_loss.at(every), self.leaves, create_graph=True, allow_unused=True
            )
            self.dual = [torch.zeros_like(t, requires_grad=True) for t in self.outputs]
        self._pulled: Sequence[Tensor | None] | None = None

    @property
    def pulled(self) -> Sequence[Tensor | None]:
        """Jᵀu as a function of u, ``dual``, made when it is first asked for."""
        if self._pulled is None:
            with torch.enable_grad(), double_differentiable():
                self._pulled = torch.autograd.grad(
                    self.outputs, self.parameters, self.dual, create_graph=True, allow_unused=True
                )
        return self._pulled

    def jvp(self, v: Sequence[Tensor | None]) -> list[Tensor]:
        """J v: how the outputs move when the parameters move along v."""
        pairs = [(j, t) for j, t in zip(self.pulled, v, strict=True) if j is not None and t is not None]
        moved = torch.autograd.grad([j for j, _ in pairs], self.dual, [t for _, t in pairs], retain_graph=True,
                                    allow_unused=True) if pairs else [None] * len(self.dual)  # fmt: skip
        return _filled(moved, self.outputs)

    def pushed(self, directions: Sequence[Sequence[Tensor | None]]) -> list[tuple[list[Tensor], list[Tensor]]]:
        """J v and H J v of each of the directions, all at once unless an operation cannot be batched."""
        if len(directions) > 1 and self.batches:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # that some operation is run once for each after all
                    return self._pushed_at_once(directions)
            except Exception:  # no rule to batch an operation of the model or the loss, or no memory
                self.batches = False
        moved = [self.jvp(v) for v in directions]
        return [(y, self.hvp(y)) for y in moved]

    def _pushed_at_once(self, directions: Sequence[Sequence[Tensor | None]]) -> list[tuple[list[Tensor], list[Tensor]]]:
        columns = zip(self.pulled, self.parameters, zip(*directions, strict=True), strict=True)
        live = [(j, p, v) for j, p, v in columns if j is not None and any(t is not None for t in v)]
        stacks = [torch.stack([torch.zeros_like(p) if t is None else t for t in v]) for _, p, v in live]
        moved = _batched([j for j, _, _ in live], self.dual, stacks)
        bends = [(r, y) for r, y in zip(self.residual, moved, strict=True) if r is not None and r.requires_grad]
        bent = _batched([r for r, _ in bends], self.leaves, [y for _, y in bends])
        return [([y[k] for y in moved], [h[k] for h in bent]) for k in range(len(directions))]

    def hvp(self, y: Sequence[Tensor]) -> list[Tensor]:
        """H y: how the loss's derivative by the outputs changes when they move along y."""
        live = [(r, t) for r, t in zip(self.residual, y, strict=True) if r is not None and r.requires_grad]
        bent = torch.autograd.grad([r for r, _ in live], self.leaves, [t for _, t in live], retain_graph=True,
                                   allow_unused=True) if live else [None] * len(self.leaves)  # fmt: skip
        return _filled(bent, self.outputs)

    def vjp(self, y: Sequence[Tensor]) -> list[Tensor]:
        """Jᵀy."""
        products = torch.autograd.grad(self.outputs, self.parameters, y, retain_graph=True, allow_unused=True)
        return _filled([None if t is None else t.detach() for t in products], self.parameters)

    def gradient(self, power: int = 0) -> list[Tensor]:
        """2^power Jᵀr, r what the loss asks of the outputs. Asked for first, it is the u at which J is had.

        Jᵀu is linear in u, so that its derivative is J wherever that is taken: one pass back gives both.
        """
        residual = _filled([None if r is None else shift(r.detach(), power) for r in self.residual], self.outputs)
        if self._pulled is not None:
            return self.vjp(residual)
        self.dual = [t.clone().requires_grad_(True) for t in residual]
        return _filled([None if t is None else t.detach() for t in self.pulled], self.parameters)

    def log10_residual(self) -> float:
        """log10 of the rms of r; -inf where the loss asks for nothing."""
        known = [r.detach() for r in self.residual if r is not None]
        rms = math.hypot(*(norm_of(r) for r in known)) / math.sqrt(max(1, sum(r.numel() for r in known)))
        return log10_of(rms)

    @property
    def is_twice_differentiable(self) -> bool:
        """Whether no parameter's way to the outputs is cut in the graph of its own backward."""
        return all(j.requires_grad for j in self.pulled if j is not None)

    def slope(self, pushed: Sequence[Tensor]) -> float:
        """r · J v: how fast the loss changes along v, in units of the length of v."""
        return dot(_filled([None if r is None else r.detach() for r in self.residual], self.outputs), pushed)

    def is_whole(self, v: Sequence[Tensor], pushed: Sequence[Tensor]) -> bool:
        """Whether |J v|² = vᵀ(JᵀJ v): an operation that cuts the graph of its own backward takes a part from J v.

        ``pushed``: J v, which those who ask have made already.
        """
        return math.isclose(dot(pushed, pushed), dot(v, self.vjp(pushed)), rel_tol=WHOLE)


def _batched(of: Sequence[Tensor], by: Sequence[Tensor], stacks: Sequence[Tensor]) -> list[Tensor]:
    """The products of a derivative with each row of the stacks, stacked."""
    width = len(stacks[0]) if stacks else 0
    made = torch.autograd.grad(of, by, stacks, retain_graph=True, allow_unused=True, is_grads_batched=True)
    return [t.new_zeros(width, *t.shape) if m is None else m.detach() for m, t in zip(made, by, strict=True)]


def dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    pairs = list(zip(a, b, strict=True))
    if all(t.dtype in (torch.float32, torch.float64) for pair in pairs for t in pair):
        total = float(sum((x * y).sum(dtype=torch.float64) for x, y in pairs))
        if 1e-20 < abs(total) < math.inf:  # products that left the range of float32 are far below this sum
            return total
    return float(sum((x.double() * y.double()).sum() for x, y in pairs))


def double_differentiable() -> Any:
    """The fused attention kernels have no second derivative; the plain one has."""
    attention = getattr(torch.nn, "attention", None)
    if attention is None or not hasattr(attention, "sdpa_kernel"):
        return nullcontext()
    return attention.sdpa_kernel(attention.SDPBackend.MATH)


def _filled(parts: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor]:
    return [torch.zeros_like(t) if f is None else f for f, t in zip(parts, like, strict=True)]


def _watched(look: Look) -> list[Tensor]:
    """The tensors the loss is a function of, with their graph."""
    problem, model, seed = look.problem, look.model, look.seed
    if not look.capture.own_loss:
        outputs = outputs_again(problem, model, seed)
        loss_inside = inner_loss(outputs) if not isinstance(outputs, Tensor) else None
        found = [t for t in tensors(outputs) if t.is_floating_point() and t is not loss_inside]
        return [t for t in found if t.grad_fn is not None] or found  # what no weight moves is no free output
    given: list[Tensor] = []

    def heard(func: Any, args: Any, kwargs: Any, out: Any) -> None:
        if name_of(func) in LOSS_CALLS and args and isinstance(args[0], Tensor):
            given.append(args[0])

    with Listening(heard):
        loss_again(problem, model, seed)
    return given[-1:]


def refusal(error: Exception) -> str:
    """What an error says, in one line that can stand within a sentence."""
    return str(error).split("\n")[0].rstrip(". ") or type(error).__name__
