"""Training loops that trace, transform, replace or script what they train, or take turns: watched as they are."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.fx import symbolic_trace
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

import unvanish
from unvanish.watching.finder import Finder
from unvanish.watching.reporting import report_of
from unvanish.watching.run import load_run
from unvanish.watching.run_file import Reader
from unvanish.watching.watch import Watch

STEPS = 4
SEEDS = [0, 1, 2]


def batch(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(16, 8, generator=generator), torch.randint(3, (16,), generator=generator)


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))


def stepped(net: Callable[..., Any], optimizer: Any, seed: int = 0) -> float:
    x, y = batch(seed)
    optimizer.zero_grad()
    loss = F.cross_entropy(net(x), y)
    loss.backward()
    optimizer.step()
    return loss.item()


def saved(net: Any, x: Tensor) -> Any:
    buffer = io.BytesIO()
    torch.save(net, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)(x).tolist()


def nodes(net: Any, x: Tensor) -> Any:
    def call(weights: dict[str, Tensor], x: Tensor) -> Any:
        return functional_call(net, weights, (x,))

    make: Any = make_fx
    return [node.name for node in make(call)(dict(net.named_parameters()), x).graph.nodes]


JIT: Any = torch.jit
SIDE = {
    "a trace": lambda net, x: JIT.trace(net, x)(x).tolist(),
    "a script": lambda net, x: JIT.script(net)(x).tolist(),
    "a graph of calls": nodes,
    "a graph of modules": lambda net, x: len(symbolic_trace(net).graph.nodes),
    "an export": lambda net, x: len(torch.export.export(net, (x,)).graph.nodes),
    "a saved graph": lambda net, x: saved(symbolic_trace(net), x),
}
"""What a loop makes of its network between two steps."""


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "error::torch.jit.TracerWarning")
@pytest.mark.parametrize("side", SIDE)
def test_what_is_made_of_the_network_meanwhile_is_what_it_is_without_us(side: str, tmp_path: Path) -> None:
    def trained(watched: bool) -> list[Any]:
        net, found = network(), []
        optimizer = torch.optim.Adam(net.parameters(), 1e-2)
        run = unvanish.watch(net, optimizer, every=1, to=tmp_path / "r.unvanish") if watched else None
        for _ in range(STEPS):
            found += [stepped(net, optimizer), SIDE[side](net, batch(0)[0])]
        if run is not None:
            run.close()
            assert run.watcher.failed == "" and len(load_run(tmp_path / "r.unvanish").steps) == STEPS
        return found

    assert trained(True) == trained(False)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("make", [lambda net: torch.jit.script(net), lambda net: torch.jit.trace(net, batch(0)[0])])
@pytest.mark.parametrize("found", [True, False], ids=["found by its calls", "given"])
def test_a_script_module_is_trained_as_it_is_and_said_not_to_be_judged(make: Any, found: bool, tmp_path: Path) -> None:
    def trained(watched: bool) -> list[float]:
        path, finder = tmp_path / "r.unvanish", None
        run = Watch(every=1, check_every=None, path=path, on_finding=None) if watched and found else None
        if run is not None:
            finder = Finder(run, None)
        net = make(network())
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        if watched and not found:
            run = unvanish.watch(net, optimizer, every=1, to=path)
        losses = [stepped(net, optimizer) for _ in range(STEPS)]
        if finder is not None:
            finder.remove()
        if run is not None:
            run.close()
            assert run.watcher.failed == ""
        return losses

    assert trained(True) == trained(False)
    run = load_run(tmp_path / "r.unvanish")
    norms = [value for values in run.by_layer("log10_grad_norm").values() for value in values]
    assert len(run.steps) == STEPS and len(norms) == 2 * STEPS and all(-6.0 < each < 2.0 for each in norms)
    assert [note for note in run.report().flow.notes if note.startswith("a ScriptModule")]


@pytest.mark.parametrize("checks", [None, 1])
def test_a_loop_by_torch_func_is_found_and_its_wrapped_calls_are_not_held(checks: int | None, tmp_path: Path) -> None:
    def loss(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(net, weights, (x[None],)), y[None])

    x, y = batch(0)
    run = Watch(every=1, check_every=checks, path=tmp_path / "r.unvanish", on_finding=None)
    finder = Finder(run, None)
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    sizes: list[float] = []
    for _ in range(STEPS):
        weights = {name: p.detach() for name, p in net.named_parameters()}
        for name, each in vmap(grad(loss), in_dims=(None, 0, 0))(weights, x, y).items():
            net.get_parameter(name).grad = each.mean(0)
        grads = [p.grad for p in net[0].parameters() if p.grad is not None]
        sizes.append(float(torch.cat([each.reshape(-1) for each in grads]).norm().log10()))
        optimizer.step()
    finder.remove()
    run.close()
    assert run.watcher.failed == "" and run.step == STEPS
    found = load_run(tmp_path / "r.unvanish")
    assert found.by_layer("log10_grad_norm")["0"] == pytest.approx(sizes, abs=1e-5)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("new", ["by assignment", "by a state", "kept"])
def test_a_layer_that_is_replaced_is_read_in_its_place(new: str, seed: int, tmp_path: Path) -> None:
    net = network(seed)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    run = Watch(every=1, check_every=None, path=tmp_path / "r.unvanish", on_finding=None)
    finder = Finder(run, None)
    for step in range(2 * STEPS):
        if step == STEPS and new != "kept":
            if new == "by assignment":
                net[2] = nn.Linear(16, 5)
            else:
                net.load_state_dict(copy.deepcopy(net.state_dict()), assign=True)
            optimizer = torch.optim.SGD(net.parameters(), 0.1)
        stepped(net, optimizer, seed)
    finder.remove()
    run.close()
    found = load_run(tmp_path / "r.unvanish")
    assert len(found.steps) == 2 * STEPS
    assert [each.name for each in found.report().layers] == ["0", "2"]
    assert [each.parameters for each in found.report().layers] == [144, 85 if new == "by assignment" else 51]
    grads = [p.grad for p in net[2].parameters() if p.grad is not None]
    last = float(torch.cat([each.reshape(-1) for each in grads]).norm().log10())
    assert found.by_layer("log10_grad_norm")["2"][-1] == pytest.approx(last, abs=1e-5)
    assert not any(each.level == "error" for each in found.findings)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("ends", [True, False])
def test_an_optimizer_that_holds_none_of_the_weights_any_more_is_an_error_until_it_ends(
    ends: bool, seed: int, tmp_path: Path
) -> None:
    net, kept = network(seed), network(seed + 1).state_dict()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    run = Watch(every=1, check_every=None, path=tmp_path / "r.unvanish", on_finding=None)
    finder = Finder(run, None)
    for step in range(3 * STEPS):
        if step == STEPS:
            net.load_state_dict(kept, assign=True)
        if step == 2 * STEPS and ends:
            optimizer = torch.optim.SGD(net.parameters(), 0.1)
        stepped(net, optimizer, seed)
    finder.remove()
    run.close()
    ((began, until, finding),) = load_run(tmp_path / "r.unvanish").episodes
    assert (finding.code, finding.level, began, until) == ("UV605", "error", STEPS, 2 * STEPS if ends else None)
    assert not load_run(tmp_path / "r.unvanish").report().healthy


@pytest.mark.parametrize("out", [True, False])
def test_a_layer_that_no_optimizer_holds_is_named_as_that(out: bool, tmp_path: Path) -> None:
    net = network()
    net.append(nn.Linear(3, 3))
    layers = [net[0], net[3]] if out else list(net)
    optimizer = torch.optim.SGD([p for each in layers for p in each.parameters()], 0.1)
    with unvanish.watch(net, optimizer, every=1, to=tmp_path / "r.unvanish") as run:
        for _ in range(STEPS):
            stepped(net, optimizer)
    told = [(each.code, each.level, each.layers) for each in run.findings]
    assert told == ([("UV605", "note", ("2",))] if out else [])


class TwoPasses(torch.optim.Optimizer):
    """Sharpness-aware: moves uphill, has the closure run, moves back, and lets the other make the step."""

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        super().__init__(inner.param_groups, {})
        self.inner = inner

    def step(self, closure: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        each = [p for group in self.param_groups for p in group["params"]]
        moves = [0.05 * p.grad for p in each]
        with torch.no_grad():
            for p, move in zip(each, moves, strict=True):
                p.add_(move)
        closure()
        with torch.no_grad():
            for p, move in zip(each, moves, strict=True):
                p.sub_(move)
        self.inner.step()


@pytest.mark.parametrize("raises", [True, False])
def test_an_optimizer_that_calls_another_makes_one_step(raises: bool, tmp_path: Path) -> None:
    run = Watch(every=1, check_every=None, path=tmp_path / "r.unvanish", on_finding=None)
    finder, (x, y) = Finder(run, None), batch(0)
    net = network()
    inner = torch.optim.SGD(net.parameters(), 0.1)
    optimizer = TwoPasses(inner)

    def closure() -> None:
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        if fails:
            raise ValueError

    for step in range(2 * STEPS):
        F.cross_entropy(net(x), y).backward()
        if fails := raises and step == STEPS:
            with pytest.raises(ValueError):
                optimizer.step(closure)
        elif raises and step > STEPS:
            inner.step()
        else:
            optimizer.step(closure)
    finder.remove()
    run.close()
    assert run.watcher.failed == ""
    assert len(load_run(tmp_path / "r.unvanish").steps) == run.step == 2 * STEPS - raises


def test_a_gradient_that_is_used_twice_leaves_the_step_that_made_it_in_the_report(tmp_path: Path) -> None:
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    with unvanish.watch(net, optimizer, every=1, to=tmp_path / "r.unvanish") as run:
        for _ in range(STEPS):
            stepped(net, optimizer)
            optimizer.step()
    report = run.report()
    assert [each.name for each in report.layers] == ["0", "2"] and report.healthy
    assert any(f"at step {2 * STEPS - 2}" in note for note in report.flow.notes)


@pytest.mark.parametrize("turns", [1, 3])
def test_optimizers_that_take_turns_are_all_in_the_report_of_each_step(turns: int, tmp_path: Path) -> None:
    made, judge, (x, _) = nn.Sequential(nn.Linear(8, 8)), nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 1)), batch(0)
    first, second = (torch.optim.SGD(each.parameters(), 1e-3) for each in (made, judge))
    with unvanish.watch({"made": made, "judge": judge}, [first, second], every=1, to=tmp_path / "r.unvanish") as run:
        for _ in range(STEPS):
            for _ in range(turns):
                judge.zero_grad()
                judge(made(x).detach()).square().sum().backward()
                second.step()
            made.zero_grad()
            judge(made(x)).square().sum().backward()
            first.step()
    file, step = Reader(tmp_path / "r.unvanish"), run.step
    for at in range(step - turns - 1, step):
        report = report_of(file, at)
        assert {each.name for each in report.layers} == {"made.0", "judge.0", "judge.1"}
        assert sum("as of step" in note for note in report.flow.notes) == (turns > 1)
        signal = load_run(tmp_path / "r.unvanish").by_layer("log10_signal")
        shown = next(each.log10_signal for each in report.layers if each.name == "judge.1")
        known = [value for value in signal["judge.1"][: at + 1] if value == value]
        assert shown == pytest.approx(known[-1], abs=1e-5)


class ByName(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Embedding(10, 8), nn.Linear(8, 3)

    def forward(self, words: Tensor | None = None, *, scale: float = 1.0, labels: Tensor | None = None) -> Any:
        assert words is not None and labels is not None
        out = self.b(self.a(words)) * scale
        return {"loss": F.cross_entropy(out, labels), "logits": out}


@pytest.mark.parametrize("words", ["by name", "by place"])
def test_the_first_call_of_a_model_that_is_found_is_held_with_what_it_was_given(words: str, tmp_path: Path) -> None:
    """Its hooks come while it runs, and what it is given by name is known only at its end."""
    run = Watch(every=1, check_every=1, path=tmp_path / "r.unvanish", on_finding=None)
    finder, (_, y) = Finder(run, None), batch(0)
    torch.manual_seed(0)
    net = ByName()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    ids = torch.arange(16) % 10
    net(*([ids] if words == "by place" else []), **({"words": ids} if words == "by name" else {}), labels=y)[
        "loss"
    ].backward()
    optimizer.step()
    finder.remove()
    run.close()
    report = load_run(tmp_path / "r.unvanish").full_report()
    assert run.watcher.failed == "" and report is not None and report.flow.setting.batch_size == 16
    assert [each.name for each in report.layers] == ["a", "b"] and report.healthy
    grads = [p.grad for p in net.b.parameters() if p.grad is not None]
    size = float(torch.cat([each.reshape(-1) for each in grads]).norm().log10())
    assert report.layers[1].log10_grad_norm == pytest.approx(size, abs=1e-5)


class Cut(nn.Module):
    """What the first layer makes is cut out of the graph, or is from a step on, or never."""

    def __init__(self, since: int, until: int) -> None:
        super().__init__()
        self.a, self.b, self.calls, self.since, self.until = nn.Linear(8, 16), nn.Linear(16, 3), 0, since, until

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.a(x))
        return self.b(h.detach() if self.since <= self.calls < self.until else h)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("since", "until", "told"),
    [(0, 99, (3, None)), (0, 5, (3, 5)), (4, 99, (12, None)), (2, 12, (10, 12)), (2, 9, None), (99, 99, None)],
    ids=["always", "at first", "later", "for a while", "too short", "never"],
)
def test_layers_that_get_no_gradient_any_more_are_told_with_what_cuts_them_off(
    since: int, until: int, told: tuple[int, int | None] | None, seed: int, tmp_path: Path
) -> None:
    torch.manual_seed(seed)
    net = Cut(since, until)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    with unvanish.watch(net, optimizer, every=1, to=tmp_path / "r.unvanish") as run:
        for net.calls in range(14):
            stepped(net, optimizer, seed)
    found = [
        (began, until) for began, until, each in load_run(tmp_path / "r.unvanish").episodes if each.code == "UV602"
    ]
    assert found == ([] if told is None else [told])
    for each in run.findings:
        assert (
            each.layers == ("a",) and each.cause == "cut off: detach" and "test_watch_strange_loops.py" in each.message
        )
    assert run.report().healthy == (told is None)


@pytest.mark.parametrize("seed", SEEDS)
def test_layers_that_are_dropped_at_random_are_not_told_of(seed: int, tmp_path: Path) -> None:
    class Dropped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks, self.b = nn.ModuleList(nn.Linear(8, 8) for _ in range(6)), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            for block in self.blocks:
                x = x + torch.relu(block(x)) if float(torch.rand(())) > 0.5 else x
            return self.b(x)

    torch.manual_seed(seed)
    net = Dropped()
    optimizer = torch.optim.SGD(net.parameters(), 1e-2)
    with unvanish.watch(net, optimizer, every=1, to=tmp_path / "r.unvanish") as run:
        for _ in range(60):
            stepped(net, optimizer, seed)
    assert len([each for each in run.findings if each.code == "UV602"]) <= 1


@pytest.mark.parametrize("turn", [1, 2])
def test_tasks_that_take_turns_with_the_samples_leave_none_idle(turn: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, (x, y) = nn.ModuleList(nn.Linear(8, 3) for _ in range(2)), batch(0)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    with unvanish.watch(net, optimizer, every=2, to=tmp_path / "r.unvanish") as run:
        for step in range(20):
            optimizer.zero_grad()
            F.cross_entropy(net[step % turn](x), y).backward()
            optimizer.step()
    assert [(each.code, each.layers) for each in run.findings] == ([("UV602", ("1",))] if turn == 1 else [])
