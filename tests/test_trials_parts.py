"""The parts of a search, each against numbers worked by hand."""

from __future__ import annotations

import copy
import importlib.util
import math
import re
import sys
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import unvanish
from unvanish import zoo
from unvanish.decide.limits import VANISHED
from unvanish.records import Finding, UnvanishError
from unvanish.remedies import Remedy, _registry, remedies, transform
from unvanish.remedies.activations import swap_hidden
from unvanish.remedies.draft import Change, copied
from unvanish.remedies.recipe import Recipe
from unvanish.trials import open_race, outlasting, probe, trial, veto
from unvanish.trials.batches import Batches
from unvanish.trials.candidates import PARTNERS, at_random, in_order, ordered
from unvanish.trials.fixes import Fixes
from unvanish.trials.judge import Judgement
from unvanish.trials.ledger import BudgetSpentError
from unvanish.trials.plan import Plan
from unvanish.trials.score import Scale, standard_error, take
from unvanish.trials.search import LOWER_RATE, heat, minimised, smallest_of_the_best
from unvanish.trials.train import AS_IS
from unvanish.trials.trial import Measure
from unvanish.words.activations import BY_NAME

USUAL = [each for each in remedies() if not each.only_for]
"""Remedies that are tried on any network."""


def finding(code: str, level: str, *slugs: str) -> Finding:
    return Finding(code=code, verdict="any", level=level, remedies=slugs)


def small(**changes: Any) -> unvanish.Problem:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 1))
    inputs = torch.randn(64, 3)
    targets = inputs.sum(1, keepdim=True)
    parts: dict[str, Any] = {
        "loss_fn": F.mse_loss,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.05),
        "train_batches": list(zip(inputs.split(16), targets.split(16), strict=True)),
        "steps": 160,
    }
    return unvanish.Problem(model, inputs, targets, **{**parts, **changes})


def race_of(problem: unvanish.Problem, budget: int = 480) -> Any:
    return open_race(problem, Plan(problem.steps or 160, budget, 1), unvanish.diagnose(problem))


def test_the_rungs_are_a_64th_a_16th_and_a_quarter_and_at_least_ten_steps() -> None:
    assert Plan(6400, 3 * 6400, 3).rungs == (100, 400, 1600)
    assert Plan(1200, 3600, 3).rungs == (18, 75, 300)
    assert Plan(40, 120, 1).rungs == (10,)
    assert Plan(1200, 1200, 1).rungs == (18, 75), "a small budget races more candidates over shorter rungs"


def test_a_heat_costs_what_its_rungs_cost() -> None:
    """25 copies to 18 steps, 7 of them on to 75, 2 of those on to 300: 25·18 + 7·57 + 2·225 = 1,299."""
    plan = Plan(1200, 3600, 3)
    assert plan.heat(1299) == 25 and plan.heat(1298) == 24
    assert plan.heat(17) == 0 and plan.heat(-5) == 0


def test_answers_take_turns_and_errors_come_first() -> None:
    found = [finding("UV998", "note", "lr-10"), finding("UV999", "error", "batchnorm", "residual")]
    first = [c for c in islice(ordered(USUAL, found, 0), 30) if len(c) == 1]
    assert first[0] == ("batchnorm",)
    assert first.index(("lr-10",)) < first.index(("residual",))


def test_every_candidate_comes_once_and_a_fifth_of_them_by_lot() -> None:
    found = [finding("UV101", "error", "batchnorm", "centred-init", "residual")]
    everything = list(ordered(USUAL, found, 0))
    assert len(set(everything)) == len(everything)
    assert {(each.slug,) for each in USUAL} <= set(everything)
    assert set(everything) == set(at_random(USUAL, 0))
    other = list(ordered(USUAL, found, 1))
    assert set(other) == set(everything)
    same = [a == b for a, b in zip(everything[:40], other[:40], strict=True)]
    assert same[:4] == [True] * 4 and not all(same), "only what is drawn by lot depends on the seed"
    kinds = {each.slug: each.kind for each in remedies()}
    alike = [c for c in everything if len(c) == 2 and kinds[c[0]] == kinds[c[1]]]
    assert {kinds[a] for a, _ in alike} <= {"data"}, "two edits of one kind would undo each other"


def test_the_usual_partners_are_remedies() -> None:
    assert {*PARTNERS, LOWER_RATE} <= {each.slug for each in remedies()}


