"""Exact zeros told apart on networks small enough to be worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish import Problem
from unvanish.decide import decide
from unvanish.evidence.zeros import nudged
from unvanish.pipeline import look
from unvanish.records import Flow, ZeroFacts

X = torch.linspace(0.1, 1.0, 32).reshape(8, 4)
Y = torch.arange(8) % 3


def check(model: nn.Module, targets: Tensor = Y, loss_fn: Callable[..., Tensor] = F.cross_entropy) -> Flow:
    return decide(look(Problem(model, X, targets, loss_fn)))


def verdicts(flow: Flow) -> dict[str, str]:
    return {layer.name: layer.verdict for layer in flow.layers}


def facts(flow: Flow) -> dict[str, ZeroFacts]:
    return {each.layer: each for each in flow.zeros}


@pytest.fixture(autouse=True)
def weights() -> None:
    torch.manual_seed(0)


def zero(*layers: nn.Module) -> None:
    for layer in layers:
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)


def test_a_zero_head_is_a_gate() -> None:
    """∂L/∂W₂ = r hᵀ is not zero, so W₂ moves first and then lets a gradient through."""
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    zero(model[2])
    flow = check(model)
    assert verdicts(flow) == {"0": "gated", "2": "healthy"}
    assert facts(flow)["0"] == ZeroFacts(layer="0", opens=True, gates=("2.weight",), blocked_by=("linear in 2",))


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_all_weights_zero_is_a_saddle(activation: Any) -> None:
    """Every hidden value is 0, so ∂L/∂W₃ = r·0 and the rest is multiplied by W = 0: only the last bias learns."""
    model = nn.Sequential(nn.Linear(4, 5), activation(), nn.Linear(5, 5), activation(), nn.Linear(5, 3))
    zero(model)
    flow = check(model)
    assert verdicts(flow) == {"0": "saddle", "2": "saddle", "4": "healthy"}
    assert all(each.opens and each.gates == () for each in flow.zeros)


@pytest.mark.parametrize("offset", ["b", "shift"])
def test_what_is_only_added_is_no_gate_by_any_name(offset: str) -> None:
    class Own(nn.Module):
        def __init__(self, width: int, out: int) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(width, out))
            setattr(self, offset, nn.Parameter(torch.zeros(1, out) if offset == "shift" else torch.zeros(out)))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.w + getattr(self, offset)

    flow = check(nn.Sequential(Own(4, 8), nn.ReLU(), Own(8, 8), nn.ReLU(), Own(8, 3)))
    assert verdicts(flow)["0"] == verdicts(flow)["2"] == "saddle"
    assert all(each.gates == () for each in flow.zeros)


def test_zero_weights_whose_hidden_values_are_not_zero_open_from_the_end() -> None:
    """sigmoid(0) = ½: ∂L/∂W₃ = r·½ is not zero, so the last layer moves, then the one before it."""
    model = nn.Sequential(nn.Linear(4, 5), nn.Sigmoid(), nn.Linear(5, 5), nn.Sigmoid(), nn.Linear(5, 3))
    zero(model)
    flow = check(model)
    assert verdicts(flow) == {"0": "gated", "2": "gated", "4": "healthy"}
    assert {each.gates for each in flow.zeros} == {("4.weight",)}


def test_two_zero_layers_in_a_row_are_a_saddle() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 3))
    zero(model[2], model[4])
    assert verdicts(check(model)) == {"0": "saddle", "2": "saddle", "4": "healthy"}


def test_a_product_of_two_zero_scales_is_a_saddle() -> None:
    """d(ab)/da = b = 0 and d(ab)/db = a = 0."""

    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branch, self.head = nn.Linear(4, 4), nn.Linear(4, 3)
            self.a, self.b = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(4))

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x + self.a * self.b * self.branch(x))

    assert verdicts(check(Product())) == {"branch": "saddle", "a": "saddle", "b": "saddle", "head": "healthy"}


def test_a_zero_scale_of_a_residual_branch_is_a_gate() -> None:
    class ReZero(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.branch, self.head = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3)
            self.alpha = nn.Parameter(torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            h = self.stem(x)
            return self.head(h + self.alpha * torch.tanh(self.branch(h)))

    flow = check(ReZero())
    assert verdicts(flow) == {"stem": "healthy", "branch": "gated", "alpha": "healthy", "head": "healthy"}
    assert facts(flow)["branch"].gates == ("alpha",)


def test_a_zero_gain_after_a_norm_is_a_gate() -> None:
    """Zero-initialised residual branches: the gain of the norm is one-dimensional and no bias."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.conv, self.norm = nn.Linear(4, 5), nn.Linear(5, 5), nn.LayerNorm(5)
            self.head = nn.Linear(5, 3)
            nn.init.zeros_(self.norm.weight)

        def forward(self, x: Tensor) -> Tensor:
            h = self.stem(x)
            return self.head(h + self.norm(self.conv(h)))

    flow = check(Block())
    assert verdicts(flow)["conv"] == "gated" and facts(flow)["conv"].gates == ("norm.weight",)


