"""A loss in which each output meets every target, seen in its graph: shapes that are stretched on both sides.

Outputs z of shape (N, 1) and targets t of shape (N,) give an N × N table of z_i - t_j. The mean over j is the same
function of each output, so all of them are best at one number, by symmetry alone: nothing has to be tried.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from unvanish.records import Finding, Flow, LossFacts, PairFacts, Setting
from unvanish.rules import ask
from unvanish.trace.ends import all_meet, unstretched
from unvanish.watching.dated import dated
from unvanish.watching.loss_graph import below_factors, kept, name_of

UNPAIRED = "UV708"
SAME = 1e-5
"""Share of the spread of the targets by which their differences may change from row to row: rounding stays below."""


class Met(NamedTuple):
    """What meets in a loss, and what that is beside its best constant."""

    pairs: PairFacts
    loss: LossFacts


def unpaired(root: Any, value: float) -> Met | None:
    """Outputs and targets of which each meets all the others; None where each output has a target of its own.

    ``root``: the node that made a loss of this ``value``, before its backward.
    """
    try:
        node = below_factors(root)
        name = "" if node is None else name_of(node)
        known = _of_mse(node) if name == "mse_loss" else _of_differences(node) if name in ("pow", "abs") else None
    except (AttributeError, RuntimeError):  # a kind of node that keeps other things, or none any more
        return None
    if known is None:
        return None
    outputs, targets, table = known
    if not all_meet(outputs, targets) or not bool(torch.isfinite(table).all()):
        return None
    row = table.reshape(-1, table.shape[-1])[0] if targets[-1] > 1 else table.reshape(table.shape[0], -1)[:, 0]
    best, now = _least(row, name), _mean(table, name)
    if not best > 0.0 or not now > 0.0:
        return None
    constant = best * value / now
    pairs = PairFacts(outputs=outputs, targets=targets, shuffled=0.0, won=0.0, constant=constant)
    return Met(pairs, LossFacts(value=value, best_constant=constant))


Known = tuple[tuple[int, ...], tuple[int, ...], Tensor]
"""The shapes of the outputs and of the targets, and their differences."""


def _of_mse(node: Any) -> Known | None:
    given, target = kept(node, "_saved_self"), kept(node, "_saved_target")
    if not isinstance(given, Tensor) or not isinstance(target, Tensor):
        return None
    outputs, targets = (tuple(unstretched(each).shape) for each in (given, target))
    while len(targets) > 1 and targets[0] == 1 and len(targets) == given.ndim:  # as they were before they were stretched
        targets = targets[1:]
    return outputs, targets, (given - target).detach().double()


def _of_differences(node: Any) -> Known | None:
    """A difference that is squared, or of which the size is taken; the targets' shape is where it does not vary."""
    table, ahead = kept(node, "_saved_self"), node.next_functions[0][0]
    if not isinstance(table, Tensor) or ahead is None or name_of(ahead) not in ("sub", "rsub"):
        return None
    if name_of(node) == "pow" and kept(node, "_saved_exponent") != 2:
        return None
    graphs = [(each, at) for each, at in ahead.next_functions if each is not None]
    if len(graphs) != 1 or table.ndim != 2:
        return None
    maker, at = graphs[0]
    outputs = maker._saved_self_sym_sizes if name_of(maker) == "expand" else tuple(maker._input_metadata[at].shape)
    stretched = 1 if outputs[-1:] == (1,) else 0  # along which the outputs are the same
    table = table.detach().double()
    steps = table - table.narrow(stretched, 0, 1)  # of the targets, if these are all that varies here
    if bool(
        (steps - steps.narrow(1 - stretched, 0, 1)).abs().max() > SAME * table.abs().max()
    ):  # each output has targets of its own
        return None
    return outputs, (table.shape[1],) if stretched else (table.shape[0], 1), table


def _least(row: Tensor, name: str) -> float:
    """The loss of the best constant, of what one output meets."""
    best = row.median() if name == "abs" else row.mean()
    return _mean(row - best, name)


def _mean(differences: Tensor, name: str) -> float:
    return float((differences.abs() if name == "abs" else differences.square()).mean())


def of_the_unpaired(met: Met, step: int, setting: Setting) -> Finding:
    """As the rule of a check says it."""
    (found,) = ask(UNPAIRED, Flow(setting=setting, pairs=met.pairs, loss=met.loss))
    return found.replace(message=dated("at", step, found.message))
