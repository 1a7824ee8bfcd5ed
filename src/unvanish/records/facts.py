"""What was measured beside the layers: the loss, the last call, the inputs, and more."""

from __future__ import annotations

from unvanish.records.base import Record


class LossFacts(Record, frozen=True, kw_only=True):
    """What the loss alone says, its outputs taken as free variables.

    ``reference`` is L_ref, the achievable reduction of the loss from an untrained start; ``relative_gap`` the share of
    it that remains. Both are None where the loss has no scale, with the reason in ``why``. ``targets``: the rms of the
    numbers that the outputs meet in it first; None for labels.
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
    targets: float | None = None
    why: str = ""


class OutputFacts(Record, frozen=True, kw_only=True):
    """What the last call can give the loss.

    ``kind``: normalised (to a sum or a size), bounded, clipped on one side, or "". ``low`` and ``high``: its range.
    ``unreachable``: the share of L_ref that no input of it can win back. ``wanted``: rms of the move the loss asks for;
    ``rms``: of the outputs; ``aim``: of the best free ones. ``held``: only where the loss does not change when all
    outputs of the model grow by one factor, and the call that makes them, ``end``, has a range with one end: the lowest
    loss while the outputs that lie exactly on that end, the share ``at_end``, stay there. ``constant``: the lowest of
    one output for all samples that this call can give. ``log_mass``: where the loss takes log-probabilities, how far
    they are from adding up to one, the mean over the samples of |log Σ exp(output)|. ``outside``: where it takes
    shares, how far a target lies outside of 0 to 1 at most. ``shrunk``: the size of the last call's result over that
    before plain numbers multiply it.
    """

    call: int | None = None
    kind: str = ""
    low: float | None = None
    high: float | None = None
    unreachable: float | None = None
    wanted: float | None = None
    rms: float | None = None
    aim: float | None = None
    end: int | None = None
    at_end: float | None = None
    held: float | None = None
    constant: float | None = None
    log_mass: float | None = None
    outside: float | None = None
    shrunk: float | None = None


class PairFacts(Record, frozen=True, kw_only=True):
    """A loss that may not compare each output with its own target although the targets vary.

    ``outputs``, ``targets``: the shapes that meet in the loss, ``source`` where. ``shuffled``: by what share of itself
    the loss of scattered outputs changes when they are dealt to other samples. ``won``: what the best free output wins
    over the best constant one, as a share of what it costs to scatter the outputs about that by the targets' spread.
    ``constant``: the loss of that constant, one number for outputs that are copied before they meet the targets.
    ``unasked``: how many samples the loss asks nothing of at any outputs, all with targets that no other sample has;
    then no new deal was tried. ``partly``: the model has other outputs, which were left as they are.
    """

    outputs: tuple[int, ...]
    targets: tuple[int, ...]
    source: str = ""
    shuffled: float
    won: float
    constant: float | None = None
    unasked: int = 0
    partly: bool = False


class AlikeFacts(Record, frozen=True, kw_only=True):
    """Rows (nodes, tokens) that averages over rows make alike, along the averages that no path goes around.

    ``calls``: these averages in order, ``log10_spread`` log10 of 1 less the mean cosine between two rows after each,
    ``stable_rank`` the rank ‖H‖²_F / σ₁² there; ``given``: log10 of the spread before the first of them. ``digits``:
    log10 of the spread that rounding leaves. ``best_alike``: the lowest loss of outputs that are the same for all rows
    of a group; ``at_alike``: the loss is no lower; ``out_of_reach``: the share of L_ref that these cannot win.
    """

    rows: int
    calls: tuple[int, ...]
    log10_spread: tuple[float, ...]
    stable_rank: tuple[float, ...]
    given: float
    digits: float
    best_alike: float | None = None
    at_alike: bool = False
    out_of_reach: float | None = None


class AcrossFacts(Record, frozen=True, kw_only=True):
    """A softmax or a normalisation over the samples of the batch: its ``call``, the ``axis`` and the ``shape``.

    Or a recurrent layer or an attention that goes along them: the axis of its steps, and the shape of what it is given.
    ``pieces``: where it is given each sample in pieces, the places of its other axis that one sample's entries lie in.
    """

    call: int
    axis: int
    shape: tuple[int, ...]
    pieces: int = 0


class CopyFacts(Record, frozen=True, kw_only=True):
    """A ``layer`` all of whose ``units`` have the same weights and get the same gradient.

    ``apart``: where they differ by their biases, or the gradients differ: the rms difference of the units' gradients
    from their mean, relative to that; 0 where no unit differs.
    """

    layer: str
    units: int
    apart: float = 0.0


class LabelFacts(Record, frozen=True, kw_only=True):
    """Labels that the loss at a ``call`` takes and does not mean, and the ``share`` of them.

    ``kind``: "unsigned" for 0 and 1 where it knows -1 and 1 (share: of zeros), "beyond" for labels outside of 0 to 1,
    "several" for samples with several ones under a softmax; "mixed" for rows of classes that a view has mixed; "no
    logarithms" for numbers that it takes for log-probabilities (share: the mean |log Σ exp|, of the axis of the least).
    """

    call: int
    kind: str
    share: float


class BackwardFacts(Record, frozen=True, kw_only=True):
    """A ``function`` of the user's own, at a ``call``, whose backward is not the derivative of its forward.

    ``source``: the line that applied it. ``kind``: "flat" where it is only the outputs that do not change with the
    ``argument`` for which it sends something back, "identity" where it hands the argument on unchanged, else "other".
    ``factor``: what it multiplies the derivative by, None where it gives no multiple; ``error``: the rms difference,
    relative to the derivative. ``layers``: those before it. ``rise``: where their step against the gradient raises the
    loss in proportion to its length, by how much of what the gradient promises.
    """

    call: int
    function: str
    source: str = ""
    argument: str
    kind: str
    factor: float | None = None
    error: float
    layers: tuple[str, ...] = ()
    rise: float | None = None

    @property
    def place(self) -> str:
        """What it is called and where it was applied."""
        return f"{self.function} at {self.source}" if self.source else self.function


class SameFacts(Record, frozen=True, kw_only=True):
    """Outputs that are the same for all ``samples`` of a batch whose targets differ, at other weights as well.

    ``read``: what of the inputs makes them: "a part that is the same" (other numbers in place of the inputs that differ
    tell the outputs apart), "others that are the same", "the batch as a whole", "nothing", or "nothing that differs"
    where all inputs are; or "any constant": they differ by the share ``apart`` alone (in squares, of what they do at
    other weights) under a loss that any constant satisfies. ``axis``: not 0 where they are the same at all so many
    steps along that axis of the outputs: "others that are the same" or "nothing" tells them apart, or "nothing,
    expanded" where they are one that is expanded to all.
    """

    samples: int
    read: str
    axis: int = 0
    apart: float = 0.0


class PinnedFacts(Record, frozen=True, kw_only=True):
    """A bounded activation most of whose entries are flat, or a softmax, before a loss without a scale.

    ``asked``: of what the loss asks of it, in squares, the share that would move entries away from their flat end;
    where the loss has a scale, of what it asks times the way that is left in that direction. ``passed``: where the loss
    follows at once, the gradient that passes as a share of what passes entries of size 1. ``rows``: of a softmax, the
    share of its rows that are one entry alone. ``undone``: of all entries, the share of flat ones that send a gradient
    back in spite of their slope, which a call after it makes up for.
    """

    call: int
    asked: float
    passed: float | None = None
    rows: float | None = None
    undone: float = 0.0


class InputFacts(Record, frozen=True, kw_only=True):
    """The first layer on the inputs as they are, and on the same inputs standardised (mean 0, deviation 1 a feature).

    ``saturated``: share of saturated entries of the first bounded activation. ``step_limit``: log10 of the step the
    first layer's curvature allows, over that of the median layer. ``loss_standardised``: the loss on the latter.
    ``after`` and ``after_standardised``: the loss after so many real ``steps`` on these inputs, and after as many, or
    ``steps_standardised``, on standardised ones. ``small``: the inputs are, and ``largest_deviation`` is that of a
    feature about its mean.
    """

    layer: str
    largest_deviation: float
    saturated: float | None = None
    saturated_standardised: float | None = None
    step_limit: float | None = None
    step_limit_standardised: float | None = None
    loss_standardised: float | None = None
    steps: int | None = None
    after: float | None = None
    after_standardised: float | None = None
    steps_standardised: int | None = None
    small: bool = False


class ZeroFacts(Record, frozen=True, kw_only=True):
    """Why a layer's gradient is exactly zero: what happened when the exactly-zero tensors were nudged.

    ``opens``: a gradient came back. ``gates``: zero tensors of other layers that have a gradient of their own.
    ``blocked_by``: the calls that receive a signal and send none back. ``by_construction``: such a call passes no
    gradient on random input either. ``alike``: it is a batch normalisation, and all samples of this batch are the same.
    """

    layer: str
    opens: bool
    gates: tuple[str, ...] = ()
    blocked_by: tuple[str, ...] = ()
    by_construction: bool = False
    alike: bool = False


class StoppedFacts(Record, frozen=True, kw_only=True):
    """Tensors of a layer that get nothing while another of its tensors is reached by the signal.

    ``parameters``: their full names. ``by``: the step that every way from them to the loss goes through, with its place
    (rounding, a sign); with ``cut``, what took them out of the graph before they met any data, ``at`` a source line.
    """

    layer: str
    parameters: tuple[str, ...]
    by: str
    at: str = ""
    cut: bool = False


class Birth(Record, frozen=True, kw_only=True):
    """What is known of the call in which numbers that are not finite were born (``Flow.nonfinite_call``).

    ``numbers``: "nan" or "inf"; ``share``: of the entries of its result. ``given``: what was not finite before it,
    "inputs", "targets", "weights" or "constant" (computed of weights, or without a gradient, by the call ``maker``),
    "mask" (set to infinity on purpose by ``maker``, and asked for by the loss), "range" (inputs up to ``maker``, more
    than the type of autocast holds), or "nothing" (to take a mean of;
    ``maker`` says why: "empty", "ignored" targets, "weights" of 0, "0/0"). ``row``: it normalises a row that is
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
    log10_rise: float | None = None
    horizon: int | None = None
    smallest_horizon: int | None = None
    faint: int = 0
    lost: int = 0
    beyond: float | None = None
    beyond_chance: float | None = None
    within: float | None = None
    by_chance: float | None = None
    tried: int = 0
    in_reach: bool = False
    rising: bool = False
    states_unseen: str = ""
    why: str = ""


