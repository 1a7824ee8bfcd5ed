"""A check leaves nothing behind: not when it ends well, not when the user's code raises, not when it is interrupted."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.utils import checkpoint

from unvanish import Problem, UnvanishError, pipeline
from unvanish.evidence import step, zeros
from unvanish.evidence.moving import put_back
from unvanish.flow import look as flow_look
from unvanish.flow import observe
from unvanish.pipeline import look
from unvanish.preserve import untouched as keep
from unvanish.trace import backward

X = torch.linspace(-1.0, 1.0, 32).reshape(8, 4)
Y = torch.arange(8) % 3
Same = Callable[..., Any]


class Busy(nn.Module):
    """A network that moves whatever a forward pass can move, with a zero head so that weights are nudged too."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.drop = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.2)
        self.frozen = nn.Linear(6, 6).requires_grad_(False)
        self.inner = nn.Linear(6, 6)
        self.head = nn.Linear(6, 3)
        nn.init.zeros_(self.head.weight)
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.register_buffer("unset", None)
        self.counter, self.cache, self.state = 0, None, torch.zeros(6)
        self.history: list[Tensor] = []
        self.table: dict[str, int] = {"calls": 0}
        self.recent: deque[int] = deque([7], maxlen=2)
        self.interrupt_at = -1
        self.raise_at = -1

    def forward(self, x: Tensor) -> Tensor:
        self.counter += 1
        self.steps += 1
        _ = random.random(), np.random.rand(), torch.rand(3)
        hidden = self.drop(torch.tanh(self.norm(self.first(x))))
        self.cache, self.unset, self.late = hidden, hidden.detach(), "set in forward"
        self.state.add_(hidden.detach().mean(0))
        self.history.append(hidden)
        self.recent.append(self.counter)
        self.table["calls"] += 1
        self.frozen.requires_grad_(True).requires_grad_(False)
        hidden = checkpoint.checkpoint(self.inner, hidden + torch.tanh(self.frozen(hidden)), use_reentrant=False)
        if self.counter == self.interrupt_at:
            raise KeyboardInterrupt
        if self.counter == self.raise_at:
            raise ValueError("half way")
        return self.head(hidden)


@pytest.fixture
def untouched(same_before_and_after: Same) -> Callable[[Busy, Any], Any]:
    """Conftest's check, and besides: everything global, and what ``Busy`` sets on itself."""

    def everything(model: Busy) -> dict[str, Any]:
        state: Any = np.random.get_state()
        attributes = {k: v for k, v in vars(model).items() if not k.startswith("_")}
        return {
            "numpy": (state[0], state[1].tolist(), *state[2:]),
            "modes": (
                torch.is_grad_enabled(),
                torch.is_inference_mode_enabled(),
                torch.is_autocast_enabled("cpu"),
                torch.get_autocast_dtype("cpu"),
                torch.is_autocast_cache_enabled(),
                torch.get_default_dtype(),
                torch.are_deterministic_algorithms_enabled(),
                torch.is_anomaly_enabled(),
                torch._C._len_torch_function_stack(),
            ),
            "global hooks": [list(getattr(hooks, n)) for n in vars(hooks) if n.startswith("_global_") and "hooks" in n],
            "checkpoint": dict(vars(checkpoint)),
            "attributes": {k: id(v) for k, v in attributes.items()},
            "contents": (list(model.history), dict(model.table), list(model.recent), model.counter, model.cache),
            "state": model.state.tolist(),
            "buffers": {k: id(v) for k, v in model._buffers.items()},
            "trainable": [p.requires_grad for p in model.parameters()],
            "submodules": list(model._modules),
        }

    @contextmanager
    def check(model: Busy, optimizer: Any = None) -> Iterator[None]:
        before = everything(model)
        with same_before_and_after(model, optimizer):
            yield
        after = everything(model)
        assert [k for k in before if before[k] != after[k]] == []

    return check


def busy(train: bool = True, gradients: bool = True) -> tuple[Busy, torch.optim.Optimizer]:
    """A model in the middle of a training: statistics, momentum and (some) gradients are there."""
    model = Busy()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    optimizer.register_step_pre_hook(lambda *_: None)
    if gradients:
        F.cross_entropy(model(X), Y).backward()
        optimizer.step()
        nn.init.zeros_(model.head.weight)
        model.norm.weight.grad = None
        model.history.clear()
        model.cache = None
    model.counter = 0
    model.train(train)
    model.drop.train(not train)  # a mode of its own
    return model, optimizer


