"""The last activation of a model that computes its own loss."""

from __future__ import annotations

from collections.abc import Iterator

from unvanish.remedies.anatomy import NEXT_LAYER, Anatomy, Site, plain
from unvanish.remedies.draft import Change, Draft, Refused
from unvanish.remedies.swap import swap
from unvanish.trace.calls import LOSS_CALLS, Call

TAKES = {
    "cross_entropy": "logits", "binary_cross_entropy_with_logits": "logits", "nll_loss": "log-probabilities",
    "mse_loss": "distance", "l1_loss": "distance", "smooth_l1_loss": "distance", "huber_loss": "distance",
}  # fmt: skip
"""What the losses of torch take; of the others no last activation is taken away."""
ONE_SIDED = {"relu", "relu6", "hardtanh", "tanh"}
"""What is taken off a last layer whose loss is not recognised: no probability, of which a loss may take logarithms."""
AGAINST = {
    "logits": {"sigmoid", "softmax", "relu", "tanh", "hardsigmoid", "relu6", "hardtanh", "softplus"},
    "log-probabilities": {"softmax"},
    "distance": {"relu", "relu6", "hardtanh", "tanh", "sigmoid", "hardsigmoid"},
}


def output_inside(draft: Draft) -> Change:
    """Take away the activations between the last layers and the loss that do not fit it. Raises Refused.

    The loss itself is left as it is, since it is what the model is scored by.
    """
    anatomy = Anatomy.of(draft)
    losses = [call for call in anatomy.calls if call.name in LOSS_CALLS]
    found = _before(anatomy, losses) if losses else [(site, "nn.Identity") for site in _at_ends(anatomy)]
    if not found:
        raise Refused("the model computes its own loss, and no activation that does not fit it stands before that loss")
    changes: list[Change] = []
    state = draft.model
    try:
        for make in dict.fromkeys(make for _, make in found):
            sites = [site for site, by in found if by == make]
            changes.append(swap(draft, Anatomy.of(draft) if changes else anatomy, sites, make, _sentence(sites, make)))
    except Refused:
        draft.model = state
        raise
    return Change.joined(changes)


def _before(anatomy: Anatomy, losses: list[Call]) -> list[tuple[Site, str]]:
    """The activations that a recognised loss is given straight, or past changes of shape, and what goes in their place.

    A log-softmax in place of the softmax before the likelihood of log-probabilities.
    """
    found: dict[Site, str] = {}
    for loss in losses:
        kind = TAKES.get(loss.name, "")
        if not loss.inputs or not kind:
            continue
        source = anatomy.behind(anatomy.calls[loss.inputs[0]])
        for site in anatomy.sites:
            if source.index in site.calls and site.name in AGAINST[kind] and not site.gate:
                found[site] = "lambda: nn.LogSoftmax(-1)" if kind == "log-probabilities" else "nn.Identity"
    return list(found.items())


def _at_ends(anatomy: Anatomy) -> Iterator[Site]:
    """Clipping activations straight behind a layer, with no layer after them."""
    for site in anatomy.sites:
        sources = {plain(anatomy.behind(anatomy.calls[i]).name) for c in site.calls for i in anatomy.calls[c].inputs}
        if site.name in ONE_SIDED and not site.hidden and not site.gate and sources and sources <= NEXT_LAYER:
            yield site


def _sentence(sites: list[Site], make: str) -> str:
    names = ", ".join(dict.fromkeys(site.name.replace("_", " ") for site in sites))
    if make == "nn.Identity":
        return f"no {names} between the last layer and the loss inside the model, whose outputs are free now"
    return f"a log-softmax in place of the {names} before the loss inside the model"