def test_weights_are_drawn_after_the_layers_are_there() -> None:
    known = {each.slug: each for each in remedies()}
    assert in_order(("critical-init", "lr-10", "activation-tanh"), known) == (
        "activation-tanh",
        "critical-init",
        "lr-10",
    )


def test_batches_are_the_same_for_all_and_follow_from_the_seed() -> None:
    problem = small()
    batches = Batches(problem, 100)
    first = [x[0].clone() for x in islice(batches.walk(3), 12)]
    again = [x[0] for x in islice(Batches(problem, 100).walk(3), 12)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    other = [x[0] for x in islice(batches.walk(4), 12)]
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    whole = torch.cat(first[:4]).sort(0).values
    assert torch.equal(whole, problem.inputs.sort(0).values), "an epoch is every batch once"


@pytest.mark.parametrize("own", [False, True], ids=["the process's random numbers", "a generator of its own"])
def test_a_loader_that_shuffles_is_drawn_anew_every_epoch_but_the_same_for_every_trial(own: bool) -> None:
    """Also where another process, or a batch that was not kept, has to draw it again."""
    data = torch.utils.data.TensorDataset(torch.arange(12.0), torch.arange(12.0))
    generator = torch.Generator().manual_seed(5) if own else None
    loader = torch.utils.data.DataLoader(data, batch_size=4, shuffle=True, generator=generator)
    problem = small(train_batches=loader)
    walks = [torch.cat([x for x, _ in islice(Batches(problem, 100).walk(0), 6)]) for _ in range(2)]
    assert torch.equal(walks[0], walks[1])
    assert not torch.equal(walks[0][:12], walks[0][12:])
    assert torch.equal(walks[0][:12].sort().values, torch.arange(12.0))
    if generator is not None:
        assert torch.equal(generator.get_state(), torch.Generator().manual_seed(5).get_state())


def test_an_endless_stream_is_cut_at_the_planned_length() -> None:
    class Endless:
        def __iter__(self) -> Any:
            while True:
                yield torch.rand(2, 3), torch.rand(2, 1)

    assert len(Batches(small(train_batches=Endless()), 7).epoch(0, 0)) == 7


def test_the_standard_error_by_hand() -> None:
    """Two seeds with gains 0.1 and 0.3: sd² = 0.02, so se² = 0.02 / 2 = 0.01. With three groups whose left-out means
    are 0.1, 0.2, 0.3 the jackknife adds 2/3 · (0.01 + 0 + 0.01) = 0.01333."""
    assert standard_error([[0.1], [0.3]]) == pytest.approx(0.1)
    assert standard_error([[0.25]]) == 0.0
    rows = [[0.1, 0.0, 0.1, 0.2], [0.3, 0.2, 0.3, 0.4]]
    assert standard_error(rows) == pytest.approx(math.sqrt(0.01 + 2 / 3 * 0.02))


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    """For the accuracy on n samples in n groups the jackknife gives √(p(1−p)/(n−1)), the textbook formula."""
    hits = torch.tensor([1.0] * 14 + [0.0] * 6)
    left_out = [float((hits.sum() - h) / 19) for h in hits]
    assert standard_error([[0.7, *left_out]]) == pytest.approx(math.sqrt(0.7 * 0.3 / 19), rel=1e-6)


def test_a_gain_counts_only_above_what_is_needed() -> None:
    assert Judgement(10, (0.5, 0.6), (0.4, 0.4), 0.1).accepted
    assert not Judgement(10, (0.5, 0.5), (0.4, 0.4), 0.1).accepted
    assert not Judgement(10, (-math.inf, 0.9), (0.1, 0.1), 0.02).accepted


def test_rows_are_taken_from_tensors_lists_and_structures() -> None:
    tree = {"x": torch.arange(6).reshape(3, 2), "scale": torch.tensor(2.0), "mask": (torch.ones(3),)}
    cut = take(tree, [0, 2], 3)
    assert cut["x"].tolist() == [[0, 1], [4, 5]] and cut["scale"] == 2.0 and cut["mask"][0].shape == (2,)
    assert take(["a", "b", "c"], [0, 2], 3) == ["a", "c"]


def test_the_halves_of_the_validation_data_share_no_sample() -> None:
    inputs = torch.arange(60.0).reshape(30, 2)
    scale = Scale(small(validation=(inputs, torch.zeros(30, 1))))
    choosing, judging = ({tuple(row) for row in part[0].tolist()} for part in (scale.choosing, scale.judging))
    assert scale.split and len(choosing) == len(judging) == 15 and not choosing & judging
    few = Scale(small(validation=(inputs[:19], torch.zeros(19, 1))))
    assert not few.split and few.choosing is few.judging


def test_without_a_metric_the_score_is_the_share_of_the_loss_won() -> None:
    """L_ref given as 2 and a loss that falls from L₀ to L: score (L₀ − L) / 2, on the problem's own loss."""
    problem = small()
    race = race_of(problem)
    race.copies.scale.reference = 2.0
    measure = race.reach(AS_IS, 0, 10, "")
    model, loss = race.copy(AS_IS, 0).model, nn.MSELoss()
    with torch.no_grad():
        start = loss(problem.model(problem.inputs), problem.targets)  # type: ignore[operator]
        now = loss(model(problem.inputs), problem.targets)
    assert measure.score == pytest.approx(float(start - now) / 2.0, rel=1e-6)


def test_training_is_plain_training() -> None:
    """The copy as it is, 30 steps, against a loop written here."""
    problem = small()
    race = race_of(problem)
    race.reach(AS_IS, 0, 10, "")
    race.reach(AS_IS, 0, 30, "")
    fresh = small()
    model, optimizer = fresh.build()
    assert optimizer is not None
    walk = Batches(problem, 160).walk(0)
    for inputs, targets in islice(walk, 30):
        optimizer.zero_grad()
        F.mse_loss(model(inputs), targets).backward()
        optimizer.step()
    for mine, theirs in zip(model.parameters(), race.copy(AS_IS, 0).model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_warm_up_is_the_same_in_parts() -> None:
    """Twenty steps at a rate of (step + 1)/8 of its own, then at its own, against a loop written here."""
    problem, moved = small(), list[list[Tensor]]()
    for stops in ((20,), (3, 7, 8, 20)):
        race = race_of(problem)
        copy = race.copy(AS_IS, 0)
        copy.draft.recipe = replace(copy.draft.recipe, warmup=8)
        for stop in stops:
            race.copies.train(copy, stop)
        assert [group["lr"] for group in copy.optimizer.param_groups] == [0.05]
        moved.append(list(copy.model.parameters()))
    model, _ = small().build()
    for step, (inputs, targets) in enumerate(islice(Batches(problem, 160).walk(0), 20)):
        model.zero_grad()
        F.mse_loss(model(inputs), targets).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                assert parameter.grad is not None
                parameter -= 0.05 * min(1.0, (step + 1) / 8) * parameter.grad
    for whole, parts, theirs in zip(*moved, model.parameters(), strict=True):
        assert torch.equal(whole, parts)
        torch.testing.assert_close(whole, theirs)


def test_a_batch_that_is_no_pair_is_refused_and_one_without_loss_fn_is_inputs_alone() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 1)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return (self.layer(x) - y).pow(2).mean()

    model = Own()
    x, y = torch.randn(8, 3), torch.randn(8, 1)
    batches = [{"x": x, "y": y}] * 3
    problem = unvanish.Problem(
        model, {"x": x, "y": y}, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), train_batches=batches, steps=40
    )
    race = race_of(problem, 120)
    assert race.reach(AS_IS, 0, 10, "").score > 0.0
    with pytest.raises(UnvanishError, match="a dict of 2, but loss_fn"):
        race_of(small(train_batches=batches)).reach(AS_IS, 0, 10, "")