@pytest.mark.parametrize("effort", ["quick", "auto", "full"])
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("gradients", [True, False])
def test_a_finished_check(untouched: Same, effort: str, train: bool, gradients: bool) -> None:
    model, optimizer = busy(train, gradients)
    with untouched(model, optimizer):
        flow = look(Problem(model, X, Y, F.cross_entropy, optimizer), effort)
    assert flow.zeros, "the zero head was nudged"
    assert any(layer.update_to_weight_ratio for layer in flow.layers)


def test_a_finished_check_under_autocast(untouched: Same) -> None:
    model, optimizer = busy()
    with untouched(model, optimizer):
        look(Problem(model, X, Y, lambda o, t: F.cross_entropy(o.float(), t), optimizer, autocast=torch.bfloat16))


def test_a_finished_check_with_the_plain_walk(untouched: Same, monkeypatch: pytest.MonkeyPatch) -> None:
    for home in (pipeline, backward):
        monkeypatch.setattr(home, "why_unsupported", lambda: "it is tried here")
    for effort in ("quick", "auto", "full"):
        model, optimizer = busy()
        with untouched(model, optimizer):
            assert not look(Problem(model, X, Y, F.cross_entropy, optimizer), effort).setting.exact


def test_no_step_hook_and_no_scheduler_counts_the_update_that_is_tried(untouched: Same) -> None:
    model, optimizer = busy()
    seen: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: seen.append("pre"))
    optimizer.register_step_post_hook(lambda *_: seen.append("post"))
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3)
    before = scheduler.state_dict(), getattr(optimizer, "_opt_called", None)
    with untouched(model, optimizer):
        look(Problem(model, X, Y, F.cross_entropy, optimizer))
    assert seen == [] and (scheduler.state_dict(), getattr(optimizer, "_opt_called", None)) == before


def test_hooks_of_the_user_on_parameters_do_not_run_as_in_a_training_step(untouched: Same) -> None:
    model, optimizer = busy()
    seen: list[Any] = []
    model.first.weight.register_post_accumulate_grad_hook(seen.append)
    with untouched(model, optimizer):
        look(Problem(model, X, Y, F.cross_entropy, optimizer))
    assert seen == []


@pytest.mark.parametrize("when", ["forward", "loss", "not one number"])
def test_an_error(untouched: Same, when: str) -> None:
    model, optimizer = busy()

    def loss_fn(outputs: Tensor, targets: Tensor) -> Tensor:
        if when == "loss":
            raise ValueError("half way")
        return outputs

    model.raise_at = 1 if when == "forward" else -1
    with untouched(model, optimizer), pytest.raises(UnvanishError, match=r"half way|one number"):
        look(Problem(model, X, Y, loss_fn, optimizer))


@pytest.mark.parametrize("call", [1, 2])
def test_an_interrupt_in_the_forward_pass(untouched: Same, call: int) -> None:
    model, optimizer = busy()
    model.interrupt_at = call
    with untouched(model, optimizer), pytest.raises(KeyboardInterrupt):
        look(Problem(model, X, Y, F.cross_entropy, optimizer))


@pytest.mark.parametrize(("call", "said"), [(2, False), (4, True), (5, False)])
def test_an_error_in_a_later_forward_pass(untouched: Same, call: int, said: bool) -> None:
    """One in eval mode or of a step that is tried only leaves its own question open; one of the walk is an error."""
    model, optimizer = busy()
    count = 0

    def raising(*_: Any) -> None:
        nonlocal count
        count += 1
        if count == call:
            raise ValueError("half way")

    model.register_forward_pre_hook(raising)
    with untouched(model, optimizer), pytest.raises(UnvanishError, match="half way") if said else nullcontext():
        look(Problem(model, X, Y, F.cross_entropy, optimizer))


@pytest.mark.parametrize("call", [1, 2, 3, 4, 8, 16, "last"])
def test_an_interrupt_in_the_loss(untouched: Same, call: int | str) -> None:
    model, optimizer = busy()
    count = 0

    def loss_fn(outputs: Tensor, targets: Tensor) -> Tensor:
        nonlocal count
        count += 1
        if count == call:
            raise KeyboardInterrupt
        return F.cross_entropy(outputs, targets)

    problem = Problem(model, X, Y, loss_fn, optimizer)
    if call == "last":
        look(problem)
        count, call = 0, count
    with untouched(model, optimizer), pytest.raises(KeyboardInterrupt):
        look(problem)


STAGES = {
    pipeline: (
        "loss_facts",
        "last_call",
        "output_call",
        "measure",
        "zero_facts",
        "output_facts",
        "step_facts",
    ),
    observe: ("_below", "_real", "output_cotangents"),
    step: ("ladder_of", "put_back"),
}


