"""A small gradient is not the bottom: five places where the gradient of the first layer is equally tiny."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, jacrev
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from unvanish.lab import Check, Column, Drawing, Outcome, Parameter, Progress, Settings, Stopped, experiment
from unvanish.pipeline import diagnose
from unvanish.population.threads import one_thread
from unvanish.problem import Problem

SAMPLES, INPUTS, UNITS, DEEP_UNITS = 64, 2, 3, 8
NEGLIGIBLE = 1e-3  # of the largest singular value: a damping of 1e-6 of the curvature, as in the check itself
EXPECTED = {
    "start": "healthy",
    "minimum": "converged",
    "local minimum": "converged",
    "plateau": "plateau",
    "saddle": "saddle",
    "vanished": "vanished",
}


@dataclass(frozen=True)
class Task:
    """64 points of the plane and what a fixed 2-3-1 tanh network makes of them: the best possible loss is 0."""

    inputs: Tensor
    targets: Tensor

    @classmethod
    def drawn(cls, seed: int) -> Task:
        inputs = torch.randn(SAMPLES, INPUTS, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        return cls(inputs, teacher(seed)(inputs).detach())

    @property
    def constant(self) -> float:
        """The loss of the best constant answer."""
        return float(self.targets.var(unbiased=False))

    def loss(self, model: nn.Module) -> Tensor:
        return F.mse_loss(model(self.inputs), self.targets)

    def first_gradient(self, model: nn.Sequential) -> Tensor:
        """∂L/∂(weight, bias) of the first layer, as one vector."""
        first = [model[0].weight, model[0].bias]
        return torch.cat([g.flatten() for g in torch.autograd.grad(self.loss(model), first)])  # pyright: ignore


def small(seed: int) -> nn.Sequential:
    """2-3-1 with tanh; weights and biases N(0, 1), float64."""
    model = nn.Sequential(nn.Linear(INPUTS, UNITS), nn.Tanh(), nn.Linear(UNITS, 1)).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, dtype=torch.float64, generator=generator))
    return model


def teacher(seed: int) -> nn.Sequential:
    """The network whose answers are the targets: a minimum of the loss, with loss 0."""
    return small(seed + 1_000_000)


def deep(hidden: int, seed: int) -> nn.Sequential:
    """2-8-…-8-1 with ``hidden`` sigmoid layers and torch's default weights, float64."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        layers: list[nn.Module] = []
        for fan_in in (INPUTS, *[DEEP_UNITS] * (hidden - 1)):
            layers += [nn.Linear(fan_in, DEEP_UNITS), nn.Sigmoid()]
        return nn.Sequential(*layers, nn.Linear(DEEP_UNITS, 1)).double()


