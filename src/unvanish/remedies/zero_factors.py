"""Zero weights that hold each other at zero, of which all but the last of each path are drawn."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unvanish.preserve import untouched
from unvanish.remedies import Change, Draft, Refused, remedy, surgery
from unvanish.remedies.draft import called
from unvanish.trace.structure import inner_loss
from unvanish.words.numbers import listing


@remedy(
    "zero-factors",
    "random weights for all zero factors of a product but one",
    kind="init",
    answers=("UV403",),
    cures_on=("all-zero-weights",),
    no_help_on=("lr-too-small", "dead-relu", "small-cnn"),
    only_for="fault",
)
def zero_factors(draft: Draft) -> Change:
    """Of zero weights that wait for each other all but one are drawn; the outputs stay what they were.

    What: trainable weights that are zero throughout and get a gradient of exactly zero are drawn from N(0, 1/n), n the
    size of their last axis, one after the other, until the next one has a gradient. Weights of any module, also such
    as an initialisation by its kind passes over, and in networks that have seen training: a zero holds nothing to keep.
    Helps: both factors of an adapter at zero, where one is to be random; all weights of a network at zero.
    Does not help: one zero factor beside a random one, which learns by itself (refused).
    Source: Hu et al. 2022, LoRA: low-rank adaptation of large language models (one factor random, one zero); Saxe,
    McClelland & Ganguli 2014, Exact solutions to the nonlinear dynamics of learning in deep linear neural networks.
    """
    chosen = _waiting(draft)
    if not chosen:
        raise Refused("no zero weights are kept at zero by others")
    code = [f"model = draw_zeros(model, {chosen!r}, seed={draft.seed()})"]
    sentence = f"random weights in {listing(chosen)}, which were zero"
    return draft.apply(sentence, [surgery.draw_zeros], code, chosen)


def _waiting(draft: Draft) -> list[str]:
    """The zero weights to draw, in their order, so that others get a gradient; none where that gives it to no other."""
    model, chosen = draft.model, list[str]()
    zero = {n: p for n, p in model.named_parameters() if p.requires_grad and p.numel() and not bool(p.detach().any())}
    with untouched(model, 0, draft.loss_fn), torch.enable_grad():
        still = {name for name, p in zero.items() if _gets_nothing(draft, model, p)}
        for name in (n for n, p in zero.items() if n in still and p.ndim > 1):
            if _gets_nothing(draft, model, zero[name]):
                surgery.draw_zeros(model, [name], 0)
                chosen.append(name)
        opened = any(not _gets_nothing(draft, model, zero[name]) for name in still.difference(chosen))
    return chosen if opened else []


def _gets_nothing(draft: Draft, model: nn.Module, parameter: nn.Parameter) -> bool:
    """Whether the gradient of the loss is exactly zero; not where the loss does not depend on the parameter at all."""
    outputs = called(model, draft.inputs)
    loss = draft.loss_fn(outputs, draft.targets) if draft.loss_fn is not None else inner_loss(outputs)
    loss = outputs if loss is None else loss
    if not isinstance(loss, Tensor) or not loss.requires_grad:
        raise Refused("the loss does not depend on any weight")
    (found,) = torch.autograd.grad(loss, parameter, allow_unused=True)
    return found is not None and not bool(found.any())
