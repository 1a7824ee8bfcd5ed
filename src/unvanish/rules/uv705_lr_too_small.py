"""UV705: the steps go the right way and are far too short."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from unvanish.decide.stationary import constant_wins
from unvanish.records import Evidence, Flow, LayerFlow, StepFacts
from unvanish.rules import Statement, rule
from unvanish.rules.conditions import far_outputs, out_of_reach, part_of_layers, shrunk_level, steps_to_judge
from unvanish.rules.pace import finds_its_rate, lengthening, near_its_limit, needed_at_full_pace, planned
from unvanish.rules.small_targets import small_targets
from unvanish.rules.uv304_saturated import saturated
from unvanish.rules.wording import about, factor
from unvanish.words.numbers import number

OTHERWISE = ("exploding", "underflow", "gated")
"""Verdicts of a layer that explain short or wasted steps better than the learning rate does."""

SURE = 3.0  # times the planned steps that a pace which grows must miss: a look is right within that factor
REACH = 1.0  # times their own size: steps that can move the weights so far are not too short to train them
FADED = 1e6  # times the present rate: no warm-up, which is at 1/n after its first step, is so long
SCHEDULE_OVER = "the end of a schedule"  # cause of a note on a rate that may be at nothing because all is done
STILL = 1e-3  # of its weights: a layer that moves by less passes on what it did before
FURTHER, LITTLE = 10.0, 0.01  # times the way of the planned steps, and what that wins of the gap at most
ROUNDING = 1e-6  # of a loss: eight spacings of float32, what the difference of two may be wrong by


@rule(
    "UV705",
    "lr_too_small",
    "learning rate too small",
    tier="learning_rate",
    levels=("error", "note"),
    needs=("loss", "step"),
    remedies=("lr-10", "lr-100"),
    fires_on=("lr-too-small", "lr-too-small-adam"),
    silent_on=(
        "least-squares-optimum", "relu-he-20", "small-cnn", "small-gpt", "lstm", "residual-50", "preln-transformer-6",
        "batchnorm-relu-20", "unet-small", "zero-head", "lora-zero-b", "frozen-backbone", "detached", "sigmoid-20",
        "all-zero-weights", "below-eps-adam", "slow-quadratic", "output-scale", "lr-too-large", "plateau",
        "converged-digits",
    ),
)  # fmt: skip
def lr_too_small(
    flow: Flow, *, multiple: float = 100.0, times: float = 10.0, gain: float = 10.0, left: float = 0.9
) -> list[Statement]:
    """The optimizer moves so little a step that the training will be over before anything is learned.

    Example: SGD with a learning rate of a millionth on a small classifier, 500 steps planned: two million are needed.

    Why: a step lowers the loss by about the rate times the squared gradient: with too small a rate, in too flat a line.

    Evidence: of the multiples of the next step that were tried the best is at least ``multiple``; closing 90% of the
    gap takes more than ``times`` the planned steps (10,000 if none are given); and as many steps, really taken with the
    rate times ``scale`` (100, or half the limit of the curvature), lower the loss at least ``gain`` times as much, or
    scale/3 times if that is less; and where the limit is known, a rate of half of it would be done in the planned
    steps; and these, laid end to end, go less far than the weights of the median layer are large. A network that leaves
    a flat stretch gains faster with every step: where larger steps won more than in proportion, nothing is said if at
    that exponential growth the planned steps suffice, and below three times those, within which a look is right, it is
    a note. Adam's steps count at the length to which they grow as its second moment forgets larger gradients. Or, where
    rounding hides what they win, all planned steps change no layer by a thousandth, and ten times their way in one go
    wins less than a hundredth of the gap, though a slope is left. From 1 to ``times`` the planned steps, or unproven,
    it is a note; but where the optimizer has counted all of the planned steps, and more than ``left`` of the reduction
    remains, not all of it a constant output's to win, more than the planned steps are proof enough. Where layers are
    frozen, or no optimizer holds them, it is at most a note: the others need not reach the best outputs of all at any
    rate. Where layers are vanished, dead, gated, exploding or below eps, an activation is saturated, or the rate is
    near its limit, the rate is not what is wrong. A rate of exactly 0 after the first step and before the last planned
    is an error; a note where no number was planned and the schedule has won, before the first step without a schedule,
    and at a millionth of the schedule's where steps are not counted.

    What helps: a learning rate 10 to 100 times larger; a range test finds the limit.

    Source: Smith 2017, Cyclical learning rates for training neural networks (the range test); Goodfellow, Bengio &
    Courville 2016, Deep Learning, section 11.4.1.
    """
    if (known := steps_to_judge(flow)) is None or _told_otherwise(flow):
        return []
    step, gap = known
    short = "" if _proven(step, gain) else _all_too_short(flow, step, gap)
    if stopped := _stopped(flow, step, left, short):
        return stopped
    if step.best is None or step.needed is None or not step.best >= multiple or finds_its_rate(step):
        return []
    needed, over = needed_at_full_pace(step), _is_over(flow, step, left)
    gaining = None if over else _needed_as_it_gains(step, gap)
    if not (soonest := min(needed, gaining or math.inf)) > planned(step) or near_its_limit(step):
        return []
    late = over or (needed > times * planned(step) and soonest > SURE * planned(step))
    proven = late and bool(_proven(step, gain) or short) and _curable(step, soonest)
    if (part := part_of_layers(flow)) and not proven:
        return []
    reach = _reach(flow, step) if proven and not over else None
    proven = proven and not part and not (reach or 0.0) >= REACH
    evidence = (
        Evidence(name="best multiple of the step", value=step.best, relation=">=", threshold=multiple),
        *_counts(step, (needed, gaining), times if proven and not over else 1.0, SURE if proven else 1.0),
        *(_remains(flow, left) if proven and over else ()),
        *_reaches(reach),
        *_gains(step),
    )
    message, level = _message(step, needed, gaining, proven, over, short), "error" if proven else "note"
    said = Statement(level=level, cause="learning rate", message=message, evidence=evidence)
    return [said.replace(remedies=("lr-10",)) if _worse_at_scale(step) and (step.scale or 0.0) > 10.0 else said]


def _stopped(flow: Flow, step: StepFacts, left: float, short: str) -> list[Statement]:
    """What is said of a rate that is 0, next to nothing beside its schedule's, or moves nothing that could be told."""
    if step.lr == 0.0 and all(value == step.loss for _, value in step.ladder):
        if _has_begun(step):
            over = step.planned is None and step.scheduled == math.inf and not _left(flow) > left
            return [_over(step)] if over else _no_rate(step)
        if not step.taken and step.scheduled == 1.0:
            return [_not_begun(step)]
    if step.faded is not None and step.faded > FADED:
        return _no_rate_left(step, step.faded)
    return [_nothing_moves(flow, step, short)] if short and step.best is None and step.lr > 0.0 else []


