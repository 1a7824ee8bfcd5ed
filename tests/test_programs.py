"""Any program people write gets a report or one clear error: outputs of every kind, forwards that do odd things."""

from __future__ import annotations

import sys
import types
from collections import ChainMap, OrderedDict, UserDict, defaultdict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn.utils import rnn

from unvanish import Problem, UnvanishError, diagnose
from unvanish.pipeline import look
from unvanish.trace.structure import rebuild, tensors

X = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
Y = torch.randn(16, 5, generator=torch.Generator().manual_seed(1))


class Program(nn.Module):
    """One linear layer, and any function of the module and its input."""

    def __init__(self, forward: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.run = nn.Linear(8, 5), forward

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


Pair = namedtuple("Pair", "first second")


class One(Pair):
    def __new__(cls, first: Any) -> One:
        return super().__new__(cls, first, None)


class Attributes(dict[str, Any]):
    def __getattr__(self, name: str) -> Any:
        return self[name]  # a KeyError where an AttributeError is expected


class Several(tuple[Any, ...]):
    pass


class Many(list[Any]):
    pass


@dataclass
class Plain:
    first: Any
    second: Any = None


@dataclass(frozen=True, slots=True)
class Slotted:
    first: Any


def in_itself(out: Tensor) -> list[Any]:
    nested: list[Any] = [out]
    nested.append(nested)
    return nested


OUTPUTS: dict[str, tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]]] = {
    "named tuple": (lambda o: Pair(o, 2), lambda o: o.first),
    "named tuple with a constructor of its own": (One, lambda o: o.first),
    "torch.return_types": (lambda o: o.sort(1), lambda o: o.values),
    "tuple subclass": (lambda o: Several([o]), lambda o: o[0]),
    "list subclass": (lambda o: Many([o]), lambda o: o[0]),
    "OrderedDict": (lambda o: OrderedDict(first=o), lambda o: o["first"]),
    "UserDict": (lambda o: UserDict(first=o), lambda o: o["first"]),
    "ChainMap": (lambda o: ChainMap({"first": o}), lambda o: o["first"]),
    "mapping proxy": (lambda o: types.MappingProxyType({"first": o}), lambda o: o["first"]),
    "defaultdict": (lambda o: defaultdict(list, first=o), lambda o: (o["other"], o["first"])[1]),
    "dict with __getattr__": (lambda o: Attributes(first=o), lambda o: o.first),
    "dataclass": (Plain, lambda o: o.first),
    "frozen dataclass with slots": (Slotted, lambda o: o.first),
    "namespace": (lambda o: types.SimpleNamespace(first=o), lambda o: o.first),
    "distribution": (lambda o: Normal(o, torch.ones(())), lambda o: o.loc),
    "a list that holds itself": (in_itself, lambda o: o[0]),
    "packed sequence": (
        lambda o: rnn.pack_padded_sequence(o.view(4, 4, 5), torch.tensor([4, 4, 4, 4]), batch_first=True),
        lambda o: rnn.pad_packed_sequence(o, batch_first=True)[0].reshape(16, 5),
    ),
    "one tensor twice": (lambda o: {"first": o, "second": o}, lambda o: (o["first"] + o["second"]) / 2.0),
}


def plainly(model: Program, loss_fn: Callable[[Any, Any], Tensor]) -> float:
    """log10 of the norm of autograd's gradient in float64."""
    double = Program(model.run).double()
    double.load_state_dict(model.state_dict())
    loss = loss_fn(double(X.double()), Y.double())
    return float(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(double.parameters()))]).norm().log10())


@pytest.mark.parametrize("kind", OUTPUTS)
def test_outputs_of_every_kind_are_searched_as_they_are(kind: str) -> None:
    wrap, read = OUTPUTS[kind]

    def loss_fn(outputs: Any, targets: Tensor) -> Tensor:
        return F.mse_loss(read(outputs), targets)

    model = Program(lambda self, x: wrap(self.layer(x)))
    flow = look(Problem(model, X, Y, loss_fn, lambda p: torch.optim.Adam(p, 1e-3)))
    assert flow.layers[0].log10_grad_norm == pytest.approx(plainly(model, loss_fn), abs=1e-5)
    assert flow.loss is not None and flow.loss.best_free == pytest.approx(0.0, abs=1e-3 * flow.loss.value)
    assert flow.decrement_refused == "" and diagnose(Problem(model, X, Y, loss_fn)).verdict == "healthy"


