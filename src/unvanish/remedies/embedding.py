"""Embeddings of a size that training can move."""

from __future__ import annotations

import math

from torch import nn

from unvanish.remedies import Change, Draft, Refused, remedy, surgery

LARGE = 2.0


@remedy(
    "small-embeddings",
    "embeddings of length one",
    kind="data",
    answers=("UV202", "UV303", "UV304"),
    cures_on=("large-embedding",),
    no_help_on=("dead-relu", "lr-too-small", "lstm"),
    only_for="kind",
)
def small_embeddings(draft: Draft) -> Change:
    """Embedding vectors are drawn anew, normal with variance 1/width: their length is about 1.

    What: every Embedding and EmbeddingBag whose vectors are more than twice that long, as torch's own, N(0, 1), are
    from a width of 5 on. The row of a padding index is 0. Layers behind them stay.
    Helps: embeddings that saturate what follows, or that are so large that steps of the size of the learning rate do
    not change them: then a network can only learn its samples by heart.
    Does not help: any other trouble. Pretrained weights are left alone; vectors of that length are refused.
    Source: Vaswani et al. 2017, Attention is all you need, section 3.4 (times √width where positions are added);
    Radford et al. 2019, Language models are unsupervised multitask learners (a deviation of 0.02).
    """
    if draft.pretrained:
        raise Refused("its weights have seen training and are kept")
    every = {p: m for p, m in draft.model.named_modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag))}
    own = {path: module for path, module in every.items() if "weight" in module._parameters}
    if every and not own:
        raise Refused("its embeddings are computed from other weights: drawing them anew would change nothing")
    found = {path: size for path, module in own.items() if (size := _length(module)) > LARGE}
    if not found:
        raise Refused(
            "the network has no embedding" if not every else "its embeddings are of about length 1, or shorter"
        )
    tied = [m for m in draft.model.modules() if m not in every.values()]
    held = {id(p) for module in tied for p in module.parameters(recurse=False)}
    if shared := [path for path in found if id(every[path].weight) in held]:
        raise Refused(f"the weights of {', '.join(shared)} belong to another layer, too")
    code = [f"model = draw_embeddings(model, {list(found)!r}, seed={draft.seed()})"]
    sentence = f"embeddings of length 1 instead of {max(found.values()):.3g} in {', '.join(found)}"
    return draft.apply(sentence, [surgery.draw_embeddings], code, found)


def _length(module: nn.Module) -> float:
    """The root of the mean square length of its vectors."""
    weight = module.get_parameter("weight").detach()
    return math.sqrt(float(weight.double().square().mean()) * weight.shape[1])
