"""Gradients that are gone when the optimizer steps, or still there after it, beside loops that look alike."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_

import unvanish
from unvanish.records import Finding
from unvanish.watching.between import ADDED_UP, WIPED
from unvanish.watching.history import HELD

STEPS = 12


def network(seed: int, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(seed)
    model: Any = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3)).to(dtype)
    with torch.no_grad():
        model[2].weight.mul_(scale)
    return model


def batch(seed: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(16, 8, generator=generator).to(dtype), torch.randn(16, 3, generator=generator).to(dtype)


def watched(
    tmp_path: Path, loop: Callable[[nn.Module, Any, int], None], model: nn.Module, every: int = 1, steps: int = STEPS,
    make: Callable[[Any], Any] = lambda p: torch.optim.SGD(p, 1e-3),
) -> tuple[list[Finding], Any]:  # fmt: skip
    optimizer = make(model.parameters())
    with unvanish.watch(model, optimizer, every=every, to=tmp_path / "r.unvanish") as run:
        for step in range(steps):
            loop(model, optimizer, step)
    return [each for each in run.findings if each.code in (WIPED, ADDED_UP)], unvanish.load_run(run.path)


def pieces(model: Any, optimizer: Any, step: int) -> Iterator[str]:
    """A step of an ordinary loop, which pauses where something can happen."""
    x, y = batch(step)
    optimizer.zero_grad()
    F.mse_loss(model(x), y).backward()
    yield "after backward"
    optimizer.step()
    yield "after step"


def loop(happens: dict[str, Callable[[Any, Any, int], Any]]) -> Callable[[Any, Any, int], None]:
    def run(model: Any, optimizer: Any, step: int) -> None:
        for where in pieces(model, optimizer, step):
            happens.get(where, lambda *_: None)(model, optimizer, step)

    return run


class Writing(torch.optim.SGD):
    """Leaves something else in place of the gradients, as schedule-free AdamW does."""

    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        for group in self.param_groups:
            for p in group["params"]:
                p.grad.div_(p.grad.abs() + 1e-8)
        return loss


def test_what_an_optimizer_writes_over_the_gradients_is_not_taken_for_them(tmp_path: Path) -> None:
    """Findings and numbers are those of the twin that leaves them alone."""
    runs = []
    for make in (Writing, torch.optim.SGD):
        (folder := tmp_path / make.__name__).mkdir()
        found, run = watched(folder, loop({}), network(0, 1e-6), make=lambda p, make=make: make(p, 1e-3))
        assert not found
        runs.append((run.by_layer("log10_grad_norm"), [(each.code, each.message) for each in run.findings]))
    assert runs[0][1] == runs[1][1]
    for name, norms in runs[1][0].items():
        assert runs[0][0][name] == pytest.approx(norms)
    assert max(runs[0][0]["0"]) < -2.0  # what was written has a norm of ten


WIPES: dict[str, Callable[[Any, Any, int], Any]] = {
    "zero_grad": lambda model, optimizer, step: optimizer.zero_grad(),
    "zero_grad, to zeros": lambda model, optimizer, step: optimizer.zero_grad(set_to_none=False),
    "of the model": lambda model, optimizer, step: model.zero_grad(),
    "by hand": lambda model, optimizer, step: [p.grad.mul_(0.0) for p in model.parameters()],
}


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("name", WIPES)
@pytest.mark.parametrize("seed", range(2))
def test_a_gradient_that_is_wiped_is_named_in_the_first_sample(
    name: str, every: int, seed: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = network(seed)
    before = [p.detach().clone() for p in model.parameters()]
    with caplog.at_level(logging.WARNING, "unvanish"):
        found, run = watched(tmp_path, loop({"after backward": WIPES[name]}), model, every)
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    (finding,) = found
    assert (
        finding.level == "error" and finding.message.startswith("since step 0: ") and "zero_grad()" in finding.message
    )
    (loss_gradient,) = (each.value for each in finding.evidence if each.name.startswith("log10"))
    fresh, (x, y) = network(seed), batch(0)
    F.mse_loss(fresh(x), y).backward()
    true = torch.cat([p.grad.flatten() for p in fresh.parameters() if p.grad is not None]).double().norm().log10()
    assert loss_gradient == pytest.approx(float(true), abs=1e-5)
    assert caplog.text.count(WIPED) == 1
    report = run.last_report()
    assert report.verdict == "wiped" and not report.healthy
    assert all(layer.log10_signal is not None for layer in report.layers)  # how far the signal came is known


def test_a_step_before_its_backward_works_with_nothing(tmp_path: Path) -> None:
    def too_early(model: Any, optimizer: Any, step: int) -> None:
        x, y = batch(step)
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y)
        optimizer.step()
        loss.backward()

    (finding,), _ = watched(tmp_path, too_early, network(0), every=5)
    assert finding.message.startswith("since step 5: ")


def test_one_that_begins_later_is_told_when_it_has_held_and_is_over_when_it_is_long_gone(tmp_path: Path) -> None:
    def wipe(model: Any, optimizer: Any, step: int) -> None:
        if 4 <= step < 8 or step == 12:
            optimizer.zero_grad()

    found, run = watched(tmp_path, loop({"after backward": wipe}), network(0), steps=16)
    # of the first of these samples only a few gradients were read after the backward, as nothing had ever changed them
    assert [each.message[:14] for each in found] == ["since step 5: "]
    assert [over for _, over, each in run.episodes if each.code == WIPED] == [8 + HELD - 1]


@pytest.mark.parametrize(("dtype", "scale"), [(torch.float32, 1e21), (torch.bfloat16, 1e21), (torch.float16, 2e4)])
def test_clipping_to_a_norm_that_is_infinite_only_in_its_type_is_named(
    dtype: torch.dtype, scale: float, tmp_path: Path
) -> None:
    norms: list[float] = []

    def clipped(model: Any, optimizer: Any, step: int) -> None:
        x, y = batch(0, dtype)
        optimizer.zero_grad()
        (model(x) * y).sum().backward()
        assert all(bool(p.grad.isfinite().all()) for p in model.parameters())
        norms.append(float(clip_grad_norm_(model.parameters(), 1.0)))
        optimizer.step()

    (finding,), _ = watched(tmp_path, clipped, network(0, scale, dtype))
    assert set(norms) == {float("inf")}
    assert "as clip_grad_norm_ does: it finds this norm infinite" in finding.message
    assert str(dtype).removeprefix("torch.") in finding.message
    (tmp_path / "r.unvanish").unlink()
    assert not watched(tmp_path, clipped, network(0, 1.0, dtype))[0]


def mask(model: Any, optimizer: Any, step: int) -> None:
    """Freezes one layer by hand: the other goes on."""
    model[0].weight.grad = None
    model[0].bias.grad.zero_()


QUIET: dict[str, dict[str, Callable[[Any, Any, int], Any]]] = {
    "as it should be": {},
    "zero_grad behind the step": {"after step": WIPES["zero_grad"]},
    "clipped": {"after backward": lambda model, optimizer, step: clip_grad_norm_(model.parameters(), 1e-6)},
    "one layer masked": {"after backward": mask},
    "one step left out on purpose": {
        "after backward": lambda model, optimizer, step: optimizer.zero_grad() if step == 5 else None
    },
}


@pytest.mark.parametrize("every", [1, 5])
@pytest.mark.parametrize("name", QUIET)
def test_loops_that_use_their_gradient_are_left_alone(name: str, every: int, tmp_path: Path) -> None:
    assert not watched(tmp_path, loop(QUIET[name]), network(0), every)[0]


def test_a_gradient_that_was_zero_all_along_was_not_wiped(tmp_path: Path) -> None:
    def flat(model: Any, optimizer: Any, step: int) -> None:
        optimizer.zero_grad()
        (0.0 * model(batch(step)[0])).sum().backward()
        optimizer.step()

    assert not watched(tmp_path, flat, network(0))[0]


@pytest.mark.parametrize("seed", range(2))
def test_two_optimizers_that_empty_each_others_gradients_use_their_own(seed: int, tmp_path: Path) -> None:
    """The critic's backward fills the generator's gradients as well; they are emptied before its own."""
    generator, critic = network(seed), nn.Linear(3, 1)
    first, second = (torch.optim.SGD(each.parameters(), 1e-2) for each in (generator, critic))
    models = {"generator": generator, "critic": critic}
    with unvanish.watch(models, [first, second], every=1, to=tmp_path / "r.unvanish") as run:
        for step in range(STEPS):
            x, y = batch(step)
            for optimizer, sign in ((second, 1.0), (first, -1.0)):
                generator.zero_grad()
                critic.zero_grad()
                loss = critic(y).mean() - critic(generator(x)).mean()
                (sign * loss).backward()
                optimizer.step()
    assert not {WIPED, ADDED_UP} & {each.code for each in run.findings}


def never_emptied(parts: int = 1) -> Callable[[Any, Any, int], None]:
    def run(model: Any, optimizer: Any, step: int) -> None:
        for part in range(parts):
            x, y = batch(parts * step + part)
            F.mse_loss(model(x), y).backward()
        optimizer.step()

    return run


@pytest.mark.parametrize(("every", "first"), [(1, 1), (4, 4)])
@pytest.mark.parametrize("parts", [1, 3])
def test_gradients_that_are_never_emptied_are_named_at_the_first_that_is_added(
    parts: int, every: int, first: int, tmp_path: Path
) -> None:
    (finding,), run = watched(tmp_path, never_emptied(parts), model := network(0), every)
    assert (finding.code, finding.level) == (ADDED_UP, "error")
    assert finding.message.startswith(f"since step {first}: ") and "zero_grad()" in finding.message
    assert run.last_report().verdict == "added_up"
    # and it is so: the gradient is that of all batches, each at the weights of its step
    alone = network(0)
    optimizer, total = torch.optim.SGD(alone.parameters(), 1e-3), torch.zeros(3)
    for step in range(STEPS):
        for part in range(parts):
            x, y = batch(parts * step + part)
            total += torch.autograd.grad(F.mse_loss(alone(x), y), alone[2].bias)[0]
        never_emptied(parts)(alone, optimizer, step)
    torch.testing.assert_close(model[2].bias.grad, total)


def accumulated(model: Any, optimizer: Any, step: int) -> None:
    optimizer.zero_grad(set_to_none=False)
    for part in range(3):
        x, y = batch(3 * step + part)
        (F.mse_loss(model(x), y) / 3).backward()
    optimizer.step()


def closure(model: Any, optimizer: Any, step: int) -> None:
    def again() -> Tensor:
        optimizer.zero_grad()
        loss = F.mse_loss(model(batch(step)[0]), batch(step)[1])
        loss.backward()
        return loss

    optimizer.step(again)


@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.parametrize(
    ("run", "make"),
    [
        (accumulated, lambda p: torch.optim.SGD(p, 1e-3)),
        (closure, lambda p: torch.optim.LBFGS(p, 1e-2)),
        (loop({"after step": WIPES["zero_grad, to zeros"]}), lambda p: torch.optim.Adam(p, 1e-3)),
    ],
    ids=["accumulated", "closure", "emptied after the step"],
)
def test_gradients_that_are_emptied_once_a_step_are_left_alone(run: Any, make: Any, every: int, tmp_path: Path) -> None:
    assert not watched(tmp_path, run, network(0), every, make=make)[0]


def test_one_step_that_keeps_the_gradient_is_no_finding(tmp_path: Path) -> None:
    def once(model: Any, optimizer: Any, step: int) -> None:
        x, y = batch(step)
        if step != 6:
            optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        optimizer.step()

    assert not watched(tmp_path, once, network(0))[0]