def _worse_at_scale(step: StepFacts) -> bool:
    """Whether as many real steps at the larger rate won less than at the present one: no remedy goes that far."""
    return step.walked is not None and step.walked_scaled is not None and step.walked_scaled > step.walked


def _told_otherwise(flow: Flow) -> bool:
    """Whether layers explain the steps needed, or outputs, by their range or scale, or the inputs, which are small."""
    if any(layer.verdict in OTHERWISE for layer in flow.layers):
        return True
    if any(each.level == "error" for each in saturated(flow)):
        return True
    small = small_targets(flow) or (flow.inputs is not None and flow.inputs.small)
    return out_of_reach(flow) or bool(far_outputs(flow)) or shrunk_level(flow) == "error" or small


def _has_begun(step: StepFacts) -> bool:
    """Whether it has had its first step, before which a warm-up from nothing may begin, and not its last."""
    taken = step.taken or 0
    return taken > 0 and (step.planned is None or taken < step.planned)


def _no_rate(step: StepFacts) -> list[Statement]:
    message = (
        f"The learning rate is 0 after {step.taken:,} steps, so {step.optimizer} moves nothing: a schedule has taken it"
        " there, or never lets it leave (an integer division, a decay in every batch that was meant for every epoch)."
    )
    taken = Evidence(name="learning rate", value=0.0, relation="=", threshold=0.0)
    return [Statement(level="error", cause="learning rate", message=message, evidence=(taken,))]


def _over(step: StepFacts) -> Statement:
    """Of a schedule at 0, nobody knows after which share of the training, that has won something on its way."""
    message = (
        f"The learning rate is 0 after {step.taken:,} steps, so {step.optimizer} moves nothing: its schedule has taken"
        " it there. At the end of a training that is as it should be; before, the schedule is too short (a decay in"
        " every batch that was meant for every epoch). How many steps are planned, which would tell, is not known."
    )
    taken = Evidence(name="learning rate", value=0.0, relation="=", threshold=0.0)
    return Statement(level="note", cause=SCHEDULE_OVER, message=message, evidence=(taken,))


def _not_begun(step: StepFacts) -> Statement:
    """Of an optimizer that was made with a rate of 0, under no schedule that would raise it."""
    message = (
        f"The learning rate is 0, so {step.optimizer} moves nothing, and no schedule leads up from it."
        " Unless the training loop sets the rate before each step, nothing is learned."
    )
    evidence = Evidence(name="learning rate", value=0.0, relation="=", threshold=0.0)
    return Statement(level="note", cause="learning rate", message=message, evidence=(evidence,))


