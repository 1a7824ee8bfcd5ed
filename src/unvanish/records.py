"""The plain data every stage passes on: what was measured, what was decided, and on what evidence.

Nothing here imports torch. Every record is frozen, compares by value and survives a JSON round trip; numbers that are
not finite travel as the strings "-inf", "inf" and "nan", and ``None`` means "not measured".
"""

from __future__ import annotations

import math
from typing import Any, TypeVar, cast

import msgspec

SCHEMA = "unvanish.report/1"

VERDICTS = (
    "healthy", "vanished", "exploding", "dead", "gated", "saddle", "no_signal", "converged", "plateau", "underflow",
    "frozen", "unused", "nonfinite", "undecided", "not_asked",
)  # fmt: skip

LIVE = (
    "log10_signal", "log10_grad_norm", "log10_weight_norm", "log10_gain", "saturated_fraction", "dead_fraction",
    "underflow_fraction", "update_to_weight_ratio", "nonfinite",
)  # fmt: skip
"""What can be read while a training runs, without a walk of its own: fields of LayerFlow and Flow. "log10_gain" stands
for the four gains by factor and for the layer before, too."""

EVERYTHING = (
    *LIVE, "calls", "log10_jacobian_norm", "log10_transmission", "log10_sensitivity_rise", "noise", "loss", "zeros",
    "decrement", "step", "next_step", "rates", "output", "inputs", "time",
)  # fmt: skip
"""All that a check may ask for, by the names of the fields that hold the answers."""

R = TypeVar("R", bound="Record")
S = TypeVar("S", bound=msgspec.Struct)


class UnvanishError(ValueError):
    """The one error of this package: what was asked, what was found, what to try."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A frozen bag of named values."""

    def replace(self: R, **changes: Any) -> R:
        """A copy with some fields changed."""
        return msgspec.structs.replace(self, **changes)

    def _repr_html_(self) -> str:
        from unvanish.words.show import record_html

        return record_html(type(self).__name__, msgspec.structs.asdict(self).items())


class Evidence(Record, frozen=True, kw_only=True):
    """One number a finding rests on: ``name`` is ``value``, compared by ``relation`` with ``threshold``."""

    name: str
    value: float | None
    relation: str = ""
    threshold: float | None = None
    error: float | None = None


class Finding(Record, frozen=True, kw_only=True):
    """One statement about the network: a code, the layers it holds for, the cause and the numbers behind it."""

    code: str
    verdict: str
    level: str
    layers: tuple[str, ...] = ()
    cause: str = ""
    message: str = ""
    evidence: tuple[Evidence, ...] = ()
    remedies: tuple[str, ...] = ()


class CallFlow(Record, frozen=True, kw_only=True):
    """One differentiable call of the forward pass.

    ``inputs`` are the indices of the calls it consumes, ``next`` the consumer that sends it most of the signal (the
    next step of its dominant path to the output), ``trunk`` says that no edge of the graph jumps over it.
    """

    index: int
    name: str
    module: str
    source: str
    part: str
    role: str
    inputs: tuple[int, ...] = ()
    next: int | None = None
    trunk: bool = False
    finite: bool = True
    log10_rms: float | None = None
    log10_signal: float | None = None
    log10_gain: float | None = None
    log10_sensitivity: float | None = None
    saturated_fraction: float | None = None
    dead_fraction: float | None = None
    bounded: bool = False


class LayerFlow(Record, frozen=True, kw_only=True):
    """One call of a module that owns parameters. Fields that start with ``log10_`` are base-10 logarithms.

    ``call`` is the index of its call (None: not in the graph), ``before`` the name of the layer before it on its
    dominant path, ``gate`` what on its way to the output alone explains the attenuation (small trainable tensors,
    or one call of its own residual branch),
    ``dtype`` the narrowest type its gradient passes through.
    """

    name: str
    kind: str
    source: str
    parameters: int
    log10_signal: float | None = None
    log10_grad_norm: float | None = None
    log10_gain: float | None = None
    log10_weight_gain: float | None = None
    log10_slope_gain: float | None = None
    log10_norm_gain: float | None = None
    log10_join_gain: float | None = None
    log10_transmission: float | None = None
    newton_decrement: float | None = None
    steps_to_learn: float | None = None
    saturated_fraction: float | None = None
    dead_fraction: float | None = None
    underflow_fraction: float | None = None
    update_to_weight_ratio: float | None = None
    noise: bool | None = None
    verdict: str = "undecided"
    log10_jacobian_norm: float | None = None
    log10_weight_norm: float | None = None
    log10_sensitivity_rise: float | None = None
    log10_alignment: float | None = None
    log10_curvature: float | None = None
    frozen: bool = False
    call: int | None = None
    before: str = ""
    gate: str = ""
    dtype: str = ""


