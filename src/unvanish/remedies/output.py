"""The last activation and the loss, made to fit each other."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish.preserve import reseed, untouched
from unvanish.remedies import Change, Draft, Refused, remedy
from unvanish.remedies.anatomy import BETWEEN_LAYERS, SQUASHES, Anatomy, Site
from unvanish.remedies.draft import outputs_of
from unvanish.remedies.output_inside import output_inside
from unvanish.remedies.swap import swap
from unvanish.trace.scaled import normal_like

Loss = Callable[..., Any]
CLIPPING = SQUASHES | {call for call, each in BETWEEN_LAYERS.items() if each.bounded or each.limits[0] == 0}
"""What keeps a last layer from values that a target may have: bounded, or never negative."""
RESTORE = {"multi": "outputs.softmax(1)", "binary": "outputs.sigmoid()"}
LOGIT_LOSSES = {"multi": "cross_entropy", "binary": "binary_cross_entropy_with_logits"}


@remedy(
    "output-layer",
    "a last layer and a loss that fit each other",
    kind="output",
    answers=("UV301", "UV302", "UV501", "UV502", "UV701", "UV706"),
    cures_on=("softmax-one-unit", "relu-on-logits"),
    no_help_on=("sigmoid-20", "lr-too-small"),
)
def output_layer(draft: Draft) -> Change:
    """Free outputs, and the loss that is written for them.

    What: a softmax, sigmoid or other clipping activation at the very end is taken away. Classes get the cross-entropy
    of logits, zeros and ones the binary one, quantities keep their loss. What the loss does is tried on made-up outputs
    where its name does not tell. ``restore_outputs`` gives probabilities again. Where the model computes its own loss,
    that loss stays, and only an activation before it that does not fit is taken away.
    Helps: a softmax before a loss that makes its own, a softmax over one unit, a ReLU on logits, targets outside the
    range of the last activation, logarithms of zero.
    Does not help: a network whose gradient is lost on the way.
    Source: Bridle 1990, Probabilistic interpretation of feedforward classification network outputs; Bishop 2006,
    Pattern recognition and machine learning, section 4.3.6.
    """
    if draft.loss_fn is None:
        return output_inside(draft)
    outputs, targets = outputs_of(draft.model, draft.inputs), draft.targets
    if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor):
        raise Refused("outputs or targets are not one tensor; " + BY_HAND)
    if outputs.is_complex() or targets.is_complex():
        raise Refused("outputs or targets are complex numbers, for which no usual loss is made")
    task = task_of(outputs, targets)
    kind = _kind_once(draft, outputs, targets)
    if task == "real" and kind in ("logits", "probabilities"):
        task = "binary"  # shares between 0 and 1
    if task != "real" and kind == "unknown":
        raise Refused("what the loss does with the outputs could not be found out by trying it; " + BY_HAND)
    site = Anatomy.of(draft).at_output
    if site is not None and site.name not in CLIPPING:
        site = None
    loss = _wanted_loss(task, kind, site, outputs)
    fits = site is not None and site.name == "log_softmax" and kind == "log-probabilities"
    if fits or (site is None and loss is None):
        raise Refused("nothing clips or normalises the outputs, and the loss takes them as they are")
    probabilities = kind == "probabilities" or (site is not None and site.name in ("softmax", "sigmoid"))
    if kind == "logits" and task == "binary" and _takes_logits(draft, outputs):
        probabilities = False
    return _carry_out(draft, site, loss, RESTORE.get(task, "") if probabilities else "")


def _takes_logits(draft: Draft, outputs: Tensor) -> bool:
    """Whether the metric tells right from wrong by logits and not by probabilities: it makes a sigmoid of its own."""
    if draft.metric is None:
        return False
    right = draft.targets.reshape(outputs.shape).to(outputs) if draft.targets.numel() == outputs.numel() else None
    if right is None:
        return False
    wrong = 1.0 - right
    with untouched(nn.Module(), 0):
        by_probability = [_value(draft.metric, 0.1 + 0.8 * each, draft.targets) for each in (right, wrong)]
        by_logit = [_value(draft.metric, 8.0 * each - 4.0, draft.targets) for each in (right, wrong)]
    return by_probability[0] == by_probability[1] and by_logit[0] != by_logit[1]


BY_HAND = "remove the last softmax or sigmoid and take F.cross_entropy or F.binary_cross_entropy_with_logits by hand"


def task_of(outputs: Tensor, targets: Tensor) -> str:
    """What is to be learned: "multi" (classes), "binary" (zeros and ones), or "real" (quantities)."""
    if not targets.is_floating_point() and outputs.ndim > targets.ndim and outputs.shape[1] > 1:
        return "multi" if int(targets.min()) >= 0 and int(targets.max()) < outputs.shape[1] else "real"
    zeros_and_ones = bool(((targets == 0.0) | (targets == 1.0)).all())
    if not zeros_and_ones or outputs.numel() != targets.numel():
        return "real"
    rows = targets.sum(1) if targets.ndim > 1 else targets
    return "multi" if targets.ndim > 1 and targets.shape[1] > 1 and bool((rows == 1.0).all()) else "binary"


def _kind_once(draft: Draft, outputs: Tensor, targets: Tensor) -> str:
    """The kind of the draft's loss, tried out once for all drafts that go on from one."""
    assert draft.loss_fn is not None
    key = id(draft.loss_fn), id(targets), tuple(outputs.shape), outputs.dtype, outputs.device
    if key not in draft.losses:
        draft.losses[key] = draft.loss_fn, targets, kind_of(draft.loss_fn, outputs, targets)
    return draft.losses[key][-1]


