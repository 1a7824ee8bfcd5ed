"""The plain data every stage passes on: what was measured, what was decided, and on what evidence.

Nothing here imports torch. Every record is frozen, compares by value and survives a JSON round trip; numbers that are
not finite travel as the strings "-inf", "inf" and "nan", and ``None`` means "not measured".
"""

from __future__ import annotations

import math
from typing import Any

from unvanish.records.base import Record as Record
from unvanish.records.base import UnvanishError as UnvanishError
from unvanish.records.base import from_builtins as from_builtins
from unvanish.records.base import to_builtins as to_builtins
from unvanish.records.facts import AcrossFacts as AcrossFacts
from unvanish.records.facts import AlikeFacts as AlikeFacts
from unvanish.records.facts import BackwardFacts as BackwardFacts
from unvanish.records.facts import Birth as Birth
from unvanish.records.facts import BypassFacts as BypassFacts
from unvanish.records.facts import CopyFacts as CopyFacts
from unvanish.records.facts import InputFacts as InputFacts
from unvanish.records.facts import LabelFacts as LabelFacts
from unvanish.records.facts import LossFacts as LossFacts
from unvanish.records.facts import OutputFacts as OutputFacts
from unvanish.records.facts import PairFacts as PairFacts
from unvanish.records.facts import PinnedFacts as PinnedFacts
from unvanish.records.facts import SameFacts as SameFacts
from unvanish.records.facts import StoppedFacts as StoppedFacts
from unvanish.records.facts import TimeFacts as TimeFacts
from unvanish.records.facts import UnusedFacts as UnusedFacts
from unvanish.records.facts import ZeroFacts as ZeroFacts
from unvanish.records.steps import NextStep as NextStep
from unvanish.records.steps import RateTrial as RateTrial
from unvanish.records.steps import StepFacts as StepFacts

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


REPEATED = tuple(
    name for name in EVERYTHING
    if name not in ("loss", "zeros", "decrement", "step", "next_step", "rates", "output", "inputs", "noise", "time")
)  # fmt: skip
"""What a step of a running training tells that is run again: it has the signals of its loss, not the loss itself."""


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

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """What a prompt of IPython shows, also of each in a list of findings: fields and evidence fill the screen."""
        del cycle
        printer.text(f"{self.code} ({self.level}): {self.message}")


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
    log10_apart_rms: float | None = None
    derivative: int = 0


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

    @property
    def path(self) -> str:
        """Of its module: the name without the number of the call."""
        return self.name.partition("#")[0]

    @property
    def log10_grad_rms(self) -> float | None:
        """Of the entries of its gradient, one of which is as large at least."""
        norm = self.log10_grad_norm
        return None if norm is None else norm - 0.5 * math.log10(max(1, self.parameters))


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
    alike: AlikeFacts | None = None
    pinned: tuple[PinnedFacts, ...] = ()
    across: tuple[AcrossFacts, ...] = ()
    copies: tuple[CopyFacts, ...] = ()
    same: SameFacts | None = None
    functions: tuple[BackwardFacts, ...] = ()
    labels: LabelFacts | None = None
    bypassed: tuple[BypassFacts, ...] = ()
    stopped: tuple[StoppedFacts, ...] = ()

    def call_at(self, index: int | None) -> CallFlow | None:
        """The call of that index, where it is known."""
        return next((call for call in self.calls if call.index == index), None)

    @property
    def steps_taken(self) -> int:
        """By the optimizer's own count; 0 where it keeps none."""
        return 0 if self.step is None else self.step.taken or 0

    def asks(self, *names: str) -> bool:
        """Whether all of these were asked for."""
        asked = self.asked  # a plain loop: every rule asks, at every sample of a training
        for name in names:  # noqa: SIM110
            if name not in asked:
                return False
        return True