class UnusedFacts(Record, frozen=True, kw_only=True):
    """Why a layer has no gradient at all: no path of the graph leads from it to the loss, or one through a factor of 0.

    ``called``: its module ran, or its parameters were used. ``cut``: what took its result out of the graph, if numbers
    made of it still reach the loss: detach, no_grad, checkpoint, function (the forward of one of autograd's) or the
    name of a call without a gradient; or, in the graph, the factor of zero that it is multiplied by, or a choice that
    takes nothing of it on this batch; ``cut_at``: a source line. ``feeds``: a layer that is trained consumes them.
    ``library``: the forward that leaves the layer out, or cuts it, is that of an installed package. ``conditional``:
    that forward calls it under a condition. ``dropped``: nothing in it reads what the layer returns. ``held``: whether
    the optimizer holds it; None without.
    """

    layer: str
    called: bool
    cut: str = ""
    cut_at: str = ""
    feeds: bool = False
    library: bool = False
    conditional: bool = False
    dropped: bool = False
    held: bool | None = None


class BypassFacts(Record, frozen=True, kw_only=True):
    """A cut that takes from trained ``layers`` a part of their signal: they are in the graph by another way.

    ``kind``: "sum" where one summand was cut and the other, made of it by layers, was not; "choice" where a later layer
    is given what they only choose; "state" where they themselves are, at the next turn of a loop. ``cut``: detach,
    no_grad or the name of a call without a gradient, ``cut_at`` its source line; ``at``: where what was cut is
    consumed.
    """

    kind: str
    cut: str
    cut_at: str
    at: str
    layers: tuple[str, ...]
