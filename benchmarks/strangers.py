"""Models that others wrote and random networks: does a check crash, alarm falsely, or give wrong numbers?

python benchmarks/strangers.py --save benchmarks/results/strangers.json

Needs, beside this package: transformers peft diffusers accelerate torch_geometric snntorch zuko normflows nflows
torchdiffeq gpytorch pytorch-lightning x-transformers vit-pytorch e3nn efficientnet-pytorch. What is not installed is
left out and listed. timm and other packages that need torchvision are not among them: its compiled operators do not
load beside every torch. No weights are downloaded: every model is built from its configuration.

A network whose loss falls in a short training, by a tenth and (random ones) to well below that of the best constant
output, trains, and no finding of level error is right before it. Each layer's gradient norm is compared with that of
autograd, in float64 where the model runs in it.
"""

from __future__ import annotations

import argparse
import copy
import importlib.metadata
import json
import math
import random
import re
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
import strangers_more  # noqa: F401 - it registers models
from machine import provenance
from strangers_models import STRANGERS, TRAINS

import unvanish

STEPS, RATE = 60, 2e-3
FALL = 0.1  # of the loss: what counts as training
BELOW = 0.7  # of the loss of the best constant output: what the last layer's bias alone does not reach
CLOSE = 1e-3  # decades


def change(tree: Any, to: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(tree, Tensor):
        return to(tree)
    if isinstance(tree, Mapping):
        return {key: change(value, to) for key, value in tree.items()}
    return tuple(change(value, to) for value in tree) if isinstance(tree, (tuple, list)) else tree


def quiet(model: nn.Module) -> nn.Module:
    """Without dropout, so that two passes give the same numbers."""
    for module in model.modules():
        if isinstance(module, (nn.Dropout, nn.Dropout1d, nn.Dropout2d)):
            module.p = 0.0
        for name in ("dropout", "attention_dropout", "attn_dropout", "dropout_prob", "drop_prob"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return model.train()


def gradients(problem: unvanish.Problem, model: nn.Module) -> dict[str, Tensor]:
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    loss = problem.loss(problem.outputs(model))
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {n: g.detach().double() for (n, _), g in zip(named.items(), found, strict=True) if g is not None}


def reference(problem: unvanish.Problem) -> tuple[dict[str, Tensor], str]:
    """Autograd's gradients in float64, or in float32 where the model does not run in float64; and which."""

    def wide(t: Tensor) -> Tensor:
        return t.double() if t.is_floating_point() else t

    try:
        model = copy.deepcopy(problem.model).double()  # type: ignore[union-attr]
        double = unvanish.Problem(model, change(problem.inputs, wide), change(problem.targets, wide), problem.loss_fn)
        return gradients(double, model), "float64"
    except Exception:  # constants of a fixed type, a likelihood that holds the model: the type it was written for
        return gradients(problem, problem.model), "float32"  # type: ignore[arg-type]


def largest_error(report: unvanish.Report, model: nn.Module, found: dict[str, Tensor]) -> float:
    """Decades between the report's gradient norms and autograd's, over the layers both have; tiny ones aside."""
    owned: dict[str, list[Tensor]] = {}
    for name, gradient in found.items():
        owned.setdefault(name, []).append(gradient)
        path, _, inner = name.partition(".parametrizations.")
        owned.setdefault(path if inner else name.rpartition(".")[0], []).append(gradient)
    norms = {n: math.sqrt(sum(float(g.pow(2).sum()) for g in each)) for n, each in owned.items()}
    top = max(norms.values(), default=0.0)
    errors = [0.0]
    for layer in report.layers:
        norm = norms.get(layer.name.partition("#")[0], 0.0)
        if layer.log10_grad_norm is not None and norm > 1e-6 * top:  # float32 has no more digits where terms cancel
            errors.append(abs(layer.log10_grad_norm - math.log10(norm)))
    return max(errors)


def trained(problem: unvanish.Problem, steps: int) -> tuple[float, float]:
    """The loss before and after a short training of a copy."""
    model = problem.model
    assert isinstance(model, nn.Module)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], RATE)
    losses = []
    for step in range(steps + 1):
        loss = problem.loss(problem.outputs(model))
        losses.append(float(loss.detach()))
        if step < steps:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return losses[0], losses[-1]


