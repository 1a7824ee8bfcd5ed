"""Nothing is left behind: not by forwards that write what they like, not by interrupts, not by threads."""

from __future__ import annotations

import gc
import random
import signal
import sys
import threading
import time
import types
import warnings
from collections import Counter, OrderedDict, UserDict, defaultdict, deque
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.utils import checkpoint

from unvanish import Problem, UnvanishError, diagnose, preserve
from unvanish.flow import slopes
from unvanish.pipeline import look
from unvanish.preserve import objects, untouched
from unvanish.preserve.signals import finish

autograd: Any = torch._C._autograd  # type: ignore[attr-defined]
X = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(16) % 5


class Program(nn.Module):
    """One linear layer, much to write to, and any function of the module and its input."""

    calls = 0
    table: ClassVar[dict[str, int]] = {}

    def __init__(self, forward: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.run = nn.Linear(8, 5), forward
        self.words = nn.Embedding(20, 8, max_norm=0.1)
        self.teacher = [nn.BatchNorm1d(8)]  # in a list, so that it is no submodule
        self.register_buffer("seen", torch.tensor([]))
        self.register_buffer("shrinks", torch.arange(12.0).view(3, 4))
        self.register_buffer("square", torch.eye(3) + torch.arange(3.0))
        self.notes: Any = types.SimpleNamespace(sizes={"first": [1, 2]}, best=torch.zeros(3), log=deque([1], maxlen=2))
        self.nested: Any = [{"deep": ({"deeper": [torch.ones(2)]},)}]
        self.user: Any = UserDict(a=1)
        self.counts: Any = Counter("aab")
        self.made: Any = defaultdict(list)
        self.ordered: Any = OrderedDict(a=1, b=2)
        self.members: Any = {1, 2}
        self.array = np.zeros(3)
        self.generators: Any = (torch.Generator(), random.Random(3), np.random.default_rng(0))

    def forward(self, x: Tensor) -> Any:
        self.run(self, x)
        return self.layer(x if x.is_floating_point() else self.words(x))


def write_data(self: Any, x: Tensor) -> None:
    self.layer.weight.data.clamp_(-0.01, 0.01)


def replace_data(self: Any, x: Tensor) -> None:
    self.layer.weight.data = self.layer.weight.data * 0.9


def write_weights(self: Any, x: Tensor) -> None:
    with torch.no_grad():
        self.layer.weight.mul_(0.9)


def write_through_numpy(self: Any, x: Tensor) -> None:
    self.layer.weight.detach().numpy()[:] *= 0.9


def replace_parameter(self: Any, x: Tensor) -> None:
    self.layer.bias = nn.Parameter(self.layer.bias.detach() + 1.0)


def resize_buffers(self: Any, x: Tensor) -> None:
    self.seen.resize_(7).fill_(1.0)
    self.shrinks.resize_(2)
    self.shrinks.untyped_storage().resize_(8)


def turn_over(self: Any, x: Tensor) -> None:
    self.square.t_()  # the same memory and shape, read in another order


def hold_a_graph(self: Any, x: Tensor) -> None:
    self.square.mul_(self.layer.weight.sum())


def write_inputs(self: Any, x: Tensor) -> None:
    x.mul_(0.5)


def ask_inputs_for_gradients(self: Any, x: Tensor) -> None:
    x.requires_grad_(True)
    self.layer(x).sum().backward()


def write_attributes(self: Any, x: Tensor) -> None:
    self.notes.sizes["first"].append(3)
    self.notes.sizes["second"] = []
    self.notes.best.add_(1.0)
    self.notes.log.append(9)
    self.notes.late = x
    self.nested[0]["deep"][0]["deeper"][0].fill_(7.0)
    self.nested[0]["deep"][0]["deeper"].append(2)
    self.nested.append(x)
    self.user["b"] = 2
    self.counts["b"] += 1
    self.made["new"].append(x)
    self.ordered.move_to_end("a")
    self.members.add(3)
    self.array[0] += 1.0


def write_class(self: Any, x: Tensor) -> None:
    Program.calls += 1
    Program.table["calls"] = Program.calls
    setattr(Program, "late", x)  # noqa: B010


def draw(self: Any, x: Tensor) -> None:
    torch.rand(2, generator=self.generators[0])
    self.generators[1].random()
    self.generators[2].random()
    _ = torch.rand(1), random.random(), np.random.rand()


def run_teacher(self: Any, x: Tensor) -> None:
    self.teacher[0](x)


def set_modes(self: Any, x: Tensor) -> None:
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(True)
    torch.use_deterministic_algorithms(True)
    warnings.simplefilter("ignore")


def leave_hooks_on_what_is_saved(self: Any, x: Tensor) -> None:
    torch.autograd.graph.saved_tensors_hooks(lambda saved: saved, lambda saved: saved).__enter__()


WRITES = (
    write_data, replace_data, write_weights, write_through_numpy, replace_parameter, resize_buffers, turn_over,
    hold_a_graph, write_inputs, ask_inputs_for_gradients, write_attributes, write_class, draw, run_teacher, set_modes,
    leave_hooks_on_what_is_saved,
)  # fmt: skip


def spelled(value: Any) -> Any:
    """Everything below a value, tensors bit for bit, as plain tuples."""
    if isinstance(value, Tensor):
        place = value.data_ptr() if isinstance(value, nn.Parameter) else None
        at = place, tuple(value.shape), value.requires_grad, value.is_leaf, id(value.grad) if value.is_leaf else 0
        return ("tensor", id(value), *at, value.detach().double().numpy().tobytes())
    if isinstance(value, np.ndarray):
        return value.tobytes()
    if isinstance(value, torch.Generator):
        return value.get_state().numpy().tobytes()
    if isinstance(value, random.Random):
        return value.getstate()
    if isinstance(value, np.random.Generator):
        return str(value.bit_generator.state)
    if isinstance(value, nn.Module):
        return ("module", id(value), spelled(vars(value)))
    if isinstance(value, (UserDict, types.SimpleNamespace)):
        return spelled(vars(value))
    if isinstance(value, dict):
        return (id(value), *((key, spelled(each)) for key, each in value.items()))
    if isinstance(value, (list, tuple, deque, set)):
        return (id(value), *map(spelled, value))
    return value


def everything(model: nn.Module, *also: Any) -> dict[str, Any]:
    state: Any = np.random.get_state()
    return {
        "model": spelled(model),
        "class": (Program.calls, dict(Program.table), hasattr(Program, "late")),
        "also": list(map(spelled, also)),
        "random": (torch.get_rng_state().numpy().tobytes(), random.getstate(), state[1].tolist(), state[2]),
        "modes": (
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.is_autocast_enabled("cpu"),
            torch.get_default_dtype(),
            torch.get_default_device(),
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch._C._len_torch_function_stack(),
            autograd._top_saved_tensors_default_hooks(True),
            list(warnings.filters),
            gc.isenabled(),
        ),
        "hooks": [dict(getattr(hooks, n)) for n in vars(hooks) if n.startswith("_global_") and "hooks" in n],
        "checkpoint": dict(vars(checkpoint)),
        "signals": (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGALRM)),
    }


def changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return [name for name in before if before[name] != after[name]]


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("trained", [True, False])
def test_what_a_forward_writes_is_put_back(write: Callable[..., None], trained: bool) -> None:
    model, x, y = Program(write), X.clone(), Y.clone()
    model.layer.weight.grad = torch.ones(5, 8) if trained else None
    optimizer = torch.optim.Adam(model.parameters())
    before = everything(model, x, y)
    look(Problem(model, x, y, F.cross_entropy, optimizer))
    assert changed(before, everything(model, x, y)) == []


@pytest.mark.parametrize("write", WRITES)
def test_a_forward_that_fails_half_way_is_put_back(write: Callable[..., None]) -> None:
    def fails(self: Any, x: Tensor) -> None:
        write(self, x)
        raise ValueError("half way")

    model, x = Program(fails), X.clone()
    before = everything(model, x)
    with pytest.raises(UnvanishError, match="half way"):
        look(Problem(model, x, Y, F.cross_entropy))
    assert changed(before, everything(model, x)) == []


def test_an_embedding_that_renorms_its_weights_is_put_back() -> None:
    model, words = Program(lambda self, x: None), torch.arange(16) % 20
    before = everything(model, words)
    look(Problem(model, words, Y, F.cross_entropy, torch.optim.SGD(model.parameters(), 0.1)))
    assert changed(before, everything(model, words)) == []


