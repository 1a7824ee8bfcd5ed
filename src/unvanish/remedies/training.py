"""How the weights are moved: another optimizer, another learning rate, warm-up, clipping."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch

from unvanish.problem import rate_of
from unvanish.remedies import Change, Draft, Refused, remedy

STUCK = ("sigmoid-50", "dead-relu")


def replaced_by(draft: Draft, kind: type[Any], lr: float) -> Change:
    """Another optimizer with torch's settings and this learning rate; clipping and warm-up stay."""
    before = draft.recipe
    if before.optimizer is kind:
        raise Refused(f"it is trained by {kind.__name__} already")
    draft.recipe = replace(before, optimizer=kind, options={"lr": lr}, groups=())
    return Change(sentence=f"{kind.__name__} with learning rate {lr:g} instead of {before.optimizer.__name__}")


@remedy(
    "optimizer-adam",
    "Adam, learning rate 0.001",
    kind="optimizer",
    answers=("UV404", "UV705"),
    cures_on=("lr-too-small", "lr-too-large"),
    no_help_on=STUCK,
)
def adam(draft: Draft) -> Change:
    """The mean gradient divided by the root of its mean square, each parameter on its own.

    What: a fresh Adam over all parameters, with a learning rate of 0.001 and torch's other settings.
    Helps: a learning rate that is far too small or too large for plain SGD; parameters of very different scale.
    Does not help: a network whose gradient has vanished or whose units are dead: no optimizer repaired one.
    Source: Kingma & Ba 2015, Adam: a method for stochastic optimization.
    """
    return replaced_by(draft, torch.optim.Adam, 1e-3)


@remedy(
    "optimizer-adamw",
    "AdamW, learning rate 0.001",
    kind="optimizer",
    answers=("UV404",),
    cures_on=("lr-too-small", "lr-too-large"),
    no_help_on=STUCK,
)
def adamw(draft: Draft) -> Change:
    """Adam with weight decay apart from the gradient.

    What: a fresh AdamW over all parameters, with a learning rate of 0.001 and torch's other settings.
    Helps: a learning rate that is far too small or too large for plain SGD; parameters of very different scale.
    Does not help: a network whose gradient has vanished or whose units are dead: no optimizer repaired one.
    Source: Loshchilov & Hutter 2019, Decoupled weight decay regularization.
    """
    return replaced_by(draft, torch.optim.AdamW, 1e-3)


@remedy(
    "optimizer-adagrad",
    "Adagrad, learning rate 0.01",
    kind="optimizer",
    answers=("UV404",),
    cures_on=("lr-too-small", "lr-too-large"),
    no_help_on=STUCK,
)
def adagrad(draft: Draft) -> Change:
    """The gradient divided by the root of the sum of its squares so far.

    What: a fresh Adagrad over all parameters, with a learning rate of 0.01 and torch's other settings.
    Helps: a learning rate that is far too small or too large for plain SGD; parameters of very different scale.
    Does not help: a network whose gradient has vanished or whose units are dead: no optimizer repaired one.
    Source: Duchi, Hazan & Singer 2011, Adaptive subgradient methods.
    """
    return replaced_by(draft, torch.optim.Adagrad, 1e-2)


@remedy(
    "optimizer-rmsprop",
    "RMSprop, learning rate 0.001",
    kind="optimizer",
    answers=("UV404",),
    cures_on=("lr-too-small", "lr-too-large"),
    no_help_on=STUCK,
)
def rmsprop(draft: Draft) -> Change:
    """The gradient divided by the root of its mean square.

    What: a fresh RMSprop over all parameters, with a learning rate of 0.001 and torch's other settings.
    Helps: a learning rate that is far too small or too large for plain SGD; parameters of very different scale.
    Does not help: a network whose gradient has vanished or whose units are dead: no optimizer repaired one.
    Source: Tieleman & Hinton 2012, Lecture 6.5.
    """
    return replaced_by(draft, torch.optim.RMSprop, 1e-3)


