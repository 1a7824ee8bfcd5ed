"""One forward pass seen call by call: places, modules, data edges, trunk and layers."""

from __future__ import annotations

import gc
import inspect
import weakref
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from architectures import ALL, Forward, autocast_mlp, problem, squares
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from unvanish.flow.layers import layers_of
from unvanish.flow.measure import measure
from unvanish.flow.paths import Observed
from unvanish.problem import Problem
from unvanish.records import CallFlow, LayerFlow, UnvanishError
from unvanish.trace.backward import walk
from unvanish.trace.calls import Call, Capture
from unvanish.trace.capture import record


def captured(given: Problem) -> Capture:
    model, _ = given.build()
    return record(given, model)


def named(capture: Capture, name: str) -> list[Call]:
    return [call for call in capture.calls if call.name == name]


def flows(given: Problem) -> tuple[tuple[LayerFlow, ...], tuple[CallFlow, ...]]:
    """Layers and calls, measured with the loss's cotangent and, as the probe, ones at every output."""
    capture = captured(given)
    layers, root, outputs = layers_of(capture), capture.loss_root, list(capture.outputs)
    assert root is not None
    probe = [(out, torch.ones(out.shape, dtype=out.dtype)) for out in outputs]
    entries = sum(cotangent.numel() for _, cotangent in probe)
    loss, other = walk(capture, [[(root, torch.ones(root.shape, dtype=root.dtype))], probe])
    return measure(capture, layers, Observed(loss, [other], entries), given.batch_size)


def line_of(function: Any, text: str) -> str:
    """file:line of the one line of ``function`` that holds ``text``, as a report spells it."""
    lines, first = inspect.getsourcelines(function)
    (offset,) = [k for k, line in enumerate(lines) if text in line]
    return f"tests/test_capture.py:{first + offset}"


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    from unvanish.trace import places

    monkeypatch.chdir(request.config.rootpath)
    monkeypatch.setattr(places, "_short", {})


class TwoBlocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.passes = 0
        self.lin, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        h = self.lin(x)
        h = F.relu(h)
        h = x + h * 2.0
        h = torch.cat([h[:, :2], h[:, 2:]], 1)
        return self.head(h)


def test_one_forward_pass_and_no_gradient_written() -> None:
    model = TwoBlocks()
    capture = captured(Problem(model, torch.randn(3, 4), torch.randn(3, 2), squares))
    assert model.passes == 1
    assert all(p.grad is None for p in model.parameters())
    assert capture.module_calls == {"": 1, "lin": 1, "head": 1}


def test_every_call_has_its_module_and_its_line() -> None:
    capture = captured(Problem(TwoBlocks(), torch.randn(3, 4), torch.randn(3, 2), squares))
    forward = TwoBlocks.forward
    calls = [(call.name, call.module, call.source) for call in capture.calls if call.part == "model"]
    expected = [
        ("linear", "lin", line_of(forward, "self.lin(x)")),
        ("relu", "", line_of(forward, "F.relu")),
        ("mul", "", line_of(forward, "x + h * 2.0")),
        ("add", "", line_of(forward, "x + h * 2.0")),
        ("__getitem__", "", line_of(forward, "torch.cat")),
        ("__getitem__", "", line_of(forward, "torch.cat")),
        ("cat", "", line_of(forward, "torch.cat")),
        ("linear", "head", line_of(forward, "self.head(h)")),
    ]
    assert calls == expected
    assert [call.inputs for call in capture.calls[:8]] == [[], [0], [1], [2], [3], [3], [4, 5], [6]]
    loss = [call for call in capture.calls if call.part == "loss"]
    assert loss and all("tests/architectures.py" in call.source for call in loss)
    assert [call.name for call in loss] == ["sub", "pow", "mean"] or loss[-1].name == "mean"


def test_a_sequential_calls_its_modules_from_no_line_of_the_users() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
    calls = captured(Problem(model, torch.randn(3, 2), torch.randn(3, 2), F.mse_loss)).calls
    assert [(c.name, c.module, c.source) for c in calls[:2]] == [("linear", "0", ""), ("tanh", "1", "")]