def test_targets_that_the_loss_changes_are_put_back_and_read_as_they_were() -> None:
    def plain(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(outputs, targets * 0.5)

    def in_place(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(outputs, targets.mul_(0.5))

    x, y = X.clone(), torch.randn(16, 5, generator=torch.Generator().manual_seed(2))
    reports = []
    for loss_fn in (plain, in_place):
        model = Program(lambda self, x: None)
        before = everything(model, x, y)
        flow = look(Problem(model, x, y, loss_fn, torch.optim.Adam(model.parameters())))
        assert changed(before, everything(model, x, y)) == []
        reports.append((flow.loss, flow.step, [a.log10_grad_norm for a in flow.layers]))
    assert reports[0] == reports[1]


def test_inputs_that_are_changed_in_place_are_the_same_in_each_pass() -> None:
    model, x = Program(write_inputs), X.clone()
    half = Program(lambda self, x: None)
    flow = look(Problem(model, x, Y, F.cross_entropy, torch.optim.Adam(model.parameters())))
    expected = look(Problem(half, 0.5 * X, Y, F.cross_entropy, torch.optim.Adam(half.parameters())))
    assert flow.step is not None and flow.step == expected.step and flow.decrement == expected.decrement


def test_of_a_view_that_a_graph_holds_the_values_are_put_back_and_the_rest_is_said(
    recwarn: pytest.WarningsRecorder,
) -> None:
    """torch takes no view out of a graph in place."""
    model = Program(hold_a_graph)
    model.square = square = torch.arange(9.0).view(3, 3)
    report = diagnose(Problem(model, X, Y, F.cross_entropy))
    assert torch.equal(square.detach(), torch.arange(9.0).view(3, 3))
    assert any("a tensor of shape (3, 3)" in note and "its values are back" in note for note in report.notes)
    assert not recwarn.list


def test_a_graph_that_the_user_holds_stays_valid() -> None:
    model = Program(lambda self, x: None)
    loss = F.cross_entropy(model(X), Y)
    look(Problem(model, X, Y, F.cross_entropy, torch.optim.Adam(model.parameters())))
    loss.backward()  # refuses where a saved tensor's version has moved
    assert model.layer.weight.grad is not None


def test_what_is_too_large_to_keep_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "MOST_BYTES", 8)
    flow = look(Problem(Program(write_attributes), X.clone(), Y, F.cross_entropy))
    assert [note for note in flow.notes if "shape (3,) in Program" in note and "could not be put back" in note]
    assert look(Problem(Program(run_teacher), X, Y, F.cross_entropy)).notes == ()


def raises(*_: Any) -> None:
    raise KeyboardInterrupt


@pytest.fixture
def alarm(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # An alarm in a destructor cannot be raised; pytest's own hook, which keeps such errors, may be hit by the next one.
    monkeypatch.setattr(sys, "unraisablehook", lambda *_: None)
    before = signal.signal(signal.SIGALRM, raises)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def checked_under_an_alarm(problem: Problem, after: float, again: float) -> KeyboardInterrupt | None:
    """What interrupted the check: alarms that come three times at most."""
    interrupt: KeyboardInterrupt | None = None
    came: list[int] = []

    def alarm(*_: Any) -> None:
        came.append(0)
        if len(came) > 2:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
        raise KeyboardInterrupt

    signal.signal(signal.SIGALRM, alarm)
    while True:
        try:
            try:
                if interrupt is None:
                    signal.setitimer(signal.ITIMER_REAL, after, again)
                    look(problem)
            except KeyboardInterrupt as error:
                interrupt = error
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            signal.signal(signal.SIGALRM, raises)
            return interrupt
        except KeyboardInterrupt:
            continue


@pytest.mark.parametrize("again", [0.0, 0.0005])
@pytest.mark.usefixtures("alarm")
def test_an_interrupt_at_any_moment(again: float) -> None:
    def busy(self: Any, x: Tensor) -> None:
        write_attributes(self, x)
        replace_data(self, x)
        checkpoint.checkpoint(self.layer, x, use_reentrant=False)

    model, x = Program(busy), X.clone()
    problem = Problem(model, x, Y, F.cross_entropy, torch.optim.Adam(model.parameters()))
    look(problem)
    started = time.perf_counter()
    look(problem)
    usual, drawn, hits = time.perf_counter() - started, random.Random(0), 0
    for _ in range(100):
        before = everything(model, x)
        interrupted = checked_under_an_alarm(problem, 1e-5 + drawn.random() * usual, again)
        if interrupted is not None:
            hits += 1
            assert changed(before, everything(model, x)) == []
        del interrupted
        # Once more when the error has been forgotten: nothing may still be waiting to put something back.
        assert changed(before, everything(model, x)) == []
    assert hits > 10


@pytest.mark.usefixtures("alarm")
def test_work_is_finished_before_an_interrupt_goes_through() -> None:
    done: list[int] = []

    def work() -> None:
        for k in range(3):
            signal.raise_signal(signal.SIGALRM)
            done.append(k)

    with pytest.raises(KeyboardInterrupt):
        finish(work)
    assert done == [0, 1, 2] and signal.getsignal(signal.SIGALRM) is raises


def test_work_that_is_cut_short_by_an_exception_from_elsewhere_is_begun_anew() -> None:
    done: list[int] = []

    def work() -> None:
        done.append(len(done))
        if len(done) < 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finish(work)
    assert done == [0, 1, 2]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_interrupts_just_as_one_door_after_the_other_is_opened(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    came: list[int] = []
    plain = preserve._Door.__exit__

    def interrupted(self: Any, *given: Any) -> None:
        if len(came) < count:
            came.append(0)
            raise KeyboardInterrupt
        plain(self, *given)

    before = everything(model := Program(write_attributes), X)
    monkeypatch.setattr(preserve._Door, "__exit__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        look(Problem(model, X, Y, F.cross_entropy))
    assert len(came) == count
    assert changed(before, everything(model, X)) == [] and not preserve.checking()


def test_a_second_interrupt_while_a_check_that_hardly_began_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    came: list[str] = []

    def interrupted(where: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        def once(*given: Any) -> Any:
            if where not in came:
                came.append(where)
                raise KeyboardInterrupt
            return plain(*given)

        return once

    before = everything(model := Program(write_attributes), X)
    monkeypatch.setattr(preserve, "Belongings", interrupted("keeping", preserve.Belongings))
    monkeypatch.setattr(gc, "enable", interrupted("collecting again", gc.enable))
    with pytest.raises(KeyboardInterrupt):
        look(Problem(model, X, Y, F.cross_entropy))
    assert came == ["keeping", "collecting again"]
    assert changed(before, everything(model, X)) == [] and not preserve.checking()
    assert look(Problem(model, X, Y, F.cross_entropy)).layers


def test_an_interrupt_behind_another_error_is_what_comes_out() -> None:
    def hides(self: Any, x: Tensor) -> None:
        try:
            raise KeyboardInterrupt
        finally:
            raise RuntimeError("could not be closed")

    with pytest.raises(KeyboardInterrupt):
        look(Problem(Program(hides), X, Y, F.cross_entropy))


def network(seed: int, dropout: float = 0.2) -> Problem:
    torch.manual_seed(seed)
    layers = (
        nn.Linear(8, 12),
        nn.BatchNorm1d(12),
        nn.Sigmoid(),
        nn.Dropout(dropout),
        nn.Linear(12, 12),
        nn.Linear(12, 5),
    )
    model = nn.Sequential(*layers)
    nn.init.zeros_(model[-1].get_parameter("weight"))
    return Problem(model, 20.0 * X, Y, F.cross_entropy, torch.optim.Adam(model.parameters(), 1e-3))


def test_threads_that_check_at_once_get_what_one_alone_gets() -> None:
    problems = [network(seed) for seed in range(3)]
    alone = [diagnose(problem).to_json() for problem in problems]
    results: dict[int, list[str]] = {}

    def check(index: int) -> None:
        results[index] = [diagnose(problems[index]).to_json() for _ in range(4)]

    threads = [threading.Thread(target=check, args=(index,), daemon=True) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300.0)
        assert not thread.is_alive(), "it waits for a check that has not let go"
    assert [set(results[index]) for index in range(3)] == [{text} for text in alone]


class Replayed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(checkpoint.checkpoint(self.first, x, use_reentrant=True)))


def train(model: nn.Module, steps: int, stop: threading.Event | None = None) -> nn.Module:
    optimizer, x = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9), X.clone().requires_grad_()
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), Y).backward()
        optimizer.step()
        if stop is not None and stop.is_set():
            break
    return model


def test_a_check_beside_the_training_of_another_model_changes_neither() -> None:
    problem = network(0, dropout=0.0)  # threads share torch's random numbers, and a checkpoint of the other sets them
    alone, expected = diagnose(problem).to_json(), train(Replayed(), 150)
    model = Replayed()
    thread = threading.Thread(target=train, args=(model, 150))
    thread.start()
    texts = {diagnose(problem).to_json()}
    while thread.is_alive():
        texts.add(diagnose(problem).to_json())
    thread.join()
    assert texts == {alone}
    assert all(map(torch.equal, model.parameters(), expected.parameters()))
    assert checkpoint.CheckpointFunction.__module__ == "torch.utils.checkpoint"


def test_a_check_of_a_model_in_training_is_refused() -> None:
    problem, stop = network(0), threading.Event()
    assert isinstance(problem.model, nn.Module)
    thread = threading.Thread(target=train, args=(problem.model, 100_000, stop))
    thread.start()
    try:
        with pytest.raises(UnvanishError, match="another thread"):
            for _ in range(50):  # one check may fall between two calls
                diagnose(problem)
    finally:
        stop.set()
        thread.join()
    assert diagnose(problem).layers


def test_steps_of_another_thread_during_a_check_are_seen() -> None:
    model = nn.Linear(8, 5)
    optimizer = torch.optim.SGD(model.parameters(), 0.5)

    def step() -> None:
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()

    before = model.weight.detach().clone()
    with pytest.raises(UnvanishError, match="another thread"), untouched(model, 0):
        thread = threading.Thread(target=step)
        thread.start()
        thread.join()
    assert torch.equal(model.weight, before - 0.5), "the other thread's step stays"


@pytest.mark.parametrize("effort", ["auto", "full"])
def test_the_defaults_of_the_process_change_nothing(effort: str) -> None:
    problem = network(0)

    def checked() -> str:
        slopes._known.clear()
        return diagnose(problem, effort=effort).to_json()

    texts = {"plain": checked()}
    try:
        for dtype in (torch.float64, torch.bfloat16):
            torch.set_default_dtype(dtype)
            texts[str(dtype)] = checked()
    finally:
        torch.set_default_dtype(torch.float32)
    try:
        torch.set_default_device("meta")
        texts["default device"] = checked()
        assert torch.get_default_device().type == "meta"
    finally:
        torch.set_default_device(None)
    with torch.device("meta"):
        texts["device context"] = checked()
    with torch.autocast("cpu", torch.bfloat16):
        texts["autocast"] = checked()
        assert torch.is_autocast_enabled("cpu")
    with torch.inference_mode():
        texts["inference mode"] = checked()
    assert [name for name, text in texts.items() if text != texts["plain"]] == []


def test_what_is_not_deterministic_only_warns_afterwards_where_it_did_before() -> None:
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        model = Program(set_modes)
        before = everything(model)
        look(Problem(model, X.clone(), Y, F.cross_entropy))
        assert changed(before, everything(model)) == []
    finally:
        torch.use_deterministic_algorithms(False)


def test_hooks_of_ours_that_an_interrupt_has_left_go_and_those_of_others_stay() -> None:
    """On every module of the process; of those that run always torch keeps a second table."""

    def ours(*_: Any) -> None:
        pass

    ours.__module__ = "unvanish.trace.recorder"
    model = nn.Linear(2, 2)
    theirs = hooks.register_module_forward_hook(lambda *_: None, always_call=True)
    try:
        before = everything(model)
        with untouched(model, 0):
            hooks.register_module_forward_pre_hook(ours)
            hooks.register_module_forward_hook(ours, always_call=True)
            assert changed(before, everything(model))
        assert changed(before, everything(model)) == []
    finally:
        theirs.remove()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_casts_of_a_block_of_autocast_around_the_call_are_neither_read_nor_written(seed: int) -> None:
    """Torch keeps a cast until the outermost block ends, whatever becomes of the weight."""

    def double() -> None:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(2.0)

    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 5))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    problem = Problem(model, X, Y, lambda out, y: F.cross_entropy(out.float(), y), optimizer, autocast=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        stale = model(X)
        double()
        inside = diagnose(problem)
        assert torch.equal(model(X), stale), "the caller goes on as without us"
        assert torch.is_autocast_cache_enabled()
    assert inside.to_json() == diagnose(problem).to_json()
    assert inside.flow.step is not None and inside.flow.step.ladder[0][1] < inside.flow.step.loss
    with torch.autocast("cpu", torch.bfloat16):
        diagnose(problem)
        double()
        first = model(X)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model(X), first), "no cast of before is left to the caller"