@remedy(
    "optimizer-momentum",
    "momentum 0.9",
    kind="optimizer",
    answers=("UV404",),
    cures_on=("zero-head with SGD 0.01",),
    no_help_on=STUCK,
)
def momentum(draft: Draft) -> Change:
    """SGD with momentum 0.9.

    What: the present SGD keeps its learning rate and gets momentum 0.9; another optimizer is replaced by SGD with a
    learning rate of 0.01 and momentum 0.9.
    Helps: slow progress along flat directions: where they persist, steps become ten times as long.
    Does not help: a network whose gradient has vanished or whose units are dead; a learning rate near its limit.
    Source: Polyak 1964, Some methods of speeding up the convergence of iteration methods; Sutskever et al. 2013.
    """
    recipe = draft.recipe
    if recipe.optimizer is not torch.optim.SGD:
        draft.recipe = replace(recipe, optimizer=torch.optim.SGD, options={"lr": 0.01, "momentum": 0.9}, groups=())
        return Change(sentence=f"SGD with learning rate 0.01 and momentum 0.9 instead of {recipe.optimizer.__name__}")
    if recipe.options.get("momentum"):
        raise Refused(f"it is trained with momentum {recipe.options['momentum']:g} already")
    draft.recipe = recipe.with_options(momentum=0.9)
    return Change(sentence="momentum 0.9")


def _rated(draft: Draft) -> None:
    if any(math.isnan(rate_of(options)) for options in draft.recipe.settings):
        raise Refused(f"{draft.recipe.optimizer.__name__} has no learning rate that is set")


def multiplied(draft: Draft, factor: float) -> Change:
    """Every learning rate times ``factor``."""
    _rated(draft)
    before = draft.recipe.lr
    draft.recipe = draft.recipe.with_lr(factor)
    return Change(sentence=f"learning rate {draft.recipe.lr:g} instead of {before:g}")


@remedy(
    "lr-0.001",
    "learning rate × 0.001",
    kind="rate",
    answers=("UV704",),
    cures_on=("lr-too-large", "zero-head with Adam 0.3"),
    no_help_on=("dead-relu", "relu-on-logits"),
)
def rate_0_001(draft: Draft) -> Change:
    """Shorter steps: the learning rate times 0.001.

    What: every learning rate of the optimizer is multiplied by 0.001.
    Helps: training that diverges or jumps about.
    Does not help: a network whose gradient has vanished or whose units are dead: no change of the rate repaired one.
    Source: Bottou, Curtis & Nocedal 2018, Optimization methods for large-scale machine learning.
    """
    return multiplied(draft, 1e-3)


@remedy(
    "lr-0.01",
    "learning rate × 0.01",
    kind="rate",
    answers=("UV704",),
    cures_on=("lr-too-large", "zero-head with Adam 0.3"),
    no_help_on=("dead-relu", "relu-on-logits"),
)
def rate_0_01(draft: Draft) -> Change:
    """Shorter steps: the learning rate times 0.01.

    What: every learning rate of the optimizer is multiplied by 0.01.
    Helps: training that diverges or jumps about.
    Does not help: a network whose gradient has vanished or whose units are dead: no change of the rate repaired one.
    Source: Bottou, Curtis & Nocedal 2018, Optimization methods for large-scale machine learning.
    """
    return multiplied(draft, 1e-2)


@remedy(
    "lr-0.1",
    "learning rate × 0.1",
    kind="rate",
    answers=("UV704",),
    cures_on=("zero-head with SGD 2", "zero-head with Adam 0.3"),
    no_help_on=("dead-relu", "relu-on-logits"),
)
def rate_0_1(draft: Draft) -> Change:
    """Shorter steps: the learning rate times 0.1.

    What: every learning rate of the optimizer is multiplied by 0.1.
    Helps: training that diverges or jumps about.
    Does not help: a network whose gradient has vanished or whose units are dead: no change of the rate repaired one.
    Source: Bottou, Curtis & Nocedal 2018, Optimization methods for large-scale machine learning.
    """
    return multiplied(draft, 0.1)


@remedy(
    "lr-0.3",
    "learning rate × 0.3",
    kind="rate",
    answers=("UV704",),
    cures_on=("zero-head with SGD 2", "zero-head with Adam 0.3"),
    no_help_on=("dead-relu", "relu-on-logits"),
)
def rate_0_3(draft: Draft) -> Change:
    """Shorter steps: the learning rate times 0.3.

    What: every learning rate of the optimizer is multiplied by 0.3.
    Helps: training that diverges or jumps about.
    Does not help: a network whose gradient has vanished or whose units are dead: no change of the rate repaired one.
    Source: Bottou, Curtis & Nocedal 2018, Optimization methods for large-scale machine learning.
    """
    return multiplied(draft, 0.3)


