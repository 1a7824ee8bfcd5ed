"""Second-order scales: the Gauss-Newton decrement, and the sharpest direction of the loss.

The decrement ½ gᵀ(G + λ)⁻¹g is the loss that a quadratic model still promises; as a share of L_ref it says whether a
small gradient is a stationary point. G = Jᵀ H_L J is taken in relative coordinates (each tensor in units of its own
norm), so that rescaling layers changes nothing. Conjugate gradients give a lower bound that grows with each step, and
the damping, below which no eigenvalue lies, an upper bound on what is missing. They stop as soon as either passes the
threshold; where neither does, nothing is claimed.

Source: Martens 2010, Deep learning via Hessian-free optimization, section 4; Meurant & Tichý 2013, On
computing quadrature-based bounds for the A-norm of the error in conjugate gradients, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from unvanish.decide.limits import STATIONARY, VANISHED
from unvanish.decide.stationary import falls
from unvanish.evidence.gauss_newton import NOT_TWICE, WHOLE, GaussNewton, dot, double_differentiable, refusal
from unvanish.evidence.moving import loss_again
from unvanish.evidence.output_loss import OutputLoss
from unvanish.flow.layers import natural_norm
from unvanish.flow.look import Look
from unvanish.problem import Problem
from unvanish.records import Flow
from unvanish.trace.scaled import norm_of, normal_like

DAMPING = 1e-6  # of the curvature along the gradient
CG_STEPS = 10  # enough where the bounds already lie on one side of the threshold, however far apart
MOST_CG_STEPS = 40  # where they do not
CLOSE = 1e-3  # of the bound: less than that still missing makes no difference
LANCZOS_STEPS = 40


def decrement(look: Look, output_loss: OutputLoss, reference: float, only: Sequence[str] = ()) -> float | str:
    """The decrement over ``reference``, or why it cannot be had.

    Of all trainable parameters together, or of those named in ``only``. A lower bound, right to CLOSE where the search
    got that far; always on the same side of STATIONARY as the decrement itself, or it is not given.
    """
    named = [(n, p) for n, p in look.model.named_parameters() if p.requires_grad and (not only or n in only)]
    try:
        product = GaussNewton(look, output_loss, [p for _, p in named])
        product = _Relative(product, [n for n, _ in named])
        gradient = product.gradient()
        return _solve(product, gradient, reference) if product.product.is_twice_differentiable else NOT_TWICE
    except Exception as error:  # an operation without second derivatives, a loss that refuses detached outputs
        return refusal(error)


class _Relative:
    """v -> G v in relative coordinates: each tensor in units of its own norm."""

    def __init__(self, product: GaussNewton, names: Sequence[str]) -> None:
        self.product = product
        # A tensor that is zero or tiny now counts with a thousandth of an ordinary size: it can still move.
        sizes = [(n, p, norm_of(p.detach())) for n, p in zip(names, product.parameters, strict=True)]
        self.scales = [max(size, 1e-3 * natural_norm(n, p)) for n, p, size in sizes]

    def scaled(self, v: Sequence[Tensor]) -> list[Tensor]:
        return [s * t for s, t in zip(self.scales, v, strict=True)]

    def gradient(self) -> list[Tensor]:
        return self.scaled(self.product.gradient())

    def push(self, v: Sequence[Tensor]) -> list[Tensor]:
        return self.product.jvp(self.scaled(v))

    def back(self, pushed: Sequence[Tensor]) -> list[Tensor]:
        return self.scaled(self.product.vjp(self.product.hvp(pushed)))

    def is_whole(self, v: Sequence[Tensor], pushed: Sequence[Tensor]) -> bool:
        return self.product.is_whole(self.scaled(v), pushed)

    def __call__(self, v: Sequence[Tensor]) -> list[Tensor]:
        return self.back(self.push(v))


def _solve(product: _Relative, g: list[Tensor], reference: float) -> float | str:
    """½ gᵀ(G + λ)⁻¹g over ``reference`` by conjugate gradients with bounds on both sides."""
    length = math.sqrt(dot(g, g))
    if length == 0.0:
        return "the gradient is below the range of its type"
    if not math.isfinite(length):
        return "the gradient is not finite"
    g = [t / length for t in g]
    pushed = product.push(g)
    if not product.is_whole(g, pushed):
        return NOT_TWICE
    first = product.back(pushed)
    top = math.sqrt(dot(first, first))
    if not 0.0 < top < math.inf:
        return "the curvature along the gradient is zero"
    unit, damping = 0.5 * length * length / reference, DAMPING * top
    r, d, rr, found, longest = list(g), list(g), 1.0, 0.0, 1.0 / damping
    for turn in range(MOST_CG_STEPS):
        q = [a + damping * b for a, b in zip(product(d) if turn else first, d, strict=True)]
        bend = dot(d, q)
        if not bend > 0.0:
            return "the loss is not convex in its outputs"
        step = rr / bend
        r = [a - step * b for a, b in zip(r, q, strict=True)]
        rest = dot(r, r)
        found += unit * step * rr
        # Gauss-Radau: the step the search would make next if all that is left lay at the smallest eigenvalue there can
        # be. Rounding may spoil the recurrence; the longest step of all is a bound in any case.
        over = longest - step
        longest = over / (damping * over + rest / rr) if over > 0.0 else 1.0 / damping
        missing = unit * longest * rest
        if found >= STATIONARY or missing <= CLOSE * found:
            return found
        if (turn + 1 >= CG_STEPS or missing <= found) and found + missing < STATIONARY:
            return found
        d, rr = [a + rest / rr * b for a, b in zip(r, d, strict=True)], rest
    return (
        f"after {MOST_CG_STEPS} steps of conjugate gradients the reduction left lies between {found:.1g} and"
        f" {found + missing:.1g} of L_ref: curvatures too far apart"
    )


def sharpest(problem: Problem, model: nn.Module, seed: int) -> float | None:
    """λ_max, the largest eigenvalue of the Hessian of the loss, by Lanczos steps; None where it cannot be had.

    None too where no direction bends upwards. A direction that bends downwards, however much, sets no limit to the
    learning rate and is not counted.

    Source: Golub & Van Loan 2013, Matrix computations, section 10.1.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    generator = torch.Generator().manual_seed(seed)
    try:
        with torch.enable_grad(), double_differentiable():
            first = torch.autograd.grad(
                loss_again(problem, model, seed), parameters, create_graph=True, allow_unused=True
            )
            live = [g for g in first if g is not None and g.requires_grad]

            def product(v: Sequence[Tensor]) -> list[Tensor]:
                asked = [t for t, a in zip(v, first, strict=True) if a is not None and a.requires_grad]
                h = torch.autograd.grad(live, parameters, asked, retain_graph=True, allow_unused=True)
                return [torch.zeros_like(b) if a is None else a.detach() for a, b in zip(h, parameters, strict=True)]

            top = _lanczos(
                product,
                [normal_like(t, generator) for t in parameters],
            )
    except Exception:  # an operation without second derivatives
        return None
    return top if 0.0 < top < math.inf else None