def kind_of(loss_fn: Loss, outputs: Tensor, targets: Tensor) -> str:
    """What a loss takes: "logits", "log-probabilities", "probabilities"; "distance" where it is the same on both sides
    of the targets and nothing at them; else "unknown".

    Tried on three made-up outputs: a cross-entropy of probabilities p gives what F.cross_entropy gives for log p, up to
    one factor (a sum instead of a mean). torch's own losses are known by their class, whatever their options.
    """
    for known, kind in KNOWN.items():
        if isinstance(loss_fn, known):
            return kind
    generator = torch.Generator().manual_seed(0)
    draws = [normal_like(outputs, generator) for _ in range(3)]
    with untouched(nn.Module(), 0):
        return _kind_by_trial(loss_fn, draws, targets)


def _kind_by_trial(loss_fn: Loss, draws: list[Tensor], targets: Tensor) -> str:
    for kind, forms in FORMS.items():
        for transform, reference in forms:
            ratios: list[float] = []
            for z in draws:
                found, expected = _value(loss_fn, transform(z), targets), _value(reference, z, targets)
                if not found or not expected or not found / expected > 0.0:
                    break
                ratios.append(found / expected)
            if len(ratios) == 3 and max(ratios) - min(ratios) < 1e-3 * ratios[0]:
                return kind
    return "distance" if _is_distance(loss_fn, draws, targets) else "unknown"


def _is_distance(loss_fn: Loss, draws: list[Tensor], targets: Tensor) -> bool:
    if targets.numel() != draws[0].numel():
        return False
    goal = targets.reshape(draws[0].shape).to(draws[0])
    both = [(_value(loss_fn, goal + z, targets), _value(loss_fn, goal - z, targets)) for z in draws]
    even = all(a is not None and b is not None and a > 0.0 and math.isclose(a, b, rel_tol=1e-3) for a, b in both)
    return even and _value(loss_fn, goal, targets) == 0.0


def _softmax(z: Tensor) -> Tensor:
    return z.softmax(1) if z.ndim > 1 else z


def _log_softmax(z: Tensor) -> Tensor:
    return z.log_softmax(1) if z.ndim > 1 else z


def _as_is(z: Tensor) -> Tensor:
    return z


def _binary(z: Tensor, targets: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(z, targets.reshape(z.shape).to(z))


KNOWN: dict[type[nn.Module], str] = {
    nn.CrossEntropyLoss: "logits",
    nn.BCEWithLogitsLoss: "logits",
    nn.NLLLoss: "log-probabilities",
}
FORMS: dict[str, list[tuple[Callable[[Tensor], Tensor], Loss]]] = {
    "logits": [(_as_is, F.cross_entropy), (_as_is, _binary)],
    "log-probabilities": [(_log_softmax, F.cross_entropy)],
    "probabilities": [(_softmax, F.cross_entropy), (torch.sigmoid, _binary)],
}


def _value(loss_fn: Loss, outputs: Tensor, targets: Tensor) -> float | None:
    """What it gives; to be asked for inside of ``untouched``, which a module with a state of its own gets once more."""
    try:
        with untouched(loss_fn, 0) if isinstance(loss_fn, nn.Module) else nullcontext(), torch.no_grad():
            reseed(0)
            found = float(loss_fn(outputs, targets))
    except (RuntimeError, ValueError, TypeError, IndexError):
        return None
    return found if math.isfinite(found) else None


def _wanted_loss(task: str, kind: str, site: Site | None, outputs: Tensor) -> str | None:
    """The loss of logits to take instead of the present one, as code; None where the present one can stay."""
    if task == "real" or kind == "logits":
        return None
    if kind == "log-probabilities" and site is None and torch.allclose(outputs.exp().sum(1), torch.ones(1).to(outputs)):
        return None
    return LOGIT_LOSSES[task]


def _carry_out(draft: Draft, site: Site | None, loss: str | None, restore: str) -> Change:
    code, said = [], []
    if loss is not None:
        code += _loss_code(loss)
        said.append(f"F.{loss} as the loss")
    if restore:
        code.append(f"restore_outputs = lambda outputs: {restore}  # for predictions and metrics")
    if site is None:
        return draft.apply(f"{said[0]}: the outputs are logits", (), code, ())
    sentence = " and ".join([f"no {site.name.replace('_', ' ')} at the end", *said])
    state = draft.model, draft.loss_fn, draft.restore_outputs
    anatomy = Anatomy.of(draft)
    try:  # the loss first: the present one may refuse outputs that nothing limits
        more = draft.apply(sentence, (), code, ()) if code else None
        swapped = swap(draft, anatomy, [site], "nn.Identity", sentence)
    except Refused:
        draft.model, draft.loss_fn, draft.restore_outputs = state
        raise
    return swapped.replace(code=(*swapped.code, *(more.code if more else ())))


def _loss_code(loss: str) -> list[str]:
    """The lines that define the loss of logits for targets as they are."""
    lines = ["", "", "def loss_fn(outputs, targets):"]
    if loss == "cross_entropy":
        return [*lines, "    return F.cross_entropy(outputs, targets)", "", ""]
    return [*lines, f"    return F.{loss}(outputs, targets.reshape(outputs.shape).to(outputs.dtype))", "", ""]
