"""UV506: most of the update is lost when it is rounded to the weights' own type."""

from __future__ import annotations

from unvanish.decide.stationary import has_converged
from unvanish.records import Evidence, Flow
from unvanish.rules import Statement, rule
from unvanish.words.numbers import percent


@rule(
    "UV506",
    "underflow",
    "update lost to rounding",
    tier="rounding",
    levels=("error", "note"),
    needs=("next_step",),
    fires_on=("bfloat16-adamw", "bfloat16-small-rate"),
    silent_on=(
        "relu-he-20", "small-cnn", "small-gpt", "lstm", "residual-50", "converged-digits", "sigmoid-20",
        "lr-too-small", "half-precision-eps",
    ),
)  # fmt: skip
def lost_update(flow: Flow, *, threshold: float = 0.5, some: float = 0.9) -> list[Statement]:
    """The optimizer asks the weights to move, and rounding leaves most of them where they are.

    Example: AdamW with a learning rate of 1e-5 on weights held in bfloat16. Weights of 0.1 are spaced 0.0005 apart: a
    move of 0.00001 is rounded away, step after step. Weight decay, a factor of 0.9999999, never moves any of them.

    Why: bfloat16 keeps 8 bits of a number and float16 11. A change below half the spacing is no change, and it does not
    add up over the steps.

    Evidence: the user's own optimizer, stepped on copies of the weights in their own type of 16 bits: of the entries
    it asks to move, the share that has another value afterwards; and the step that these make along the one asked for,
    as a share of it. Below ``threshold`` in both it is an error: most entries stand still, and the larger part of the
    step does not arrive. With fewer entries than ``some`` it is a note: steps of SGD are mostly a few large entries,
    and where a quarter of them moved and made 97% of the step, a network learned as it does in float32.

    What helps: weights in float32 with autocast to 16 bits, or an optimizer that keeps a float32 copy or rounds
    stochastically.

    Source: Micikevicius et al. 2018, Mixed precision training, section 3.1 (a master copy of the weights); Zamirai et
    al. 2020, Revisiting bfloat16 training.
    """
    step = flow.next_step
    if step is None or step.moved is None or not step.moved < some or step.nonfinite or flow.nonfinite:
        return []
    if has_converged(flow.loss):
        return []
    little = step.moved < threshold and (step.arrives is None or step.arrives < threshold)
    message = (
        f"Of the weights that the next step of {flow.setting.optimizer} asks to move, {step.moved:.1%} change at all:"
        f" {step.narrow} rounds the rest back to where they were, in every step anew."
    )
    if little:
        message += " The gradient arrives; its update does not."
    elif step.arrives is not None:
        message += f" Those that move make {percent(step.arrives)} of the step."
    limit = threshold if little else some
    moved = Evidence(name="share of the asked entries that move", value=step.moved, relation="<", threshold=limit)
    arrives = Evidence(name="share of the step that arrives", value=step.arrives)
    if little:
        arrives = arrives.replace(relation="<", threshold=threshold)
    return [
        Statement(
            level="error" if little else "note",
            cause="rounding",
            message=message,
            evidence=(moved,) if step.arrives is None else (moved, arrives),
        )
    ]
