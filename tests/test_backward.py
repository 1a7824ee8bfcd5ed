"""The hand-walked backward against autograd in float64, on networks of every kind."""

from __future__ import annotations

import gc
import math
import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from architectures import ALL, Forward, autocast_mlp, problem, squares
from torch import Tensor, nn
from torch.utils import checkpoint as checkpointing
from torch.utils.checkpoint import checkpoint

from unvanish import zoo
from unvanish.decide import decide
from unvanish.pipeline import look
from unvanish.problem import Problem
from unvanish.records import UnvanishError
from unvanish.trace import exact, recorder
from unvanish.trace.backward import walk, why_unsupported
from unvanish.trace.calls import Capture
from unvanish.trace.capture import record
from unvanish.trace.plain import plain_walk
from unvanish.trace.scaled import Scaled, shift
from unvanish.trace.tape import Tape

Gradients = dict[str, Tensor]


def by_autograd(given: Problem) -> Gradients:
    model: Any = given.model
    with torch.autocast("cpu", dtype=given.autocast or torch.bfloat16, enabled=given.autocast is not None):
        loss = given.loss(given.outputs(model))
    loss.backward()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def dense(gradient: Scaled) -> Tensor:
    shifted = shift(gradient.mantissa, gradient.exponent) if isinstance(gradient.exponent, int) else (
        gradient.mantissa * torch.exp2(gradient.exponent).to(gradient.mantissa.dtype)
    )  # fmt: skip
    return shifted.to_dense() if shifted.is_sparse else shifted


def by_walk(given: Problem, engine: Any = walk) -> tuple[Gradients, Tape, Capture]:
    model: Any = given.model
    capture = record(given, model)
    names = {id(p): n for n, p in model.named_parameters()}
    gradients: Gradients = {}

    def on_leaf(parameter: Tensor, channel: int, gradient: Scaled) -> None:
        if id(parameter) in names:
            assert names[id(parameter)] not in gradients, "a gradient was handed over before it was complete"
            gradients[names[id(parameter)]] = dense(gradient)

    assert capture.loss_root is not None
    start = torch.ones(capture.loss_root.shape, dtype=capture.loss_root.dtype)
    (tape,) = engine(capture, [[(capture.loss_root, start)]], on_leaf)
    return gradients, tape, capture


def relative_error(gradients: Gradients, expected: Gradients) -> float:
    """The largest entry's difference as a share of its gradient's norm."""
    assert gradients.keys() == expected.keys()
    norms = {name: float(right.to_dense().norm()) for name, right in expected.items()}
    # A bias before a batch norm has no gradient but what rounding leaves: a floor of 1e-3 of the largest.
    floor = 1e-3 * max(norms.values())
    return max(float((gradients[n] - g.to_dense()).abs().max()) / max(norms[n], floor) for n, g in expected.items())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ALL)