def _no_rate_left(step: StepFacts, faded: float) -> list[Statement]:
    share = "nothing" if faded == math.inf else factor(-math.log10(faded))
    message = (
        f"The learning rate is {step.lr:.3g}, {share} of the one its schedule began from or leads up to, and steps have"
        f" been taken under it: {step.optimizer} moves next to nothing. At the end of a training that is as it should"
        " be; before, the schedule has gone too far (a decay in every batch that was meant for every epoch)."
        f" {step.optimizer} counts no steps, so which of the two it is cannot be told from here."
    )
    over = Evidence(name="rate of the schedule over the present one", value=faded, relation=">", threshold=FADED)
    return [Statement(level="note", cause=SCHEDULE_OVER, message=message, evidence=(over,))]


def _remains(flow: Flow, left: float) -> tuple[Evidence, ...]:
    name = "share of the loss left after the planned steps"
    return (Evidence(name=name, value=_left(flow), relation=">", threshold=left),)


def _counts(step: StepFacts, needed: tuple[float, float | None], times: float, least: float) -> list[Evidence]:
    """The steps needed at this pace and, where it is known, as the pace grows; limits in numbers of planned steps."""
    steady, gaining = needed
    found = [Evidence(name="steps needed", value=steady, relation=">", threshold=planned(step) * times)]
    if gaining is not None:
        name = "steps needed as the pace grows"
        found.append(Evidence(name=name, value=gaining, relation=">", threshold=planned(step) * least))
    return found


def _message(step: StepFacts, needed: float, gaining: float | None, proven: bool, over: bool, short: str) -> str:
    said = [f"The {planned(step):,} steps that were planned have been taken."] if proven and over else []
    said.append(
        f"At {_pace(step)} 90% of the achievable reduction takes about {about(needed)} steps, and {planned(step):,} are"
        f" {'planned' if step.planned is not None else 'assumed'}."
    )
    if gaining is not None:
        said.append(f"The pace is growing; if it keeps growing like this, it takes about {about(gaining)}.")
    if proven and short:
        said.append(short)
    elif proven and step.walked is not None and step.walked_scaled is not None and step.scale is not None:
        said.append(
            f"{step.optimizer} with a learning rate of {step.lr:.3g} steps too short: several steps at"
            f" {step.scale:.3g} times the rate lower the loss by {number(step.loss - step.walked_scaled)}, as many at"
            f" the present one by {number(step.loss - step.walked)}. The gradient is not vanished: the signal reaches"
            " the layers, the steps are too short to use it."
        )
    elif step.walked_scaled is not None and step.scale is not None and step.walked_scaled > step.loss:
        rise = number(step.walked_scaled - step.loss)
        said.append(f"But several steps at {step.scale:.3g} times the rate raise the loss by {rise}: that is too far.")
    elif step.walked is not None and step.scale is not None and _worse_at_scale(step):
        won, less = number(step.loss - step.walked), number(step.loss - (step.walked_scaled or 0.0))
        said.append(
            f"But several steps at {step.scale:.3g} times the rate lower the loss by less, {less}, than as many at the"
            f" present one, {won}: that is too far."
        )
    else:
        said.append("That the learning rate is at fault was not shown: the pace may change by itself.")
    return " ".join([*said, "On this batch."])


def _pace(step: StepFacts) -> str:
    more = ["the full rate of the schedule"] if (step.scheduled or 1.0) > 1.0 else []
    if lengthening(step) >= 1.05:  # as it is printed, more than one
        more.append(f"steps {lengthening(step):.2g} times as long, to which they grow,")
    return " and ".join(more) or "this pace"


def _needed_as_it_gains(step: StepFacts, gap: float) -> float | None:
    """Steps to 90% of the gap if the pace grows exponentially, as it did over the larger steps; None if it did not.

    n steps at ``scale`` times the rate go as far as scale·n at the present one. With a pace that grows by the factor
    exp(k) a step they win expm1(k·scale·n) / expm1(k·n) times as much: more than scale, and that gives k.
    """
    n, scale = len(step.lengths), step.scale or 0.0
    if step.walked is None or step.walked_scaled is None or not n or not scale > 1.0:
        return None
    rounding = ROUNDING * abs(step.loss)
    won, most = step.loss - step.walked, step.loss - step.walked_scaled
    if not rounding < won < math.inf:
        return None
    won, most = won + rounding, most - rounding  # the least growth that they can mean
    if not scale < (ratio := most / won) < math.inf:
        return None
    low, high = 0.0, 700.0 / (scale * n)  # of k: the largest that exp takes
    for _ in range(60):
        k = 0.5 * (low + high)
        low, high = (k, high) if math.expm1(k * scale * n) < ratio * math.expm1(k * n) else (low, k)
    return math.log1p(0.9 * gap * math.expm1(high * n) / won) / high / (step.scheduled or 1.0)


def _left(flow: Flow) -> float:
    return 0.0 if flow.loss is None or flow.loss.relative_gap is None else flow.loss.relative_gap