@pytest.mark.parametrize("kind", OUTPUTS)
def test_a_structure_is_rebuilt_in_its_own_type(kind: str) -> None:
    wrap, read = OUTPUTS[kind]
    given = wrap(Y.clone())
    rebuilt = rebuild(given, lambda t: t * 2.0 if t.is_floating_point() else t)
    assert type(rebuilt) is type(given) and torch.equal(read(rebuilt), 2.0 * read(given))
    assert len(list(tensors(given))) == len({id(t) for t in tensors(given)})


@pytest.mark.parametrize("layout", [torch.jagged, torch.strided])
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_have_a_report(layout: torch.layout) -> None:
    def forward(self: Program, x: Tensor) -> Tensor:
        out = self.layer(x)
        return torch.nested.as_nested_tensor([out[:3], out[3:]], layout=layout)

    def loss_fn(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(torch.cat(list(outputs.unbind())), targets)

    model = Program(forward)
    flow = look(Problem(model, X, Y, loss_fn))
    assert flow.layers[0].log10_grad_norm == pytest.approx(plainly(model, loss_fn), abs=1e-5)
    assert flow.loss is not None and "nested" in flow.loss.why
    assert diagnose(Problem(model, X, Y, loss_fn)).to_json() == diagnose(Problem(model, X, Y, loss_fn)).to_json()


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_nested_tensor_may_be_the_input() -> None:
    given = torch.nested.as_nested_tensor([X[:3], X[3:]], layout=torch.jagged)
    model = Program(lambda self, x: self.layer(x).values())
    flow = look(Problem(model, given, Y, F.mse_loss))
    assert flow.layers[0].log10_grad_norm == pytest.approx(
        plainly(Program(lambda self, x: self.layer(x)), F.mse_loss), abs=1e-5
    )
    assert torch.equal(given.values(), X)


def test_what_lies_too_deep_is_one_clear_error() -> None:
    def forward(self: Program, x: Tensor) -> Any:
        deep: Any = self.layer(x)
        for _ in range(5000):
            deep = [deep]
        return deep

    with pytest.raises(UnvanishError, match="more than 200 containers deep"):
        look(Problem(Program(forward), X, Y, lambda outputs, targets: torch.zeros((), requires_grad=True)))


def a_parameter(self: Program, x: Tensor) -> Tensor:
    return self.layer.bias


def test_an_output_that_is_a_parameter_has_its_gradient() -> None:
    model = Program(a_parameter)
    with torch.no_grad():
        model.layer.bias.fill_(2.0)
    flow = look(Problem(model, X, torch.zeros(5), lambda o, t: (o**2).sum()))
    assert flow.layers[0].log10_grad_norm == pytest.approx(float(torch.tensor(80.0).sqrt().log10()), abs=1e-6)
    assert diagnose(Problem(model, X, torch.zeros(5), lambda o, t: (o**2).sum())).verdict == "healthy"


@pytest.mark.parametrize("own_loss", [True, False])
def test_an_output_made_of_parameters_alone_has_a_gradient(own_loss: bool) -> None:
    model = Program(lambda self, x: 0.001 * self.layer.bias[0] ** 2 + self.layer.bias[1] ** 2)
    bias = model.layer.bias.detach().double()
    expected = torch.stack([0.002 * bias[0], 2.0 * bias[1]]).norm().log10()
    given = Problem(model, X) if own_loss else Problem(model, X, torch.zeros(()), lambda o, t: o - t)
    assert look(given).layers[0].log10_grad_norm == pytest.approx(float(expected), abs=1e-5)


def switched(mode: bool) -> Callable[[Program, Tensor], Tensor]:
    def forward(self: Program, x: Tensor) -> Tensor:
        torch.set_grad_enabled(mode)
        return self.layer(x)

    return forward


def test_a_forward_that_switches_gradients_on_has_a_report_and_leaves_no_trace() -> None:
    given = Problem(Program(switched(True)), X, Y, F.mse_loss, lambda p: torch.optim.Adam(p, 1e-3))
    expected = diagnose(Problem(Program(lambda self, x: self.layer(x)), X, Y, F.mse_loss, given.optimizer))
    report = diagnose(given)
    assert (report.verdict, report.layers[0].log10_grad_norm) == ("healthy", expected.layers[0].log10_grad_norm)
    with torch.no_grad():
        diagnose(given)
        assert not torch.is_grad_enabled()


def test_a_forward_that_switches_gradients_off_is_one_clear_error() -> None:
    with pytest.raises(UnvanishError, match="does not depend on any trainable parameter"):
        look(Problem(Program(switched(False)), X, Y, F.mse_loss))
    assert torch.is_grad_enabled()


def with_backward(self: Program, x: Tensor) -> Tensor:
    out = torch.tanh(self.layer(x))
    out.sum().backward(retain_graph=True)
    return out


def with_grad(self: Program, x: Tensor) -> Tensor:
    x = x.detach().requires_grad_(True)
    out = torch.tanh(self.layer(x))
    (slope,) = torch.autograd.grad(out.sum(), x, create_graph=True)
    return out + slope[:, :5]


@pytest.mark.parametrize("forward", [with_backward, with_grad])
def test_a_forward_that_differentiates_has_a_report(forward: Any) -> None:
    model = Program(forward)
    flow = look(Problem(model, X, Y, F.mse_loss, lambda p: torch.optim.Adam(p, 1e-3)))
    assert flow.layers[0].log10_grad_norm == pytest.approx(plainly(model, F.mse_loss), abs=1e-5)
    assert model.layer.weight.grad is None


def freed(self: Program, x: Tensor) -> Tensor:
    out = torch.tanh(self.layer(x))
    out.sum().backward()
    return out


def overwritten(self: Program, x: Tensor) -> Tensor:
    return self.layer(x).sigmoid_().sub_(0.5)


def leaves(self: Program, x: Tensor) -> Tensor:
    sys.exit(3)


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (freed, r"backward pass of tanh in the model .*a second time"),
        (overwritten, r"backward pass of sigmoid_ in the model .*modified by an inplace operation"),
        (leaves, r"the model ended the program: sys.exit\(3\)"),
    ],
)
@pytest.mark.parametrize("effort", ["quick", "full"])
def test_what_torch_itself_refuses_is_one_clear_error(forward: Any, message: str, effort: str) -> None:
    with pytest.raises(UnvanishError, match=message):
        look(Problem(Program(forward), X, Y, F.mse_loss), effort)