def test_equal_to_autograd_in_float64(name: str, seed: int) -> None:
    torch.manual_seed(seed + 100)
    expected = by_autograd(problem(name, seed))
    torch.manual_seed(seed + 100)
    gradients, _, _ = by_walk(problem(name, seed))
    assert relative_error(gradients, expected) < 1e-12


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ALL)
def test_two_channels_give_what_two_walks_give(name: str, seed: int) -> None:
    """The second channel is the first times −3, sent through the same nodes before they are released."""
    torch.manual_seed(seed + 100)
    capture = record(given := problem(name, seed), given.model)  # type: ignore[arg-type]
    gradients: tuple[dict[int, Tensor], ...] = ({}, {})
    root = capture.loss_root
    assert root is not None
    start = torch.ones(root.shape, dtype=root.dtype)
    again = replace(root)
    one, three = walk(
        capture,
        [[(root, start)], [(again, -3.0 * start)]],
        lambda p, channel, g: gradients[channel].update({id(p): dense(g)}),
    )
    assert relative_error(
        {str(k): g for k, g in gradients[1].items()}, {str(k): -3.0 * g for k, g in gradients[0].items()}
    ) < 1e-12  # fmt: skip
    top = max(one.signals.values())
    for key in one.signals:
        if one.signals[key] > top - 6.0:  # below that, what a norm layer cancels is rounding
            assert three.signals[key] - one.signals[key] == pytest.approx(math.log10(3.0), abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_float32_lstm_through_its_fused_kernel(seed: int) -> None:
    torch.manual_seed(seed)
    expected = by_autograd(problem("lstm", seed, torch.float32))
    gradients, _, capture = by_walk(problem("lstm", seed, torch.float32))
    assert any(call.name == "lstm" for call in capture.calls)
    assert relative_error(gradients, expected) < 1e-5


@pytest.mark.parametrize("seed", range(5))
def test_bfloat16_autocast_against_autograd_under_the_same_autocast(seed: int) -> None:
    torch.manual_seed(seed)
    given = autocast_mlp()
    gradients, _, _ = by_walk(given)
    expected = by_autograd(given)
    # Both sum the two uses of one weight, in bfloat16 and in whatever order: 8 bits of mantissa.
    assert relative_error(gradients, expected) < 2.0**-7


def test_gradients_of_a_nodes_unused_argument_and_of_frozen_parameters_stay_out() -> None:
    given = problem("several_outputs", 0)
    model: Any = given.model
    model.value.weight.requires_grad_(False)
    gradients, _, _ = by_walk(given)
    assert set(gradients) == {"trunk.weight", "trunk.bias", "logits.weight", "logits.bias", "value.bias"}


class Counted(nn.Module):
    """Counts how often its function runs."""

    def __init__(self) -> None:
        super().__init__()
        self.runs, self.lin = 0, nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        for _ in range(5):  # many saved tensors, each of which asks for a replay
            x = torch.sigmoid(self.lin(x))
        return x


@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpoint_runs_twice_in_all_and_writes_no_gradient(reentrant: bool, channels: int) -> None:
    torch.manual_seed(0)
    segment, stem = Counted(), nn.Linear(3, 4)
    model = Forward(lambda m, x: checkpoint(m.segment, m.stem(x), use_reentrant=reentrant), segment=segment, stem=stem)
    given = Problem(model, torch.randn(2, 3), torch.randn(2, 4), squares)
    capture = record(given, model)
    root = capture.loss_root
    assert root is not None and segment.runs == 1
    copies = [replace(root) for _ in range(channels)]
    tapes = walk(capture, [[(copy, torch.ones(()))] for copy in copies])
    assert segment.runs == 2
    assert all(p.grad is None for p in model.parameters())
    assert all({id(p) for p in model.parameters()} == tape.leaves.keys() for tape in tapes)


def test_torch_checkpointing_is_as_it_was_after_a_capture() -> None:
    names = ("CheckpointFunction", "_checkpoint_hook")
    before = [getattr(checkpointing, name) for name in names]
    given = problem("checkpoint_reentrant", 0)
    record(given, given.model).release()  # type: ignore[arg-type]
    assert [getattr(checkpointing, name) for name in names] == before


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True")
def test_a_reentrant_checkpoint_of_inputs_without_gradient_trains_nothing_as_in_real_training() -> None:
    torch.manual_seed(0)
    model = Forward(
        lambda m, x: m.head(checkpoint(m.first, x, use_reentrant=True)), first=nn.Linear(3, 4), head=nn.Linear(4, 2)
    )
    given = Problem(model, torch.randn(5, 3), torch.randn(5, 2), squares)
    gradients, _, _ = by_walk(given)
    expected = by_autograd(given)
    assert set(gradients) == set(expected) == {"head.weight", "head.bias"}


@pytest.mark.parametrize("name", ["mlp", "residual", "unet", "transformer_encoder", "lstm_cells", "tied_weights"])
def test_the_plain_walk_reads_the_same_where_nothing_underflows(name: str) -> None:
    torch.manual_seed(1)
    left, exact, first = by_walk(problem(name, 3))
    torch.manual_seed(1)
    right, plain, second = by_walk(problem(name, 3), plain_walk)
    assert relative_error(right, left) < 1e-12
    assert sorted(c.name for c in first.calls) == sorted(c.name for c in second.calls)
    for field in ("signals", "edges"):
        ours, theirs = getattr(exact, field), getattr(plain, field)
        assert ours.keys() == theirs.keys(), field
        for key in ours:
            assert theirs[key] == pytest.approx(ours[key], abs=1e-6), (field, key)
    assert sorted(plain.leaves.values()) == pytest.approx(sorted(exact.leaves.values()), abs=1e-6)


def test_nothing_stays_alive_behind_the_walk() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(12)])
    kept: list[weakref.ref[Any]] = []
    hooks = [m.register_forward_hook(lambda m, a, out: kept.append(weakref.ref(out))) for m in model.modules()]
    given = Problem(model, torch.randn(4, 8), torch.randn(4, 8), squares)
    gc.collect()
    gc.disable()  # reference counts alone must free them: no cycle may hold an activation
    try:
        _, _, capture = by_walk(given)
        assert len(kept) == 37
        assert [r for r in kept if r() is not None] == []
    finally:
        gc.enable()
        for hook in hooks:
            hook.remove()
    assert not capture.owner and not capture.of_parameters and not capture.outputs
    assert capture.loss_root is capture.loss_input is capture.values is capture.loss_call is None