def judged(name: str, package: str, truth: str, how: str, make: Callable[[], Any], effort: str) -> dict[str, Any]:
    """One network: what was found, what is true, and how far the gradient norms are from autograd's."""
    row: dict[str, Any] = {"name": name, "package": package, "truth": truth, "how": how}
    torch.manual_seed(0)
    model, inputs, targets, loss_fn = make()
    quiet(model)

    def adam(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.Adam([p for p in parameters if p.requires_grad], RATE)

    problem = unvanish.Problem(model, inputs, targets, loss_fn, adam, steps=1000)
    began = time.perf_counter()
    try:
        report = unvanish.diagnose(problem, effort=effort)
    except Exception as error:
        return {**row, "crash": f"{type(error).__name__}: {error}"[:300]}
    row["seconds"] = round(time.perf_counter() - began, 2)
    row["verdict"] = report.verdict
    row["errors"] = [f.code for f in report.findings if f.level == "error"]
    row["notes"] = [f.code for f in report.findings if f.level == "note"]
    found, kind = reference(problem)
    row["gradient_error"], row["gradient_of"] = round(largest_error(report, model, found), 6), kind
    before, after = trained(problem, STEPS)
    row["loss"] = [float(f"{before:.4g}"), float(f"{after:.4g}")]
    constant = None if report.loss is None else report.loss.best_constant
    row["trains"] = math.isfinite(after) and before - after > FALL * abs(before)
    row["trains"] &= constant is None or constant <= 0.0 or after < BELOW * constant or package != "random"
    return row


# ------------------------------------------------------------ random networks
ACTS = [nn.ReLU, nn.Tanh, nn.GELU, nn.SiLU, nn.ELU, nn.LeakyReLU, nn.SELU, nn.Sigmoid, nn.Softplus, nn.Mish]


class Layer(nn.Module):
    def __init__(self, width: int, act: type[nn.Module], norm: str, residual: bool, conv: bool) -> None:
        super().__init__()
        self.mix = nn.Conv1d(width, width, 3, padding=1) if conv else nn.Linear(width, width)
        norms = {"batch": nn.BatchNorm1d, "layer": lambda n: nn.GroupNorm(1, n), "none": lambda n: nn.Identity()}
        self.norm, self.act, self.residual = norms[norm](width), act(), residual

    def forward(self, h: Tensor) -> Tensor:
        new = self.act(self.norm(self.mix(h)))
        return h + new if self.residual else new


class Net(nn.Module):
    def __init__(self, draw: random.Random, outputs: int) -> None:
        super().__init__()
        width, self.conv = draw.choice([8, 16, 32, 64]), draw.random() < 0.3
        act, norm = draw.choice(ACTS), draw.choice(["none", "none", "batch", "layer"])
        residual = draw.random() < 0.4
        self.stem = nn.Linear(6, width)
        self.layers = nn.ModuleList(Layer(width, act, norm, residual, self.conv) for _ in range(draw.randint(1, 14)))
        self.head, self.scale = nn.Linear(width, outputs), draw.choice([1.0, 1.0, 1.0, 0.1, 10.0])

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(self.scale * x)
        h = h[:, :, None].expand(-1, -1, 5) if self.conv else h
        for layer in self.layers:
            h = layer(h)
        return self.head(h.mean(-1) if self.conv else h)


def random_network(seed: int) -> tuple[nn.Module, Any, Any, Any]:
    draw = random.Random(seed)
    torch.manual_seed(seed)
    x = torch.randn(draw.choice([32, 64]), 6)
    hidden = torch.tanh(x @ torch.randn(6, 8)) @ torch.randn(8, 4)
    kind = draw.choice(["classes", "numbers", "bits", "huber"])
    model = Net(draw, 4 if kind == "classes" else 1)
    if kind == "classes":
        return model, x, hidden.argmax(1), F.cross_entropy
    if kind == "bits":
        return model, x, (hidden[:, :1] > 0).float(), F.binary_cross_entropy_with_logits
    return model, x, hidden[:, :1], F.mse_loss if kind == "numbers" else F.huber_loss


# ------------------------------------------------------------ the tally
def tally(rows: list[dict[str, Any]]) -> dict[str, Any]:
    ran = [row for row in rows if "crash" not in row]
    train = [row for row in ran if row["truth"] == TRAINS and row["trains"]]
    faults = [row for row in ran if row["truth"] != TRAINS]
    return {
        "networks": len(rows),
        "crashes": [row["name"] for row in rows if "crash" in row],
        "that train": len(train),
        "false errors on those that train": {row["name"]: row["errors"] for row in train if row["errors"]},
        "faults put in": len(faults),
        "faults found": sum(row["truth"] in row["errors"] for row in faults),
        "gradient norms off by more than 1e-3": {
            row["name"]: row["gradient_error"] for row in ran if not row["gradient_error"] <= CLOSE
        },
        "compared in float64": sum(row["gradient_of"] == "float64" for row in ran),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="a regular expression for the names of library models")
    parser.add_argument("--random", type=int, default=600, help="how many random networks")
    parser.add_argument("--seed", type=int, default=1, help="of the first random network")
    parser.add_argument("--effort", default="auto")
    parser.add_argument("--save", type=Path)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    models, missing = [], {}
    networks: list[dict[str, Any]] = []
    for name, each in STRANGERS.items():
        if not re.search(given.only, name):
            continue
        try:
            models.append(judged(name, each.package, each.truth, each.how, each.make, given.effort))
        except ImportError as error:
            missing[name] = str(error)[:200]
            continue
        print(json.dumps(models[-1]), flush=True)
    for seed in range(given.seed, given.seed + given.random):
        how = f"trained for {STEPS} steps"
        networks.append(judged(f"random {seed}", "random", TRAINS, how, lambda s=seed: random_network(s), given.effort))
        if "crash" in networks[-1] or (networks[-1]["trains"] and networks[-1]["errors"]):
            print(json.dumps(networks[-1]), flush=True)
        if given.save is not None and seed % 25 == 0:
            save(given.save, models, networks, missing)
    found = save(given.save, models, networks, missing)
    print(json.dumps({key: found[key] for key in ("library models", "random networks", "not installed")}, indent=1))


def save(path: Path | None, models: list[Any], networks: list[Any], missing: dict[str, str]) -> dict[str, Any]:
    """What was found so far, in the file too."""
    absent = {STRANGERS[name].package for name in missing} | {"torch"}
    packages = sorted({STRANGERS[row["name"]].package for row in models} - absent)
    result = {
        **provenance(1),
        "packages": {name: importlib.metadata.version(name) for name in packages},
        "not installed": missing,
        "library models": tally(models),
        "random networks": tally(networks),
        "models": models,
        "random that train and had an error": [row for row in networks if row.get("trains") and row["errors"]],
    }
    if path is not None:
        path.write_text(json.dumps(result, indent=1) + "\n")
    return result


if __name__ == "__main__":
    main()
