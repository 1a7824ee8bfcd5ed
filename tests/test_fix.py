"""unvanish.fix end to end: what it finds, what it says, what it costs, and that nothing of the user's is touched."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import unvanish
from unvanish.records import UnvanishError
from unvanish.report.fix_text import render
from unvanish.trials import Fixes, Standing, fix
from unvanish.trials.patch import write_repaired

STEPS = 120


def blobs(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Four clouds of points in the plane, one a class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (count,), generator=generator)
    middles = torch.tensor([[2.0, 0.0], [0.0, 2.0], [-2.0, 0.0], [0.0, -2.0]])
    return middles[labels] + 0.4 * torch.randn(count, 2, generator=generator), labels


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.argmax(1) == targets).float().mean()


def network(activation: type[nn.Module], depth: int = 8, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    hidden = [part for _ in range(depth) for part in (nn.Linear(12, 12), activation())]
    return nn.Sequential(nn.Linear(2, 12), activation(), *hidden, nn.Linear(12, 4))


def problem(model: Any = None, **changes: Any) -> unvanish.Problem:
    x, y = blobs(256, 1)
    model = network(nn.Sigmoid) if model is None else model
    parts: dict[str, Any] = {
        "loss_fn": F.cross_entropy,
        "optimizer": lambda parameters: torch.optim.Adam(parameters, lr=5e-3),
        "train_batches": list(zip(x.split(32), y.split(32), strict=True)),
        "validation": blobs(200, 2),
        "metric": accuracy,
        "steps": STEPS,
    }
    return unvanish.Problem(model, x[:64], y[:64], **{**parts, **changes})


@cache
def repaired() -> Fixes:
    return fix(problem())


def test_a_vanished_network_is_repaired_on_data_that_did_not_choose() -> None:
    fixes = repaired()
    assert fixes.verdict == "repaired"
    assert fixes.best is fixes.trials[0]
    best = fixes.best
    assert best is not None and best.judged and best.helped and best.seeds == 3
    assert best.score is not None and best.baseline is not None and best.score_spread is not None
    assert best.baseline < 0.4 < 0.8 < best.score
    assert best.score_spread[0] <= best.score <= best.score_spread[1]
    assert best.needed is not None and best.score - best.baseline > best.needed >= 0.02
    assert fixes.before.verdict == "vanished"
    assert fixes.after is not None and fixes.after.verdict != "vanished"
    assert fixes.unseen and fixes.split


def test_the_repaired_model_is_the_one_of_the_trial() -> None:
    fixes = repaired()
    assert fixes.model is not None and fixes.best is not None and fixes.best.score_spread is not None
    inputs, targets = blobs(200, 2)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0)).tolist()
    judging = sorted(order[100:])
    fixes.model.eval()
    with torch.no_grad():
        score = float(accuracy(fixes.model(inputs[judging]), targets[judging]))
    low, high = fixes.best.score_spread
    assert low - 1e-6 <= score <= high + 1e-6


def test_the_budget_is_kept_and_every_step_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    from unvanish.trials import train

    taken = 0
    step = train._step

    def counting(*args: Any) -> None:
        nonlocal taken
        taken += 1
        step(*args)

    monkeypatch.setattr(train, "_step", counting)
    for budget in (90, 2 * STEPS + 7):
        taken = 0
        fixes = fix(problem(), budget=budget, seeds=2)
        assert taken == fixes.spent <= fixes.budget == budget


def test_the_same_seed_gives_the_same_answer_and_another_one_is_another_search() -> None:
    again = fix(problem())
    assert again.to_json() == repaired().to_json()
    assert again.model is not None and repaired().model is not None
    for mine, theirs in zip(again.model.parameters(), repaired().model.parameters(), strict=True):  # type: ignore[union-attr]
        assert torch.equal(mine, theirs)
    other = fix(problem(), seed=5, budget=200)
    assert {t.score for t in other.trials} != {t.score for t in again.trials}


def test_a_healthy_network_has_nothing_to_repair_which_is_said_after_the_whole_training() -> None:
    for seed in range(3):
        fixes = fix(problem(network(nn.Tanh, 2, seed)))
        assert fixes.verdict == "nothing to repair", fixes
        assert fixes.best is None and fixes.model is None and fixes.trials == ()
        assert fixes.spent == fixes.as_is.steps == STEPS
        assert str(fixes).startswith("Nothing to repair") and "not looked at" not in str(fixes)
        with pytest.raises(UnvanishError, match="nothing was found to write"):
            fixes.save("repaired.py")


def test_anyway_searches_a_healthy_network_and_accepts_no_gain_that_is_none() -> None:
    x, y = blobs(256, 1)
    model = network(nn.Tanh, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(300):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    fixes = fix(problem(model), anyway=True)
    assert fixes.best is None and fixes.verdict == "no remedy found"
    assert fixes.trials


def test_where_no_remedy_can_help_it_says_so() -> None:
    x, _ = blobs(256, 1)
    noise = torch.randint(4, (256,), generator=torch.Generator().manual_seed(3))
    unlearnable = problem(
        train_batches=list(zip(x.split(32), noise.split(32), strict=True)),
        validation=(blobs(200, 2)[0], torch.randint(4, (200,), generator=torch.Generator().manual_seed(4))),
    )
    for seed in range(2):
        fixes = fix(replace(unlearnable, targets=noise[:64]), seed=seed, budget=150)
        assert fixes.best is None and fixes.model is None and fixes.code == ""
        assert fixes.verdict == "no remedy found"
        assert "No remedy found within the budget" in str(fixes)


def test_nothing_of_the_users_is_touched(
    same_before_and_after: Callable[..., AbstractContextManager[None]],
) -> None:
    model = network(nn.Sigmoid)
    model.insert(1, nn.BatchNorm1d(12))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    x, y = blobs(64, 1)
    F.cross_entropy(model(x), y).backward()
    own = torch.Generator().manual_seed(9)
    data = torch.utils.data.TensorDataset(*blobs(128, 1))
    loader = torch.utils.data.DataLoader(data, batch_size=32, shuffle=True, generator=own)
    state, numbers = own.get_state(), random.getstate()
    with same_before_and_after(model, optimizer):
        fix(problem(model, optimizer=optimizer, train_batches=loader, steps=40))
    assert torch.equal(own.get_state(), state) and random.getstate() == numbers


def test_the_code_runs_without_us_and_reproduces_the_trial() -> None:
    """The text alone, then plain training on the same batches: the weights are those of the trial, bit for bit."""
    fixes = repaired()
    assert fixes.best is not None and fixes.model is not None
    assert "unvanish" not in fixes.code.replace("without unvanish", "")
    given = problem()
    samples = [torch.cat(column)[:4096] for column in zip(*_epoch(given, 0), strict=True)]
    names: dict[str, Any] = {
        "model": network(nn.Sigmoid),
        "loss_fn": F.cross_entropy,
        "restore_outputs": None,
        "inputs": given.inputs,
        "targets": given.targets,
        "sample_inputs": samples[0],
        "sample_targets": samples[1],
    }
    exec(fixes.code, names)
    model, optimizer = names["model"], names["optimizer"]
    walk = _batches(given)
    for _ in range(fixes.best.steps):
        inputs, targets = next(walk)
        optimizer.zero_grad()
        names["loss_fn"](model(inputs), targets).backward()
        if "clip-gradients" in fixes.best.edits:
            torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
        optimizer.step()
        if "warmup" in names:
            names["warmup"].step()
    assert [*model.state_dict()] == [*fixes.model.state_dict()]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, fixes.model.state_dict()[name]), name


def _batches(given: unvanish.Problem) -> Iterator[tuple[Tensor, Tensor]]:
    for epoch in range(100):
        yield from _epoch(given, epoch)


def _epoch(given: unvanish.Problem, epoch: int) -> list[tuple[Tensor, Tensor]]:
    """The order of seed 0, written anew: a permutation of the list of batches for every epoch."""
    order = torch.randperm(len(given.train_batches), generator=torch.Generator().manual_seed(epoch)).tolist()
    return [given.train_batches[place] for place in order]


def test_an_interrupted_search_gives_the_best_so_far_and_goes_on_to_the_same_answer(tmp_path: Path) -> None:
    whole = repaired()
    for stop, from_file in ((8, True), (25, False), (36, True)):
        path = tmp_path / f"{stop}.json"
        calls = 0

        def interrupt(_: Standing, stop: int = stop) -> None:
            nonlocal calls
            calls += 1
            if calls == stop:
                raise KeyboardInterrupt

        part = fix(problem(), resume=path, progress=interrupt)
        assert part.interrupted and part.spent < whole.spent
        assert "interrupted" in str(part)
        if part.best is not None:
            assert part.model is not None and part.best.judged
            assert part.code
        rest = fix(problem(), resume=path if from_file else part)
        assert not rest.interrupted
        assert rest.to_json() == whole.to_json()
        assert rest.model is not None and whole.model is not None
        for mine, theirs in zip(rest.model.parameters(), whole.model.parameters(), strict=True):
            assert torch.equal(mine, theirs)


def test_a_state_of_another_search_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    first = fix(problem(), resume=path, budget=60, seeds=1)
    with pytest.raises(UnvanishError, match="holds another search"):
        fix(problem(), resume=path)
    with pytest.raises(UnvanishError, match="holds another search"):
        fix(problem(network(nn.Sigmoid, seed=1)), resume=first, budget=60, seeds=1)
    path.write_text("[1, 2]")
    with pytest.raises(UnvanishError, match="not the state of a fix"):
        fix(problem(), resume=path)
    path.write_text("{")
    with pytest.raises(UnvanishError, match="cannot be read"):
        fix(problem(), resume=path)


def test_with_a_factory_each_seed_has_weights_of_its_own() -> None:
    built: list[int] = []

    def build() -> nn.Module:
        built.append(torch.initial_seed())
        hidden = [part for _ in range(8) for part in (nn.Linear(12, 12), nn.Sigmoid())]
        return nn.Sequential(nn.Linear(2, 12), nn.Sigmoid(), *hidden, nn.Linear(12, 4))

    fixes = fix(problem(build))
    assert {0, 1, 2} <= set(built)
    assert fixes.best is not None and not any("weights as given" in remark for remark in fixes.remarks)


def test_with_only_a_batch_it_says_training_score_and_counts_the_loss() -> None:
    fixes = fix(problem(train_batches=None, validation=None, metric=None))
    assert not fixes.unseen and not fixes.split
    assert fixes.unit == "share of the loss won"
    assert fixes.best is not None and fixes.best.score is not None and 0.3 < fixes.best.score <= 1.0
    text = render(fixes, 200)
    assert "training scores: nothing is claimed about unseen data" in text
    assert "no train_batches were given" in text and "no validation data were given" in text


def test_pretrained_weights_are_not_drawn_anew() -> None:
    from unvanish.remedies import get

    model = network(nn.Sigmoid)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    x, y = blobs(64, 1)
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
    fixes = fix(problem(model, optimizer=optimizer), budget=200)
    assert any("seen training" in remark for remark in fixes.remarks)
    assert not [e for t in fixes.trials for e in t.edits if get(e).kind == "init"]
    asked = fix(problem(model, optimizer=optimizer), pretrained=False, budget=200)
    assert [e for t in asked.trials for e in t.edits if get(e).kind == "init"]


def test_the_answer_as_text_json_html_and_picture_rows(tmp_path: Path) -> None:
    fixes = repaired()
    for width in (40, 80, 120):
        text = render(fixes, width)
        assert "as it is" in text and "What to change" in text and "Spent:" in text
        assert max(map(len, text.splitlines())) <= max(width, 60)
    plain = render(fixes, 80, unicode=False)
    assert plain.isascii()
    assert "\x1b[" in render(fixes, 80, color=True)
    data = json.loads(fixes.to_json())
    assert data["schema"] == "unvanish.fixes/1" and data["trials"][0]["remedy"] == fixes.trials[0].remedy
    assert unvanish.Report.from_json(json.dumps(data["before"])) == fixes.before
    page = fixes.to_html()
    assert "<script" not in page and "http" not in page.replace("http-equiv", "")
    for suffix in (".json", ".txt", ".html", ".py"):
        fixes.save(tmp_path / f"x{suffix}")
        assert (tmp_path / f"x{suffix}").stat().st_size > 500
    with pytest.raises(UnvanishError, match="names no known format"):
        fixes.save(tmp_path / "x.doc")
    target = tmp_path / "repaired.py"
    write_repaired(fixes, target)
    compile(target.read_text(), "repaired.py", "exec")
    with pytest.raises(UnvanishError, match="never overwrites"):
        write_repaired(fixes, target)


def test_progress_tells_the_ranking_as_it_stands() -> None:
    heard: list[Standing] = []
    fix(problem(), progress=heard.append, budget=200)
    spent = [each.spent for each in heard]
    assert spent == sorted(spent) and all(each.budget == 200 for each in heard)
    last = heard[-1].ranking
    assert {title for title, _, _ in last} >= {"as is"}
    lengths = [steps for _, _, steps in last]
    assert lengths == sorted(lengths, reverse=True)


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({}, {"on": "cloud"}, "on='cloud'"),
        ({}, {"on": "ray", "workers": 2}, "workers of its own"),
        ({}, {"workers": 0}, "workers=0"),
        ({"steps": None}, {}, "how long a training is"),
        ({}, {"budget": 29}, "too small for one rung"),
        ({}, {"budget": 0}, "budget=0"),
        ({}, {"seeds": True}, "seeds=True"),
        ({"optimizer": None}, {}, "has no optimizer"),
        ({"train_batches": 3}, {}, "must be iterable"),
        ({"train_batches": []}, {}, "gave no batch"),
        ({"train_batches": iter([])}, {}, "used up after one pass"),
        ({"train_batches": [torch.zeros(3, 2)]}, {}, "needs targets"),
        ({"validation": torch.zeros(3, 2)}, {}, "give one pair"),
        ({"metric": lambda outputs, targets: outputs}, {}, "must return one number"),
        ({"metric": lambda outputs, targets: 1 / 0}, {}, "metric.* raised ZeroDivisionError in the trial 'as is'"),
    ],
)  # fmt: skip
def test_bad_input_is_answered_clearly(changes: dict[str, Any], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UnvanishError, match=message):
        fix(problem(**changes), **arguments)


def test_a_model_that_cannot_be_copied_asks_for_a_factory() -> None:
    model = network(nn.Sigmoid)
    model.register_module("odd", _Stubborn())
    with pytest.raises(UnvanishError, match=r"cannot be copied.*function that builds"):
        fix(problem(model))


class _Stubborn(nn.Module):
    def __deepcopy__(self, memo: Any) -> Any:
        raise TypeError("holds an open file")

    def forward(self, x: Tensor) -> Tensor:
        return x


def test_a_frozen_model_is_refused() -> None:
    model = network(nn.Sigmoid).requires_grad_(False)
    with pytest.raises(UnvanishError, match=r"(?i)frozen|requires_grad|no gradient"):
        fix(problem(model))


def test_a_metric_that_fails_in_one_trial_names_it() -> None:
    calls = 0

    def moody(outputs: Tensor, targets: Tensor) -> float:
        nonlocal calls
        calls += 1
        if calls > 60:
            raise RuntimeError("out of moods")
        return float(accuracy(outputs, targets))

    with pytest.raises(UnvanishError, match=r"raised RuntimeError in the trial '.+' after \d+ steps: out of moods"):
        fix(problem(metric=moody))


def test_a_loss_that_turns_nan_ends_the_trial_and_saves_its_steps() -> None:
    """SGD at a rate of 10⁶ diverges at once: as it is and in most trials. What is left finds a rate that works."""
    wild = problem(network(nn.Tanh, 1), optimizer=lambda p: torch.optim.SGD(p, lr=1e6), metric=None, loss_fn=_unbounded)
    fixes = fix(wild)
    assert fixes.spent <= fixes.budget
    assert fixes.as_is.score is None or fixes.as_is.score < 0.5
    failed = [trial for trial in fixes.trials if "the loss was" in trial.reason]
    assert all(trial.score is None and not trial.helped for trial in failed)
    if fixes.best is not None:
        assert fixes.best.score is not None and fixes.model is not None
        assert all(bool(torch.isfinite(p).all()) for p in fixes.model.parameters())


def _unbounded(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - F.one_hot(targets, 4)).pow(2).mean().exp().log()