class LossFacts(Record, frozen=True, kw_only=True):
    """What the loss alone says, its outputs taken as free variables.

    ``reference`` is L_ref, the achievable reduction of the loss from an untrained start; ``relative_gap`` the share of
    it that remains. Both are None where the loss has no scale, with the reason in ``why``.
    """

    value: float
    residual_norm: float | None = None
    best_constant: float | None = None
    best_free: float | None = None
    reference: float | None = None
    relative_gap: float | None = None
    at_constant: bool = False
    curvature: float | None = None
    reacts: bool | None = None
    why: str = ""


class StepFacts(Record, frozen=True, kw_only=True):
    """What the user's own optimizer would do next, tried on the batch and taken back.

    ``ladder``: (multiple of the next update, loss there). ``best``: the multiple with the lowest loss, None where none
    lowers it. ``lowered``: its fall as a share of L_ref, less what the loss may be wrong by; None without that scale.
    ``needed``: steps to close 90 % of the gap, at the pace of the first or of the training so far.
    ``taken``: the steps it has made already. ``walked``: the loss after a few real steps, taken only on suspicion;
    ``walked_scaled`` the same with the learning rate times ``scale``. ``lr_limit``: 2/λ_max, the learning rate the
    sharpest curvature allows plain gradient descent.
    """

    optimizer: str
    lr: float
    loss: float
    ladder: tuple[tuple[float, float], ...]
    best: float | None = None
    lowered: float | None = None
    needed: float | None = None
    planned: int | None = None
    taken: int | None = None
    walked: float | None = None
    walked_scaled: float | None = None
    scale: float | None = None
    lr_limit: float | None = None


class NextStep(Record, frozen=True, kw_only=True):
    """The weights, and the state of the optimizer, as the next step leaves them in their own number type.

    ``nonfinite``: the layers that get a number which is not finite, ``nonfinite_share`` of all entries; ``reason``:
    "eps", "state", "gradient" or "rate". ``moved``: of the entries the step asks to move, the share whose value
    changes; ``narrow``: the type of 16 bits it was measured in, or "". ``left_out``: trainable layers that were called
    and that the optimizer does not hold. ``decay_balance``: |g + λw| / |g| over all weights that decay.
    """

    nonfinite: tuple[str, ...] = ()
    nonfinite_share: float = 0.0
    reason: str = ""
    moved: float | None = None
    narrow: str = ""
    left_out: tuple[str, ...] = ()
    decay_balance: float | None = None


class RateTrial(Record, frozen=True, kw_only=True):
    """Where a few real steps at ``lr`` took the network, before they were taken back.

    ``scale``: the multiple of the user's learning rate. ``loss``: of the batch afterwards. ``log10_transmission``: the
    smallest among the layers that transmitted before; None where the network no longer gives finite numbers.
    """

    scale: float
    lr: float
    steps: int
    loss: float
    log10_transmission: float | None = None


class OutputFacts(Record, frozen=True, kw_only=True):
    """What the last call can give the loss.

    ``kind``: normalised (a softmax), bounded, clipped on one side, or "". ``low`` and ``high``: its range.
    ``unreachable``: the share of L_ref that no input of it can win back. ``wanted``: rms of the move the loss asks for;
    ``rms``: of the outputs. ``held``: only where the loss does not change when all outputs of the model grow by one
    factor, and the call that makes them, ``end``, has a range with one end: the lowest loss while the outputs that lie
    exactly on that end, the share ``at_end``, stay there. ``constant``: the lowest of one output for all samples that
    this call can give.
    """

    call: int | None = None
    kind: str = ""
    low: float | None = None
    high: float | None = None
    unreachable: float | None = None
    wanted: float | None = None
    rms: float | None = None
    end: int | None = None
    at_end: float | None = None
    held: float | None = None
    constant: float | None = None


