"""Every remedy in both directions: it helps where it says so, it does not where it says so, and its page is true."""

from __future__ import annotations

import importlib.util
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import unvanish.rules
from unvanish import zoo
from unvanish.preserve import seeded
from unvanish.problem import Problem
from unvanish.records import UnvanishError
from unvanish.remedies import Change, Draft, Refused, get, remedies, remedy
from unvanish.remedies.draft import called
from unvanish.report.advice import advice
from unvanish.report.explain import explain
from unvanish.rules import rules

STEPS = 80
FEWER = {"sigmoid-50": 25, "sigmoid-20": 50, "exploding-linear-30": 20}
"""Steps of a proof on a network that is slow to run."""
SEEDS = range(2)
GAIN, NOTHING = 0.2, 0.1
"""Points of the score that a remedy must win on every seed, or may win on none."""
IN_EVALUATION = {"slow-statistics"}
"""Networks whose fault shows only where the running statistics are used."""
NEEDS_DKS = {"tat", "dks"}
HAS_DKS = all(importlib.util.find_spec(name) for name in ("dks", "absl", "autograd", "scipy"))
CASES = [
    pytest.param(each.slug, name, cures, id=f"{each.slug}-{'cures' if cures else 'no-help-on'}-{name}")
    for each in remedies()
    for cures, names in ((True, each.cures_on), (False, each.no_help_on))
    for name in names
]


def problem_of(name: str, seed: int) -> Problem:
    """A network of the zoo, "name" or "name with OPTIMIZER RATE"."""
    base, _, how = name.partition(" with ")
    problem = replace(zoo.get(base).build(seed), steps=STEPS)
    if how:
        kind, lr = how.split()
        problem = replace(problem, optimizer=lambda p: getattr(torch.optim, kind)(p, lr=float(lr)))
    return problem


def draft_of(problem: Problem, seed: int = 0, **more: Any) -> Draft:
    model, optimizer = problem.build(seed)
    return Draft.of(problem, model, optimizer, seed=seed, **more)


def score(outputs: torch.Tensor, targets: torch.Tensor) -> float:
    """Accuracy for classes, explained variance for quantities, 1/(1 + loss) for a constant; 0 where not finite."""
    if not bool(torch.isfinite(outputs).all()):
        return 0.0
    if not targets.is_floating_point():
        return float((outputs.argmax(1) == targets).float().mean())
    error = float((outputs.reshape(targets.shape) - targets).square().mean())
    variance = float(targets.var(correction=0))
    if variance == 0.0:
        return 1.0 / (1.0 + error)
    if set(targets.unique().tolist()) == {0.0, 1.0}:
        return float(((outputs > 0.5).float() == targets).float().mean())
    return max(0.0, 1.0 - error / variance)


def train(draft: Draft, steps: int, seed: int, evaluate: bool = False) -> float:
    """The score on the training batch after so many steps."""
    with seeded(seed):
        optimizer = draft.recipe.build(draft.model.parameters())
        rates = [group["lr"] for group in optimizer.param_groups]
        for step in range(steps):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * draft.recipe.rate(step)
            optimizer.zero_grad()
            assert draft.loss_fn is not None
            loss = draft.loss_fn(called(draft.model, draft.inputs), draft.targets)
            if not math.isfinite(loss.item()):
                break
            loss.backward()
            draft.recipe.clip_gradients(list(draft.model.parameters()))
            optimizer.step()
        draft.model.train(draft.model.training and not evaluate)
        with torch.no_grad():
            outputs = called(draft.model, draft.inputs)
    return score(outputs if draft.restore_outputs is None else draft.restore_outputs(outputs), draft.targets)


@pytest.fixture(scope="module")
def as_is() -> dict[tuple[str, int], float]:
    """The score of each network as it is, trained once for all remedies that name it."""
    return {}