def _lanczos(product: Callable[[Sequence[Tensor]], list[Tensor]], start: list[Tensor]) -> float:
    """The largest eigenvalue, to a thousandth where LANCZOS_STEPS allow it."""
    length, top = math.sqrt(dot(start, start)), 0.0
    before, after = [torch.zeros_like(t) for t in start], [t / length for t in start]
    diagonal: list[float] = []
    beside: list[float] = []
    for _ in range(LANCZOS_STEPS):
        v = after
        w = product(v)
        if beside and abs(dot(before, w) - beside[-1]) > WHOLE * (beside[-1] + max(map(abs, diagonal))):
            return math.nan  # not symmetric: an operation cuts the graph of its own backward
        diagonal.append(dot(v, w))
        back = beside[-1] if beside else 0.0
        w = [a - diagonal[-1] * b - back * c for a, b, c in zip(w, v, before, strict=True)]
        beside.append(math.sqrt(dot(w, w)))
        off = torch.tensor(beside[:-1], dtype=torch.float64, device="cpu")
        on = torch.tensor(diagonal, dtype=torch.float64, device="cpu")
        values, vectors = torch.linalg.eigh(torch.diag(on) + torch.diag(off, 1) + torch.diag(off, -1))
        top = float(values[-1])
        if beside[-1] * abs(float(vectors[-1, -1])) <= 1e-3 * top or beside[-1] <= 1e-12 * float(values.abs().max()):
            break
        before, after = v, [t / beside[-1] for t in w]
    return top


def with_decrement(look: Look, flow: Flow, output_loss: OutputLoss, reference: float) -> Flow:
    """The decrement, unless a step that was tried has answered already: of the layers that transmit, then of all.

    What those that transmit could gain is a lower bound of what all could, and in a deep network that has vanished they
    are few. Only where that bound says nothing, and the verdict of some layer rests on the others, are they asked too.
    """
    if falls(flow):
        assert flow.step is not None
        note = _FALLS.format(flow.step.optimizer, flow.step.lowered)
        return flow.replace(notes=(*flow.notes, note))
    weak = {a.name: a for a in flow.layers if a.log10_transmission is not None and a.log10_transmission < VANISHED}
    live = {id(p) for a in look.layers if a.name not in weak for p in a.live}
    only = [name for name, p in look.model.named_parameters() if id(p) in live]
    found = decrement(look, output_loss, reference, only)
    gated, at_constant = any(a.gate for a in weak.values()), flow.loss is not None and flow.loss.at_constant
    if weak and (gated or not at_constant) and (isinstance(found, str) or found < STATIONARY):
        found = decrement(look, output_loss, reference)
    return flow.replace(decrement_refused=found) if isinstance(found, str) else flow.replace(decrement=found)


_FALLS = (
    "the gradients cancel, but this is no stationary point: steps along the next update of {}, tried and taken back,"
    " lower the loss of this batch by {:.2g} of the achievable reduction; the curvature was not asked for"
)
