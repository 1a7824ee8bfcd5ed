"""Every way of stating a problem: inputs, targets, losses, factories and optimizers."""

from __future__ import annotations

from collections import UserDict, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish import Problem, UnvanishError, diagnose
from unvanish.pipeline import look

X = torch.linspace(-1.0, 1.0, 32).reshape(8, 4)
Y = torch.arange(8) % 3


class TwoArguments(nn.Module):
    """Takes a sample and a shift; ``shape_of_output`` says how the loss is handed back."""

    def __init__(self, output: Any = None) -> None:
        super().__init__()
        self.first, self.second, self.output = nn.Linear(4, 5), nn.Linear(5, 3), output

    def forward(self, a: Tensor, b: Tensor | float = 0.0) -> Any:
        logits = self.second(torch.tanh(self.first(a) + b))
        return self.output(logits) if self.output else logits


@dataclass
class Output:
    loss: Tensor
    logits: Tensor


Named = namedtuple("Named", ["loss", "logits"])


def seeded_model(output: Any = None) -> TwoArguments:
    torch.manual_seed(3)
    return TwoArguments(output)


def gradient_of(loss: Tensor, model: nn.Module) -> list[float]:
    """log10 of the gradient norm of each of the two layers, by torch's own backward."""
    grads = torch.autograd.grad(loss, list(model.parameters()))
    return [torch.cat([g.flatten() for g in grads[i : i + 2]]).norm().log10().item() for i in (0, 2)]


def measured(problem: Problem) -> list[float | None]:
    return [layer.log10_grad_norm for layer in look(problem).layers]


@pytest.mark.parametrize(
    ("inputs", "arguments"),
    [
        pytest.param(X, (X,), id="tensor"),
        pytest.param((X,), (X,), id="tuple of one"),
        pytest.param((X, 0.5), (X, 0.5), id="tuple"),
        pytest.param([X, X[:, :1]], (X, X[:, :1]), id="list"),
        pytest.param({"b": X[:, :1], "a": X}, (X, X[:, :1]), id="dict"),
        pytest.param(UserDict(a=X, b=0.25), (X, 0.25), id="mapping that is no dict"),
        pytest.param(Named(X, 0.5), (X, 0.5), id="named tuple"),
    ],
)
def test_inputs_are_spread_as_the_contract_says(inputs: Any, arguments: tuple[Any, ...]) -> None:
    model = seeded_model()
    expected = gradient_of(F.cross_entropy(model(*arguments), Y), model)
    assert measured(Problem(model, inputs, Y, F.cross_entropy)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("targets", "loss_fn"),
    [
        pytest.param(Y, F.cross_entropy, id="tensor"),
        pytest.param((Y, 2.0), lambda out, t: t[1] * F.cross_entropy(out, t[0]) / 2.0, id="tuple"),
        pytest.param({"labels": Y}, lambda out, t: F.cross_entropy(out, t["labels"]), id="dict"),
        pytest.param(None, lambda out, _: F.cross_entropy(out, Y), id="none"),
        pytest.param(Y, nn.CrossEntropyLoss(), id="module"),
        pytest.param(Y, lambda *both: F.cross_entropy(*both), id="star arguments"),
        pytest.param(Y, lambda o, t: F.cross_entropy(o, t) * 0.5 + 0.5 * F.nll_loss(F.log_softmax(o, 1), t), id="sum"),
    ],
)
def test_targets_may_be_anything_the_loss_takes(targets: Any, loss_fn: Any) -> None:
    model = seeded_model()
    expected = gradient_of(F.cross_entropy(model(X), Y), model)
    flow = look(Problem(model, X, targets, loss_fn))
    assert [layer.log10_grad_norm for layer in flow.layers] == pytest.approx(expected, abs=1e-5)
    assert flow.loss is not None and flow.loss.value == pytest.approx(F.cross_entropy(model(X), Y).item(), rel=1e-5)


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(lambda logits: F.cross_entropy(logits, Y), id="the output itself"),
        pytest.param(lambda logits: Output(F.cross_entropy(logits, Y), logits), id="dataclass"),
        pytest.param(lambda logits: {"loss": F.cross_entropy(logits, Y), "logits": logits}, id="dict"),
        pytest.param(lambda logits: UserDict(loss=F.cross_entropy(logits, Y), logits=logits), id="mapping"),
        pytest.param(lambda logits: Named(F.cross_entropy(logits, Y), logits), id="named tuple"),
    ],
)
def test_a_model_may_return_its_own_loss(wrap: Any) -> None:
    model = seeded_model(wrap)
    outputs = model(X)
    loss = outputs if isinstance(outputs, Tensor) else outputs["loss"] if hasattr(outputs, "keys") else outputs.loss
    flow = look(Problem(model, X))
    assert [layer.log10_grad_norm for layer in flow.layers] == pytest.approx(gradient_of(loss, model), abs=1e-5)
    # The recognised call inside the model is replayed, so that the gap is known although there is no loss_fn.
    assert flow.loss is not None and flow.loss.relative_gap is not None


def test_several_outputs_may_share_one_loss() -> None:
    model = seeded_model(lambda logits: (logits, {"half": 0.5 * logits}))

    def loss_fn(outputs: Any, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs[0], targets) + outputs[1]["half"].pow(2).mean()

    expected = gradient_of(loss_fn(model(X), Y), model)
    assert measured(Problem(model, X, Y, loss_fn)) == pytest.approx(expected, abs=1e-5)


