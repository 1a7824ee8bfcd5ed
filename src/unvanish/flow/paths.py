"""Who consumes whom, and along which consumer most of the signal comes back."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from unvanish.rules.conditions import MOVES
from unvanish.trace.calls import Call
from unvanish.trace.scaled import LOG_ZERO, norm_of
from unvanish.trace.tape import Tape, norm_together

CANCELLED = 0.1  # of its usual size: terms of random signs come to a factor of a few at most
DERIVATIVE = "grad"  # torch.autograd.grad with a graph of its own
ROLES = ("weights", "slopes", "norm", "join")


@dataclass(slots=True)
class Observed:
    """What one walk left behind: the tapes of the loss and of random output cotangents, and what leaves showed."""

    loss: Tape
    probes: list[Tape]
    outputs: int  # how many output entries the probes' cotangents had
    saturated: dict[int, tuple[float, float]] = field(default_factory=dict)  # by call: entries, whole units
    pinned: dict[int, tuple[float, float, float]] = field(default_factory=dict)  # by call: see ``slopes.pinned``
    underflow: dict[int, tuple[float, float]] = field(default_factory=dict)  # by parameter: entries below, non-zero
    rows: dict[int, float] = field(default_factory=dict)  # by call, of a softmax: rows that are one entry alone
    updates: dict[int, float] | None = None  # by parameter: ‖Δw‖
    log10_output_rms: float = 0.0  # what the probes' cotangents were divided by

    def probe(self, read: str, key: object) -> float:
        """Root mean square over the probes of one of their readings."""
        if len(self.probes) == 1:
            return getattr(self.probes[0], read).get(key, LOG_ZERO)
        found = [getattr(tape, read).get(key, LOG_ZERO) for tape in self.probes]
        return norm_together(found) - 0.5 * math.log10(max(1, len(found))) if found else LOG_ZERO


class Paths:
    """Who consumes whom, and along which consumer most of the signal comes back."""

    def __init__(self, calls: list[Call], seen: Observed, roles: list[str], end: int | None) -> None:
        self.calls, self.seen, self.roles = calls, seen, roles
        self.consumers = consumers_of(calls)
        self.next = [self._dominant(call.index) for call in calls]
        self.trunk = _trunk(calls, end)
        self.read = self._read()
        self.sensitivity = [self._sensitivity(call) for call in calls]
        self.rises = self._rises()

    def _dominant(self, index: int) -> int | None:
        if len(self.consumers[index]) < 2:  # as a rule
            return next(iter(self.consumers[index]), None)

        def strength(consumer: int) -> tuple[float, float]:
            probe, loss = (
                self.seen.probe("edges", (consumer, index)),
                self.seen.loss.edges.get((consumer, index), LOG_ZERO),
            )
            return probe, loss

        kids = [k for k in self.consumers[index] if strength(k) != (LOG_ZERO, LOG_ZERO)] or self.consumers[index]
        return max(kids, key=strength, default=None)

    def _sensitivity(self, call: Call) -> float | None:
        """log10 of |∂f/∂h|·|h|: how far the outputs move, relative to themselves, when this call's result does."""
        return self._of_size(call, self.read[call.index])

    def _of_size(self, call: Call, norm: float) -> float | None:
        signal = self.seen.probe("signals", call.index)
        if not math.isfinite(signal) or not call.finite or norm <= 0.0 or call.part == "loss":
            return None
        return signal + math.log10(norm) - 0.5 * math.log10(max(1, self.seen.outputs))

    def _usual(self, call: Call) -> float:
        """|h| of the result, or, where that is less than a tenth of it, of one whose terms do not cancel.

        A boundary condition that is met, or noise that is predicted well, has a result of nearly nothing; the layers
        before it are as large as they were. Of a product with W, rms(x)·‖W‖/√outputs is the size of an entry.
        """
        weight = next((p for p in call.parameters if p.ndim > 1), None)
        given = [self.calls[index] for index in call.inputs]
        if weight is None or len(given) != 1 or not given[0].finite:
            return call.norm
        outputs = weight.shape[0 if weight.shape[0] in call.shape[1:] else -1]
        entry = given[0].rms * norm_of(weight.detach()) / math.sqrt(outputs)
        usual = entry * math.sqrt(call.numel)
        return usual if call.norm < CANCELLED * usual else call.norm

    def _read(self) -> list[float]:
        """|h| of each call's result; of one from which others only take a part, as the last step is, of that part.

        What nothing reads moves no output, however large it is beside what is read.
        """
        found = [call.norm for call in self.calls]
        for index in range(len(self.calls) - 1, -1, -1):
            after = self.consumers[index]
            if after and all(self.calls[k].name in MOVES and self.calls[k].finite for k in after):
                found[index] = min(found[index], math.hypot(*(found[k] for k in after)))
        return found

    def _rises(self) -> list[float]:
        """How much the sensitivity grows from each call's output back to it, in decades, outside normalised layers.

        Between one call with weights and the next the growth counts, unless a normaliser stands between them: weights
        that are normalised afterwards have a gradient at right angles to themselves that shrinks as they grow, so that
        training scales its own step down (Arora, Li & Lyu 2019, Theoretical analysis of auto rate-tuning by batch
        normalization). Falls count too, but never below zero: what is lost further on cannot hurt before it. What
        follows the last call with weights does not count: where it takes the difference of two numbers, as the residual
        of an equation does, the outputs tend to zero while the network stays what it is. Where the result of that call
        itself tends to zero, its usual size counts. Nor does a derivative that the
        model takes of itself: it multiplies each wave by its frequency, which is what it is asked for.
        """
        # Per call: sensitivity at the nearest call with weights from here on, the rise there, and whether a normaliser
        # stands on the way to it.
        state: list[tuple[float | None, float, bool]] = [(None, 0.0, False)] * len(self.calls)
        for index in range(len(self.calls) - 1, -1, -1):
            mine, after = self.sensitivity[index], self.next[index]
            last = after is None or self.calls[after].part == "loss"
            ahead, rise, normed = (None, 0.0, False) if after is None or last else state[after]
            derivative = self.calls[index].name == DERIVATIVE
            if mine is not None and self.roles[index] == "weights" and not derivative:
                if ahead is None:
                    mine = self._of_size(self.calls[index], self._usual(self.calls[index]))
                grown = 0.0 if mine is None or ahead is None or normed else mine - ahead
                state[index] = (mine, max(0.0, grown + rise), False)
            else:
                state[index] = (ahead, rise, normed or derivative or self.roles[index] == "norm")
        return [rise for _, rise, _ in state]

    def rise(self, index: int) -> float | None:
        return None if self.sensitivity[index] is None else self.rises[index]

    def back(self, index: int, stops: dict[int, str]) -> tuple[int | None, dict[str, float]]:
        """From a layer's call to the layer before it: that call (or None) and the log10 factor of each role between."""
        factors: dict[str, float] = dict.fromkeys(ROLES, 0.0)
        edges, signals = self.seen.loss.edges, self.seen.loss.signals
        here = index
        while True:
            inputs = self.calls[here].inputs
            if not inputs:
                return None, factors
            prior = max(inputs, key=lambda j: (edges.get((here, j), LOG_ZERO), j))
            sent, mine = edges.get((here, prior), LOG_ZERO), signals.get(here, LOG_ZERO)
            arrived = signals.get(prior, LOG_ZERO)
            factors[self.roles[here]] += LOG_ZERO if sent == LOG_ZERO else sent - mine
            if sent != LOG_ZERO:
                factors["join"] += arrived - sent  # what the other consumers of the same result add or cancel
            if prior in stops:
                return prior, factors
            here = prior


def consumers_of(calls: list[Call]) -> list[list[int]]:
    """For each call, those that consume its result."""
    consumers: list[list[int]] = [[] for _ in calls]
    for call in calls:
        for producer in call.inputs:
            consumers[producer].append(call.index)
    return consumers


def _trunk(calls: list[Call], end: int | None) -> list[bool]:
    """A call is on the trunk when it leads to the loss and no edge of the graph jumps over it."""
    alive = [False] * len(calls)
    for call in reversed(calls):
        alive[call.index] = alive[call.index] or call.index == end
        if alive[call.index]:
            for producer in call.inputs:
                alive[producer] = True
    jumps = [0] * (len(calls) + 1)
    for call in calls:
        if alive[call.index] and call.inputs:
            jumps[min(call.inputs) + 1] += 1
            jumps[call.index] -= 1
    over, trunk = 0, []
    for call in calls:
        over += jumps[call.index]
        trunk.append(alive[call.index] and over == 0)
    return trunk