def test_a_loss_that_ends_the_program_is_one_clear_error() -> None:
    with pytest.raises(UnvanishError, match=r"loss_fn ended the program: sys.exit\('done'\)"):
        look(Problem(Program(switched(True)), X, Y, lambda o, t: sys.exit("done")))


def test_a_program_that_ends_in_a_later_pass_has_a_report() -> None:
    def forward(self: Program, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            sys.exit(1)
        return self.layer(x)

    flow = look(Problem(Program(forward), X, Y, F.mse_loss, lambda p: torch.optim.SGD(p, 0.1)))
    assert flow.step is None and flow.layers[0].log10_grad_norm is not None


def test_the_loss_is_replayed_in_the_precision_it_ran_in() -> None:
    model = Program(lambda self, x: self.layer(x))
    flow = look(Problem(model, X, LABELS, F.multi_margin_loss, torch.optim.SGD, autocast=torch.bfloat16))
    assert flow.loss is not None and flow.loss.best_free == pytest.approx(0.0, abs=1e-4)


LABELS = torch.arange(16) % 5


def test_a_loss_inside_the_model_is_replayed_in_the_precision_it_ran_in() -> None:
    model = Program(lambda self, x: F.multi_margin_loss(self.layer(x), LABELS))
    flow = look(Problem(model, X, autocast=torch.bfloat16))
    assert flow.loss is not None and flow.loss.best_free == pytest.approx(0.0, abs=1e-4)


def in_uninitialised_memory(self: Program, x: Tensor) -> Tensor:
    kept = torch.empty(16, 5, 512)
    other = x.new_empty(16, 5, 512)
    kept[..., 0] = self.layer(x)
    other[..., 1] = kept[..., 0]
    return other[..., 1]


def test_memory_that_nobody_has_written_is_no_measurement() -> None:
    reports = []
    for fill in (1e30, float("nan"), -3.0):
        soil = [torch.full((16, 5, 512), fill) for _ in range(64)]
        del soil  # what the next torch.empty is likely to find
        reports.append(diagnose(Problem(Program(in_uninitialised_memory), X, Y, F.mse_loss)).to_json())
    assert reports[0] == reports[1] == reports[2]
    flow = look(Problem(Program(in_uninitialised_memory), X, Y, F.mse_loss))
    sizes = [call.log10_rms for call in flow.calls if call.module == "" and call.part == "model"]
    assert sizes and all(size is not None and size < 1.0 for size in sizes)


def test_a_name_of_any_length_is_written_everywhere(tmp_path: Any) -> None:
    name = "n" * 10_000
    model = nn.Sequential()
    model.add_module(name, nn.Linear(8, 5))
    report = diagnose(Problem(model, X, Y, F.mse_loss))
    for suffix in ("json", "sarif", "xml", "txt", "html", "md"):
        report.save(f"{tmp_path}/report.{suffix}")
    assert report.layers[0].name == name
