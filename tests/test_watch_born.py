"""Numbers that stop being finite outside of a module's calls: in the optimizer, by a hook, in another network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from planted import PLANTED, STEPS
from torch import Tensor, nn
from torch.nn import functional as F

import unvanish

NAN, INF = float("nan"), float("inf")


class Net(nn.Module):
    """Two layers, ``fault(h, on)`` between them; ``on`` holds 1 for one sample in the step of the fault."""

    def __init__(self, fault: Callable[[Tensor, Tensor], Tensor] = lambda h, on: h) -> None:
        super().__init__()
        self.first, self.second, self.last, self.fault = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 3), fault

    def forward(self, x: Tensor, on: Tensor) -> Tensor:
        return self.last(torch.relu(self.second(self.fault(torch.tanh(self.first(x)), on))))


def nothing(step: int, net: Any, optimizer: Any) -> None:
    """Where there is nothing to do."""


def train(
    watch: Any, net: nn.Module, optimizer: Any = None, *, before: Any = nothing, between: Any = nothing,
    after: Any = nothing, loss: Any = lambda out, y, on: F.cross_entropy(out, y), scaler: Any = None, parts: int = 1,
    rows: Callable[[int], int] = lambda step: 16,
) -> None:  # fmt: skip
    optimizer = optimizer or torch.optim.Adam(net.parameters(), 1e-3)
    generator = torch.Generator().manual_seed(0)
    with watch(net, optimizer):
        for step in range(STEPS):
            before(step, net, optimizer)
            optimizer.zero_grad()
            for part in range(parts):
                x = torch.randn(16, 8, generator=generator)
                y = torch.randint(0, 3, (16,), generator=generator)
                on = torch.zeros(16, 1)
                on[3] = float(step == PLANTED and part == parts // 2)
                few = slice(rows(step))
                value = loss(net(x[few], on[few]), y[few], on[few]) / parts
                (value if scaler is None else scaler.scale(value)).backward()
            between(step, net, optimizer)
            if scaler is None:
                optimizer.step()
            else:
                scaler.step(optimizer)
                scaler.update()
            after(step, net, optimizer)


def at(change: Callable[[Any, Any], Any]) -> Callable[[int, Any, Any], None]:
    return lambda step, net, optimizer: change(net, optimizer) if step == PLANTED else None


class Slope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, on: Tensor) -> Tensor:
        ctx.save_for_backward(on)
        return h * 2

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (on,) = ctx.saved_tensors
        return grads[0] / (1 - on), None


class Careless(torch.optim.SGD):
    """Its step calls that of its base class, and once leaves something that is no number."""

    steps = 0

    def step(self, closure: Any = None) -> Any:
        super().step(closure)
        if self.steps == PLANTED:
            self.param_groups[0]["params"][2].data[0, 0] = NAN
        self.steps += 1


class Twice(Net):
    def forward(self, x: Tensor, on: Tensor) -> Tensor:
        h = torch.tanh(self.second(torch.tanh(self.first(x))))
        return self.last(self.second(torch.log(h + 1.001 - 3.0 * on)))


def log(h: Tensor, on: Tensor) -> Tensor:
    return torch.log(h + 1.001 - 3.0 * on)


def root(h: Tensor, on: Tensor) -> Tensor:
    return torch.sqrt((h + 1.001) * (1 - on))


def hooked(h: Tensor, on: Tensor) -> Tensor:
    h = h * 1.0
    if bool(on.any()):
        h.register_hook(lambda grad: grad * NAN)
    return h


def careless(watch: Any) -> None:
    net = Net()
    train(watch, net, Careless(net.parameters(), 0.1))


def two_nets(watch: Any) -> None:
    made, judge = Net(log), nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))
    of_made, of_judge = torch.optim.Adam(made.parameters()), torch.optim.Adam(judge.parameters())
    with watch({"made": made, "judge": judge}, [of_judge, of_made]):
        for step in range(STEPS):
            on = torch.zeros(16, 1)
            of_judge.zero_grad()
            false = judge(made(torch.randn(16, 8), on).detach())
            (F.softplus(-judge(torch.randn(16, 3))).mean() + F.softplus(false).mean()).backward()
            of_judge.step()
            on[3] = float(step == PLANTED)
            of_made.zero_grad()
            F.softplus(-judge(made(torch.randn(16, 8), on))).mean().backward()
            of_made.step()


def scaler() -> Any:
    return torch.amp.GradScaler("cpu")


PLANTS: dict[str, tuple[Callable[[Any], None], str, tuple[str, ...]]] = {
    "infinite rate": (
        lambda w: train(w, Net(), before=lambda s, n, o: o.param_groups[0].update(lr=INF if s == PLANTED else 1e-3)),
        "UV505", ("learning rate", "inf"),
    ),
    "rate that is a tensor": (
        lambda w: train(
            w, net := Net(), torch.optim.Adam(net.parameters(), torch.tensor(1e-3)),
            before=lambda s, n, o: o.param_groups[0]["lr"].fill_(NAN if s == PLANTED else 1e-3),
        ),
        "UV505", ("learning rate", "nan"),
    ),
    "squares of the outputs": (
        lambda w: train(w, Net(), loss=lambda out, y, on: F.mse_loss(out * (1 + 1e22 * on.max()), out.detach() * 0)),
        "UV501", ("mse_loss",),
    ),
    "no sample": (lambda w: train(w, Net(), rows=lambda s: 0 if s == PLANTED else 16), "UV501", ("batch is empty",)),
    "step of the optimizer": (careless, "UV505", ("Careless", "second")),
    "written into a weight": (
        lambda w: train(w, Net(), after=at(lambda n, o: n.second.weight.data.mul_(NAN))), "UV505", ("second.weight",)
    ),
    "written into the first gradient": (
        lambda w: train(w, Net(), between=at(lambda n, o: n.first.bias.grad.mul_(INF))), "UV502", ("first", "wrote")
    ),
    "hook of the user": (lambda w: train(w, Net(hooked)), "UV502", ("first", "a hook")),
    "backward of a function of one's own": (lambda w: train(w, Net(Slope.apply)), "UV502", ("Slope",)),
    "layer called twice": (lambda w: train(w, Twice()), "UV501", ("log",)),
    "target": (
        lambda w: train(w, Net(), loss=lambda out, y, on: F.mse_loss(out[:, 0], torch.where(on[:, 0] > 0, NAN, y))),
        "UV501", ("mse_loss",),
    ),
    "mean of nothing": (
        lambda w: train(w, Net(), loss=lambda out, y, on: F.cross_entropy(out, torch.where(on.any(), -100, y))),
        "UV501", ("nll_loss", "mean of nothing"),
    ),
    "a factor of the loss": (
        lambda w: train(w, Net(), loss=lambda out, y, on: F.cross_entropy(out, y) / (1 - on.max())),
        "UV501", ("the loss made a number that is not finite", "div by an exact 0"),
    ),
    "a logarithm of nothing in the loss": (
        lambda w: train(w, Net(), loss=lambda out, y, on: -(out.softmax(-1) * (1 - on)).log().mean()),
        "UV501", ("it was born at log of an exact 0,",),
    ),
    "a logarithm of less than nothing": (
        lambda w: train(w, Net(), loss=lambda out, y, on: (out.softmax(-1) - 2 * on).log().mean()),
        "UV501", ("it was born at log of a negative number,",),
    ),
    "a logarithm of what is no number": (
        lambda w: train(w, Net(), loss=lambda out, y, on: torch.where(on > 0, NAN, out.exp()).log().mean()),
        "UV501", ("it was born at log,",),
    ),
    "one of four micro-batches": (lambda w: train(w, Net(root), parts=4), "UV502", ("sqrt",)),
    "forward under a scaler": (lambda w: train(w, Net(log), scaler=scaler()), "UV501", ("log",)),
    "backward under a scaler": (lambda w: train(w, Net(root), scaler=scaler()), "UV502", ("sqrt",)),
    "the first of two nets in a row": (two_nets, "UV501", ("log", "made")),
}  # fmt: skip


@pytest.mark.parametrize("every", [1, 10])
@pytest.mark.parametrize("name", PLANTS)
def test_the_step_and_what_made_it_are_named(name: str, every: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    run, code, words = PLANTS[name]
    watched: list[Any] = []

    def watch(model: Any, optimizer: Any) -> Any:
        watched.append(unvanish.watch(model, optimizer, every=every, to=tmp_path / "run.unvanish"))
        return watched[0]

    run(watch)
    assert watched[0].watcher.failed == ""
    (found,) = [each for each in watched[0].findings if each.verdict == "nonfinite"]
    assert (found.code, found.level) == (code, "error"), found.message
    assert f"at step {PLANTED}:" in found.message
    assert all(word in found.message for word in words), found.message
    assert watched[0].step == STEPS - ("under a scaler" in name)  # which skips that step


def test_a_part_of_the_loss_that_is_no_number_in_each_step_is_said_once(tmp_path: Path) -> None:
    net = Net()
    bad = torch.tensor(NAN)
    runs: list[Any] = []

    def watch(model: Any, optimizer: Any) -> Any:
        runs.append(unvanish.watch(model, optimizer, every=3, to=tmp_path / "run.unvanish"))
        return runs[0]

    train(watch, net, loss=lambda out, y, on: F.cross_entropy(out, y) + bad)
    assert all(bool(torch.isfinite(p).all()) for p in net.parameters())
    (found,) = [each for each in runs[0].findings if each.verdict == "nonfinite"]
    assert "at step 0: the loss is nan" in found.message


def test_a_loss_of_large_numbers_that_cancel_is_no_overflow(tmp_path: Path) -> None:
    """Outputs of 1e20 and signals of 1e20: their product is beyond float32, and no number of the training is."""
    net = nn.Linear(4, 2)
    with torch.no_grad():
        net.weight.fill_(1e20)
        net.bias.zero_()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    with unvanish.watch(net, optimizer, check_every=1, to=tmp_path / "run.unvanish") as watched:
        out = net(torch.ones(8, 4))
        loss = 1e20 * (out[:, 0] - out[:, 1]).sum()
        assert loss.item() == 0.0
        loss.backward()
        optimizer.step()
    report = unvanish.load_run(watched.path).full_report()
    assert report is not None and not report.flow.nonfinite
    assert not [each for each in watched.findings if each.verdict == "nonfinite"]


def test_what_came_back_from_a_broken_loss_is_no_report(tmp_path: Path) -> None:
    """The signals are no numbers, so the walk that looked for the call used zeros: of these nothing may be said."""
    run = PLANTS["target"][0]
    run(lambda net, optimizer: unvanish.watch(net, optimizer, every=1, to=tmp_path / "run.unvanish"))
    assert unvanish.load_run(tmp_path / "run.unvanish").full_report() is None


def test_a_step_that_calls_the_step_of_its_base_class_is_one_step(tmp_path: Path) -> None:
    torch.optim.SGD(Net().parameters(), 0.1)  # from now on torch's hooks are in the base class's step, too
    net = Net()
    with unvanish.watch(net, optimizer := Careless(net.parameters(), 0.1), to=tmp_path / "run.unvanish") as watched:
        for _ in range(4):
            net(torch.randn(4, 8), torch.zeros(4, 1)).square().sum().backward()
            optimizer.step()
    assert watched.step == 4


@pytest.mark.parametrize("large", [1e17, 3e19])
def test_outputs_whose_squares_are_too_large_are_told_from_a_mean_of_nothing(large: float, tmp_path: Path) -> None:
    """Outputs and error signals are finite there: with squares of 1e34 the loss is, too."""
    net, x = nn.Linear(4, 3), torch.randn(16, 4)
    with torch.no_grad():
        net.weight.fill_(0.0)
        net.bias.fill_(large)
    optimizer = torch.optim.SGD(net.parameters(), 1e-3)
    with unvanish.watch(net, optimizer, every=1, to=tmp_path / "r.unvanish") as run:
        F.mse_loss(net(x), torch.zeros(16, 3)).backward()
        optimizer.step()
    said = " ".join(each.message for each in run.findings)
    assert ("the sum of their squares is more than float32 holds" in said) == (large > 1e18), said
    assert "a mean of nothing" not in said
