"""Other activations in place of those between the layers."""

from __future__ import annotations

from dataclasses import replace

from unvanish.remedies import Change, Draft, Refused, remedy, surgery
from unvanish.remedies.anatomy import Anatomy
from unvanish.remedies.swap import swap
from unvanish.words.activations import BY_NAME, ActivationEntry
from unvanish.words.numbers import counted

ANSWERS = ("UV101", "UV201", "UV303", "UV501", "UV502")
ELSEWHERE = ("lr-too-small", "relu-on-logits")


def swap_hidden(draft: Draft, new: ActivationEntry) -> Change:
    """Put torch's activation ``new`` in place of those between the layers that are not of that kind yet."""
    if not new.module:
        raise Refused(f"{new.name} has no class in torch.nn that could be put in: name an entry that has one")
    make = f"lambda: nn.{new.made}" if new.arguments or new.options else f"nn.{new.module}"
    change = _put(draft, make, new.call, new.title)
    return change.replace(swaps_in=(new.made, new.called("{}")))


def _put(draft: Draft, make: str, name: str, label: str, parts: tuple[object, ...] = ()) -> Change:
    """The same for whatever ``make`` makes. A network without any gets one behind each layer that goes straight on."""
    anatomy = Anatomy.of(draft)
    others = [site for site in anatomy.hidden if site.name != name]
    if not anatomy.hidden and anatomy.without_activation:
        paths = [layer.path for layer in anatomy.without_activation]
        code = [f"model = insert_after(model, {paths!r}, lambda layer: ({make})())"]
        sentence = f"{label} behind {len(paths)} layers that had no activation"
        return draft.apply(sentence, [*parts, surgery.insert_after], code, paths)
    if not others:
        known = f"every activation between its layers is {label} already"
        raise Refused(known if anatomy.hidden else "no activation was found between its layers")
    before = ", ".join(dict.fromkeys(site.name.replace("_", " ") for site in others))
    number = sum(len(site.calls) for site in others)
    sentence = f"{label} in place of {before} between the layers ({counted(number, 'place')})"
    return swap(draft, anatomy, others, make, sentence, parts)


@remedy(
    "activation-tanh",
    "tanh in place of the hidden activations",
    kind="activation",
    answers=ANSWERS,
    cures_on=("xavier-sigmoid-20",),
    no_help_on=ELSEWHERE,
)
def tanh(draft: Draft) -> Change:
    """Tanh: slope 1 at zero, centred there, bounded by 1.

    What: every activation between two layers becomes tanh; outputs, gates and attention stay as they are.
    Helps: signals that vanish behind sigmoids (slope 1 at 0, outputs centred there); values that overflow.
    Does not help: faults of the last layer, the loss or the step size. Fifty layers and more need orthogonal
    weights with it.
    Source: LeCun, Bottou, Orr & Müller 1998, Efficient backprop.
    """
    return swap_hidden(draft, BY_NAME["tanh"])


@remedy(
    "activation-selu",
    "SELU in place of the hidden activations",
    kind="activation",
    answers=ANSWERS,
    cures_on=("xavier-sigmoid-20",),
    no_help_on=ELSEWHERE,
)
def selu(draft: Draft) -> Change:
    """SELU: made so that mean 0 and deviation 1 are a fixed point from layer to layer.

    What: every activation between two layers becomes SELU; outputs, gates and attention stay as they are.
    Helps: vanishing or exploding signals in plain networks: mean and deviation settle by themselves.
    Does not help: faults of the last layer, the loss or the step size. A hundred layers; networks with
    normalisation or shortcuts do not need it.
    Source: Klambauer et al. 2017, Self-normalizing neural networks.
    """
    return swap_hidden(draft, BY_NAME["selu"])