def _is_over(flow: Flow, step: StepFacts, left: float) -> bool:
    """Whether all planned steps have been taken, by the optimizer's own count, and have won next to nothing."""
    done = step.planned is not None and (step.taken or 0) >= step.planned and _left(flow) > left
    return done and not constant_wins(flow.loss)


def _proven(step: StepFacts, gain: float) -> bool:
    """Whether steps at a larger rate, really taken, gained in proportion, and by more than rounding."""
    if step.walked is None or step.walked_scaled is None or step.scale is None or not math.isfinite(step.walked):
        return False
    gained = step.loss - step.walked_scaled
    usual = max(step.loss - step.walked, 0.0)
    return gained > ROUNDING * abs(step.loss) and gained >= min(gain, step.scale / 3.0) * usual


def _nothing_moves(flow: Flow, step: StepFacts, short: str) -> Statement:
    """Of a rate so small that rounding hides all that was tried."""
    evidence = Evidence(name="largest multiple of the step tried", value=step.ladder[-1][0])
    level = "note" if part_of_layers(flow) else "error"
    return Statement(level=level, cause="learning rate", message=f"{short} On this batch.", evidence=(evidence,))


def _all_too_short(flow: Flow, step: StepFacts, gap: float) -> str:
    """What shows that the whole way of the planned steps is too short to change anything; "" where it may not be.

    Six steps of such a rate, and of a hundred times that, may win no more than rounding hides. But where no layer moves
    by a thousandth of its weights in all of them, neither does the pace: what ten times their way won when it was tried
    in one go is more than they can win, momentum included.
    """
    trained = [a for a in flow.layers if not a.frozen]
    ratios = [a.update_to_weight_ratio for a in trained]
    if any(ratio is None for ratio in ratios) or not _slopes(trained, gap):
        return ""
    steps = planned(step) * (step.scheduled or 1.0) * lengthening(step)
    way = steps * max(ratio or 0.0 for ratio in ratios)
    tried = next((pair for pair in step.ladder if pair[0] >= FURTHER * steps), None)
    if not way < STILL or tried is None or not -ROUNDING * abs(step.loss) <= step.loss - tried[1] < LITTLE * gap:
        return ""
    won = step.loss - tried[1]
    return (
        f"All the planned steps together change no layer by more than {number(way)} of its weights, and"
        f" {about(tried[0])} of the next one, tried in one go, lower the loss by {number(max(won, 0.0))}: "
        f"{step.optimizer} with a learning rate of {step.lr:.3g} leaves the network where it is. The gradient is not"
        " vanished: the signal reaches the layers, the steps are too short to use it."
    )


def _slopes(layers: Sequence[LayerFlow], gap: float) -> bool:
    """Whether the weights of a layer, moved by their size along its gradient, would win more than a little of the gap.

    At a stationary point no step wins anything, short or long: there the steps are short because the slope is gone. So
    they are without a gradient, where momentum alone moves the weights.
    """
    least = math.log10(LITTLE * gap) if gap > 0.0 else math.inf
    known = ((a.log10_grad_norm, a.log10_weight_norm) for a in layers)
    return any(g is not None and w is not None and g + w > least for g, w in known)


def _reach(flow: Flow, step: StepFacts) -> float | None:
    """How far the planned steps go, laid end to end, in sizes of the weights; of the median layer. None if not known.

    The pace of a network that stands still for a while tells nothing of it afterwards: two layers of 24 units under a
    noisy-or won 0.0005 in six steps after a hundred, at 100 times the rate 0.0085, and 0.38 in the next three hundred.
    """
    ratios = [a.update_to_weight_ratio for a in flow.layers if a.update_to_weight_ratio is not None and not a.frozen]
    if not ratios:
        return None
    return statistics.median(ratios) * planned(step) * (step.scheduled or 1.0) * lengthening(step)


def _reaches(reach: float | None) -> tuple[Evidence, ...]:
    if reach is None:
        return ()
    name = "way of the planned steps, in sizes of the weights"
    return (Evidence(name=name, value=reach, relation="<", threshold=REACH),)


def _curable(step: StepFacts, needed: float) -> bool:
    """Whether the largest rate the curvature allows would do it in time; else the rate is not what is wrong.

    A network that leaves a flat stretch by itself looks like one that is too slow: the pace now says little about it.
    """
    if not step.lr_limit:
        return True
    return needed * step.lr * (step.scheduled or 1.0) <= 0.5 * step.lr_limit * planned(step)


def _gains(step: StepFacts) -> tuple[Evidence, ...]:
    if step.walked is None or step.walked_scaled is None:
        return ()
    return (
        Evidence(name="loss gained by the steps really taken", value=step.loss - step.walked),
        Evidence(name="loss gained by as many at the larger rate", value=step.loss - step.walked_scaled),
    )