@pytest.mark.parametrize(("slug", "name", "cures"), CASES)
def test_remedy(slug: str, name: str, cures: bool, as_is: dict[tuple[str, int], float]) -> None:
    if slug in NEEDS_DKS and not HAS_DKS:
        pytest.skip("the package dks, or one it needs, is not installed")
    steps = FEWER.get(name, STEPS)
    for seed in SEEDS:
        if (name, seed) not in as_is:
            as_is[name, seed] = train(draft_of(problem_of(name, seed), seed), steps, seed, name in IN_EVALUATION)
        draft = draft_of(problem_of(name, seed), seed)
        try:
            get(slug).apply(draft)
        except Refused as refused:
            assert not cures, f"{slug} is refused on {name}: {refused}"
            continue
        gained = train(draft, steps, seed, name in IN_EVALUATION) - as_is[name, seed]
        assert gained > GAIN if cures else gained < NOTHING, f"seed {seed}: {as_is[name, seed]:.2f} {gained:+.2f}"


def test_every_slug_a_rule_names_is_a_remedy() -> None:
    root = Path(unvanish.rules.__file__).parent
    known = {each.slug for each in remedies()}
    kinds = re.compile(r'"([a-z0-9.]+(?:-[a-z0-9.]+)*)"')
    found: set[str] = set()
    for file in sorted(root.glob("uv*.py")):
        text = file.read_text()
        named = re.findall(r"remedies=\(([^)]*)\)", text)
        named += re.findall(r"return \(([^)]*)\)", text.split("def _remedies(")[1] if "def _remedies(" in text else "")
        slugs = {slug for part in named for slug in kinds.findall(part)}
        assert slugs <= known, file.name
        found |= slugs
    assert found >= {slug for rule in rules() for slug in rule.remedies}


def test_codes_that_are_answered_exist() -> None:
    codes = {rule.code for rule in rules()}
    for each in remedies():
        assert each.answers
        assert set(each.answers) <= codes, each.slug


def test_a_remedy_without_torch_says_the_same() -> None:
    found = {each.slug: (each.title, each.kind) for each in remedies()}
    assert {slug: (each.title, each.kind) for slug, each in advice().items()} == found
    for each in remedies():
        page = explain(each.slug)
        assert all(word in page for word in ("What:", "Helps:", "Does not help:", "Source:")), each.slug
        assert each.title in page


def test_an_unknown_slug_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnvanishError, match="did you mean centred-init"):
        get("centered-init")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"slug": "batchnorm"}, "twice"),
        ({"kind": "magic"}, "no known kind"),
        ({"cures_on": ()}, "networks it cures and networks it does not help: name some of `unvanish zoo --list`"),
        ({"cures_on": "chain-4"}, "cures_on='chain-4' is a text; write a tuple"),
        ({"cures_on": ("chain-44",)}, "the zoo has no network 'chain-44'; did you mean chain-4"),
        ({"no_help_on": ("lsmt with SGD 0.1",)}, "the zoo has no network 'lsmt'; did you mean lstm"),
        ({"no_help_on": ("lstm with 0.1",)}, "must be a network with an optimizer and its rate"),
        ({"answers": ("UV1O1",)}, "answers 'UV1O1', but no rule has that code; did you mean .*UV101"),
        ({"answers": ()}, "answers nothing: name in answers the codes"),
        ({"doc": "What: nothing."}, "lacks Helps:"),
    ],
)
def test_a_wrong_registration_is_refused(changes: dict[str, Any], words: str) -> None:
    remedies()
    given: dict[str, Any] = {
        "slug": "new", "kind": "init", "answers": ("UV101",), "cures_on": ("chain-4",), "no_help_on": ("lstm",)
    } | changes  # fmt: skip
    doc = given.pop("doc", "What: a. Helps: b. Does not help: c. Source: d.")

    def apply(draft: Draft) -> Change:
        raise Refused("never")

    apply.__doc__ = doc
    with pytest.raises(ValueError, match=words):
        remedy(given.pop("slug"), "title", **given)(apply)