def test_saved_activations_are_freed_as_the_walk_goes() -> None:
    """A tensor that only the graph holds is gone once its consumers were walked, not at the end."""
    torch.manual_seed(0)
    watched: list[weakref.ref[Tensor]] = []

    class Kept(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.held = x.detach().clone()
            watched.append(weakref.ref(ctx.held))
            return x * ctx.held

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:  # type: ignore[override]
            counts.append(sum(r() is not None for r in watched))
            return g * ctx.held

    counts: list[int] = []

    def forward(m: Any, x: Tensor) -> Tensor:
        for _ in range(6):
            x = Kept.apply(m.lin(x))  # type: ignore[assignment]
        return x

    given = Problem(Forward(forward, lin=nn.Linear(3, 3)), torch.randn(2, 3), torch.randn(2, 3), squares)
    by_walk(given)
    assert counts == [6, 5, 4, 3, 2, 1]
    assert [r for r in watched if r() is not None] == []


def test_functions_of_ones_own_in_a_row_as_the_loss_and_on_a_branch_that_leads_nowhere() -> None:
    """No node of torch's stands between them; before torch 2.13 Python's hold on them keeps none alive."""

    class Cubed(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:  # type: ignore[override]
            (x,) = ctx.saved_tensors
            return 3 * x**2 * g

    class Halved(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, out: Tensor, target: Tensor) -> Tensor:
            ctx.save_for_backward(out - target)
            return ((out - target) ** 2).sum() / 2

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
            return g * ctx.saved_tensors[0], None

    def forward(m: Any, x: Tensor) -> Tensor:
        x = m.lin(x)
        Cubed.apply(x)
        return Cubed.apply(Cubed.apply(Cubed.apply(x)))  # type: ignore[return-value]

    torch.manual_seed(0)
    made = Forward(forward, lin=nn.Linear(3, 3)).double()
    x, y = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    given = Problem(made, x, y, lambda out, target: Halved.apply(out, target))
    expected = by_autograd(given)
    for parameter in made.parameters():
        parameter.grad = None
    assert relative_error(by_walk(given)[0], expected) < 1e-12
    assert look(given, "full").layers[0].log10_grad_norm is not None


def test_a_function_that_returns_one_entry_of_its_input_many_times_is_measured_anew() -> None:
    """Its result begins where its input begins and is as long, and yet it has another norm."""

    class FirstRow(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:  # type: ignore[override]
            return g[:1].expand_as(g)

    model = Forward(lambda m, x: FirstRow.apply(m.lin(x)), lin=nn.Linear(3, 2).double())
    rows = torch.tensor([[1.0, 0.0], [0.0, 100.0], [0.0, 7.0]]).double()
    given = Problem(model, torch.ones(3, 3).double(), rows, lambda out, target: (out * target).sum())
    capture = record(given, model)
    (linear,) = (call for call in capture.calls if call.name == "linear")
    assert capture.loss_root is not None
    (tape,) = walk(capture, [[(capture.loss_root, torch.ones((), dtype=torch.float64))]])
    assert tape.signals[linear.index] == pytest.approx(0.5 * math.log10(3.0))


PRIVATE = {
    "next_functions": "edges of a node, as (node, output number) pairs",
    "_input_metadata": "shape, dtype and device of what a node takes",
    "_sequence_nr": "the order in which nodes were made",
    "__call__": "a node can be called with the cotangents of its outputs",
}


@pytest.mark.parametrize("name", PRIVATE)
def test_torch_has_the_private_detail(name: str) -> None:
    x = torch.ones(2, 3, requires_grad=True)
    node: Any = (x * 2.0).sum(1).grad_fn
    changed = f"this torch ({torch.__version__}) has changed Node.{name} ({PRIVATE[name]}): exact.py must follow"
    assert hasattr(node, name), changed
    if name == "next_functions":
        ((child, number),) = node.next_functions
        assert "Mul" in type(child).__name__ and number == 0, changed
    elif name == "_input_metadata":
        (metadata,) = node._input_metadata
        assert tuple(metadata.shape) == (2,) and metadata.dtype is torch.float32, changed
        assert metadata.device == torch.device("cpu"), changed
    elif name == "_sequence_nr":
        assert node._sequence_nr() > node.next_functions[0][0]._sequence_nr(), changed
    else:
        value = node(torch.tensor([3.0, 5.0]))
        value = value[0] if isinstance(value, tuple) else value
        assert torch.equal(value, torch.tensor([[3.0] * 3, [5.0] * 3])), changed


def test_torch_has_what_leaves_and_custom_functions_are_told_by() -> None:
    x = torch.ones(2, requires_grad=True)
    node: Any = (x * 2.0).grad_fn
    leaf = node.next_functions[0][0]
    assert leaf.variable is x, "AccumulateGrad.variable no longer is the parameter: leaf_of must follow"

    class Plain(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, a: Tensor) -> Tensor:
            return a.clone()

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:  # type: ignore[override]
            return 7.0 * g

    out: Any = Plain.apply(x)
    node = out.grad_fn
    hint = "custom Functions no longer are BackwardCFunction with apply and needs_input_grad: _apply must follow"
    assert isinstance(node, torch.autograd.function.BackwardCFunction), hint
    assert node.needs_input_grad == (True,) and torch.equal(node.apply(torch.ones(2)), torch.full((2,), 7.0)), hint


def test_torch_tells_when_a_function_transform_is_running() -> None:
    inside: list[bool] = []

    def look(row: Tensor) -> Tensor:
        inside.append(recorder.transformed())
        return row

    torch.vmap(look)(torch.ones(2, 2))
    hint = "torch._C._functorch.peek_interpreter_stack no longer tells: transformed must follow"
    assert inside == [True] and not recorder.transformed(), hint


@pytest.mark.parametrize("names", ["CheckpointFunction", "_checkpoint_hook", "GraphExecGroup uuid"])
def test_torch_has_the_private_sides_of_checkpointing(names: str) -> None:
    there = [hasattr(checkpointing, name) for name in names.split()]
    assert any(there), f"torch.utils.checkpoint.{names} is gone: checkpoints.py must follow"


def test_this_torch_is_supported() -> None:
    why_unsupported.cache_clear()
    assert why_unsupported() == ""


@pytest.fixture
def a_torch_without_input_metadata(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Every node the walk applies looks as if ``_input_metadata`` did not exist."""

    def apply(node: Any, *_: Any) -> Any:
        raise AttributeError(f"'{type(node).__name__}' object has no attribute '_input_metadata'")

    monkeypatch.setattr(exact, "_caller", apply)
    why_unsupported.cache_clear()
    yield
    monkeypatch.undo()
    why_unsupported.cache_clear()


@pytest.mark.usefixtures("a_torch_without_input_metadata")
def test_supported_names_what_is_missing_and_a_check_falls_back_to_torchs_own_backward() -> None:
    reason = why_unsupported()
    assert "AttributeError" in reason and "_input_metadata" in reason
    look = pytest.importorskip("unvanish.pipeline").look
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5))
    flow = look(Problem(model, torch.randn(4, 6), torch.randint(5, (4,)), F.cross_entropy))
    assert not flow.setting.exact
    assert any(reason in note and "underflows" in note for note in flow.notes)
    assert [layer.name for layer in flow.layers] == ["0", "2"]
    assert all(layer.log10_grad_norm is not None and layer.log10_grad_norm > -5 for layer in flow.layers)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.usefixtures("a_torch_without_input_metadata")
@pytest.mark.parametrize("effort", ["quick", "auto", "full"])
@pytest.mark.parametrize("name", ["relu-he-20", "sigmoid-20", "zero-head", "dead-relu"])
def test_every_effort_falls_back_with_all_of_its_evidence(name: str, effort: str) -> None:
    flow = decide(look(zoo.get(name).build(0), effort))
    assert not flow.setting.exact
    right = dict(zoo.get(name).layers)
    assert {each.name: each.verdict for each in flow.layers if each.name in right} == right
    assert any(each.noise is not None for each in flow.layers) == (effort == "full")


def test_supported_notices_wrong_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    right = exact._fit
    monkeypatch.setattr(exact, "_fit", lambda gradient, metadata: 1.001 * right(gradient, metadata))
    why_unsupported.cache_clear()
    try:
        assert "differs from autograd" in why_unsupported()
    finally:
        why_unsupported.cache_clear()


def test_the_first_call_that_sends_something_non_finite_back_is_named() -> None:
    """√ has an infinite slope at 0: its call (2) is to blame, not those after it on the way to the input."""
    model = Forward(lambda m, x: m.head(torch.sqrt(torch.relu(m.lin(x)))), lin=nn.Linear(2, 2), head=nn.Linear(2, 1))
    with torch.no_grad():
        model.lin.weight.fill_(-1.0)  # type: ignore[union-attr,operator]
        model.lin.bias.fill_(0.0)  # type: ignore[union-attr,operator]
    _, tape, capture = by_walk(Problem(model, torch.ones(3, 2), torch.zeros(3, 1), squares))
    assert capture.calls[tape.broken or 0].name == "sqrt"


def test_what_autograd_refuses_is_told_with_its_place() -> None:
    """σ needs its own result in the backward pass, and that was changed in place."""

    def forward(m: Any, x: Tensor) -> Tensor:
        h = torch.sigmoid(m.lin(x))
        return h.mul_(2.0)

    given = Problem(Forward(forward, lin=nn.Linear(3, 3)), torch.randn(2, 3), torch.randn(2, 3), squares)
    with pytest.raises(UnvanishError, match=r"pass of sigmoid in the model \(.*test_backward\.py:\d+\) raised"):
        by_walk(given)
    assert all(p.grad is None for p in given.model.parameters())  # type: ignore[union-attr]