def test_a_tuple_that_starts_with_its_loss_needs_a_loss_fn() -> None:
    model = seeded_model(lambda logits: (F.cross_entropy(logits, Y), logits))
    with pytest.raises(UnvanishError, match=r"a tuple, has no \.loss.*loss_fn=lambda outputs, _: outputs\[0\]"):
        look(Problem(model, X))
    expected = gradient_of(model(X)[0], model)
    assert measured(Problem(model, X, None, lambda outputs, _: outputs[0])) == pytest.approx(expected, abs=1e-5)


def test_targets_without_a_loss_fn_are_refused() -> None:
    with pytest.raises(UnvanishError, match="targets but no loss_fn: pass loss_fn"):
        Problem(seeded_model(), X, Y)


def test_the_positional_form_gives_the_same_report() -> None:
    model = seeded_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    short = diagnose(model, X, Y, F.cross_entropy, optimizer=optimizer)
    long = diagnose(Problem(model, X, Y, F.cross_entropy, optimizer))
    assert short.to_json() == long.to_json()
    assert all(layer.update_to_weight_ratio for layer in short.layers)


def test_a_factory_is_built_from_the_seed_whatever_the_random_state() -> None:
    problem = Problem(TwoArguments, X, Y, F.cross_entropy, lambda p: torch.optim.SGD(p, lr=0.1))
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = look(problem, seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert look(problem, seed=5) == first
    assert look(problem, seed=6).layers != first.layers
    assert first.setting.optimizer == "SGD"
    model, optimizer = problem.build(5)
    assert optimizer is not None
    assert {id(p) for p in optimizer.param_groups[0]["params"]} == {id(p) for p in model.parameters()}


def test_a_factory_that_draws_from_numpy_and_python_is_built_from_the_seed() -> None:
    import random

    import numpy as np

    def factory() -> nn.Module:
        model = nn.Linear(4, 3)
        with torch.no_grad():
            model.weight.fill_(random.random())
            model.bias.fill_(np.random.rand())
        return model

    def drawn() -> Any:
        state: Any = np.random.get_state()
        return random.getstate(), state[1].tolist(), state[2:]

    states = drawn()
    one, _ = Problem(factory, X, Y, F.cross_entropy).build(4)
    assert drawn() == states
    _ = random.random(), np.random.rand()
    two, _ = Problem(factory, X, Y, F.cross_entropy).build(4)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_an_optimizer_instance_with_a_factory_is_refused() -> None:
    optimizer = torch.optim.SGD(seeded_model().parameters(), lr=0.1)
    with pytest.raises(UnvanishError, match=r"factory and an optimizer instance: pass a function.*lambda parameters"):
        Problem(TwoArguments, X, Y, F.cross_entropy, optimizer)


def test_an_optimizer_over_other_parameters_is_refused() -> None:
    optimizer = torch.optim.SGD(seeded_model().parameters(), lr=0.1)
    with pytest.raises(UnvanishError, match=r"\(SGD\) holds none of the model's parameters; build it from"):
        look(Problem(seeded_model(), X, Y, F.cross_entropy, optimizer))


def test_an_optimizer_over_part_of_the_model_moves_that_part_alone() -> None:
    model = seeded_model()
    optimizer = torch.optim.SGD(model.second.parameters(), lr=0.1)
    first, second = look(Problem(model, X, Y, F.cross_entropy, optimizer)).layers
    assert first.update_to_weight_ratio == 0.0
    assert second.update_to_weight_ratio is not None and second.update_to_weight_ratio > 0.0


def test_the_next_update_of_sgd_is_the_learning_rate_times_the_gradient() -> None:
    model = seeded_model()
    expected = [10.0**g * 0.1 for g in gradient_of(F.cross_entropy(model(X), Y), model)]
    sizes = [nn.utils.parameters_to_vector(m.parameters()).norm().item() for m in (model.first, model.second)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    ratios = [a.update_to_weight_ratio for a in look(Problem(model, X, Y, F.cross_entropy, optimizer)).layers]
    assert ratios == pytest.approx([e / s for e, s in zip(expected, sizes, strict=True)], rel=1e-4)


def test_an_optimizer_that_needs_a_closure_is_named_among_what_is_undecided() -> None:
    flow = look(Problem(seeded_model(), X, Y, F.cross_entropy, torch.optim.LBFGS))
    assert [(what, "LBFGS" in why) for what, why in flow.undecided] == [("update_to_weight_ratio", True)]


@pytest.mark.parametrize(
    ("inputs", "size"), [(X, 8), ({"n": 3, "a": X[:2]}, 2), ((torch.tensor(1.0), X[:5]), 5), ("text", 1)]
)
def test_batch_size_is_the_first_dimension_there_is(inputs: Any, size: int) -> None:
    assert Problem(seeded_model(), inputs, Y, F.cross_entropy).batch_size == size


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_model_is_checked_through_its_original() -> None:
    model = seeded_model()
    plain, compiled = (look(Problem(m, X, Y, F.cross_entropy)) for m in (model, torch.compile(model)))
    assert [a.name for a in compiled.layers] == ["first", "second"]
    assert compiled.layers == plain.layers