def test_lora_with_a_zero_b_is_a_gate() -> None:
    class LoRA(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base = nn.Linear(4, 3).requires_grad_(False)
            self.a, self.b = nn.Linear(4, 2, bias=False), nn.Linear(2, 3, bias=False)
            nn.init.zeros_(self.b.weight)

        def forward(self, x: Tensor) -> Tensor:
            return self.base(x) + self.b(self.a(x))

    flow = check(LoRA())
    assert verdicts(flow) == {"base": "frozen", "a": "gated", "b": "healthy"}
    assert facts(flow)["a"].gates == ("b.weight",)


@pytest.mark.parametrize(
    ("share", "verdict"), [(0.02, "gated"), (0.029, "gated"), (0.031, "vanished"), (0.04, "vanished")]
)
def test_a_small_weight_is_a_gate_only_below_three_hundredths_of_its_ordinary_norm(share: float, verdict: str) -> None:
    """A weight that was made tiny is there to be opened by training; one that is merely too small is a fault.

    c·I of size n has the norm c·√n, and U(±1/√n) weights have √(n/3): c = share/√3 is that share of the ordinary norm.
    The layer behind it, 0.02·I, has 0.035 of it and is no gate. Together they take the first layers below 10^-2.5 of
    the last one in all four cases; without c, none of them is there.
    """
    model = nn.Sequential(*(nn.Linear(4, 4, bias=False) for _ in range(4)), nn.Linear(4, 3))
    with torch.no_grad():
        for layer, scale in zip(list(model)[:4], (1.0, 1.0, share / math.sqrt(3), 0.02), strict=True):
            layer.weight.copy_(scale * torch.eye(4))  # pyright: ignore
    flow = check(model)
    assert [layer.verdict for layer in flow.layers] == [verdict, verdict, "healthy", "healthy", "healthy"]
    assert {layer.gate for layer in flow.layers[:2]} == {"2.weight" if verdict == "gated" else ""}


def dead_in_the_middle(bias: bool = True, zero_biases: bool = False, after: Any = nn.ReLU) -> nn.Sequential:
    """The second of four layers is pushed below zero, so that its ReLU gives zeros alone."""
    first, second, third, head = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 5, bias=bias), nn.Linear(5, 3)
    for layer in (first, third, head):
        if zero_biases and layer.bias is not None:
            nn.init.zeros_(layer.bias)
    nn.init.constant_(second.bias, -100.0)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third, after(), head)


@pytest.mark.parametrize("zero_biases", [False, True])
def test_what_lies_before_a_dead_relu_is_dead(zero_biases: bool) -> None:
    """With a tanh after it the layer behind has a gradient at its bias: only what lies before the ReLU is dead."""
    flow = check(dead_in_the_middle(zero_biases=zero_biases, after=nn.Tanh))
    assert verdicts(flow) == {"0": "dead", "2": "dead", "4": "healthy", "6": "healthy"}
    assert {each.blocked_by for each in flow.zeros} == {("relu in 3",)}
    assert not any(each.opens or each.by_construction for each in flow.zeros)


@pytest.mark.parametrize("after", [nn.ReLU, nn.Tanh])
@pytest.mark.parametrize("zero_biases", [False, True])
def test_a_layer_without_bias_behind_a_dead_relu_is_dead_too(after: Any, zero_biases: bool) -> None:
    """Its input is exactly zero, so its weights get none: nudging a zero tensor elsewhere changes nothing."""
    flow = check(dead_in_the_middle(bias=False, zero_biases=zero_biases, after=after))
    assert verdicts(flow) == {"0": "dead", "2": "dead", "4": "dead", "6": "healthy"}
    assert {each.blocked_by for each in flow.zeros} == {("relu in 3",)}


def test_a_layer_with_a_zero_bias_behind_a_dead_relu_is_dead_and_no_saddle() -> None:
    """relu(W·0 + 0) = 0 sits on the kink, where the slope counts as 0; the cause is the dead ReLU before it."""
    flow = check(dead_in_the_middle(zero_biases=True))
    assert verdicts(flow) == {"0": "dead", "2": "dead", "4": "dead", "6": "healthy"}
    assert {each.blocked_by for each in flow.zeros} == {("relu in 3",)}


def test_softmax_over_one_unit_is_dead_by_construction() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1), nn.Softmax(1))
    flow = check(model, X[:, :1], F.mse_loss)
    assert verdicts(flow) == {"0": "dead", "2": "dead"}
    assert all(each.by_construction and each.blocked_by == ("softmax in 3",) for each in flow.zeros)


@pytest.mark.parametrize("function", [torch.sign, torch.round, torch.floor])
def test_steps_are_dead_by_construction(function: Callable[[Tensor], Tensor]) -> None:
    class Step(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(function(self.first(x) * 5.0))

    flow = check(Step())
    assert verdicts(flow) == {"first": "dead", "second": "healthy"}
    assert facts(flow)["first"].by_construction and facts(flow)["first"].blocked_by[0].startswith(function.__name__)


def test_a_network_without_exact_zeros_has_no_zero_facts() -> None:
    assert check(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))).zeros == ()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex64])
def test_nudged_parameters_come_back_bit_for_bit(dtype: torch.dtype) -> None:
    real = torch.tensor([0.0, -0.0, 1e-38, -3.5, 2.0**-20])
    parameter = nn.Parameter(real.to(dtype, copy=True))
    before = torch.view_as_real(parameter.detach()).clone() if dtype.is_complex else parameter.detach().clone()
    with pytest.raises(KeyboardInterrupt), nudged([parameter], 0):
        assert bool((parameter.detach() != real.to(dtype)).any())
        raise KeyboardInterrupt
    after = torch.view_as_real(parameter.detach()) if dtype.is_complex else parameter.detach()
    assert torch.equal(after.view(torch.uint8), before.view(torch.uint8))


def test_an_interrupt_while_the_first_of_two_is_nudged_restores_both() -> None:
    class Refuses(Tensor):
        @classmethod
        def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is Tensor.add_:
                raise KeyboardInterrupt
            return super().__torch_function__(func, types, args, kwargs or {})

    first, second = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3).as_subclass(Refuses))
    with pytest.raises(KeyboardInterrupt), nudged([first, second], 0):
        pytest.fail("the second parameter cannot be nudged")
    assert not first.detach().any() and not second.detach().as_subclass(Tensor).any()