def test_no_step_beyond_the_budget() -> None:
    race = race_of(small(), 60)
    race.reach(AS_IS, 0, 40, "")
    assert (race.ledger.spent, race.ledger.left) == (40, 20)
    with pytest.raises(BudgetSpentError):
        race.reach(("lr-10",), 0, 21, "")
    assert race.ledger.spent == 40
    race.reach(("lr-10",), 0, 20, "")
    assert race.ledger.left == 0


def made_up(race: Any, scores: dict[tuple[str, ...], float]) -> None:
    """A race in which the candidates reach the scores given here, without training."""

    def reach(candidate: tuple[str, ...], seed: int, steps: int, doing: str) -> Measure:
        found = Measure(score=scores[candidate], fall=0.0)
        race.ledger.measures[candidate, seed, steps] = found
        return found

    race.reach = reach


def test_a_heat_keeps_the_best_quarter_of_each_rung() -> None:
    race = race_of(small(steps=6400), 3 * 6400)
    field = [(f"r{i}",) for i in range(16)]
    made_up(race, {AS_IS: 0.0, **{c: i / 16 for i, c in enumerate(field)}})
    assert heat(race, field) == [("r15",)]
    reached = {rung: sum(1 for c, _, s in race.ledger.measures if s == rung and c != AS_IS) for rung in race.plan.rungs}
    assert list(reached.values()) == [16, 4, 1]


