"""Other ways to notice a sick gradient, asked about the same network, batch and optimizer as unvanish.

Fixed limits on gradient norms, the ratio of the first layer's to the last's, and two installable tools: torch-audit
(0.3.0) and torchdiag (0.1.0), both of which are what their names say and check gradients, activations and NaNs while
a model trains. The tools come with ``pip install scikit-learn torch-audit torchdiag``; one that is missing is left out.
"""

from __future__ import annotations

import copy
import importlib.metadata
import importlib.util
import io
import math
import random
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any

import torch
from torch import Tensor, nn

Alarms = tuple[str, ...]
Rival = Callable[[nn.Module, torch.optim.Optimizer, Any, Tensor, Tensor], Alarms]

NAMES = {
    "vanishing": ("UV1", "UV3", "UV402", "UV604", "UV701", "UV706"),
    "dead": ("UV1", "UV3", "UV402", "UV604", "UV701", "UV706"),
    "exploding": ("UV2", "UV50", "UV702", "UV704", "UV707"),
    "nan": ("UV2", "UV50", "UV704"),
    "inputs": ("UV707",),
}
"""Which faults, by the codes accepted for them, an alarm of each kind is taken to have named. Generous: an exactly zero
gradient counts for a wrong last layer, a huge one for unscaled inputs or targets or a learning rate that diverges."""


def could_mean(alarms: Alarms, codes: tuple[str, ...]) -> bool:
    """Whether one of these alarms could have meant a fault that these codes, given by prefix, name."""
    meant = [name for kind in alarms for name in NAMES[kind]]
    return any(a.startswith(b) or b.startswith(a) for a in meant for b in codes)


AUDIT_KINDS = {
    "TA100": "nan", "TA102": "exploding", "TA103": "dead", "TA104": "dead", "TA105": "dead", "TA301": "inputs",
    "TA302": "inputs", "TA500": "dead",
}  # fmt: skip
"""The rules of torch-audit that speak about training; its hints on hardware, layout and weight decay count neither as
a hit nor as a false alarm. TA103 has the lowest severity there, and counts all the same."""


def grad_norms(model: nn.Module, loss_fn: Any, inputs: Tensor, targets: Tensor) -> list[float]:
    """The norm of each layer's gradient, all its parameters together, input side first; a layer without one is 0."""
    model.zero_grad(set_to_none=True)
    loss_fn(model(inputs), targets).backward()
    owners = [[p for p in m.parameters(recurse=False) if p.requires_grad] for m in model.modules()]
    return [
        math.sqrt(sum(float(p.grad.double().pow(2).sum()) for p in group if p.grad is not None))
        for group in owners
        if group
    ]


def by_limits(norms: list[float], low: float, high: float = 1e3) -> Alarms:
    """Vanishing below ``low`` in any layer, exploding above ``high`` in any."""
    alarms = {"nan" for n in norms if not math.isfinite(n)}
    alarms |= {"vanishing" for n in norms if n < low} | {"exploding" for n in norms if n > high}
    return tuple(sorted(alarms))


def by_ratio(norms: list[float], low: float = 1e-3, high: float = 1e3) -> Alarms:
    """The first layer's gradient norm over the last's; two zeros have no ratio, and count as vanishing."""
    first, last = norms[0], norms[-1]
    if not (math.isfinite(first) and math.isfinite(last)):
        return ("nan",)
    ratio = first / last if last else (math.inf if first else 0.0)
    return ("vanishing",) if ratio < low else ("exploding",) if ratio > high else ()


def torch_audit(model: nn.Module, optimizer: Any, loss_fn: Any, inputs: Tensor, targets: Tensor) -> Alarms:
    """One audited training step, with its own static checks before it."""
    from torch_audit import Auditor  # type: ignore[import-not-found]

    with Auditor(model, optimizer=optimizer, every_n_steps=1) as auditor:
        auditor.audit_static()
        optimizer.zero_grad()
        auditor.backward(loss_fn(auditor.forward(inputs), targets))
        auditor.optimizer_step()
    kinds = {AUDIT_KINDS[f.rule_id] for f in auditor.findings if f.rule_id in AUDIT_KINDS}
    return tuple(sorted(kinds))


def torchdiag(model: nn.Module, optimizer: Any, loss_fn: Any, inputs: Tensor, targets: Tensor) -> Alarms:
    """Its three checks of training: dead neurons, gradients, and one whole step."""
    import torchdiag as tool  # type: ignore[import-not-found]

    alarms: set[str] = set()
    if any(layer["dead_pct"] > 20 for layer in tool.check_dead_neurons(model, inputs).values()):
        alarms.add("dead")
    step = tool.verify_step(model, optimizer, loss_fn, inputs, targets)
    if not math.isfinite(float(step["loss"])):
        alarms.add("nan")
    if step["params_unchanged"] and not step["params_updated"]:
        alarms.add("dead")
    words = {"VANISH": "vanishing", "EXPLODE": "exploding", "no_grad": "dead"}
    statuses = [layer["status"] for layer in tool.check_gradients(model).values()]
    return tuple(sorted(alarms | {words[s] for s in statuses if s in words}))


def _with_norms(judge: Callable[[list[float]], Alarms]) -> Rival:
    return lambda model, optimizer, loss_fn, inputs, targets: judge(grad_norms(model, loss_fn, inputs, targets))


RIVALS: dict[str, Rival] = {
    "norm < 1e-7 or > 1e3": _with_norms(lambda norms: by_limits(norms, 1e-7)),
    "norm < 1e-6 or > 1e3": _with_norms(lambda norms: by_limits(norms, 1e-6)),
    "first/last < 1e-3 or > 1e3": _with_norms(by_ratio),
    "torch-audit": torch_audit,
    "torchdiag": torchdiag,
}


def installed() -> dict[str, str]:
    """The rivals at hand and their versions; one that is not installed is absent."""
    versions = dict.fromkeys(RIVALS, "")
    for name in ("torch-audit", "torchdiag"):
        if importlib.util.find_spec(name.replace("-", "_")) is None:
            del versions[name]
        else:
            versions[name] = importlib.metadata.version(name)
    return versions


def ask(model: nn.Module, optimizer: Any, loss_fn: Any, inputs: Tensor, targets: Tensor) -> dict[str, Alarms]:
    """What every rival at hand says. Each works on its own copy: the model, its optimizer and random states stay."""
    answers: dict[str, Alarms] = {}
    for name in installed():
        python = random.getstate()
        with torch.random.fork_rng(devices=[]), redirect_stdout(io.StringIO()):
            twin, its_optimizer = copy.deepcopy((model, optimizer))
            answers[name] = RIVALS[name](twin, its_optimizer, loss_fn, inputs, targets)
        random.setstate(python)
    return answers
