"""unvanish.fix on what users really hand in: odd batches, losses, models. One clear error or a sensible answer."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_fix import accuracy, blobs, network, problem
from torch import Tensor, nn

import unvanish
from unvanish import cli, trials
from unvanish.records import UnvanishError
from unvanish.report.fix_text import advice
from unvanish.trials import Fixes, Standing, fix

SHORT = 40


def short(model: Any = None, **changes: Any) -> unvanish.Problem:
    return problem(model, **{"steps": SHORT, **changes})


def only(monkeypatch: pytest.MonkeyPatch, *candidates: tuple[str, ...]) -> None:
    """The search has these candidates and no others."""
    monkeypatch.setattr(trials, "ordered", lambda *_: iter(candidates))


class Functional(nn.Module):
    """The layers of ``network``, with the sigmoid called as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(each for each in network(nn.Sigmoid) if isinstance(each, nn.Linear))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = torch.sigmoid(layer(x))
        return self.layers[-1](x)


class OwnLoss(nn.Module):
    """A model that computes its loss where it is given labels."""

    def __init__(self) -> None:
        super().__init__()
        self.body = network(nn.Sigmoid)

    def forward(self, points: Tensor, labels: Tensor | None = None) -> Any:
        outputs = self.body(points)
        return outputs if labels is None else {"loss": F.cross_entropy(outputs, labels), "logits": outputs}


@pytest.mark.parametrize(
    ("make", "candidate"),
    [
        (lambda: network(nn.Sigmoid), ("centred-init",)),
        (lambda: network(nn.Sigmoid), ("residual", "lr-100")),
        (Functional, ("activation-selu",)),
    ],
)
def test_the_code_alone_gives_the_model_of_the_trial(
    make: Callable[[], nn.Module], candidate: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    only(monkeypatch, candidate)
    given = short(make())
    fixes = fix(given, seeds=1)
    assert fixes.best is not None and fixes.model is not None
    assert fixes.best.edits == candidate
    names: dict[str, Any] = {"model": make(), "loss_fn": F.cross_entropy, "restore_outputs": None}
    names |= {"inputs": given.inputs, "targets": given.targets}
    exec(fixes.code, names)
    for (inputs, targets), _ in zip(_walk(given), range(fixes.best.steps), strict=False):
        names["optimizer"].zero_grad()
        names["loss_fn"](names["model"](inputs), targets).backward()
        names["optimizer"].step()
    for (name, mine), theirs in zip(
        names["model"].state_dict().items(), fixes.model.state_dict().values(), strict=True
    ):
        assert torch.equal(mine, theirs), name


def _walk(given: unvanish.Problem) -> Iterator[tuple[Tensor, Tensor]]:
    for epoch in range(100):
        order = torch.randperm(len(given.train_batches), generator=torch.Generator().manual_seed(epoch)).tolist()
        yield from (given.train_batches[place] for place in order)


def test_edits_made_on_what_an_earlier_one_left_are_those_made_from_scratch() -> None:
    """Single edits are kept for the pairs that begin with them; a pair must not notice, nor the kept one."""
    from unvanish.trials.plan import Plan

    given = short()
    pair = ("activation-tanh", "orthogonal-init")
    shared = trials.open_race(given, Plan(SHORT, 120, 1), unvanish.diagnose(given))
    first = shared.copy(pair[:1], 0)
    shared.reach(pair[:1], 0, 10, "trained before the pair is made")
    alone = trials.open_race(given, Plan(SHORT, 120, 1), unvanish.diagnose(given))
    weights = [[p.clone() for p in race.copy(pair, 0).model.parameters()] for race in (shared, alone)]
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
    again = shared.copies.fresh(pair[:1], 0)
    assert again.model is not first.model
    theirs = alone.copies.fresh(pair[:1], 0).model.parameters()
    assert all(torch.equal(a, b) for a, b in zip(again.model.parameters(), theirs, strict=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_batches": [(torch.zeros(0, 2), torch.zeros(0, dtype=torch.long))]}, "batch 0 .* holds no sample"),
        ({"train_batches": [(torch.zeros(8, 5), torch.zeros(8, dtype=torch.long))]}, r"as it is: step 1 raised .*8x5"),
        ({"validation": (torch.zeros(0, 2), torch.zeros(0))}, "validation.* holds no sample"),
        ({"validation": (torch.zeros(50, 7), torch.zeros(50))}, "as it is on the validation data raised .*50x7"),
        ({"optimizer": torch.optim.LBFGS}, "LBFGS asks for the loss several times a step"),
        ({"metric": lambda outputs, targets: None}, "returned a NoneType"),
        ({"metric": lambda outputs, targets: "0.9"}, "returned a str"),
        ({"steps": 1}, "for a training of 1 steps at least 30 are needed"),
    ],
)
def test_one_clear_error(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UnvanishError, match=message):
        fix(short(**changes))


def test_a_model_in_place_of_a_problem_is_told_what_is_missing() -> None:
    with pytest.raises(UnvanishError, match=r"takes an unvanish\.Problem, not a Sequential"):
        fix(network(nn.Sigmoid))  # type: ignore[arg-type]


def test_a_loss_inside_the_model_is_scored_and_without_its_labels_it_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    only(monkeypatch, ("centred-init",))
    x, y = blobs(256, 1)
    batches = [{"points": a, "labels": b} for a, b in zip(x.split(32), y.split(32), strict=True)]
    points, labels = blobs(200, 2)
    parts: dict[str, Any] = {"optimizer": lambda p: torch.optim.Adam(p, lr=5e-3), "train_batches": batches}
    given = unvanish.Problem(
        OwnLoss(), batches[0], **parts, validation={"points": points, "labels": labels}, steps=SHORT
    )
    fixes = fix(given, seeds=1)
    assert fixes.unit == "share of the loss won" and fixes.best is not None
    without = unvanish.Problem(OwnLoss(), batches[0], **parts, validation=(points, labels), steps=SHORT)
    with pytest.raises(UnvanishError, match=r"'as is' gave no single loss .*no loss_fn"):
        fix(without)


def test_a_change_that_cannot_take_the_validation_data_is_out_and_the_search_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from unvanish.trials import score

    real = score.called

    def picky(model: nn.Module, inputs: Any) -> Any:
        if any(isinstance(each, nn.BatchNorm1d) for each in model.modules()):
            raise RuntimeError("one size only")
        return real(model, inputs)

    monkeypatch.setattr(score, "called", picky)
    only(monkeypatch, ("batchnorm",), ("centred-init",))
    fixes = fix(short(), seeds=1)
    assert fixes.best is not None and fixes.best.edits == ("centred-init",)
    out = next(trial for trial in fixes.trials if trial.edits == ("batchnorm",))
    assert out.score is None and "running it on the validation data raised RuntimeError: one size only" in out.reason


def test_the_least_budget_races_two_remedies() -> None:
    fixes = fix(short(), budget=30)
    assert len(fixes.trials) >= 1 and fixes.spent <= 30


def test_model_optimizer_loader_and_random_numbers_are_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, ("activation-tanh",), ("batchnorm", "lr-10"), ("orthogonal-init",))
    torch.manual_seed(4)
    inside = [part for _ in range(4) for part in (nn.Linear(12, 12), nn.BatchNorm1d(12), nn.Sigmoid(), nn.Dropout(0.1))]
    model = nn.Sequential(nn.Linear(2, 12), *inside, nn.Linear(12, 4))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    x, y = blobs(256, 1)
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
    generator = torch.Generator().manual_seed(9)
    data = torch.utils.data.TensorDataset(x, y)
    loader = torch.utils.data.DataLoader(data, 32, shuffle=True, generator=generator)

    def everything() -> list[Tensor]:
        kept = [*model.state_dict().values(), *(p.grad for p in model.parameters() if p.grad is not None)]
        kept += [value for state in optimizer.state.values() for value in state.values()]
        return [each.clone() for each in (*kept, generator.get_state(), torch.get_rng_state())]

    before, python = everything(), random.getstate()
    fix(short(model, optimizer=optimizer, train_batches=loader), anyway=True, seeds=1, pretrained=False)
    assert all(torch.equal(a, b) for a, b in zip(before, everything(), strict=True))
    assert python == random.getstate() and model.training and all(p.requires_grad for p in model.parameters())