def test_the_fewest_edits_within_two_hundredths_of_the_best() -> None:
    race = race_of(small())
    scores = {("a", "b"): 0.90, ("c",): 0.881, ("d",): 0.885, ("e",): 0.87}
    made_up(race, scores)
    for candidate in scores:
        race.reach(candidate, 0, 40, "")
    ranked = sorted(scores, key=race.ledger.key, reverse=True)
    assert smallest_of_the_best(race, ranked) == ("c",)


def test_edits_that_bring_nothing_are_left_out() -> None:
    race = race_of(small())
    race.leaves_a_fault = lambda candidate: False  # type: ignore[method-assign]
    made_up(race, {("a", "b"): 0.90, ("a",): 0.70, ("b",): 0.885})
    race.reach(("a", "b"), 0, 40, "")
    assert minimised(race, ("a", "b")) == ("b",)
    made_up(race, {("a", "b"): 0.90, ("a",): 0.70, ("b",): 0.87})
    race.ledger.measures.clear()
    race.reach(("a", "b"), 0, 40, "")
    assert minimised(race, ("a", "b")) == ("a", "b")


PROGRAM = """
import torch
from torch import nn
import torch.nn.functional as F


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))
        self.act = nn.Sigmoid()
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        for layer in self.layers:
            x = {call}
        return self.head(x)


net = Net()
optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
"""


@pytest.mark.parametrize(
    ("call", "edits", "old", "new"),
    [
        ("torch.sigmoid(layer(x))", ("activation-tanh",), "torch.sigmoid(layer(x))", "torch.tanh(layer(x))"),
        ("layer(x).sigmoid()", ("activation-relu",), "layer(x).sigmoid()", "torch.relu(layer(x))"),
        ("self.act(layer(x))", ("activation-selu",), "nn.Sigmoid()", "nn.SELU()"),
        ("self.act(layer(x))", ("lr-10",), "lr=0.05", "lr=0.5"),
        (
            "self.act(layer(x))",
            ("optimizer-adam",),
            "SGD(net.parameters(), lr=0.05)",
            "Adam(net.parameters(), lr=0.001)",
        ),
    ],
)
def test_a_literal_swap_is_a_diff_of_the_users_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, edits: tuple[str, ...], old: str, new: str
) -> None:
    from unvanish.trials.answer import _after
    from unvanish.trials.patch import patch_of

    monkeypatch.chdir(tmp_path)
    race, source = _race_of_program(tmp_path, PROGRAM.format(call=call))
    diff, patched, why = patch_of(race.problem, race.copy(edits, 0), race.report, _after(race, edits))
    assert why == ""
    assert patched == source.replace(old, new)
    changed = [line for line in diff.splitlines() if line[:1] in "+-" and not line.startswith(("+++", "---"))]
    assert len(changed) == 2 and old in changed[0] and new in changed[1]


@pytest.fixture
def hardshrink() -> Iterator[str]:
    """A remedy of one function, as a file in remedies/ has it, with an activation that no other remedy knows."""
    slug = "activation-hardshrink"
    _registry[slug] = Remedy(
        slug, "", "activation", lambda draft: swap_hidden(draft, BY_NAME["hardshrink"]), (), (), (), ""
    )
    remedies.cache_clear()
    yield slug
    del _registry[slug]
    remedies.cache_clear()


@pytest.mark.parametrize(
    ("call", "old", "new"),
    [
        ("torch.sigmoid(layer(x))", "torch.sigmoid(layer(x))", "torch.nn.functional.hardshrink(layer(x))"),
        ("self.act(layer(x))", "nn.Sigmoid()", "nn.Hardshrink()"),
    ],
)
def test_a_new_activation_remedy_has_its_diff_without_being_named_anywhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hardshrink: str, call: str, old: str, new: str
) -> None:
    from unvanish.trials.answer import _after
    from unvanish.trials.patch import patch_of

    monkeypatch.chdir(tmp_path)
    race, source = _race_of_program(tmp_path, PROGRAM.format(call=call))
    edits = (hardshrink,)
    diff, patched, why = patch_of(race.problem, race.copy(edits, 0), race.report, _after(race, edits))
    assert why == "" and diff
    assert patched == source.replace(old, new)


