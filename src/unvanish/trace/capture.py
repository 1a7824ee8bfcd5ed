"""One forward pass and its loss, seen call by call."""

from __future__ import annotations

import math
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from unvanish.preserve.tensors import kept_tensors
from unvanish.records import UnvanishError
from unvanish.trace.calls import Capture, root_of
from unvanish.trace.checkpoints import recompute_once
from unvanish.trace.ends import ends_of, handed_on, met_inside, only_scaled, returns_loss, roots_of
from unvanish.trace.places import blame
from unvanish.trace.recorder import Recorder
from unvanish.trace.scaled import is_finite
from unvanish.trace.structure import inner_loss, rebuild, tensors

if TYPE_CHECKING:
    from unvanish.problem import Problem


def record(problem: Problem, model: nn.Module) -> Capture:
    """Run the forward pass and the loss once and record every differentiable call. Raises UnvanishError."""
    capture = Capture(model, replay=partial(autocast, problem, model))
    recorder = Recorder(capture)
    capture.batch = kept_tensors(tensors((problem.inputs, problem.targets)))
    drawn = torch.default_generator.get_state()
    try:
        with ExitStack() as stack:
            stack.enter_context(torch.enable_grad())
            stack.enter_context(_eager())
            stack.enter_context(recompute_once(recorder.cuts.in_checkpoint))
            stack.enter_context(autocast(problem, model))
            stack.enter_context(recorder.watching_modules())
            stack.enter_context(recorder)
            outputs = _guarded("the model", lambda: problem.outputs(model), problem)
            outputs = _with_nodes(outputs)
            recorder.adopt_end(outputs)
            recorder.part = "loss"
            _read_outputs(capture, problem, outputs)
            loss = _guarded("loss_fn" if problem.loss_fn else "the loss", lambda: problem.loss(outputs))
            recorder.adopt_end(loss)
            _read_loss(capture, problem, loss)
            _read_own_loss(capture, problem, loss is (outputs if isinstance(outputs, Tensor) else inner_loss(outputs)))
            _read_layers_ends(capture)
        capture.random = not torch.equal(drawn, torch.default_generator.get_state())
        _read_own_ends(capture, problem)
        if recorder.disturbed:
            raise UnvanishError(
                "another thread ran the model while it was checked; check it where its training stands still, or check"
                " a copy of it"
            )
    except BaseException as error:
        outputs = loss = None
        drop_locals(error)
        capture.release()
        raise
    return capture


def forward_is_finite(capture: Capture) -> bool:
    """Whether the loss and every entry of the outputs are finite numbers."""
    outputs = (t for t in tensors(capture.values) if t.is_floating_point())
    return math.isfinite(capture.loss) and all(map(is_finite, outputs))


