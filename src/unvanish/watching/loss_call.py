"""The loss of a step as a function of what it was given, where the graph shows one call of a loss that is known.

No function of the training is wrapped for it, and none is run: the node of such a call keeps its targets. Mean, sum and
a plain factor may stand between the call and the loss; the loss itself tells what they come to.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from unvanish.decide.limits import FORWARD_LOSS
from unvanish.evidence.loss import best_constant_of
from unvanish.evidence.output_loss import OutputLoss
from unvanish.watching.loss_graph import below_factors, kept, name_of, signed
from unvanish.watching.sample import Sample, Stake

MOST = 2**20
"""Entries that a loss is given, up to which it is asked for; in closed form it takes a few tensors of that size."""

ASKED = 3
"""The first so many samples of a run are asked."""

OF_CLASSES = ("nll_loss", "nll_loss2_d", "nll_loss2d")


class Proportion:
    """Whether a loss was out of all proportion to that of the best constant output, when it was asked last."""

    def __init__(self) -> None:
        self.constant, self.loud = math.nan, False

    def asks(self, samples: int) -> bool:
        """Whether it is to be asked again, after so many samples."""
        return samples < ASKED or self.loud

    def of(self, sample: Sample) -> None:
        """Of one more sample the loss."""
        if sample.stake is not None:
            self.constant = sample.stake.constant
        self.loud = sample.series["loss"] > FORWARD_LOSS * self.constant


def stake_of(root: Any, value: float) -> Stake | None:
    """What is at stake in this loss; None where it is none that is known, or not finite.

    ``root``: the node that made it, before its backward.
    """
    if not math.isfinite(value) or (call := loss_call(root)) is None:
        return None
    again = call.worth(call.now)
    if not again * value > 0.0 or not math.isfinite(again) or call.known is None:
        return None
    constant, _ = best_constant_of(call)
    if constant is None:
        return None
    free, nearest = call.worth(call.known.free(call.now)), call.known.nearest(call.now)[0]
    now = call.now[0].double()
    rms, wanted = (float(each.pow(2).mean().sqrt()) for each in (now, nearest.double() - now))
    return Stake(again, constant, free, rms, wanted).times(value / again)


def loss_call(root: Any) -> OutputLoss | None:
    """The call of a known loss that all of a loss comes from, but for a factor; None where it is something else."""
    try:
        node = below_factors(root)
        return None if node is None else _call_of(node)
    except (AttributeError, RuntimeError):  # a kind of node that keeps other things, or none any more
        return None


def _call_of(node: Any) -> OutputLoss | None:
    given, target = kept(node, "_saved_self"), kept(node, "_saved_target")
    if not isinstance(given, Tensor) or not isinstance(target, Tensor) or given.numel() > MOST:
        return None
    call = _KNOWN.get(name_of(node), lambda node, target: None)(node, target)
    return None if call is None else OutputLoss(lambda z: call(z[0]), [given.detach()])


def _of_classes(node: Any, target: Tensor) -> Callable[[Tensor], Tensor] | None:
    """Log-probabilities are logits whose softmax changes nothing."""
    ahead = node.next_functions[0][0]
    if ahead is None or name_of(ahead) != "log_softmax":
        return None
    weight, ignored = kept(node, "_saved_weight"), signed(node._saved_ignore_index)
    return lambda z: F.cross_entropy(z, target, weight, ignore_index=ignored)


def _of_numbers(node: Any, target: Tensor) -> Callable[[Tensor], Tensor]:
    del node
    return lambda z: F.mse_loss(z, target)


def _of_logits(node: Any, target: Tensor) -> Callable[[Tensor], Tensor]:
    weight, ones = kept(node, "_saved_weight"), kept(node, "_saved_pos_weight")
    return lambda z: F.binary_cross_entropy_with_logits(z, target, weight, pos_weight=ones)


def _of_shares(node: Any, target: Tensor) -> Callable[[Tensor], Tensor]:
    weight = kept(node, "_saved_weight")
    return lambda z: F.binary_cross_entropy(z, target, weight)


_KNOWN: dict[str, Callable[[Any, Tensor], Callable[[Tensor], Tensor] | None]] = {
    **dict.fromkeys(OF_CLASSES, _of_classes),
    "mse_loss": _of_numbers,
    "binary_cross_entropy_with_logits": _of_logits,
    "binary_cross_entropy": _of_shares,
}