class PairFacts(Record, frozen=True, kw_only=True):
    """A loss that may not compare each output with its own target although the targets vary.

    ``outputs``, ``targets``: the shapes that meet in the loss, ``source`` where. ``shuffled``: by what share of itself
    the loss of scattered outputs changes when they are dealt to other samples. ``won``: what the best free output wins
    over the best constant one, as a share of what it costs to scatter the outputs about that by the targets' spread.
    """

    outputs: tuple[int, ...]
    targets: tuple[int, ...]
    source: str = ""
    shuffled: float
    won: float


class InputFacts(Record, frozen=True, kw_only=True):
    """The first layer on the inputs as they are, and on the same inputs standardised (mean 0, deviation 1 a feature).

    ``saturated``: share of saturated entries of the first bounded activation. ``step_limit``: log10 of the step the
    first layer's curvature allows, over that of the median layer.
    """

    layer: str
    largest_deviation: float
    saturated: float | None = None
    saturated_standardised: float | None = None
    step_limit: float | None = None
    step_limit_standardised: float | None = None


class ZeroFacts(Record, frozen=True, kw_only=True):
    """Why a layer's gradient is exactly zero: what happened when the exactly-zero tensors were nudged.

    ``opens``: a gradient came back. ``gates``: zero tensors of other layers that have a gradient of their own.
    ``blocked_by``: the calls that receive a signal and send none back. ``by_construction``: such a call passes no
    gradient on random input either.
    """

    layer: str
    opens: bool
    gates: tuple[str, ...] = ()
    blocked_by: tuple[str, ...] = ()
    by_construction: bool = False


class Birth(Record, frozen=True, kw_only=True):
    """What is known of the call in which numbers that are not finite were born (``Flow.nonfinite_call``).

    ``numbers``: "nan" or "inf"; ``share``: of the entries of its result. ``given``: what was not finite before it,
    "inputs", "targets", "weights" or "constant" (computed of weights, or without a gradient, by the call ``maker``),
    "mask" (set to infinity on purpose by ``maker``, and asked for by the loss). ``row``: it normalises a row that is
    -inf throughout. ``hidden_by``: the call that replaces what it made, so that the loss is finite.
    ``parameters``: tensors of the model that hold such numbers already.
    """

    numbers: str = ""
    share: float | None = None
    given: str = ""
    maker: str = ""
    row: bool = False
    hidden_by: int | None = None
    parameters: tuple[str, ...] = ()


class TimeFacts(Record, frozen=True, kw_only=True):
    """How much of the error signal reaches each step of a sequence, in log10; the glossary has every field."""

    layer: str
    kind: str
    steps: int
    at: tuple[int, ...] = ()
    log10_signal: tuple[float | None, ...] = ()
    log10_loss_signal: tuple[float | None, ...] = ()
    log10_state: tuple[float | None, ...] = ()
    log10_gain: float | None = None
    horizon: int | None = None
    smallest_horizon: int | None = None
    faint: int = 0
    lost: int = 0
    beyond: float | None = None
    beyond_chance: float | None = None
    within: float | None = None
    by_chance: float | None = None
    states_unseen: str = ""
    why: str = ""


class UnusedFacts(Record, frozen=True, kw_only=True):
    """Why a layer has no gradient at all: no path of the graph leads from it to the loss.

    ``called``: its module ran, or its parameters were used. ``cut``: what took its result out of the graph, if numbers
    made of it still reach the loss: detach, no_grad, checkpoint or the name of a call without a gradient; ``cut_at``: a
    source line. ``feeds``: a layer that is trained consumes them. ``library``: the forward that leaves the layer out,
    or cuts it, is that of an installed package. ``conditional``: that forward calls it under a condition. ``held``:
    whether the optimizer holds it; None without one.
    """

    layer: str
    called: bool
    cut: str = ""
    cut_at: str = ""
    feeds: bool = False
    library: bool = False
    conditional: bool = False
    held: bool | None = None


