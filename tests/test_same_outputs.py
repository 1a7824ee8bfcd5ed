"""Outputs that are the same for every sample are named, with what of the inputs they are made of; others are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish.pipeline import diagnose
from unvanish.preserve import seeded
from unvanish.problem import Problem

SEEDS = range(2)
Run = Callable[[Any, Tensor], Tensor]


class Net(nn.Module):
    """Samples (32, 9, 6), the last third of which is zero, through ``run`` to three numbers each."""

    def __init__(self, run: Run, drop: float = 0.0, norm: bool = False, head: float = 1.0) -> None:
        super().__init__()
        self.run, self.embed, self.head = run, nn.Linear(6, 16), nn.Linear(16, 3)
        self.more = nn.Sequential(nn.BatchNorm1d(16) if norm else nn.Identity(), nn.Tanh(), nn.Dropout(drop))
        with torch.no_grad():
            self.head.weight *= head

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def rows(m: Any, x: Tensor) -> Tensor:
    return m.head(m.more(m.embed(x)))


def problem(run: Run, seed: int, offset: float = 0.0, **options: Any) -> Problem:
    with seeded(seed):
        model, x = Net(run, **options), torch.randn(32, 9, 6) + offset
        x[:, 6:] = 0.0
        targets = x[:, 5, :3].argmax(1)
    return Problem(model, x, targets, F.cross_entropy, torch.optim.Adam(model.parameters(), 1e-2))


READS: dict[str, Run] = {
    "a part that is the same": lambda m, x: rows(m, x[:, -1]),
    "the batch as a whole": lambda m, x: rows(m, x[:, 5]).mean(0).expand(len(x), 3),
    "nothing": lambda m, x: rows(m, torch.ones_like(x[:, 5])),
}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("options", [{}, {"drop": 0.5}, {"norm": True, "drop": 0.1}, {"head": 0.0}])
@pytest.mark.parametrize("read", READS)
def test_one_output_for_all_samples_is_an_error(read: str, options: dict[str, Any], seed: int) -> None:
    given = problem(READS[read], seed, **options)
    before = {name: t.clone() for name, t in given.model.state_dict().items()}  # type: ignore[union-attr]
    report = diagnose(given)
    assert report.same is not None and (report.same.samples, report.same.read) == (32, read)
    hidden = "norm" in options and read == "nothing"  # of rows that are one a batch normalisation passes nothing back
    found = [(each.level, each.cause) for each in report.findings if each.code == "UV711"]
    assert found == [("error", read)] * (not hidden) and (hidden or report.verdict in ("collapsed", "vanished"))
    after = given.model.state_dict()  # type: ignore[union-attr]
    assert all(torch.equal(t, after[name]) for name, t in before.items())


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("run", "options"),
    [
        (lambda m, x: rows(m, x[:, 5]), {"drop": 0.5}),
        (lambda m, x: rows(m, x[:, 5]), {"head": 0.0}),  # opens at the first step
        (lambda m, x: rows(m, x[:, 5]), {"head": 1e-9}),
        (lambda m, x: rows(m, x.mean(1)), {"norm": True}),
        (lambda m, x: rows(m, x[:, 5]) - 100.0, {}),
        (lambda m, x: rows(m, x[:, 5] * 1e-3 + 1.0), {}),
    ],
    ids=["a place of data", "a zero head", "a tiny head", "a mean over places", "far off", "nearly alike"],
)
def test_samples_with_outputs_of_their_own_are_quiet(run: Run, options: dict[str, Any], seed: int) -> None:
    report = diagnose(problem(run, seed, **options))
    assert report.same is None and all(each.code != "UV711" for each in report.findings)


def test_inputs_that_are_the_same_for_all_are_a_note() -> None:
    """First observations, of which a second input, the action, is not read; and one sample drawn again and again."""
    given = problem(lambda m, x: rows(m, x), 0)
    net: Any = given.model
    first, action = torch.randn(1, 6).expand(32, 6).clone(), torch.randn(32, 2)

    class Critic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, seen: Tensor, done: Tensor) -> Tensor:
            return self.net(seen)

    for inputs, model, read in (
        ((first, action), Critic(), "others that are the same"),
        (first, net, "nothing that differs"),
    ):
        report = diagnose(model, inputs, given.targets, F.cross_entropy)
        assert report.same is not None and report.same.read == read
        assert [f.level for f in report.findings if f.code == "UV711"] == ["note"] and report.healthy


def test_targets_that_are_all_alike_ask_for_one_output() -> None:
    given = problem(READS["nothing"], 0)
    model: Any = given.model
    assert diagnose(model, given.inputs, torch.zeros(32, dtype=torch.long), F.cross_entropy).same is None


def test_a_model_that_is_meant_to_be_a_constant_is_quiet() -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.level = nn.Parameter(torch.zeros(3))

        def forward(self, x: Tensor) -> Tensor:
            return self.level.expand(len(x), 3)

    given = problem(READS["nothing"], 0)
    assert diagnose(Constant(), given.inputs, given.targets, F.cross_entropy).same is None


def test_units_that_are_off_are_told_of_instead() -> None:
    given = problem(lambda m, x: m.head(torch.relu(m.embed(x[:, 5]) - 50.0)), 0)
    report = diagnose(given)
    assert report.verdict == "dead" and all(each.code != "UV711" for each in report.findings)


class Decoder(nn.Module):
    """What a summary of the sample and ``given`` for each of nine steps say, read by attention and one more layer."""

    def __init__(self, given: str, last: bool) -> None:
        super().__init__()
        self.given, self.last = given, last
        self.embed, self.read, self.head = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 3)
        self.position = nn.Parameter(torch.zeros(9, 16))

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        asks = {"zeros": torch.zeros_like(h), "places": self.position.expand_as(h), "inputs": h}[self.given]
        seen = (self.read(asks) @ h.transpose(1, 2)).softmax(-1) @ h
        out = self.head(torch.tanh(seen))
        return out.transpose(1, 2) if self.last else out


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    ("given", "level"), [("zeros", ["error"]), ("places", []), ("inputs", []), ("the same inputs", ["note"])]
)
def test_steps_that_nothing_tells_apart(given: str, level: list[str], last: bool, seed: int) -> None:
    """(N, steps, classes) and (N, classes, steps); an encoding of positions that starts at zero opens at once."""
    with seeded(seed):
        x, model = torch.randn(24, 9, 6), Decoder(given.removeprefix("the same "), last)
        targets = torch.randint(0, 3, (24, 9))
    x = x[:, :1].expand(24, 9, 6).clone() if given == "the same inputs" else x

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs if last else outputs.transpose(1, 2), targets)

    report = diagnose(model, x, targets, loss)
    assert [each.level for each in report.findings if each.code == "UV711"] == level
    if level:
        assert report.same is not None and (report.same.samples, report.same.axis) == (9, 1 + last)


class Repeated(nn.Module):
    """One answer for each sample, at all of six steps."""

    def __init__(self, expanded: bool) -> None:
        super().__init__()
        self.net, self.expanded = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3)), expanded

    def forward(self, x: Tensor) -> Tensor:
        one = self.net(x)[:, None]
        return one.expand(-1, 6, -1) if self.expanded else one.repeat(1, 6, 1)


@pytest.mark.parametrize("kind", ["classes", "masked numbers"])
@pytest.mark.parametrize(
    ("steps", "expanded", "level"),
    [("padding", False, []), ("own", False, ["error"]), ("padding", True, []), ("own", True, ["note"])],
)
def test_targets_that_differ_only_where_they_do_not_count(
    steps: str, expanded: bool, level: list[str], kind: str
) -> None:
    with seeded(0):
        x, model = torch.randn(24, 6), Repeated(expanded)
    labels = x[:, :3].argmax(1)[:, None].repeat(1, 6)
    if steps == "own":
        labels[::2, :3] = (labels[::2, :3] + 1) % 3
    labels[:12, 4:] = -100

    def masked(outputs: Tensor, targets: Tensor) -> Tensor:
        if kind == "classes":
            return F.cross_entropy(outputs.flatten(0, 1), targets.flatten())
        return ((outputs[..., 0] - targets) ** 2 * (targets > -100)).mean()

    report = diagnose(model, x, labels if kind == "classes" else labels.float(), masked)
    assert [each.level for each in report.findings if each.code == "UV711"] == level


def test_one_number_a_sample_without_an_axis_of_its_own_is_asked_like_any_other() -> None:
    class Squeezed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.tanh(self.first(x).mean(0, keepdim=True))).expand(len(x), 1).squeeze(1)

    torch.manual_seed(0)
    report = diagnose(Squeezed(), torch.randn(12, 4), torch.randn(12), F.mse_loss)
    assert [(f.code, f.level, f.cause) for f in report.findings] == [("UV711", "error", "the batch as a whole")]
