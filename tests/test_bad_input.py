"""Wrong input gives one clear UnvanishError or a proper finding, and unusual input is no error at all."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish import Problem, UnvanishError, diagnose
from unvanish.decide import decide
from unvanish.pipeline import look
from unvanish.records import Flow

X = torch.linspace(-1.0, 1.0, 32).reshape(8, 4)
Y = torch.arange(8) % 3


def mlp(**options: Any) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).to(**options)


class Through(nn.Module):
    """A linear layer followed by any function."""

    def __init__(self, function: Callable[[Tensor], Any], grad: bool = True) -> None:
        super().__init__()
        self.layer, self.function, self.grad = nn.Linear(4, 3), function, grad

    def forward(self, x: Tensor) -> Any:
        with torch.set_grad_enabled(self.grad):
            return self.function(self.layer(x))


def fails(*_: Any) -> Any:
    raise RuntimeError("nothing works")


def stops(*_: Any) -> Any:
    raise StopIteration("no more")


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(mlp())


def inference_model() -> nn.Module:
    with torch.inference_mode():
        return mlp()


def with_meta_part() -> nn.Module:
    model = mlp()
    model[2].to("meta")
    return model


Given: Any = Problem  # much of what is given below is what a type checker would refuse

STATED = {
    "model is a number": (lambda: Given(3, X, Y, F.cross_entropy), r"takes an nn.Module or a function.*not an int"),
    "no inputs": (lambda: Given(mlp(), None), r"inputs=…\) is None: give one batch"),
    "loss is a number": (lambda: Given(mlp(), X, Y, 0.5), r"loss_fn=…\) takes a function, not a float"),
    "loss of one argument": (
        lambda: Given(mlp(), X, Y, lambda outputs: outputs.mean()),
        r"called as loss_fn\(outputs, targets\), which it does not take: too many.*\(outputs\)",
    ),
    "loss of three arguments": (
        lambda: Given(mlp(), X, Y, lambda outputs, targets, weight: outputs.mean()),
        r"missing a required argument: 'weight'",
    ),
    "optimizer is a number": (lambda: Given(mlp(), X, Y, F.cross_entropy, 0.1), r"takes a torch Optimizer.*a float"),
    "no steps": (lambda: Given(mlp(), X, Y, F.cross_entropy, steps=0), r"number of optimizer steps, not 0"),
    "steps is a truth value": (lambda: Given(mlp(), X, Y, F.cross_entropy, steps=True), "steps, not True"),
    "autocast to float64": (
        lambda: Given(mlp(), X, Y, F.cross_entropy, autocast=torch.float64),
        r"torch.float16 or torch.bfloat16, not torch.float64",
    ),
    "empty batch": (lambda: Given(mlp(), X[:0], Y[:0], F.cross_entropy), "the batch is empty.*pass real samples"),
    "empty batch by name": (lambda: Given(mlp(), {"input": X[:0]}, Y[:0], F.cross_entropy), "the batch is empty"),
}


@pytest.mark.parametrize("name", STATED)
def test_what_cannot_be_a_problem_is_refused_at_once(name: str) -> None:
    build, message = STATED[name]
    with pytest.raises(UnvanishError, match=message):
        build()


CHECKED = {
    "factory raises": (lambda: Given(lambda: fails(), X, Y, F.cross_entropy), "factory raised RuntimeError: nothing"),
    "factory takes arguments": (lambda: Given(nn.Linear, X, Y, F.cross_entropy), "factory raised TypeError.*missing"),
    "factory builds a number": (
        lambda: Given(lambda: 3, X, Y, F.cross_entropy),
        "an int; it must build an nn.Module",
    ),
    "shapes do not fit": (
        lambda: Given(mlp(), X[:, :3], Y, F.cross_entropy),
        r"the model raised RuntimeError: .*mat1 and mat2.*8x3 and 4x5.*\(in 0 Linear\)",
    ),
    "no arguments": (lambda: Given(mlp(), (), Y, F.cross_entropy), "the model raised TypeError.*missing 1 required"),
    "the model raises": (
        lambda: Given(nn.Sequential(Through(fails)), X, Y, F.cross_entropy),
        r"the model raised RuntimeError: nothing works \(in 0 Through, at .*test_bad_input\.py:\d+\)",
    ),
    "the model stops": (lambda: Given(Through(stops), X, Y, F.cross_entropy), "the model raised StopIteration"),
    "the loss raises": (
        lambda: Given(mlp(), X, Y, fails),
        r"loss_fn raised RuntimeError: nothing works \(at .*test_bad_input\.py:\d+\)",
    ),
    "not one number": (lambda: Given(mlp(), X, Y, lambda o, t: o), r"shape \(8, 3\); the loss must be one number"),
    "own loss is not one number": (
        lambda: Given(mlp(), X),
        r"the model gave, as its loss, a tensor of shape \(8, 3\)",
    ),
    "integer loss": (lambda: Given(mlp(), X, Y, lambda o, t: (o.argmax(1) - t).sum()), "a torch.int64 number"),
    "float loss": (
        lambda: Given(mlp(), X, Y, lambda o, t: F.cross_entropy(o, t).item()),
        r"loss_fn returned a float, which has no gradient; return the tensor itself, without \.item\(\)",
    ),
    "no loss": (lambda: Given(mlp(), X, Y, lambda o, t: None), "loss_fn returned None; does it end without a return"),
    "complex loss": (
        lambda: Given(nn.Linear(4, 3, dtype=torch.cfloat), X.to(torch.cfloat), None, lambda o, _: o.mean()),
        "a torch.complex64 number; a loss must be a floating-point number",
    ),
    "constant loss": (lambda: Given(mlp(), X, Y, lambda o, t: torch.ones(())), "does not depend on any trainable"),
    "integer outputs": (
        lambda: Given(Through(lambda h: h.argmax(1)), X, Y, lambda o, t: (o - t).float().mean()),
        r"made of integers \(argmax\)\?",
    ),
    "no_grad in forward": (lambda: Given(Through(lambda h: h, grad=False), X, Y, F.cross_entropy), "torch.no_grad()"),
    "detached output": (lambda: Given(Through(Tensor.detach), X, Y, F.cross_entropy), "the output detached"),
    "no parameters": (lambda: Given(nn.ReLU(), X, Y, F.cross_entropy), "no parameters, so no gradient to look for"),
    "lazy": (lambda: Given(nn.LazyLinear(3), X, Y, F.cross_entropy), "without a shape yet; run one batch through"),
    "lazy buffers": (
        lambda: Given(nn.Sequential(mlp(), nn.LazyBatchNorm1d(affine=False)), X, Y, F.cross_entropy),
        "without a shape yet; run one batch through",
    ),
    "ScriptModule": (lambda: Given(scripted(), X, Y, F.cross_entropy), "a ScriptModule.*pass the nn.Module"),
    "meta": (lambda: Given(mlp(device="meta"), X, Y, F.cross_entropy), "0.weight is on the meta device.*to_empty"),
    "part on meta": (lambda: Given(with_meta_part(), X, Y, F.cross_entropy), "2.weight is on the meta device"),
    "inference mode": (lambda: Given(inference_model(), X, Y, F.cross_entropy), "under torch.inference_mode"),
    "types do not fit": (lambda: Given(mlp().half(), X, Y, F.cross_entropy), r"same dtype.*\(in 0 Linear\)"),
    "optimizer factory raises": (
        lambda: Given(mlp(), X, Y, F.cross_entropy, lambda p: fails()),
        r"optimizer\(parameters\) raised RuntimeError: nothing works",
    ),
    "optimizer factory returns nothing": (
        lambda: Given(mlp(), X, Y, F.cross_entropy, lambda p: None),
        r"optimizer\(parameters\) returned a NoneType; it must return a torch Optimizer",
    ),
}


@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning", "ignore:.*torch.jit.script.*")
@pytest.mark.parametrize("name", CHECKED)
def test_what_cannot_be_checked_is_one_clear_error(name: str) -> None:
    build, message = CHECKED[name]
    problem = build()
    with pytest.raises(UnvanishError, match=message):
        look(problem)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"effort": "most"}, "effort='most' is unknown; choose one of quick, auto, full"),
        ({"seed": -1}, r"seed=-1 must be a whole number from 0"),
        ({"seed": 0.5}, "seed=0.5 must be a whole number"),
        ({"seed": True}, "seed=True must be a whole number"),
        ({"seed": 2**63}, "must be a whole number"),
        ({"speed": 3}, "does not know speed; a Problem has model, inputs"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UnvanishError, match=message):
        diagnose(mlp(), X, Y, F.cross_entropy, **options)


def test_parts_beside_a_problem_are_refused() -> None:
    with pytest.raises(UnvanishError, match="takes nothing from inputs, steps: put it in the Problem"):
        diagnose(Problem(mlp(), X, Y, F.cross_entropy), X, steps=3)


def test_an_interrupt_is_not_turned_into_an_error() -> None:
    def interrupt(_: Tensor) -> Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        look(Problem(Through(interrupt), X, Y, F.cross_entropy))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_inputs_that_are_not_finite_are_a_finding(bad: float) -> None:
    x = X.clone()
    x[0, 0] = bad
    model = nn.Sequential(nn.Linear(4, 5), nn.ELU(), nn.Linear(5, 3))
    flow = look(Problem(model, x, Y, F.cross_entropy))
    assert flow.nonfinite == "forward"
    assert flow.nonfinite_call is not None and flow.calls[flow.nonfinite_call].module == "0"
    assert "the inputs already hold numbers that are not finite" in flow.notes
    assert {layer.verdict for layer in decide(flow).layers} == {"nonfinite"}
    report = diagnose(Problem(model, x, Y, F.cross_entropy))
    assert report.verdict == "nonfinite" and "UV501" in {f.code for f in report.findings}


def test_parameters_that_are_not_finite_are_a_finding() -> None:
    model = mlp()
    with torch.no_grad():
        model[2].get_parameter("weight")[1, 1] = float("nan")
    flow = look(Problem(model, X, Y, F.cross_entropy))
    assert flow.nonfinite == "forward"
    assert flow.nonfinite_call is not None and flow.calls[flow.nonfinite_call].module == "2"
    assert any("parameters already hold" in note and "2.weight" in note for note in flow.notes)


def test_a_wholly_frozen_model_is_a_flow_of_frozen_layers() -> None:
    flow = decide(look(Problem(mlp().requires_grad_(False), X, Y, F.cross_entropy)))
    assert [(layer.name, layer.verdict) for layer in flow.layers] == [("0", "frozen"), ("2", "frozen")]
    assert not diagnose(mlp().requires_grad_(False), X, Y, F.cross_entropy).healthy


def test_a_loss_of_another_tensor_leaves_every_layer_unused() -> None:
    other = torch.ones((), requires_grad=True)
    flow = decide(look(Problem(mlp(), X, Y, lambda outputs, targets: other * 2.0)))
    assert [layer.verdict for layer in flow.layers] == ["unused", "unused"]


class Tagged(Tensor):
    """A Tensor subclass without behaviour of its own."""


class Odd(nn.Module):
    """One odd parameter before an ordinary layer."""

    def __init__(self, odd: Tensor, use: Callable[[Tensor, Tensor], Tensor], trainable: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.odd, self.use = nn.Parameter(odd, requires_grad=trainable), use
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.use(x, self.odd))


ODD = {
    "zero-dimensional": lambda: Odd(torch.tensor(2.0), lambda x, w: x * w),
    "Tensor subclass": lambda: Odd(torch.eye(4).as_subclass(Tagged), lambda x, w: x @ w),
    "empty": lambda: Odd(torch.zeros(0, 4), lambda x, w: torch.cat([x, w])),
    "integers": lambda: Odd(torch.ones(4, dtype=torch.int8), lambda x, w: x * w, trainable=False),
    "truth values": lambda: Odd(torch.ones(4, dtype=torch.bool), lambda x, w: x * w, trainable=False),
    "complex": lambda: Odd(torch.ones(4, dtype=torch.cfloat), lambda x, w: (x * w).abs()),
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("optimizer", [None, torch.optim.Adam])
def test_odd_parameters_do_not_disturb_their_neighbours(kind: str, optimizer: Any) -> None:
    model = ODD[kind]()
    loss = F.cross_entropy(model(X), Y)
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.layer.parameters()))]).norm()
    by_name = {a.name: a for a in decide(look(Problem(model, X, Y, F.cross_entropy, optimizer))).layers}
    assert by_name["layer"].log10_grad_norm == pytest.approx(float(expected.log10()), abs=1e-5)
    assert by_name["layer"].verdict == "healthy"


def cnn() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    return nn.Sequential(*layers)


def same_up_to(tolerance: float, a: Flow, b: Flow) -> bool:
    return [x.log10_grad_norm for x in a.layers] == pytest.approx([x.log10_grad_norm for x in b.layers], abs=tolerance)


def test_the_memory_layout_changes_nothing() -> None:
    images = torch.linspace(-1, 1, 432).reshape(4, 3, 6, 6).sin()
    plain = look(Problem(cnn(), images, Y[:4], F.cross_entropy))
    last = torch.channels_last
    turned_model: nn.Module = cnn().to(memory_format=last)  # pyright: ignore[reportCallIssue]
    other = look(Problem(turned_model, images.to(memory_format=last), Y[:4], F.cross_entropy))
    assert same_up_to(1e-4, plain, other)
    turned = X.t().contiguous().t()
    assert not turned.is_contiguous()
    assert same_up_to(
        1e-5, look(Problem(mlp(), X, Y, F.cross_entropy)), look(Problem(mlp(), turned, Y, F.cross_entropy))
    )


def test_outputs_that_are_not_contiguous_have_a_gap() -> None:
    torch.manual_seed(0)
    model = nn.GRU(4, 3, batch_first=True)
    flow = look(Problem(model, torch.randn(2, 5, 4), None, lambda outputs, _: outputs[0].pow(2).mean()))
    assert flow.loss is not None and flow.loss.best_free == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-5), (torch.bfloat16, 0.02), (torch.float16, 0.005)]
)
def test_other_types_give_the_same_numbers(dtype: torch.dtype, tolerance: float) -> None:
    wide = look(Problem(mlp(), X, Y, F.cross_entropy))
    flow = look(Problem(mlp().to(dtype), X.to(dtype), Y, F.cross_entropy, torch.optim.Adam))
    assert same_up_to(tolerance, wide, flow)
    assert flow.setting.dtype == str(dtype).removeprefix("torch.")
    assert {layer.verdict for layer in decide(flow).layers} == {"healthy"}


def test_one_sample_has_no_best_constant_and_says_so() -> None:
    flow = look(Problem(mlp(), X[:1], Y[:1], F.cross_entropy))
    assert flow.loss is not None and flow.loss.best_constant is None and "one sample" in flow.loss.why
    assert {layer.verdict for layer in decide(flow).layers} == {"healthy"}


def test_inputs_without_dimensions_are_one_sample() -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor(1.5))

        def forward(self, x: Tensor) -> Tensor:
            return self.weight * x

    flow = look(Problem(Scale(), torch.tensor(2.0), torch.tensor(1.0), F.mse_loss))
    # d/dw (2w - 1)² = 4 (2w - 1) = 8 at w = 1.5
    assert flow.layers[0].log10_grad_norm == pytest.approx(torch.tensor(8.0).log10().item(), abs=1e-6)
    assert flow.setting.batch_size == 1


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_check_works_where_gradients_are_switched_off(mode: Any) -> None:
    model = mlp()
    expected = look(Problem(model, X, Y, F.cross_entropy))
    with mode():
        assert look(Problem(model, X, Y, F.cross_entropy)) == expected
        assert not torch.is_grad_enabled() and torch.is_inference_mode_enabled() is (mode is torch.inference_mode)
