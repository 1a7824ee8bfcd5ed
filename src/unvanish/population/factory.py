"""Sweeping over a factory of the user's: one real check for each point and seed."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from unvanish.pipeline import diagnose
from unvanish.population.own import function
from unvanish.population.row import failed
from unvanish.problem import Problem
from unvanish.records import LayerFlow, UnvanishError


def arguments(model: tuple[str, str], names: Sequence[str]) -> tuple[str, str]:
    """The first name that the factory does not take, or an argument that is missing, and what to do; else ("", "")."""
    build = function(*model)
    known = inspect.signature(build).parameters
    if any(each.kind is each.VAR_KEYWORD for each in known.values()):
        return "", ""
    usable = [name for name, each in known.items() if each.kind not in (each.POSITIONAL_ONLY, each.VAR_POSITIONAL)]
    for name in names:
        if name not in usable:
            near = difflib.get_close_matches(name, usable, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(usable) or 'nothing'}"
            return name, f"{model[1]}() does not take it; {hint}"
    empty = inspect.Parameter.empty
    missing = [n for n in usable if known[n].default is empty and n not in names and n != "seed"]
    if missing:
        return "", f"{model[1]}() needs {missing[0]!r}; add it to [grid] or [fixed]"
    return "", ""


def checked(model: tuple[str, str], settings: Mapping[str, Any], seed: int) -> tuple[Any, ...]:
    """The row of one network: what ``unvanish.diagnose`` says of the Problem that the factory returns.

    torch's generator is seeded before the factory is called; one with an argument ``seed`` is given the seed too.
    """
    try:
        build = function(*model)
        given = dict(settings)
        if "seed" in inspect.signature(build).parameters:
            given["seed"] = seed
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            problem = build(**given)
            if not isinstance(problem, Problem):
                raise UnvanishError(
                    f"{model[1]}() returned a {type(problem).__name__}; it must return an unvanish.Problem"
                )
            report = diagnose(problem, seed=seed)
    except (Exception, SystemExit) as error:
        return failed(error)
    return _row(report.layers, report.verdict)


def _row(layers: Sequence[LayerFlow], verdict: str) -> tuple[Any, ...]:
    signals = [each.log10_signal for each in layers if each.log10_signal is not None]
    ratio = gain = None
    if len(signals) > 1:
        ratio = signals[0] - signals[-1]
        gain = ratio / (len(signals) - 1)
    sent = [each.log10_transmission for each in layers if each.log10_transmission is not None]
    rises = [each.log10_sensitivity_rise for each in layers if each.log10_sensitivity_rise is not None]
    return (
        _known(ratio), None, _known(gain), sent[0] if sent else None, min(sent, default=None),
        max(rises, default=None), verdict, None, None, None, "",
    )  # fmt: skip


def _known(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value