DEFAULT_LENGTHS = 3
"""Full trainings whose steps a search may spend where no budget is given."""


class Trial(Record, frozen=True, kw_only=True):
    """One way to repair, tried on a copy of the network: what was changed, and what became of it.

    ``remedy``: the names of its edits joined by " + "; ``change``: what they do, for people. ``score`` is the mean over
    ``seeds`` trainings of ``steps`` steps each, ``score_spread`` the lowest and the highest of them, ``baseline`` the
    score of the network as it is after as many; None: not scored, or not finite. ``judged``: these are scores on data
    not used to choose. ``helped``: the gain was judged and exceeds ``needed``. ``reason``: why it is not the answer.
    """

    remedy: str
    edits: tuple[str, ...]
    change: str = ""
    score: float | None = None
    score_spread: tuple[float, float] | None = None
    baseline: float | None = None
    steps: int = 0
    seeds: int = 0
    judged: bool = False
    needed: float | None = None
    helped: bool = False
    reason: str = ""
    code: str = ""


class Setting(Record, frozen=True, kw_only=True):
    """What was checked, and how."""

    model: str
    parameters: int
    batch_size: int
    dtype: str
    device: str
    mode: str
    effort: str
    seed: int
    exact: bool = True
    autocast: str = ""
    optimizer: str = ""
    eps: float | None = None
    torch: str = ""


class Flow(Record, frozen=True, kw_only=True):
    """Everything measured in one look at a network; rules are pure functions of it.

    ``decrement``: the Gauss-Newton decrement of the layers that transmit, together: the loss they could still gain here
    by a quadratic model, as a share of L_ref; None where it was not needed (because the gradients do not cancel, or a
    step that was tried lowers the loss) or, with the reason in ``decrement_refused``, not to be had.

    ``asked``: what was asked for, of EVERYTHING. A field that was not asked for says nothing; of one that was, None
    means that the answer is not to be had.
    """

    layers: tuple[LayerFlow, ...] = ()
    undecided: tuple[tuple[str, str], ...] = ()
    calls: tuple[CallFlow, ...] = ()
    loss: LossFacts | None = None
    setting: Setting
    notes: tuple[str, ...] = ()
    zeros: tuple[ZeroFacts, ...] = ()
    unused: tuple[UnusedFacts, ...] = ()
    step: StepFacts | None = None
    output: OutputFacts | None = None
    inputs: InputFacts | None = None
    time: tuple[TimeFacts, ...] = ()
    decrement: float | None = None
    rates: tuple[RateTrial, ...] = ()
    decrement_refused: str = ""
    nonfinite: str = ""
    nonfinite_call: int | None = None
    next_step: NextStep | None = None
    asked: tuple[str, ...] = EVERYTHING
    pairs: PairFacts | None = None
    birth: Birth | None = None

    def asks(self, *names: str) -> bool:
        """Whether all of these were asked for."""
        return set(names) <= set(self.asked)


def to_builtins(record: Record) -> Any:
    """Dicts, lists, numbers and strings; non-finite numbers become the strings "-inf", "inf" and "nan"."""
    return _spell(msgspec.to_builtins(record))


def from_builtins(data: Any, kind: type[S]) -> S:
    """The record of type ``kind`` that ``to_builtins`` turned into ``data``."""
    try:
        return msgspec.convert(data, kind, strict=False)
    except msgspec.ValidationError as error:
        raise UnvanishError(f"reading a {kind.__name__}: {error}; was the file written by unvanish?") from None


def _spell(data: Any) -> Any:
    if isinstance(data, float) and not math.isfinite(data):
        return "nan" if math.isnan(data) else "inf" if data > 0 else "-inf"
    if isinstance(data, dict):
        return {key: _spell(value) for key, value in cast("dict[str, Any]", data).items()}
    if isinstance(data, (list, tuple)):
        return [_spell(value) for value in cast("list[Any]", data)]
    return data