def test_names_of_the_user_reach_no_terminal_and_no_page_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, ("centred-init",))

    def metric(outputs: Tensor, targets: Tensor) -> Tensor:
        return accuracy(outputs, targets)

    metric.__name__ = "<script>alert(1)</script>\x1b[31m"
    fixes = fix(short(metric=metric), seeds=1)
    assert "\x1b" not in str(fixes) and "<script" not in fixes.to_html()


def test_what_to_do_next_follows_from_what_happened(monkeypatch: pytest.MonkeyPatch) -> None:
    def said(fixes: Fixes) -> str:
        return "\n".join(advice(fixes))

    only(monkeypatch, ("lr-0.1",), ("lr-0.3",))
    assert "no change did better" in said(fix(short(), seeds=1)) and "UV101 (vanished)" in said(fix(short(), seeds=1))
    assert "a finite number in no trial" in said(fix(short(metric=lambda o, t: float("nan")), seeds=1))
    lost = fix(short(loss_fn=lambda o, t: F.cross_entropy(o, t) * float("nan")), seeds=1)
    assert "2 of 2 changes ended like this: the loss was nan at step 1" in said(lost)
    assert "--anyway" in said(fix(short(network(nn.Tanh, 2))))

    def stop(standing: Standing) -> None:
        raise KeyboardInterrupt

    assert "resume" in said(fix(short(), progress=stop))
    only(monkeypatch)
    assert "larger budget" in said(fix(short()))
    only(monkeypatch, ("centred-init",))
    assert said(fix(short(), seeds=1)) == ""


def test_a_file_that_exists_is_refused_before_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, taken = tmp_path / "net.py", tmp_path / "taken.py"
    source.write_text("raise RuntimeError('it was loaded')\n")
    taken.write_text("mine")
    for more in (["--write", str(taken)], ["--write", str(tmp_path / "a"), "-o", str(tmp_path / "a")]):
        assert cli.main(["fix", str(source), *more]) == 2
        message = capsys.readouterr().err
        assert ("exists already" in message or "a file each" in message) and "loaded" not in message
    assert taken.read_text() == "mine"


def test_transformed_activations_are_written_with_their_signs() -> None:
    from unvanish.remedies.transform import _signed

    assert (_signed(-1.32812), _signed(0.25)) == ("− 1.328", "+ 0.25")


def test_a_loss_that_knows_its_samples_by_itself_is_told_to_take_them_as_targets() -> None:
    x, action = torch.randn(40, 4), torch.randint(0, 3, (40, 1))
    reward = torch.randn(40, 1)

    def by_itself(outputs: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(outputs.gather(1, action), target)

    def given(outputs: Tensor, target: tuple[Tensor, Tensor]) -> Tensor:
        return F.mse_loss(outputs.gather(1, target[0]), target[1])

    def searched(targets: Any, loss_fn: Any) -> Fixes:
        model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        return fix(unvanish.Problem(model, x, targets, loss_fn, optimizer, steps=10), seeds=1)

    with pytest.raises(UnvanishError, match=r"a part of the batch: what the loss_fn knows .* goes into targets"):
        searched(reward, by_itself)
    assert searched((action, reward), given).trials
