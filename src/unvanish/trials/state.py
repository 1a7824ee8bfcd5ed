"""What a search has measured so far, as JSON: enough to go on from, since everything else follows from the seed."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from unvanish.problem import Problem
from unvanish.records import Record, UnvanishError, from_builtins, to_builtins
from unvanish.trace.structure import tensors
from unvanish.trials.ledger import Key, Ledger
from unvanish.trials.trial import Measure

SCHEMA = "unvanish.fix/1"
State = dict[str, Any]
SAMPLED = 64
"""Entries of a tensor that tell it from another: evenly spread over it."""


def fingerprint(problem: Problem, settings: Mapping[str, Any]) -> str:
    """What tells one search from another: weights, batch, optimizer settings, and what was asked for."""
    model, optimizer = problem.build(0)
    digest = hashlib.sha256(json.dumps(dict(settings), sort_keys=True).encode())
    groups = [] if optimizer is None else optimizer.param_groups
    digest.update(repr([{k: v for k, v in group.items() if k != "params"} for group in groups]).encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        _add(digest, [tensor])
    _add(digest, (problem.inputs, problem.targets))
    return digest.hexdigest()


def _add(digest: Any, tree: Any) -> None:
    for tensor in tensors(tree):
        digest.update(repr((tuple(tensor.shape), str(tensor.dtype))).encode())
        flat = tensor.detach().flatten()
        digest.update(repr(flat[:: max(1, flat.numel() // SAMPLED)].tolist()).encode())


def written(ledger: Ledger, identity: str) -> State:
    """The measures in the order they were taken, each with the steps spent on it."""
    rows: list[dict[str, Any]] = [
        {"edits": list(candidate), "seed": seed, "steps": steps, **to_builtins(measure)}
        | {"spent": ledger.costs[candidate, seed, steps]}
        for (candidate, seed, steps), measure in ledger.measures.items()
    ]
    return {"schema": SCHEMA, "problem": identity, "measures": rows}


class Row(Record, frozen=True, kw_only=True):
    """What was measured, and the steps it took; the fields of its Measure stand beside these."""

    edits: tuple[str, ...]
    seed: int
    steps: int
    spent: int


class Kept(Record, frozen=True, kw_only=True):
    """What the file holds."""

    problem: str
    measures: tuple[dict[str, Any], ...]


def save(path: Path, state: State) -> None:
    """Write beside the file and put it in place at once, so that an interruption leaves the old or the new one."""
    beside = path.with_name(f"{path.name}.new")
    try:
        beside.write_text(json.dumps(state, allow_nan=False))
        beside.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise UnvanishError(f"cannot write {str(path)!r}: {error.strerror or error}") from None


def load(given: str | Path | Mapping[str, Any], identity: str) -> dict[Key, tuple[Measure, int]]:
    """The measures of an earlier part of the same search and their costs; none where the file is not there yet."""
    if isinstance(given, Mapping):
        data: Any = dict(given)
    else:
        path = Path(given)
        if not path.exists():
            return {}
        try:
            data = json.loads(path.read_text())
        except (OSError, ValueError, RecursionError) as error:
            raise UnvanishError(f"resume={str(given)!r} cannot be read: {error}") from None
    if not isinstance(data, dict) or cast("State", data).get("schema") != SCHEMA:
        raise UnvanishError(f"resume= was given something that is not the state of a fix (schema {SCHEMA!r})")
    kept = from_builtins(data, Kept)
    if kept.problem != identity:
        raise UnvanishError(
            "resume= holds another search: model, batch, optimizer, budget, seeds and steps must be as they were; give"
            " another file to start anew"
        )
    return dict(_read(row) for row in kept.measures)


def _read(row: dict[str, Any]) -> tuple[Key, tuple[Measure, int]]:
    key = from_builtins(row, Row)
    return (key.edits, key.seed, key.steps), (from_builtins(row, Measure), key.spent)
