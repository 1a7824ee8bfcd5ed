"""What was measured of the optimizer's steps: where they lead, how far the next one goes, which rates fit."""

from __future__ import annotations

from unvanish.records.base import Record


class StepFacts(Record, frozen=True, kw_only=True):
    """What the user's own optimizer would do next, tried on the batch and taken back.

    ``ladder``: (multiple of the next update, loss there). ``best``: the multiple with the lowest loss, None where none
    lowers it. ``lowered``: its fall as a share of L_ref, less what the loss may be wrong by; None without that scale.
    ``needed``: steps to close 90% of the gap, at the pace of the first or of the training so far. ``taken``: the steps
    it has made already. ``walked``: the loss after a few real steps, taken only on suspicion; ``walked_scaled`` the
    same with the learning rate times ``scale``. ``lr_limit``: 2/λ_max, the learning rate the sharpest curvature allows
    plain gradient descent. ``after``: of plain descent, the real steps after which ``best``, ``needed`` and
    ``lr_limit`` hold, because only then it crawls. ``arrived``: log10_transmission of the weakest of the layers that
    hardly any signal reaches, after ``arrived_after`` real steps of an optimizer whose steps do not shrink with it;
    ``arriving``: the decades a step by which it still rose there, where no more steps were taken for their cost;
    ``learned``: the loss there, where it has fallen by what these layers have learned, or nearly all the way by what
    any have. ``regained``: the loss after ``regained_after`` real steps, of a network that starts with one far above
    that of the best constant output. ``silenced``: the layers that get a gradient of exactly zero after the few.
    ``forgetting``: by what factor Adam's steps lengthen by themselves as its second moment forgets larger gradients.
    ``decayed``: where weight decay shrinks the weights fast, the loss after ``decayed_after`` real steps, ``undecayed``
    after as many without decay. ``unseen``: where early layers may be exploding, the loss of every other sample after
    ``unseen_after`` real steps on the rest; where attention copies, of one training batch after as many on the others.
    ``faded``: of an optimizer that counts no steps, but was stepped under a schedule: the rate that one began from or
    leads up to, over the present one. ``climbs``: the cosine of the gradient and the step of the same optimizer without
    state and decay, where no size of the next step that was tried lowers the loss; ``maximize``: whether the optimizer
    was told to climb.
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
    lengths: tuple[float, ...] = ()
    scheduled: float | None = None
    lr_limit: float | None = None
    after: int = 0
    arrived: float | None = None
    arrived_after: int | None = None
    arriving: float | None = None
    learned: float | None = None
    regained: float | None = None
    regained_after: int | None = None
    silenced: tuple[str, ...] = ()
    faded: float | None = None
    forgetting: float | None = None
    decayed: float | None = None
    undecayed: float | None = None
    decayed_after: int | None = None
    unseen: float | None = None
    unseen_after: int | None = None
    climbs: float | None = None
    maximize: bool = False


class NextStep(Record, frozen=True, kw_only=True):
    """The weights, and the state of the optimizer, as the next step leaves them in their own number type.

    ``nonfinite``: the layers that get a number which is not finite, ``nonfinite_share`` of all entries; ``reason``:
    "eps", "state", "gradient" or "rate". ``moved``: of the entries the step asks to move, the share whose value
    changes; ``arrives``: the step they make along the one that is asked for, as a share of it; ``outside``: entries of
    trainable parameters that the model uses, but neither owns nor the optimizer holds, ``outside_at`` where the first
    is used; ``anew``: those of layers that each forward pass makes and draws anew. ``narrow``: the type of 16 bits it
    was measured in, or "". ``left_out``: trainable layers that were called and that the optimizer does not hold;
    ``partly``: parameters by name that it does not hold, of layers of which it holds others; ``stale``: entries that it
    holds in the place of all of these, and that the model has no more; ``standing``: layers that it holds at a learning
    rate of 0, beside others that it moves; ``drifting``: frozen normalisations whose running statistics each forward
    pass moves. ``decay_balance``: |g + λw| / |g| over all weights that decay; ``decay_share``: of their norm, the share
    that a step takes by the decay alone.
    """

    nonfinite: tuple[str, ...] = ()
    nonfinite_share: float = 0.0
    reason: str = ""
    moved: float | None = None
    arrives: float | None = None
    narrow: str = ""
    left_out: tuple[str, ...] = ()
    partly: tuple[str, ...] = ()
    stale: int = 0
    drifting: tuple[str, ...] = ()
    standing: tuple[str, ...] = ()
    outside: int = 0
    outside_at: str = ""
    anew: int = 0
    decay_balance: float | None = None
    decay_share: float | None = None


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