@remedy(
    "lr-10",
    "learning rate × 10",
    kind="rate",
    answers=("UV705",),
    cures_on=("zero-head with SGD 0.003", "zero-head with Adam 1e-4"),
    no_help_on=("dead-relu", "relu-on-logits"),
)
def rate_10(draft: Draft) -> Change:
    """Longer steps: the learning rate times 10.

    What: every learning rate of the optimizer is multiplied by 10.
    Helps: training that moves in the right direction, far too slowly.
    Does not help: a network whose gradient has vanished or whose units are dead: no change of the rate repaired one.
    Source: Bottou, Curtis & Nocedal 2018, Optimization methods for large-scale machine learning.
    """
    return multiplied(draft, 10.0)


@remedy(
    "lr-100",
    "learning rate × 100",
    kind="rate",
    answers=("UV705",),
    cures_on=("zero-head with SGD 0.001", "zero-head with Adam 1e-5"),
    no_help_on=("dead-relu", "relu-on-logits"),
)
def rate_100(draft: Draft) -> Change:
    """Longer steps: the learning rate times 100.

    What: every learning rate of the optimizer is multiplied by 100.
    Helps: training that moves in the right direction, far too slowly.
    Does not help: a network whose gradient has vanished or whose units are dead: no change of the rate repaired one.
    Source: Bottou, Curtis & Nocedal 2018, Optimization methods for large-scale machine learning.
    """
    return multiplied(draft, 100.0)


@remedy(
    "warmup",
    "a learning rate that grows during the first steps",
    kind="rate",
    answers=("UV704",),
    cures_on=("small-cnn with Adam 0.1", "relu6-cnn with RMSprop 0.1"),
    no_help_on=STUCK,
)
def warmup(draft: Draft) -> Change:
    """The learning rate rises linearly from nearly zero to its value during the first steps.

    What: over a tenth of the planned steps, at least 10; over 100 where nobody has planned.
    Helps: post-norm transformers and adaptive optimizers, whose first steps are too long.
    Does not help: a learning rate that is too large for good; a network whose gradient has vanished.
    Source: Xiong et al. 2020, On layer normalization in the transformer architecture.
    """
    if draft.recipe.warmup:
        raise Refused(f"the learning rate grows over the first {draft.recipe.warmup} steps already")
    _rated(draft)
    steps = 100 if draft.steps is None else max(10, draft.steps // 10)
    draft.recipe = replace(draft.recipe, warmup=steps)
    return Change(sentence=f"a learning rate that grows from nearly zero over the first {steps} steps")


@remedy(
    "clip-gradients",
    "gradients clipped",
    kind="clip",
    answers=("UV201", "UV704"),
    cures_on=("lr-too-large", "zero-head with SGD 2"),
    no_help_on=STUCK,
)
def clip_gradients(draft: Draft) -> Change:
    """The gradient of all parameters together is cut to a largest norm.

    What: for SGD 0.01 · ‖all weights‖ / learning rate, so that no step changes the weights by more than 1% (momentum
    makes that 10%), and at most 1; for optimizers that divide by the gradient's own size, 1.
    Helps: training that diverges in a few large steps.
    Does not help: vanished gradients; adaptive optimizers much, which do not see the gradient's length.
    Source: Pascanu, Mikolov & Bengio 2013, On the difficulty of training recurrent neural networks.
    """
    recipe = draft.recipe
    limit = 1.0
    if recipe.optimizer is torch.optim.SGD and recipe.lr > 0.0:
        size = math.sqrt(sum(float(p.detach().double().pow(2).sum()) for p in draft.model.parameters()))
        limit = min(1.0, float(f"{0.01 * size / recipe.lr:.2g}")) or 1.0
    if recipe.clip is not None and recipe.clip <= limit:
        raise Refused(f"gradients are clipped at {recipe.clip:g} already")
    draft.recipe = replace(recipe, clip=limit)
    return Change(sentence=f"gradients clipped to a norm of {limit:g}")