@pytest.mark.parametrize(
    ("call", "edits", "why"),
    [
        ("self.act(layer(x))", ("batchnorm",), "batchnorm is more than a literal swap"),
        ("self.act(layer(x))", ("he-init",), "he-init is more than a literal swap"),
    ],
)
def test_other_changes_have_no_diff_but_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, edits: tuple[str, ...], why: str
) -> None:
    from unvanish.trials.patch import patch_of

    monkeypatch.chdir(tmp_path)
    race, _ = _race_of_program(tmp_path, PROGRAM.format(call=call))
    copy = SimpleNamespace(candidate=edits, changes=[Change(sentence="") for _ in edits])
    diff, patched, reason = patch_of(race.problem, copy, race.report, race.report)  # type: ignore[arg-type]
    assert (diff, patched) == ("", "")
    assert re.search(why, reason)


def _race_of_program(folder: Path, source: str) -> tuple[Any, str]:
    path = folder / "program.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location("program_under_repair", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["program_under_repair"] = module
    spec.loader.exec_module(module)
    problem = unvanish.Problem(
        module.net, torch.randn(16, 8), torch.randint(2, (16,)), F.cross_entropy, module.optimizer, steps=100
    )
    return race_of(problem, 300), source


def test_fixes_hold_what_the_contract_names() -> None:
    wanted = {"trials", "best", "model", "code", "before", "after"}
    assert wanted <= set(Fixes.__dataclass_fields__)


def test_an_edit_that_leaves_a_wrong_output_layer_is_put_last() -> None:
    """A softmax before a cross-entropy: no activation swap helps, and a quarter of the steps would not show it."""
    problem = replace(zoo.get("double-softmax").build(0), steps=160)
    race = open_race(problem, Plan(160, 480, 1), unvanish.diagnose(problem))
    assert "UV706" in {found.code for found in race.findings}
    stream = iter([("activation-tanh",), ("lr-10",), ("output-layer",)])
    assert race.admitted(stream, 1) == [("output-layer",)]
    assert race.vetoed == [("activation-tanh",), ("lr-10",)]


def test_without_such_a_finding_the_same_edits_stay_in_order() -> None:
    race = race_of(small())
    assert race.admitted(iter([("activation-relu",), ("lr-10",)]), 2) == [("activation-relu",), ("lr-10",)]
    assert race.vetoed == []


@pytest.mark.parametrize(("rate", "learns"), [(0.0, False), (0.05, True)])
def test_a_network_is_left_alone_only_where_it_beats_the_constant_answer(rate: float, learns: bool) -> None:
    problem = small()
    model = cast("nn.Sequential", problem.model)
    with torch.no_grad():
        cast("nn.Linear", model[2]).weight.mul_(1e-3)  # it starts where the best constant answer is
    race = race_of(replace(problem, optimizer=torch.optim.SGD(model.parameters(), lr=rate)))
    assert probe(race)[1] is learns
    constant = race.report.loss.best_constant
    assert (race.copy(AS_IS, 0).loss_now < 0.97 * constant) is learns


FLOWS = ["relu-he-20", "small-cnn", "preln-transformer-6", "batchnorm-relu-20", "two-branch", "lstm", "sigmoid-20",
         "layerscale-1e-5", "postnorm-small-gain-60"]  # fmt: skip


def edited(name: str, seed: int) -> unvanish.Problem:
    """A network of the zoo as a look at an edited copy sees it: without an optimizer."""
    found = zoo.get(name).build(seed)
    return unvanish.Problem(found.build(seed)[0], found.inputs, found.targets, found.loss_fn)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", FLOWS)
def test_one_backward_pass_bounds_what_the_walk_finds(name: str, seed: int) -> None:
    """No layer of the exact walk transmits less, and where none is cut off a healthy network is told by the bound.

    Both are estimates with 0.05 decades of spread; a bound is believed from 0.3 above the limit on.
    """
    problem = edited(name, seed)
    lowest = min(a.log10_transmission for a in veto.quick_layers(problem) if a.log10_transmission is not None)
    bound = veto._bound(problem)
    assert bound is not None and bound <= lowest + 0.2
    assert (bound > veto.CLEAR) == (lowest > VANISHED) == (FLOWS.index(name) < 6)