@remedy(
    "activation-relu",
    "ReLU in place of the hidden activations",
    kind="activation",
    answers=ANSWERS,
    cures_on=("xavier-sigmoid-20",),
    no_help_on=ELSEWHERE,
)
def relu(draft: Draft) -> Change:
    """ReLU: slope 1 on the positive side, 0 on the other.

    What: every activation between two layers becomes ReLU; outputs, gates and attention stay as they are.
    Helps: signals that vanish on the flat ends of sigmoids or tanhs.
    Does not help: faults of the last layer, the loss or the step size. Narrow or deep networks without
    normalisation, whose units may die.
    Source: Glorot, Bordes & Bengio 2011, Deep sparse rectifier neural networks.
    """
    return swap_hidden(draft, BY_NAME["relu"])


@remedy(
    "activation-leaky-relu",
    "leaky ReLU in place of the hidden activations",
    kind="activation",
    answers=ANSWERS,
    cures_on=("xavier-sigmoid-20", "dead-relu"),
    no_help_on=ELSEWHERE,
)
def leaky_relu(draft: Draft) -> Change:
    """Leaky ReLU: slope 1 on the positive side, 0.1 on the other.

    What: every activation between two layers becomes leaky ReLU; outputs, gates and attention stay as they are.
    Helps: units that are off for every sample: the negative side keeps a slope.
    Does not help: faults of the last layer, the loss or the step size. Signals that explode.
    Source: Maas, Hannun & Ng 2013, Rectifier nonlinearities improve neural network acoustic models.
    """
    return swap_hidden(draft, replace(BY_NAME["leaky_relu"], arguments=(0.1,)))


@remedy(
    "activation-gelu",
    "GELU in place of the hidden activations",
    kind="activation",
    answers=ANSWERS,
    cures_on=("xavier-sigmoid-20",),
    no_help_on=ELSEWHERE,
)
def gelu(draft: Draft) -> Change:
    """GELU: x Φ(x), a smooth ReLU.

    What: every activation between two layers becomes GELU; outputs, gates and attention stay as they are.
    Helps: flat ends and values that overflow.
    Does not help: faults of the last layer, the loss or the step size. Deep plain networks: with slope one half at
    0 the signal shrinks.
    Source: Hendrycks & Gimpel 2016, Gaussian error linear units.
    """
    return swap_hidden(draft, BY_NAME["gelu"])


@remedy(
    "activation-silu",
    "SiLU in place of the hidden activations",
    kind="activation",
    answers=ANSWERS,
    cures_on=("xavier-sigmoid-20",),
    no_help_on=ELSEWHERE,
)
def silu(draft: Draft) -> Change:
    """SiLU: x σ(x), a smooth ReLU.

    What: every activation between two layers becomes SiLU; outputs, gates and attention stay as they are.
    Helps: flat ends and values that overflow.
    Does not help: faults of the last layer, the loss or the step size. Deep plain networks: with slope one half at
    0 the signal shrinks.
    Source: Elfwing, Uchibe & Doya 2018, Sigmoid-weighted linear units.
    """
    return swap_hidden(draft, BY_NAME["silu"])


@remedy(
    "centred-sigmoid",
    "the sigmoid centred at zero, with slope 1 there: 4 (σ(x) − ½)",
    kind="activation",
    answers=ANSWERS,
    cures_on=("xavier-sigmoid-20",),
    no_help_on=ELSEWHERE,
)
def centred_sigmoid(draft: Draft) -> Change:
    """The sigmoid centred at zero, with slope 1 there.

    What: every activation between two layers becomes 4 (σ(x) − ½) = 2 tanh(x / 2).
    Helps: signals that vanish behind sigmoids, whose slope is 1/4 at most and whose outputs are all positive;
    exponentials that overflow, because it is bounded.
    Does not help: faults of the last layer, the loss or the step size. Deep networks need orthogonal weights with it.
    Source: LeCun, Bottou, Orr & Müller 1998, Efficient backprop, section 4.4.
    """
    return _put(draft, "CentredSigmoid", "", "4 (sigmoid − ½)", parts=(surgery.CentredSigmoid,))