@pytest.mark.parametrize(
    ("module", "stage"),
    [
        *((module, stage) for module, stages in STAGES.items() for stage in stages),
        (observe.slopes, "shares"),
        (flow_look, "layers_of"),
        (zeros, "record"),
        (zeros, "output_cotangents"),
    ],
)
def test_an_interrupt_at_each_stage(untouched: Same, monkeypatch: pytest.MonkeyPatch, module: Any, stage: str) -> None:
    def interrupt(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, stage, interrupt)
    model, optimizer = busy()
    with untouched(model, optimizer), pytest.raises(KeyboardInterrupt):
        look(Problem(model, X, Y, F.cross_entropy, optimizer))


def test_weights_of_the_loss_get_no_gradient() -> None:
    model, scale = nn.Linear(4, 3), nn.Parameter(torch.tensor(0.5))
    look(Problem(model, X, Y, lambda outputs, targets: F.cross_entropy(outputs * scale, targets) + scale**2))
    assert scale.grad is None and model.weight.grad is None


def test_modules_beside_the_model_can_be_kept_too() -> None:
    model, loss = nn.Linear(4, 3), nn.BatchNorm1d(3)
    with keep(model, 0, loss, F.cross_entropy):
        loss(model(X))
        loss.weight.grad = torch.ones(3)
    assert [bool(buffer.any()) for buffer in loss.buffers()] == [False, True, False] and loss.weight.grad is None


def test_statistics_that_are_not_numbers_come_back_as_they_were(untouched: Same) -> None:
    model, optimizer = busy()
    model.norm.get_buffer("running_mean").fill_(float("nan"))
    model.eval()
    with untouched(model, optimizer):
        assert look(Problem(model, X, Y, F.cross_entropy, optimizer)).nonfinite == "forward"


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.drop, self.second = nn.Linear(4, 6), nn.Dropout(0.5), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(
            self.drop(torch.tanh(self.first(x))) * (1.0 + 0.1 * np.random.rand() + 0.1 * random.random())
        )


@pytest.mark.parametrize("effort", ["quick", "auto", "full"])
def test_the_same_problem_and_seed_give_the_same_flow(effort: str) -> None:
    model = Noisy()
    problem = Problem(model, X, Y, F.cross_entropy, torch.optim.Adam(model.parameters()))
    first = look(problem, effort, 3)
    _ = torch.manual_seed(99), random.seed(99), np.random.seed(99)
    assert look(problem, effort, 3) == first
    assert look(problem, effort, 4).layers != first.layers


def test_the_same_problem_and_seed_give_the_same_report_byte_for_byte() -> None:
    model = Noisy()
    texts = [pipeline.diagnose(model, X, Y, F.cross_entropy, seed=seed).to_json() for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_a_copy_is_handed_out_only_while_it_is_what_the_tensor_holds() -> None:
    model = nn.Linear(4, 3)
    with keep(model, 0) as kept:
        copy = kept.copy_of(model.weight)
        assert copy is not None and torch.equal(copy, model.weight) and copy.data_ptr() != model.weight.data_ptr()
        assert kept.copy_of(torch.ones(2)) is None, "not of the model"
        model.weight.data.add_(1.0)
        assert kept.copy_of(model.weight) is None and kept.copy_of(model.bias) is not None


def test_moved_weights_come_back_from_a_copy_that_is_there_or_is_made() -> None:
    weights = [nn.Parameter(torch.arange(3.0)), nn.Parameter(torch.ones(2))]
    there = weights[0].detach().clone()
    with put_back(weights, lambda p: there if p is weights[0] else None) as start:
        assert start[0] is there and torch.equal(start[1], weights[1])
        for each in weights:
            each.data.add_(5.0)
    assert torch.equal(weights[0], torch.arange(3.0)) and torch.equal(weights[1], torch.ones(2))


class Renormed(nn.Module):
    """An embedding whose rows every forward pass shortens: what was kept at the beginning is not what is there."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rows, self.head = nn.Embedding(6, 4, max_norm=0.5), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.rows(x)))


@pytest.mark.parametrize("made", [Renormed, lambda: nn.Sequential(nn.Embedding(6, 4), nn.Tanh(), nn.Linear(4, 3))])
def test_a_ladder_is_the_same_from_kept_copies_as_from_new_ones(
    made: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = made()
    problem = Problem(model, torch.arange(8) % 6, Y, F.cross_entropy, torch.optim.Adam(model.parameters(), 1e-2))
    before = [p.detach().clone() for p in model.parameters()]
    kept = look(problem)
    monkeypatch.setattr(keep, "copy_of", lambda *_: None)
    assert kept.step is not None and kept.step == look(problem).step
    assert all(map(torch.equal, before, model.parameters()))