@pytest.mark.parametrize("name", ["dead-relu", "chain-200", "zero-head", "unused-layer", "detached"])
def test_where_a_gradient_is_zero_or_lost_one_backward_pass_says_nothing(name: str) -> None:
    assert veto._bound(edited(name, 0)) is None


@pytest.mark.parametrize("name", ["output-range", "output-range-relu", "double-softmax", "double-sigmoid",
                                  "softmax-one-unit", "relu-renormalised", "relu-he-20", "sigmoid-output",
                                  "softplus-renormalised", "output-scale", "small-gpt"])  # fmt: skip
def test_a_finding_that_stands_is_never_ruled_out_by_the_last_calls_alone(name: str) -> None:
    problem = edited(name, 0)
    found = {finding.code for finding in unvanish.diagnose(problem).findings}

    def nothing() -> None:
        return None

    codes = outlasting.OF_THE_LAST_CALLS
    ruled_out = {code for code in codes if outlasting.outlasts(problem, {code}, nothing) is False}
    assert not ruled_out & found
    assert outlasting.outlasts(problem, {"UV701", "UV707"}, nothing) is None, "the last calls say nothing of the inputs"
    if name in ("relu-he-20", "output-scale", "small-gpt"):
        assert ruled_out == outlasting.OF_THE_LAST_CALLS, "a linear last layer limits nothing"


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("name", ["output-range", "output-range-relu", "double-softmax", "double-sigmoid",
                                  "relu-renormalised", "unscaled-inputs", "raw-pixels", "relu-he-20", "sigmoid-output",
                                  "softplus-renormalised", "output-scale", "output-scale-relu"])  # fmt: skip
def test_what_outlasts_an_edit_is_what_a_check_of_it_finds(name: str, seed: int) -> None:
    """The hidden layers are drawn anew, smaller and larger; the facts about the loss are those of the first draw."""
    problem = edited(name, seed)
    model, _ = problem.build()
    ends = outlasting.Ends.of(problem, model)
    told = told_alone = 0
    for scale in (1.0, 0.7, 1.5):
        other = copy.deepcopy(model)
        with torch.no_grad():
            for parameter in [p for p in other.parameters() if p.ndim > 1][:-1]:
                parameter.mul_(scale)
        there = replace(problem, model=other)
        found = {finding.code for finding in unvanish.diagnose(there).findings}
        for codes in ({"UV701"}, {"UV702"}, {"UV706"}, {"UV707"}, {"UV702", "UV707"}, {"UV706", "UV707"}):
            outlasts = outlasting.outlasts(there, codes, lambda: ends)
            told += outlasts is not None
            assert outlasts in (None, bool(found & codes)), (scale, codes, found)
            if outlasting.OF_THE_SCALE.issuperset(codes):  # as where the edit has changed the loss
                alone = outlasting.outlasts(there, codes, lambda: None)
                told_alone += alone is not None
                assert alone in (None, bool(found & codes)), (scale, codes, found)
    assert told >= 6 and told_alone >= 3


