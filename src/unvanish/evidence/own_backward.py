"""Is what the user's own autograd.Functions send back the derivative of what they compute?

Each is called alone, on what it was given, in float64. Along random directions the outputs that change smoothly are
compared with what the backward says of them; outputs that do not change at all have the derivative zero.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unvanish.evidence.moving import loss_again, or_nan, or_none, put_back
from unvanish.evidence.step import ULPS, spacing_of
from unvanish.flow.look import Look
from unvanish.preserve import seeded
from unvanish.records import BackwardFacts, Flow
from unvanish.trace.functions import Function, Given, own_functions, recorded
from unvanish.words.numbers import number, percent

Wrong = tuple[str, str, float | None, float]
DRAWS = 4
FEW = 2  # of them, where these show nothing
LENGTHS = (1e-6, 1e-3, 1e-1)
"""Of a direction, relative to the argument: for float64, and for a forward that computes in less inside."""
CLEAR = 100.0
"""Spacings of the outputs that a direction is to be longer than: rounding then makes up less than ``SMOOTH`` of it."""
OFTEN = 8
"""How often each number stands among outputs that are steps, at the least, in the mean."""
NEAREST = 6
"""Layers that are tried alone, beside all before a Function together."""
SMOOTH = 0.01
"""Share by which the difference quotients of an output over one length and a quarter of it may differ."""
OFF = 0.05
"""Of the derivative: an approximation by a polynomial, as fused activations have one, stays well below."""
SHORT = 0.01
"""Share of the weights, and of the loss by what the gradient says, that a step against the gradient takes."""


def with_functions(look: Look, flow: Flow) -> Flow:
    """The flow with what was found, before a walk; nothing is done for a network without such Functions."""
    places = {} if look.effort == "quick" else own_functions(look.capture)
    found = or_none(lambda: _asked(look, places)) if places else None
    if found is None:
        return flow
    facts, unasked = found
    said = [_UNASKED.format(name) for name in unasked]
    steps = {each.function for each in facts if each.kind == "flat"}  # of whose other arguments the same is true
    told = (each for each in facts if each.kind != "other" or (each.rise is None and each.function not in steps))
    said += map(_said, told)
    return flow.replace(functions=facts, notes=(*flow.notes, *dict.fromkeys(said)))


_UNASKED = (
    "the backward of {} was not compared with its forward: it is given other things than tensors, numbers and words, or"
    " too many numbers, or cannot be called alone"
)


def _asked(look: Look, places: dict[Function, list[int]]) -> tuple[tuple[BackwardFacts, ...], list[str]]:
    """What was found, and the Functions of which no call could be made alone."""
    with torch.enable_grad(), recorded(list(places)) as given:
        loss_again(look.problem, look.model, look.seed)
    of_each = {f: _of_one(look, f, calls, given[f]) for f, calls in places.items()}
    found = [fact for facts in of_each.values() for fact in facts or ()]
    turned = any(fact.kind == "identity" for fact in found)  # then a rise of the loss is what was wanted
    stood_in = {name for fact in found if fact.kind == "flat" for name in fact.layers}  # their gradient is no slope
    facts = []
    for fact in found:
        left = tuple(name for name in fact.layers if name not in stood_in)
        facts.append(_climbing(look, fact, left) if fact.kind == "other" and left and not turned else fact)
    return tuple(facts), [function.__name__ for function, found in of_each.items() if found is None]


def _climbing(look: Look, fact: BackwardFacts, layers: tuple[str, ...]) -> BackwardFacts:
    """The fact with the rise of these layers before it, or else of those nearest to it that rise by themselves."""
    together = _rise(look, layers)
    if together is not None:
        fact = fact.replace(layers=layers)
    if len(layers) < 2:
        return fact.replace(rise=together)
    alone = {name: _rise(look, (name,)) for name in layers[::-1][:NEAREST]}
    up = {name: rise for name, rise in alone.items() if rise is not None}
    if up and (together is None or len(up) < len(alone)):
        return fact.replace(layers=tuple(up)[::-1], rise=max(up.values()))
    return fact.replace(rise=together)


def _of_one(look: Look, function: Function, calls: list[int], given: Sequence[Given]) -> list[BackwardFacts] | None:
    """What is wrong with one Function, each kind once, at the first call that shows it; None if none could be made."""
    found: dict[tuple[str, str, float | None], BackwardFacts] = {}
    matched, asked = len(given) == len(calls), False
    before = {a.name for a in look.layers if a.calls and not look.capture.leading_to(calls).isdisjoint(a.calls)}
    layers = tuple(dict.fromkeys(a.name for a in look.layers if a.name in before and a.live))
    for k, each in enumerate(given):
        compared = None if each.args is None else _compared(function, each.args, look.seed)
        asked |= compared is not None
        for argument, kind, factor, error in compared or ():
            key = argument, kind, None if factor is None else round(factor, 2)
            fact = BackwardFacts(
                call=calls[k] if matched else calls[0],
                function=function.__name__,
                source=each.source,
                argument=argument,
                kind=kind,
                factor=factor,
                error=error,
                layers=layers,
            )
            found.setdefault(key, fact)
    return list(found.values()) if asked else None


def _compared(function: Function, args: tuple[Any, ...], seed: int) -> list[Wrong] | None:
    """In float64 where the Function takes and gives such, else as it is; None where it cannot be called alone."""
    double = _in_double(function, args)
    found = None if double is None else or_none(lambda: list(_compare(function, double, True, seed)))
    return or_none(lambda: list(_compare(function, args, False, seed))) if found is None else found


@dataclass
class _Sums:
    """Over the draws: of what the outputs do (true), of what the backward says of it (said), and of flat outputs."""

    true: float = 0.0
    said: float = 0.0
    both: float = 0.0
    flat: float = 0.0
    all: float = 0.0
    noise: float = 0.0
    bent: bool = False  # twice the gradient is not sent back as twice as much

    @property
    def error(self) -> float:
        """What the backward is off by, relative to what the outputs do."""
        return math.sqrt(max(0.0, self.said - 2.0 * self.both + self.true) / self.true) if self.true > 0.0 else 0.0

    @property
    def stands_in(self) -> bool:
        """Whether something is sent back for outputs that do not change."""
        return self.flat > OFF**2 * self.all and self.flat > self.noise


def _compare(function: Function, args: tuple[Any, ...], fine: bool, seed: int) -> Iterator[Wrong]:
    """(argument, kind, factor, error) of each argument whose backward is not the derivative."""
    names = _names(function, len(args))
    generator = torch.Generator().manual_seed(seed)
    for k, argument in enumerate(args):
        if not isinstance(argument, Tensor) or not argument.requires_grad or not argument.is_floating_point():
            continue
        sums = _Sums()
        for draw in range(DRAWS):
            _draw(function, args, k, fine, generator, sums)
            if draw + 1 == FEW and not (sums.error > SMOOTH or sums.flat > 0.0):
                break
        if sums.true > 0.0:
            error = sums.error
            if error > OFF:
                yield names[k], "identity" if _hands_on(function, args, k) else "other", _factor(sums), error
                continue
        if sums.stands_in:
            yield names[k], "flat", None, math.inf


def _factor(sums: _Sums) -> float | None:
    """What the derivative is multiplied by, where the backward gives a multiple of it."""
    if sums.bent:
        return None
    factor = sums.both / sums.true
    rest = max(0.0, sums.said - factor * sums.both)
    return factor if rest <= SMOOTH**2 * max(sums.said, sums.true) else None


def _draw(function: Function, args: tuple[Any, ...], k: int, fine: bool, generator: Any, sums: _Sums) -> None:
    """Add one random direction of an argument, and random weights of the outputs, to the sums."""
    x = args[k].detach()
    scale = float(x.double().square().mean().sqrt()) or 1.0
    direction = _normal(x, generator) * scale
    outs, given = _forward(function, args, k)

    def quotient(length: float) -> Tensor:
        ends = [_values(function, args, k, x + sign * length * direction, outs) for sign in (1.0, -1.0)]
        return (ends[0] - ends[1]) / (2.0 * length)

    now = torch.cat([out.detach().double().reshape(-1) for out in outs if out is not None])
    spacing = _spacing(now) if fine else torch.finfo(x.dtype).eps
    best, smooth, flat, least = now, torch.zeros_like(now, dtype=torch.bool), None, 0.0
    for length in (each for each in LENGTHS if each > CLEAR * spacing):
        long, short = quotient(length), quotient(length / 4.0)
        even = (long - short).abs() <= SMOOTH * torch.maximum(long.abs(), short.abs())
        noise = spacing * float(now.abs().max()) / length
        even &= long.isfinite() & (long.abs() > 4.0 / SMOOTH * noise)
        still = (long == 0.0) & (short == 0.0)
        if fine and flat is None:
            flat, least = still, 4.0 / SMOOTH * noise
        if even.sum() > smooth.sum():
            best, smooth = long, even
        if 2 * int((even | still).sum()) >= now.numel():  # else rounding inside may hide what changes
            break
    weights = _normal(now, generator)

    def says(mask: Tensor, factor: float = 1.0) -> float:
        parts = _split(factor * weights * mask, outs)
        grads = torch.autograd.grad([o for o in outs if o is not None], given, parts, True, allow_unused=True)
        return 0.0 if grads[0] is None else float((grads[0].double() * direction.double()).sum())

    true = float((weights * torch.where(smooth, best, 0.0)).sum())
    said = says(smooth) if bool(smooth.any()) else 0.0
    sums.true, sums.said, sums.both = sums.true + true**2, sums.said + said**2, sums.both + true * said
    if sums.error > OFF:
        sums.bent |= said != 0.0 and not math.isclose(says(smooth, 2.0), 2.0 * said, rel_tol=SMOOTH)
    if flat is not None and bool(flat.any()):
        sums.flat += says(flat) ** 2
        sums.all += says(torch.ones_like(flat)) ** 2
        sums.noise += least**2 * float(flat.sum())


def _spacing(outputs: Tensor) -> float:
    """The relative spacing of the narrowest type that holds all of them: they may have been computed in it.

    Not of steps, such as signs, which any type holds: few numbers, many times each, further apart than such a type's.
    """
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        if torch.equal(outputs.to(dtype).double(), outputs):
            eps, levels = torch.finfo(dtype).eps, outputs.unique()
            apart = levels.numel() < 2 or float(levels.diff().min()) > 2.0 * eps * float(outputs.abs().max())
            if not apart or levels.numel() * OFTEN > outputs.numel():
                return eps
    return torch.finfo(torch.float64).eps


def _forward(function: Function, args: tuple[Any, ...], k: int) -> tuple[list[Tensor | None], Tensor]:
    """The outputs with a graph (None for the others) and the leaf that stands for argument ``k``."""
    leaf = args[k].detach().clone().requires_grad_()
    own = [_again(a) for a in args]
    own[k] = leaf.clone()  # a Function may change its arguments in place, which a leaf does not allow
    with torch.enable_grad(), seeded(0):
        outs = _outputs(function.apply(*own))
    return [out if out.requires_grad and out.is_floating_point() else None for out in outs], leaf


def _values(function: Function, args: tuple[Any, ...], k: int, x: Tensor, like: list[Tensor | None]) -> Tensor:
    own = [_again(a) for a in args]
    own[k] = x.clone()
    with torch.no_grad(), seeded(0):
        outs = _outputs(function.apply(*own))
    return torch.cat([o.detach().double().reshape(-1) for o, a in zip(outs, like, strict=True) if a is not None])


def _again(given: Any) -> Any:
    return given.detach().clone() if isinstance(given, Tensor) else given


def _outputs(made: Any) -> list[Tensor]:
    return [out for out in (made if isinstance(made, (tuple, list)) else (made,)) if isinstance(out, Tensor)]


def _split(flat: Tensor, like: list[Tensor | None]) -> list[Tensor]:
    kept = [out for out in like if out is not None]
    parts = flat.split([out.numel() for out in kept])
    return [part.reshape(out.shape).to(out.dtype) for part, out in zip(parts, kept, strict=True)]


def _in_double(function: Function, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """The arguments in float64, where the Function takes and gives such; else None."""

    def doubled(given: Any) -> Any:
        if not isinstance(given, Tensor) or not given.is_floating_point():
            return given
        return given.detach().double().requires_grad_(given.requires_grad)

    made = tuple(map(doubled, args))
    with torch.no_grad(), seeded(0):
        outs = or_none(lambda: _outputs(function.apply(*map(_again, made))))
    kept = outs is not None and all(o.dtype is torch.float64 for o in outs if o.is_floating_point())
    return made if kept else None


def _hands_on(function: Function, args: tuple[Any, ...], k: int) -> bool:
    """Whether one of the outputs is the argument itself, number by number."""
    with torch.no_grad(), seeded(0):
        outs = _outputs(function.apply(*map(_again, args)))
    return any(out.shape == args[k].shape and torch.equal(out, args[k].detach()) for out in outs)


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=torch.float64, device="cpu").to(like)


def _names(function: Function, count: int) -> list[str]:
    """What the arguments are called in the Function's forward."""
    context = function.setup_context == torch.autograd.Function.setup_context
    names = list(inspect.signature(function.forward).parameters)[1 if context else 0 :]
    return [names[k] if k < len(names) else f"argument {k + 1}" for k in range(count)]