def drop_locals(error: BaseException | None) -> None:
    """Free the tensors that the frames of an error hold, while the graph's nodes are still held one by one."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _guarded(what: str, run: Any, given: Problem | None = None) -> Any:
    try:
        return run()
    except UnvanishError:
        raise
    except (Exception, SystemExit) as error:
        hint = "" if given is None else _hint(given, error)
        raise UnvanishError(f"{what} raised {type(error).__name__}: {error}{blame(error)}{hint}") from error


def _hint(given: Problem, error: BaseException) -> str:
    """What about the inputs may be behind the error of a forward, or nothing."""
    inputs = given.inputs
    parts = list(inputs.values()) if isinstance(inputs, Mapping) else inputs
    parts = parts if isinstance(parts, (list, tuple)) else [parts]
    if any(type(part).__module__.partition(".")[0] == "numpy" for part in parts):
        return "; the inputs hold a numpy array: give tensors, torch.as_tensor(array, dtype=torch.float32)"
    if not isinstance(error, TypeError) or "argument" not in str(error):
        return ""
    if isinstance(inputs, (list, tuple)):
        said = f"; the {type(inputs).__name__} of inputs is given as {len(inputs)} arguments"
        return said if given.targets is not None else f"{said}; targets have a place of their own, Problem(targets=…)"
    if isinstance(inputs, Mapping):
        return f"; the mapping of inputs is given as keyword arguments ({', '.join(map(str, inputs))})"
    return ""


@contextmanager
def one_clear_error() -> Iterator[None]:
    """Whatever else goes wrong inside leaves as an UnvanishError that says so."""
    try:
        yield
    except Exception as error:
        if (stop := interrupt_behind(error)) is not None:
            raise stop from None  # it cut something short, which then failed in turn
        if isinstance(error, UnvanishError):
            raise
        raise UnvanishError(
            f"the check could not be finished: {type(error).__name__}: {error}{blame(error)}; effort='quick' asks less"
            " of the model"
        ) from error


def interrupt_behind(error: BaseException) -> BaseException | None:
    here: BaseException | None = error
    while here is not None and (isinstance(here, (Exception, SystemExit, GeneratorExit))):
        here = here.__context__
    return here


def _read_outputs(capture: Capture, problem: Problem, outputs: Any) -> None:
    loss = None if problem.loss_fn is not None else outputs if isinstance(outputs, Tensor) else inner_loss(outputs)
    found = [_flat(t) for t in tensors(outputs) if t is not loss and t.is_floating_point()]
    copies: dict[int, Tensor] = {}

    def apart(tensor: Tensor) -> Tensor:  # a loss may change its arguments in place
        copies[id(tensor)] = tensor.detach().clone()
        return copies[id(tensor)]

    capture.values = rebuild(outputs, apart)
    capture.given = [copies[id(t)] for t in found if t.grad_fn is None and id(t) in copies]
    with torch._C.DisableTorchFunction():
        capture.outputs = [root_of(t) for t in found if t.grad_fn is not None]


def _with_nodes(outputs: Any) -> Any:
    """The outputs, with a view of each that is a parameter itself: a leaf has no node that a walk could begin at."""
    if any(t.requires_grad and t.is_leaf for t in tensors(outputs)):
        return rebuild(outputs, lambda t: t.view_as(t) if t.requires_grad and t.is_leaf else t)
    return outputs


def _flat(output: Tensor) -> Tensor:
    """A nested output as one vector: a probe needs a shape."""
    return torch.cat([part.reshape(-1) for part in output.unbind()]) if output.is_nested else output


def _read_loss(capture: Capture, problem: Problem, loss: Any) -> None:
    source = "loss_fn returned" if problem.loss_fn is not None else "the model gave, as its loss,"
    if loss is None:
        raise UnvanishError("no loss_fn was given and the model's output has no .loss; pass loss_fn(outputs, targets)")
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        found = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
        raise UnvanishError(f"{source} {found}; the loss must be one number (take its mean or sum)")
    if not loss.is_floating_point():
        raise UnvanishError(
            f"{source} a {loss.dtype} number; a loss must be a floating-point number to have a gradient"
        )
    with torch._C.DisableTorchFunction():
        capture.loss = float(loss.detach())
        if loss.grad_fn is not None:
            capture.loss_root = root_of(loss)
            capture.loss_index = capture.owner.get(loss.grad_fn)
    if capture.loss_root is not None:
        return
    trained = [name for name, p in capture.model.named_parameters() if p.requires_grad]
    ran = [m for name, m in capture.model.named_modules() if name in capture.module_calls]
    used = [p for m in ran for p in m._parameters.values() if p is not None]
    if trained and used and not any(p.requires_grad for p in used):
        raise UnvanishError(
            "the loss does not depend on any trainable parameter: all layers that the forward pass called are frozen"
            f" (requires_grad is off), and it did not call the one of {trained[0]}, which may be trained"
        )
    if trained:
        raise UnvanishError(
            "the loss does not depend on any trainable parameter: it has no grad_fn. Was the forward pass run under"
            " torch.no_grad(), the output detached or turned into numbers, or made of integers (argmax)?"
        )


def _read_own_loss(capture: Capture, problem: Problem, named: bool) -> None:
    """Whether the model computes its loss itself; single numbers that are all of it are then no outputs.

    Where the loss_fn hands on numbers that are not called the loss (``named``), only if it is seen what they are made
    by: else they are outputs like others, and tell at least how steps change them.
    """
    capture.own_loss = problem.loss_fn is None
    handed = set[int]() if capture.own_loss else handed_on(capture)
    if not handed:
        return
    capture.own_loss = True
    capture.own_loss = named or bool(capture.met) or same_loss(capture)
    if capture.own_loss:
        capture.outputs = [root for root in capture.outputs if capture.owner.get(root.slot[0]) not in handed]


def _read_own_ends(capture: Capture, problem: Problem) -> None:
    """Outputs for a model that returns its own loss alone: what its recognised loss call is given, else its ends."""
    if capture.loss_root is None or capture.ends:
        return
    if not returns_loss(capture, problem.batch_size):
        # outputs beside a loss in which something meets each with each
        if capture.own_loss and capture.met and not same_loss(capture):
            capture.inside = tuple(ends_of(capture, problem.batch_size))
            capture.compared = capture.compared or met_inside(capture)
    elif capture.loss_input is not None and same_loss(capture):
        capture.outputs = []
    elif found := ends_of(capture, problem.batch_size):
        roots = roots_of(capture, found)
        if len(roots) == len(found):
            capture.outputs, capture.inside = roots, tuple(found)
            capture.compared = capture.compared or met_inside(capture)


def same_loss(capture: Capture) -> bool:
    """Whether the recognised loss call, made once more, gives the whole loss, or a number that is only scaled to it."""
    return loss_factor(capture) is not None


def loss_factor(capture: Capture) -> float | None:
    """What the recognised loss call, made once more, is to be multiplied by to give the whole loss; None: it is more.

    Not 1 where the loss_fn scales what the model gives, as one does that spreads a step over several batches.
    """
    if capture.loss_call is None:
        return None
    func, args, kwargs, index = capture.loss_call
    with capture.replay():
        again = float(func(*args, **kwargs))
    if math.isclose(again, capture.loss, rel_tol=1e-5):
        return 1.0
    return capture.loss / again if capture.own_loss and again != 0.0 and only_scaled(capture, index) else None


def _read_layers_ends(capture: Capture) -> None:
    """Where the layers end, if some run inside the loss: what leads to them counts as the model's."""
    owned = [(root, capture.owner.get(root.slot[0], -1)) for root in capture.ends]
    owned = [(root, index) for root, index in owned if index >= 0]
    inside = capture.leading_to(index for _, index in owned)
    for call in capture.calls:
        if call.index in inside:
            call.part = "model"
    owned += [(root, capture.owner.get(root.slot[0], -1)) for root in capture.outputs if owned]
    before = {index: capture.leading_to(capture.calls[index].inputs) for _, index in owned if index >= 0}
    passed = {i for index in before for i in before[index]}
    capture.ends = [root for root, index in owned if index >= 0 and index not in passed]
    capture.ends_in_loss = bool(capture.ends)


@contextmanager
def _eager() -> Iterator[None]:
    """What was compiled runs as its eager original, without dynamo's warning that our hooks see its wrapper."""
    if "torch._dynamo" not in sys.modules:
        yield
        return
    eager: Any  # torch 2.5 has no stances
    if hasattr(torch.compiler, "set_stance"):
        eager = torch.compiler.set_stance("force_eager")
    else:
        eager = sys.modules["torch._dynamo"].config.patch(disable=True)
    with eager, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Using `torch\.compile\(module\)` when there are global hooks")
        yield


@contextmanager
def autocast(problem: Problem, model: nn.Module) -> Iterator[None]:
    """The precision the problem is trained in. A gradient mode that the user's code sets inside ends with it."""
    with torch.set_grad_enabled(torch.is_grad_enabled()):
        if problem.autocast is None:
            yield
            return
        with torch.autocast(next(model.parameters()).device.type, dtype=problem.autocast):
            yield