@pytest.mark.parametrize(("name", "suffers"), [("raw-pixels", True), ("raw-pixels-batchnorm", False)])
def test_inputs_are_standardised_only_where_something_suffers_from_them(
    name: str, suffers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are far from unit size; and where nothing outlasts the edit, its one walk tells the transmission too."""
    problem, looks = edited(name, 0), []
    look = outlasting.quick_look
    monkeypatch.setattr(outlasting, "quick_look", lambda *given: (looks.append(given), look(*given))[1])
    monkeypatch.delattr(veto, "diagnose")
    lowest = min(a.log10_transmission or 0.0 for a in veto.quick_layers(problem))
    monkeypatch.delattr(veto, "quick_layers")
    monkeypatch.delattr(veto, "_bound")
    each = cast("Any", SimpleNamespace(draft=SimpleNamespace(problem=problem)))
    assert veto.transmission(problem, each, ("UV707",)) == (-math.inf if suffers else lowest)
    assert len(looks) == suffers


@pytest.mark.parametrize("depth", [2, 13, 20])
def test_tat_numbers_are_those_of_a_search_from_every_start(depth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("dks")
    from scipy import optimize

    quick = transform._numbers.__wrapped__("TAT", "sigmoid", depth)
    monkeypatch.setattr(transform, "_root", lambda depth: optimize.root)
    assert quick == transform._numbers.__wrapped__("TAT", "sigmoid", depth)


def test_copies_of_a_traced_network_share_its_code_and_nothing_else() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    model = fx.GraphModule(module, fx.symbolic_trace(module).graph)
    recipe = Recipe(torch.optim.SGD, {"lr": 0.1}, groups=(({"lr": 0.1}, tuple(model.parameters())),))
    twin, settings = copied(model, recipe)
    assert type(twin) is type(model) and twin.graph is model.graph
    assert {*map(id, twin.parameters())} == {*map(id, settings.groups[0][1])}
    assert not {*map(id, twin.parameters())} & {*map(id, model.parameters())}
    x = torch.randn(5, 3)
    before = model(x)
    assert torch.equal(twin(x), before)
    with torch.no_grad():
        next(twin.parameters()).add_(1.0)
    assert torch.equal(model(x), before) and not torch.equal(twin(x), before)


def test_a_copy_has_tables_of_its_own_and_shares_among_its_modules_what_was_shared() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    model[0].register_forward_hook(lambda *_: None)
    model[0].seen = model[1].seen = {}  # type: ignore[assignment]
    model[2].marks, model[2].full = set(), {"a": [1]}  # type: ignore[assignment]
    model[2].named = OrderedDict()  # type: ignore[assignment]
    model[2].named.note = [2]  # type: ignore[attr-defined]
    twin, _ = copied(model, Recipe(torch.optim.SGD, {"lr": 0.1}))
    for mine, theirs in zip(model.modules(), twin.modules(), strict=True):
        assert list(vars(mine)) == list(vars(theirs))
        for name, value in vars(mine).items():
            other = vars(theirs)[name]
            assert type(other) is type(value)
            if isinstance(value, (dict, set)):
                assert other is not value and list(other) == list(value)
    assert twin[0].seen is twin[1].seen  # pyright: ignore[reportIndexIssue]
    assert twin[2].full == {"a": [1]} and twin[2].full["a"] is not model[2].full["a"]  # type: ignore[index]
    assert twin[2].named.note == [2] and twin[2].named.note is not model[2].named.note  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["output-range", "double-softmax", "relu-renormalised", "raw-pixels", "relu-he-20"])
def test_what_a_check_said_of_the_loss_is_not_sought_again(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = edited(name, 0)
    model, _ = problem.build()
    sought, report = outlasting.Ends.of(problem, model), unvanish.diagnose(problem, seed=3)
    assert sought is not None and report.loss is not None and report.output is not None
    monkeypatch.delattr(outlasting, "loss_facts")
    monkeypatch.delattr(outlasting, "output_facts")
    told = outlasting.Ends.of(problem, model, (report.loss, report.output))
    assert told is not None and told.calls == sought.calls
    for mine, theirs in zip(vars(told).values(), vars(sought).values(), strict=True):
        assert mine is theirs or not isinstance(mine, float) or mine == pytest.approx(theirs, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("roomy", [True, False])
def test_a_copy_that_was_cut_off_stays_where_there_is_room(roomy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    between = [each for _ in range(20) for each in (nn.Linear(6, 6), nn.Sigmoid())]
    model = nn.Sequential(nn.Linear(3, 6), *between, nn.Linear(6, 1))
    race = race_of(replace(small(), model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.05)))
    if not roomy:
        monkeypatch.setattr(trial, "KEPT_BYTES", 0)
    assert race.leaves_a_fault(("lr-10",))
    assert ((("lr-10",), 0) in race.copies.trained) is roomy


@pytest.mark.parametrize("staying", [(), ("UV706",)])
def test_a_look_at_a_copy_leaves_no_trace_in_it(staying: tuple[str, ...]) -> None:
    model = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 1))
    race = race_of(replace(small(), model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.05)))
    each = race.copy(AS_IS, 0)
    before = {name: value.clone() for name, value in each.model.state_dict().items()}
    random = torch.get_rng_state()
    assert VANISHED < veto.transmission(race.problem, each, staying) <= 0.0
    assert torch.equal(torch.get_rng_state(), random) and each.model.training
    assert all(parameter.grad is None for parameter in each.model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in each.model.state_dict().items())
