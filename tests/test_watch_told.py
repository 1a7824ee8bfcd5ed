"""Faults planted in ordinary programs: what a watch says of each, and of its twin without the fault."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import unvanish
from unvanish.records import Finding
from unvanish.watching.dated import dated, undated

SEEDS = [0, 1, 2]
AT = 5


class Faulty(nn.Module):
    """The logarithm of a negative number, or the slope of a root at zero, in one step alone."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.step = kind, 0

    def forward(self, h: Tensor) -> Tensor:
        if self.step == AT and self.kind == "forward":
            return torch.log(h - h.max() - 1.0)
        return h + torch.sqrt(h * 0.0) if self.step == AT and self.kind == "backward" else h


def nonfinite(run: Any) -> Finding:
    (found,) = (each for each in run.findings if each.verdict == "nonfinite")
    return found


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("every", [1, 10])
@pytest.mark.parametrize("kind", ["forward", "data", "buffer"])
def test_running_statistics_that_a_broken_pass_has_written_are_not_its_cause(
    kind: str, every: int, seed: int, tmp_path: Path
) -> None:
    torch.manual_seed(seed)
    fault = Faulty(kind)
    net = nn.Sequential(nn.Linear(4, 8), fault, nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    with unvanish.watch(net, optimizer, every=every, to=tmp_path / "r.unvanish") as run:
        for fault.step in range(AT + 3):
            x, y = torch.randn(16, 4), torch.randint(2, (16,))
            if fault.step == AT and kind == "data":
                x[0, 0] = math.nan
            if fault.step == AT and kind == "buffer":
                next(net.parameters()).data[0, 0] = math.nan
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
    found = nonfinite(run)
    assert found.cause == {"forward": "log", "data": "data", "buffer": "parameters"}[kind]
    told_at = AT - (kind == "buffer")
    assert "already" not in found.message and found.message.startswith(f"at step {told_at}: ")
    kept = unvanish.load_run(run.path)
    assert [began for began, _, each in kept.episodes if each.verdict == "nonfinite"] == [told_at]
    repeated = kept.full_report()  # only a pass that broke by itself is worth a look
    assert (repeated is not None and repeated.verdict == "nonfinite") == (kind == "forward")


@pytest.mark.parametrize("at", [0, 1, AT])
def test_weights_that_are_broken_between_two_steps_are_told_at_the_first_of_them(at: int, tmp_path: Path) -> None:
    """Of the first step there is none before: the file dates it 0, as the message does."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    with unvanish.watch(net, optimizer, every=1, to=tmp_path / "r.unvanish") as run:
        for step in range(at + 2):
            if step == at:
                next(net.parameters()).data[0, 0] = math.nan
            optimizer.zero_grad()
            F.cross_entropy(net(torch.randn(16, 4)), torch.randint(2, (16,))).backward()
            optimizer.step()
    assert nonfinite(run).message.startswith(f"at step {max(at - 1, 0)}: ")
    episodes = unvanish.load_run(run.path).episodes
    assert [step for step, _, finding in episodes if finding.verdict == "nonfinite"] == [max(at - 1, 0)]


@pytest.mark.parametrize("training", [True, False])
def test_a_check_names_running_statistics_only_where_they_are_read(training: bool) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)).train(training)
    net.get_buffer("1.running_mean").fill_(math.nan)
    report = unvanish.diagnose(net, torch.randn(16, 4), torch.randint(2, (16,)), F.cross_entropy)
    assert ["running_mean" in each.message for each in report.findings if each.code == "UV501"] == [True] * (
        not training
    )


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("every", [1, 10])
@pytest.mark.parametrize(("where", "kind"), [("made", "forward"), ("judge", "backward"), ("judge", "forward")])
def test_the_network_of_a_gan_that_broke_is_named(where: str, kind: str, every: int, seed: int, tmp_path: Path) -> None:
    torch.manual_seed(seed)
    faults = {name: Faulty(kind if name == where else "") for name in ("made", "judge")}
    made = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), faults["made"], nn.Linear(8, 3))
    judge = nn.Sequential(nn.Linear(3, 8), nn.LeakyReLU(), faults["judge"], nn.Linear(8, 1))
    first, second = (torch.optim.Adam(each.parameters(), 1e-3) for each in (made, judge))
    with unvanish.watch(
        {"made": made, "judge": judge}, [first, second], every=every, to=tmp_path / "r.unvanish"
    ) as run:
        for step in range(AT + 3):
            faults["made"].step = faults["judge"].step = step
            fake = made(torch.randn(16, 4))
            judge.zero_grad()
            (F.softplus(-judge(torch.randn(16, 3))) + F.softplus(judge(fake.detach()))).mean().backward()
            second.step()
            made.zero_grad()
            F.softplus(-judge(fake)).mean().backward()
            first.step()
    found = nonfinite(run)
    assert found.cause == {"forward": "log", "backward": "sqrt"}[kind]
    assert found.message.startswith(f"at step {AT}: the forward pass is") and f"in {where}.2 at" in found.message


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("dead", [True, False])
def test_the_dead_layers_of_a_generator_are_seen_though_it_ran_before_the_other_step(
    dead: bool, seed: int, tmp_path: Path
) -> None:
    torch.manual_seed(seed)
    made = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    judge = nn.Sequential(nn.Linear(3, 8), nn.LeakyReLU(), nn.Linear(8, 1))
    made.get_parameter("0.bias").data.sub_(20.0 * dead)
    first, second = (torch.optim.Adam(each.parameters(), 1e-3) for each in (made, judge))
    with unvanish.watch({"made": made, "judge": judge}, [first, second], every=1, to=tmp_path / "r.unvanish") as run:
        fake = made(torch.randn(16, 4))
        F.softplus(judge(fake.detach())).mean().backward()
        second.step()
        F.softplus(-judge(fake)).mean().backward()
        first.step()
    assert [(each.code, each.layers) for each in run.findings] == [("UV301", ("made.0",))] * dead


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("low", "share"), [(20.0, 1.0), (0.0, None)])
def test_of_two_activations_in_a_row_each_may_shut_the_layer(
    low: float, share: float | None, seed: int, tmp_path: Path
) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.relu(F.gelu(self.a(x)) - low))

    torch.manual_seed(seed)
    net, x = Twice(), torch.randn(16, 4)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    with unvanish.watch(net, optimizer, every=1, to=tmp_path / "r.unvanish") as run:
        F.cross_entropy(net(x), torch.randint(2, (16,))).backward()
        optimizer.step()
        net.zero_grad()
        h = F.gelu(net.a(x)) - low
    found = unvanish.load_run(tmp_path / "r.unvanish").by_layer("dead_fraction")["a"][0]
    assert found == (share if share is not None else pytest.approx(float((h <= 0).all(0).float().mean()), abs=0.13))
    assert ["UV301"] * (low > 0.0) == [each.code for each in run.findings]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("where", ["target", "loss", ""])
def test_a_target_that_is_not_finite_is_told_from_a_call_that_made_it(where: str, seed: int, tmp_path: Path) -> None:
    torch.manual_seed(seed)
    net = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    with unvanish.watch(net, optimizer, every=1, to=tmp_path / "r.unvanish") as run:
        for step in range(AT + 2):
            reward = torch.randn(16)
            if where == "target" and step == AT:
                reward[3] = math.nan
            optimizer.zero_grad()
            out = net(torch.randn(16, 4)).squeeze(1)
            loss = -(F.logsigmoid(out) * reward).mean()
            if where == "loss" and step == AT:
                loss = loss + torch.log(-out.square().sum())
            loss.backward()
            optimizer.step()
    found = [each.message for each in run.findings]
    said = {"target": "at mul, which was given numbers", "loss": "at log of a negative number", "": ""}[where]
    assert len(found) == bool(where) and all(each.startswith(f"at step {AT}: ") and said in each for each in found)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("make", "rate", "told"),
    [
        (torch.optim.AdamW, 10.0, True), (torch.optim.AdamW, 1e-2, False), (torch.optim.RMSprop, 10.0, True),
        (torch.optim.RMSprop, 1e-3, False), (torch.optim.SGD, 0.1, False),
    ],
)  # fmt: skip
def test_steps_that_throw_the_weights_about_and_lower_nothing_are_too_large(
    make: Any, rate: float, told: bool, seed: int, tmp_path: Path
) -> None:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
    x, y = torch.randn(64, 8), torch.randint(4, (64,))
    optimizer = make(net.parameters(), rate)
    with unvanish.watch(net, optimizer, every=1, to=tmp_path / "r.unvanish") as run:
        for _ in range(6):
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
    found = [each for each in run.findings if each.code == "UV704"]
    assert len(found) == told and all(f"({rate:g})" in each.message and each.level == "note" for each in found)
    assert run.report().healthy or told


def test_steps_that_wipe_out_tiny_weights_and_lower_the_loss_are_none(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Linear(8, 1)
    x = torch.randn(64, 8)
    y = x @ torch.ones(8, 1)
    for p in net.parameters():
        nn.init.normal_(p, 0.0, 1e-5)
    optimizer = torch.optim.Adam(net.parameters(), 0.05)
    with unvanish.watch(net, optimizer, every=1, to=tmp_path / "r.unvanish") as run:
        for _ in range(10):
            optimizer.zero_grad()
            F.mse_loss(net(x), y).backward()
            optimizer.step()
    assert unvanish.load_run(tmp_path / "r.unvanish").by_layer("update_to_weight_ratio")["Linear"][0] > 10.0
    assert not [each for each in run.findings if each.code == "UV704"]


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("The forward pass is", "at step 1,234: the forward pass is"), ("The.0 hardly", "at step 1,234: The.0 hardly"),
        ("A hardly learns", "at step 1,234: A hardly learns"), ("fc1 … fc3", "at step 1,234: fc1 … fc3"),
        ("Of what it had", "at step 1,234: of what it had"),
    ],
)  # fmt: skip
def test_after_the_step_a_sentence_goes_on_and_a_name_keeps_its_letters(message: str, said: str) -> None:
    assert dated("at", 1_234, message) == said and undated(said) == said.removeprefix("at step 1,234: ")
