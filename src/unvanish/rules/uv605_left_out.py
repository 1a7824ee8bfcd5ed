"""UV605: trainable layers that the optimizer does not hold."""

from __future__ import annotations

from unvanish.records import Evidence, Flow, NextStep
from unvanish.rules import Statement, rule
from unvanish.rules.wording import together
from unvanish.words.numbers import listing


@rule(
    "UV605",
    "left_out",
    "left out of the optimizer",
    tier="remarks",
    levels=("error", "note"),
    needs=("next_step",),
    fires_on=("left-out", "left-out-front"),
    silent_on=(
        "relu-he-20", "small-cnn", "small-gpt", "lstm", "residual-50", "converged-digits", "sigmoid-20",
        "lr-too-small", "lora-zero-b",
    ),
)  # fmt: skip
def left_out(flow: Flow) -> list[Statement]:
    """A layer that may be trained, but the optimizer was never given its parameters.

    Example: an optimizer made of the head's parameters alone, or made before a layer was replaced by a new one.

    Why: the gradient is computed and then ignored; the layer keeps its initial weights.

    Evidence: the layers in use with trainable parameters none of which stands in the optimizer's groups; an error where
    these are all that may be trained, or where it holds others in their place that the model has no more. Single
    parameters that it leaves out of a layer. Those that it holds at a learning rate of 0 while it moves others. And
    parameters that the model uses and does not own: of modules that it keeps in a Python list or dict, which
    ``parameters()`` does not see; an error where they are those of layers that each forward pass makes anew, with
    weights drawn at random, as a second pass tells.

    What helps: give the optimizer these parameters too; if they are meant to stay, requires_grad_(False) says so and
    saves their backward pass.

    Source: PyTorch's documentation of torch.optim (constructing an optimizer).
    """
    step = flow.next_step
    if step is None:
        return []
    return [
        *(_layers(flow, step) if step.left_out else ()),
        *(_partly(flow, step) if step.partly else ()),
        *(_standing(flow, step.standing) if step.standing else ()),
        *_outside(flow, step),
    ]


def _layers(flow: Flow, step: NextStep) -> list[Statement]:
    names = step.left_out
    still = sum(layer.parameters for layer in flow.layers if layer.name in names)
    free = [layer for layer in flow.layers if layer.call is not None and not layer.frozen]
    nothing = bool(free) and all(layer.name in names for layer in free)
    message = (
        f"{together(names, flow)} {'is' if len(names) == 1 else 'are'} trainable, but"
        f" {flow.setting.optimizer} does not hold {'its' if len(names) == 1 else 'their'} {still:,} parameters: no"
        " step moves them."
    )
    message += (
        " Of what the loss depends on it holds nothing that may be trained: no step changes the loss."
        if nothing
        else _replaced(flow, step) or " If that is meant, freeze them."
    )
    return [
        Statement(
            level="error" if nothing or step.stale else "note",
            layers=names,
            cause="optimizer",
            message=message,
            evidence=(
                Evidence(
                    name="layers left out", value=float(len(names)), relation="of", threshold=float(len(flow.layers))
                ),
            ),
        )
    ]


def _replaced(flow: Flow, step: NextStep) -> str:
    if not step.stale:
        return ""
    return (
        f" {flow.setting.optimizer} holds {step.stale:,} parameters of such shapes that the model has no more: it was"
        " made before they were replaced by new ones. Make it after that."
    )


def _partly(flow: Flow, step: NextStep) -> list[Statement]:
    one, optimizer = len(step.partly) == 1, flow.setting.optimizer
    are, them = ("is", "it") if one else ("are", "them")
    message = (
        f"{listing(step.partly)} {are} trainable, but {optimizer} does not hold {them}, beside others of the same"
        f" layer{'' if one else 's'} that it holds: no step moves {them}."
    )
    message += _replaced(flow, step) or f" If that is meant, freeze {them}."
    count = Evidence(name="parameters left out", value=float(len(step.partly)))
    owners = {max((a.name for a in flow.layers if _of(p, a.name)), key=len, default="") for p in step.partly}
    layers = tuple(a.name for a in flow.layers if a.name in owners)
    level = "error" if step.stale else "note"
    return [Statement(level=level, layers=layers, cause="optimizer", message=message, evidence=(count,))]


def _of(parameter: str, layer: str) -> bool:
    return parameter == layer or parameter.startswith(f"{layer}.")


def _standing(flow: Flow, names: tuple[str, ...]) -> list[Statement]:
    one = len(names) == 1
    message = (
        f"{together(names, flow)} {'is' if one else 'are'} trainable, but {flow.setting.optimizer} holds"
        f" {'it' if one else 'them'} at a learning rate of 0, beside others that it moves: no step moves"
        f" {'it' if one else 'them'} as long as that is so. If that is meant, requires_grad_(False) saves the backward"
        " pass."
    )
    count = Evidence(
        name="layers at a learning rate of 0", value=float(len(names)), relation="of", threshold=float(len(flow.layers))
    )
    return [Statement(level="note", layers=names, cause="a learning rate of 0", message=message, evidence=(count,))]


def _outside(flow: Flow, step: NextStep) -> list[Statement]:
    if not step.outside:
        return []
    where = f" at {step.outside_at}" if step.outside_at else ""
    if step.anew:
        return [_anew(step, where)]
    return [
        Statement(
            level="note",
            cause="modules out of sight",
            message=(
                f"{step.outside:,} trainable parameters that the model uses{where} are not among its parameters(), and"
                f" {flow.setting.optimizer} does not hold them: no step moves them, and a state_dict leaves them out."
                " Modules in a Python list or dict are out of sight; nn.ModuleList and nn.ModuleDict show them."
            ),
            evidence=(Evidence(name="parameters outside of the model", value=float(step.outside)),),
        )
    ]


def _anew(step: NextStep, where: str) -> Statement:
    return Statement(
        level="error",
        cause="layers made in the forward pass",
        message=(
            f"{step.anew:,} weights are those of layers that each forward pass makes anew{where}, with other random"
            " values each time: no optimizer can hold them, so they never learn, and what the layers after them learn"
            " is for weights that are gone at the next step. Make these layers once, in __init__."
        ),
        evidence=(Evidence(name="weights drawn anew in each forward pass", value=float(step.anew)),),
    )