def _rise(look: Look, layers: Sequence[str]) -> float | None:
    """By how much of what the gradient says of them the loss rises where these layers step against it, if it does.

    Only where it rises in proportion to the step, far above rounding; None else.
    """
    live = {id(p): p for a in look.layers if a.name in layers for p in a.live}
    parameters = list(live.values())
    with torch.enable_grad():
        loss = loss_again(look.problem, look.model, look.seed)
        made = torch.autograd.grad(loss, parameters, allow_unused=True)
    moved = [(p, g.detach()) for p, g in zip(parameters, made, strict=True) if g is not None and not g.is_sparse]
    steep = math.sqrt(sum(float(g.double().square().sum()) for _, g in moved))
    large = math.sqrt(sum(float(p.detach().double().square().sum()) for p, _ in moved))
    now = abs(float(loss.detach()))
    if not 0.0 < steep < math.inf:
        return None
    longest = min(SHORT * now / steep, SHORT * large) / steep
    rises = []
    for length in (longest, longest / 2.0):
        with torch.no_grad(), put_back([p for p, _ in moved], look.copy_of):
            for p, g in moved:
                p.data.sub_(g, alpha=length)
            rises.append(or_nan(lambda: loss_again(look.problem, look.model, look.seed)) - float(loss.detach()))
    least = 4.0 * ULPS * spacing_of(look.problem, look.model) * now
    straight = rises[1] > least and 1.5 < rises[0] / rises[1] < 3.0
    return rises[1] / (longest / 2.0 * steep**2) if straight else None


def _said(fact: BackwardFacts) -> str:
    where = fact.place
    if fact.kind == "flat":
        return (
            f"the backward of {where} is not the derivative of its forward, which is zero where the outputs do not"
            f" change with {fact.argument}: it stands in for it, as a straight-through estimator or a surrogate"
            " gradient does; if that is not meant, torch.autograd.gradcheck shows the entries"
        )
    times = f"{number(fact.factor)} times" if fact.factor is not None else "a changed form of"
    if fact.kind == "identity":
        return (
            f"{where} hands {fact.argument} on unchanged and sends back {times} the gradient, as reversing or scaling"
            " gradients on purpose does"
        )
    off = f"{times} the derivative" if fact.factor is not None else f"what is off by {percent(fact.error)} of it"
    return (
        f"the backward of {where} is not the derivative of its forward: for {fact.argument} it gives {off}, by finite"
        " differences; if that is not meant, torch.autograd.gradcheck shows the entries"
    )