def test_values_are_measured_where_they_are_made() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3.0, 0.0], [0.0, 4.0]]))  # type: ignore[union-attr,operator]
    (linear, *_) = captured(Problem(model, torch.ones(1, 2), torch.zeros(1, 2), F.mse_loss)).calls
    assert linear.norm == pytest.approx(5.0) and linear.rms == pytest.approx(5.0 / 2**0.5)
    assert linear.finite and linear.shape == (1, 2) and linear.numel == 2 and linear.dtype is torch.float32


def test_a_module_called_twice_has_a_record_a_call() -> None:
    layers, _ = flows(problem("called_twice", 0))
    assert [layer.name for layer in layers] == ["shared", "shared#2", "head"]
    assert layers[0].call is not None and layers[1].call is not None and layers[0].call < layers[1].call
    assert layers[1].before == "shared" and layers[2].before == "shared#2"
    assert [layer.first for layer in layers_of(captured(problem("called_twice", 0)))] == [True, False, True]


@pytest.mark.parametrize("looks", ["before", "after", "only"])
def test_a_call_that_the_loss_does_not_use_is_no_part_of_its_layer(looks: str) -> None:
    """A result that is only written down; where the loss uses nothing of a layer, it is what there is."""
    written: list[Tensor] = []

    class Logged(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            if looks == "before":
                written.append(input.mm(self.weight))
            out = super().forward(input) if looks != "only" else input
            if looks != "before":
                written.append(input.mm(self.weight))
            return out

    model = nn.Sequential(Logged(2, 2), nn.Linear(2, 2))
    capture = captured(Problem(model, torch.randn(4, 2), torch.randn(4, 2), squares))
    names = [[capture.calls[at].name for at in layer.calls] for layer in layers_of(capture)]
    assert names == [["mm"] if looks == "only" else ["linear"], ["linear"]]


def test_tied_weights_are_one_parameter_of_two_layers() -> None:
    capture = captured(given := problem("tied_weights", 0))
    layers = {layer.name: layer for layer in layers_of(capture)}
    assert list(layers) == ["encoder", "mix", "decoder"]
    model: Any = given.model
    for name in ("encoder", "decoder"):
        assert [id(p) for p in layers[name].parameters.values()] == [id(model.encoder.weight)]
    assert [len(layer.calls) for layer in layers.values()] == [1, 1, 1], "each use belongs to the module that made it"
    assert capture.calls[layers["decoder"].calls[0]].module == "decoder"


def test_functional_use_of_parameters_belongs_to_their_owner() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        return F.linear(torch.tanh(F.linear(x, m.w)), m.lin.weight, m.lin.bias)

    model = Forward(forward, w=nn.Parameter(torch.randn(3, 2)), lin=nn.Linear(3, 2))
    layers = layers_of(captured(Problem(model, torch.randn(4, 2), torch.randn(4, 2), squares)))
    owners = [(layer.name, layer.kind, len(layer.calls)) for layer in layers]
    assert owners == [("w", "Parameter", 1), ("lin", "Linear", 1)]


def test_a_layer_that_is_not_called_stands_last_without_a_call() -> None:
    layers = layers_of(captured(problem("several_outputs", 0)))
    assert [(layer.name, layer.call is None) for layer in layers][-1] == ("unused", True)


@pytest.mark.parametrize("part", ["whole", "submodule"])
def test_compiled_modules_are_checked_through_their_eager_original(part: str) -> None:
    pytest.importorskip("torch._dynamo")
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    given = Problem(nn.Sequential(body), torch.randn(3, 4), torch.randn(3, 2), squares)
    eager = captured(given)
    try:
        wrapped: Any = torch.compile(body, backend="eager")
    except RuntimeError as refused:  # torch 2.5 has no compiler under Python 3.13
        if "not supported" not in str(refused):
            raise
        pytest.skip(str(refused))
    model: Any = nn.Sequential(wrapped) if part == "submodule" else given.model
    model = torch.compile(model, backend="eager") if part == "whole" else model
    compiled = captured(Problem(model, given.inputs, given.targets, squares))
    assert compiled.loss == eager.loss
    assert set(compiled.module_calls.values()) == {1}, "the wrapper must not count as a call of what it wraps"
    assert [(c.name, c.module, c.inputs, c.shape) for c in compiled.calls] == [
        (c.name, c.module, c.inputs, c.shape) for c in eager.calls
    ]
    assert [layer.name for layer in layers_of(compiled)] == ["0.0", "0.2"]


class PreNorm(nn.Module):
    """A GPT in small: two blocks around a residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 8)
        self.norms = nn.ModuleList([nn.LayerNorm(8) for _ in range(4)])
        self.attend = nn.ModuleList([nn.MultiheadAttention(8, 2, batch_first=True) for _ in range(2)])
        self.feed = nn.ModuleList([nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)) for _ in range(2)])
        self.last, self.head = nn.LayerNorm(8), nn.Linear(8, 7)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for k in range(2):
            h = self.norms[2 * k](x)
            x = x + self.attend[k](h, h, h, need_weights=False)[0]
            x = x + self.feed[k](self.norms[2 * k + 1](x))
        return self.head(self.last(x)).flatten(0, 1)


@pytest.mark.parametrize("seed", range(3))
def test_the_trunk_of_a_pre_norm_transformer_is_its_residual_stream(seed: int) -> None:
    torch.manual_seed(seed)
    given = Problem(PreNorm(), torch.randint(7, (3, 5)), torch.randint(7, (15,)), F.cross_entropy)
    _, calls = flows(given)
    trunk = [(call.name, call.module) for call in calls if call.trunk]
    stream = [("add", "")] * 4
    assert trunk == [
        ("embedding", "embed"), *stream,
        ("layer_norm", "last"), ("linear", "head"), ("flatten", ""), ("cross_entropy", ""),
    ]  # fmt: skip


def test_the_dominant_path_follows_the_branch_that_sends_more_back() -> None:
    """y = 3·h + ½·h with ones as the cotangent: the first branch sends 3 a unit back, the second ½."""

    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.lin(x)
        weak, strong = h * 0.5, h * 3.0
        return weak + strong

    model = Forward(forward, lin=nn.Linear(2, 1, bias=False))
    given = Problem(model, torch.ones(1, 2), torch.zeros(1, 1), lambda y, t: (y - t).sum())
    (layer,), calls = flows(given)
    linear, weak, strong, add = calls[:4]
    assert [c.name for c in calls[:4]] == ["linear", "mul", "mul", "add"]
    assert (linear.next, weak.next, strong.next) == (2, 3, 3)
    assert (linear.trunk, weak.trunk, strong.trunk, add.trunk) == (True, False, False, True)
    assert linear.log10_gain == pytest.approx(0.47712125, abs=1e-6)  # log10 3, of the dominant edge alone
    assert layer.log10_signal == pytest.approx(0.54406804, abs=1e-6)  # log10 3.5, of both


@pytest.mark.parametrize("norm", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_a_normed_weight_belongs_to_its_linear_and_makes_no_data_edge(norm: Any) -> None:
    model = nn.Sequential(norm(nn.Linear(4, 4)), nn.Tanh(), norm(nn.Linear(4, 2)))
    capture = captured(Problem(model, torch.randn(3, 4), torch.randn(3, 2), squares))
    calls = [call for call in capture.calls if call.part == "model"]
    assert [(call.name, call.module, call.inputs) for call in calls] == [
        ("linear", "0", []), ("tanh", "1", [0]), ("linear", "2", [1]),
    ]  # fmt: skip
    names = {id(p): n for n, p in model.named_parameters()}
    assert {names[id(p)].split(".")[0] for p in calls[0].parameters} == {"0"}
    assert {id(p) for p in calls[0].parameters} == {id(p) for p in model[0].parameters()}
    owners = [(layer.name, layer.kind, layer.calls) for layer in layers_of(capture)]
    assert owners == [("0", "Linear", [0]), ("2", "Linear", [2])]


def test_autocasts_cached_cast_does_not_chain_the_two_uses_of_one_linear() -> None:
    torch.manual_seed(0)

    def forward(m: Any, x: Tensor, y: Tensor) -> Tensor:
        return m.shared(x) * m.shared(y)

    model = Forward(forward, shared=nn.Linear(4, 4))
    inputs = (torch.randn(2, 4), torch.randn(2, 4))
    capture = captured(Problem(model, inputs, torch.randn(2, 4), squares, autocast=torch.bfloat16))
    first, second = named(capture, "linear")
    assert first.inputs == second.inputs == []
    for call in (first, second):
        assert {id(p) for p in call.parameters} == {id(p) for p in model.parameters()}
    assert first.dtype is torch.bfloat16
    layers = layers_of(captured(autocast_mlp()))
    assert [layer.name for layer in layers] == ["shared", "shared#2", "head"]


@pytest.mark.parametrize("name", ALL)
def test_every_node_of_the_loss_has_an_owner_and_every_edge_leads_back_in_time(name: str) -> None:
    given = problem(name, 1)
    capture = captured(given)
    assert capture.loss_root is not None
    stack, seen = [capture.loss_root.slot[0]], set()
    while stack:
        node = stack.pop()
        if node in seen or type(node).__name__ == "AccumulateGrad":
            continue
        seen.add(node)
        assert node in capture.owner, f"{type(node).__name__} belongs to no call"
        stack += [child for child, _ in node.next_functions if child is not None]
    for call in capture.calls:
        assert all(0 <= j < call.index for j in call.inputs)
    model: Any = given.model
    used = {id(p) for call in capture.calls for p in call.parameters}
    assert used == {id(p) for n, p in model.named_parameters() if not n.startswith("unused")}
    assert [call.index for call in capture.calls] == list(range(len(capture.calls)))
    capture.release()


def test_a_custom_function_is_adopted_as_a_call_of_its_own() -> None:
    capture = captured(problem("custom_functions", 0))
    (scale,) = named(capture, "Scale")
    (first,) = [c for c in named(capture, "linear") if c.module == "first"]
    assert scale.inputs == [first.index] and len(scale.parameters) == 1


def test_nothing_is_written_into_the_users_modules(same_before_and_after: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2))
    given = Problem(model, torch.randn(2, 3), torch.randn(2, 2), squares)
    with same_before_and_after(model):  # fails where anything of it is other than it was
        capture = captured(given)
        assert [call.module for call in capture.calls if call.module] == ["0", "1", "2"]
        capture.release()


def test_global_hooks_are_gone_also_after_an_error() -> None:
    from torch.nn.modules import module as hooks

    def forward(m: Any, x: Tensor) -> Tensor:
        raise RuntimeError("nothing comes of this")

    model = Forward(forward, lin=nn.Linear(2, 2))
    with pytest.raises(UnvanishError, match=r"the model raised RuntimeError: nothing comes of this .*test_capture\.py"):
        captured(Problem(model, torch.randn(2, 2), torch.randn(2, 2), squares))
    assert not hooks._global_forward_hooks and not hooks._global_forward_pre_hooks
    assert torch.overrides._get_current_function_mode_stack() == []


def test_a_failed_capture_frees_what_it_made() -> None:
    made: list[weakref.ref[Tensor]] = []

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        made.append(weakref.ref(outputs))
        raise ValueError("no")

    model = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
    with pytest.raises(UnvanishError, match="loss_fn raised ValueError: no"):
        captured(Problem(model, torch.randn(2, 2), torch.randn(2, 2), loss))
    gc.collect()
    assert made and made[0]() is None


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda out, t: out, r"shape \(3, 2\); the loss must be one number"),
        (lambda out, t: 3.0, "a float, which has no gradient"),
        (lambda out, t: out.detach().sum(), "does not depend on any trainable parameter"),
        (lambda out, t: out.argmax().sum(), r"torch.int64 number"),
    ],
)
def test_losses_that_have_no_gradient_are_refused(loss: Any, message: str) -> None:
    with pytest.raises(UnvanishError, match=message):
        captured(Problem(nn.Linear(2, 2), torch.randn(3, 2), torch.randn(3, 2), loss))


def test_tensor_hooks_are_told_with_their_place() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.lin(x)
        h.register_hook(lambda g: g * 0.5)
        return h

    model = Forward(forward, lin=nn.Linear(2, 2))
    capture = captured(Problem(model, torch.randn(3, 2), torch.randn(3, 2), squares))
    here = line_of(test_tensor_hooks_are_told_with_their_place, "g: g * 0.5)\n")
    assert capture.hooked == {here}