def descend(model: nn.Sequential, task: Task) -> tuple[float, float]:
    """Go down the valley by L-BFGS, then Newton steps; the loss there, and the Hessian's lowest eigenvalue."""
    search = torch.optim.LBFGS(
        model.parameters(), max_iter=200, max_eval=300, tolerance_change=0.0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        search.zero_grad()
        loss = task.loss(model)
        loss.backward()
        return loss

    search.step(closure)  # pyright: ignore[reportArgumentType]
    shapes = {name: p.shape for name, p in model.named_parameters()}

    def at(vector: Tensor) -> Tensor:
        parts = vector.split([shape.numel() for shape in shapes.values()])
        named = {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
        return F.mse_loss(functional_call(model, named, (task.inputs,)), task.targets)

    lowest = math.nan
    if float(task.first_gradient(model).norm()) > 1e-3:
        return float(task.loss(model).detach()), lowest  # still on its way: nothing for Newton steps to finish
    for _ in range(4):
        here = parameters_to_vector(model.parameters()).detach()
        curvature = jacrev(jacrev(at))(here)  # hessian() would go forward, and warn of what torch does inside
        assert isinstance(curvature, Tensor)
        lowest = float(torch.linalg.eigvalsh(curvature)[0])
        if not lowest > 0:
            break
        vector_to_parameters(here - torch.linalg.solve(curvature, jacrev(at)(here)), model.parameters())
    return float(task.loss(model).detach()), lowest


def push(model: nn.Sequential, task: Task, gradient: float, seed: int) -> None:
    """Move a model at its minimum along a random direction until ‖∂L/∂(first layer)‖ is ``gradient``."""
    here = parameters_to_vector(model.parameters()).detach()
    direction = torch.randn(here.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    step = gradient
    for _ in range(20):  # the gradient grows in proportion to the step, so that each correction is nearly exact
        vector_to_parameters(here + step * direction, model.parameters())
        step *= gradient / float(task.first_gradient(model).norm())


@torch.no_grad()
def level(model: nn.Sequential, task: Task, scale: float) -> nn.Sequential:
    """All weights and biases times ``scale``, the last bias at the best constant answer."""
    for parameter in model.parameters():
        parameter.mul_(scale)
    model[-1].bias.fill_(float(task.targets.mean()))  # pyright: ignore
    return model


def local_minimum(task: Task, seed: int, starts: int, progress: Progress) -> tuple[nn.Sequential | None, str]:
    """The first minimum above the best loss in which a descent from random weights ends, and what was tried."""
    best = 0
    for turn in range(starts):
        progress(0.9 * turn / starts, f"descent {turn + 1} in search of a local minimum")
        model = small(seed + turn)
        loss, lowest = descend(model, task)
        if lowest > 0 and float(task.first_gradient(model).norm()) < 1e-10:
            if loss > 1e-9:
                return model, (
                    f"Descent {turn + 1} from random weights ended in a minimum above the best loss, all eigenvalues of"
                    f" its Hessian positive, the smallest {lowest:.2g}; {best} before it ended at loss 0."
                )
            best += 1
    return None, f"None of {starts} descents ended in a local minimum ({best} ended at loss 0); try more starts."


def plateau(task: Task, gradient: float, seed: int) -> nn.Sequential:
    """A network at the best constant answer whose weights are so small that the first layer's gradient is too."""
    low, high = -12.0, 0.0
    for _ in range(60):
        middle = (low + high) / 2
        model = level(small(seed), task, 10**middle)
        low, high = (low, middle) if float(task.first_gradient(model).norm()) > gradient else (middle, high)
    return level(small(seed), task, 10**low)


def vanished(task: Task, gradient: float, seed: int) -> nn.Sequential:
    """The shallowest sigmoid network whose first layer has a gradient of at most ``gradient``."""
    hidden = 1
    while float(task.first_gradient(model := level(deep(hidden, seed), task, 1.0)).norm()) > gradient:
        hidden += 1
    return model


@experiment(
    "bottom",
    title="A small gradient is not the bottom",
    question="What does the size of a gradient say of the distance to the minimum, without a scale to measure it by?",
    sources=("000", "002"),
    settings=(
        Parameter("gradient", 1e-6, "length of the first layer's gradient everywhere", 1e-9, 1e-3, log=True),
        Parameter("starts", 30, "descents from random weights at most, in search of a local minimum", 1, 500, log=True),
        Parameter("seed", 0, "draws the points, the network to be learned and the starts", 0, 100_000),
    ),
)
@one_thread()
def run(s: Settings, progress: Progress) -> Outcome:
    """A regression with a known best loss of 0, and networks whose first layer's gradient has the same tiny length.

    A network at its minimum, moved off it a little; one at a local minimum; one on a plateau (all weights tiny, the
    output at the best constant); one at a saddle (all weights zero: the gradient is exactly 0); and a deep sigmoid
    network, its output at the best constant too. Each is measured with the curvature as the scale: with h the
    Gauss-Newton curvature along the gradient g of the first layer, distance = ‖g‖ / h, here in units of the layer's own
    norm; and the Newton decrement ½ gᵀG⁺g, by how much this layer alone would still lower the loss if the network were
    linear in it. The last columns are what ``unvanish.diagnose`` says.

    No look at one place can tell a local minimum from the best one: both are converged, and only a known best loss, 0
    here, shows the difference.
    """
    task = Task.drawn(s.seed)
    models: dict[str, nn.Sequential] = {"start": small(s.seed)}
    notes: list[str] = []
    try:
        models["minimum"] = teacher(s.seed)
        push(models["minimum"], task, s.gradient, s.seed)
        local, told = local_minimum(task, s.seed, s.starts, progress)
        notes.append(told)
        if local is not None:
            push(local, task, s.gradient, s.seed)
            models["local minimum"] = local
        models["plateau"] = plateau(task, s.gradient, s.seed)
        models["saddle"] = level(small(s.seed), task, 0.0)
        models["vanished"] = vanished(task, s.gradient, s.seed)
        notes.append(f"The vanished network has {len(models['vanished']) // 2} hidden layers.")
    except (Stopped, KeyboardInterrupt):
        notes.append("Stopped early: the places found by then are shown.")
    rows = [_row(name, model, task, s.seed) for name, model in models.items()]
    return Outcome(
        sentence=_sentence(rows),
        columns=COLUMNS,
        rows=tuple(rows),
        pictures=(_drawing(rows),),
        checks=tuple(_checks(rows, s.gradient)),
        notes=tuple(notes),
    )


COLUMNS = (
    Column("place", "", "where the network stands"),
    Column("gradient", "log10", "‖∂L/∂w‖ of the first layer, weights and biases together"),
    Column(
        "loss", "log10", "mean squared error as a share of that of the best constant answer; the best possible is 0"
    ),
    Column("curvature", "log10", "h, the Gauss-Newton curvature along that gradient"),
    Column("distance", "log10", "‖g‖ / h, in units of the norm of the layer's weights and biases"),
    Column("decrement", "log10", "Newton decrement of the first layer, as a share of the best constant answer's loss"),
    Column("layer", "", "verdict of the first layer"),
    Column("verdict", "", "verdict of the whole check"),
)


def _row(name: str, model: nn.Sequential, task: Task, seed: int) -> dict[str, Any]:
    gradient = task.first_gradient(model)
    jacobian, size = _first_jacobian(model, task), float(parameters_to_vector(model[0].parameters()).detach().norm())
    residual = (model(task.inputs) - task.targets).detach().flatten()
    length = float(gradient.norm())
    curvature = decrement = None
    if length > 0.0:
        curvature = 2 / SAMPLES * float((jacobian @ (gradient / length)).square().sum())
        left, values, _ = torch.linalg.svd(jacobian, full_matrices=False)
        seen = left[:, values > NEGLIGIBLE * values[0]]
        decrement = float((seen.T @ residual).square().sum()) / SAMPLES / task.constant
    report = diagnose(Problem(model, task.inputs, task.targets, F.mse_loss), seed=seed)
    return {
        "place": name,
        "gradient": _log10(length),
        "loss": _log10(float(residual.square().mean()) / task.constant),
        "curvature": None if curvature is None else _log10(curvature),
        "distance": _log10(length / curvature / size) if curvature and size else None,
        "decrement": None if decrement is None else _log10(decrement),
        "layer": report.layers[0].verdict,
        "verdict": report.verdict,
        "size": size,
    }


def _first_jacobian(model: nn.Sequential, task: Task) -> Tensor:
    """∂ outputs / ∂ (weight, bias) of the first layer: (samples, parameters)."""
    first = {f"0.{name}": p.detach() for name, p in model[0].named_parameters()}
    parts = jacrev(lambda own: functional_call(model, own, (task.inputs,)).flatten())(first)
    return torch.cat([part.flatten(1) for part in parts.values()], dim=1).detach()


def _log10(value: float) -> float:
    return math.log10(value) if value > 0 else -math.inf


def _sentence(rows: list[dict[str, Any]]) -> str:
    by_place = {row["place"]: row for row in rows}
    if "vanished" not in by_place:
        return "It was stopped before there was anything to compare."
    near, far = by_place["minimum"], by_place["vanished"]
    return (
        f"A first-layer gradient of {10 ** near['gradient']:.1g} lies {10 ** near['distance']:.1g} times the layer's"
        f" own size from a minimum, and one of {10 ** far['gradient']:.1g} in a vanished network"
        f" {10 ** far['distance']:.1g} times: without the curvature a gradient does not say how far the minimum is."
    )


def _checks(rows: list[dict[str, Any]], gradient: float) -> Iterator[Check]:
    for row in rows:
        word = EXPECTED[row["place"]]
        yield Check(f"{row['place']}: verdict", word, row["verdict"], row["verdict"] == word)
        if row["place"] not in ("start", "saddle"):
            length = 10 ** row["gradient"]
            what = f"{row['place']}: first-layer gradient"
            yield Check(what, f"at most {gradient:g}", length, length <= 1.001 * gradient)


def _drawing(rows: list[dict[str, Any]]) -> Drawing:
    shown = [row for row in rows if row["curvature"] is not None]
    return Drawing.of(
        "plane",
        "Small gradients, near the bottom and far from it",
        "A point for each network: the gradient of its first layer over the layer's norm against the curvature along"
        " that gradient. Points above the diagonal have farther to go than their weights are long.",
        [row["place"] for row in shown],
        [row["curvature"] for row in shown],
        [row["gradient"] - math.log10(row["size"]) for row in shown],
        [row["layer"] for row in shown],
        joined=False,  # the places are no layers of one network
    )
