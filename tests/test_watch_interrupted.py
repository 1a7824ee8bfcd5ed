"""A training that is interrupted and goes on, as in a notebook; looks at it from another thread; a cell run again."""

from __future__ import annotations

import functools
import gc
import sqlite3
import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch._C import _len_torch_function_stack  # pyright: ignore[reportAttributeAccessIssue]
from torch.nn import functional as F

import unvanish
from unvanish.records import Finding
from unvanish.report import Report
from unvanish.trace import places
from unvanish.watching import run_file


class Net(nn.Module):
    """``between`` runs in the middle of its forward pass, ``back`` in that of its backward."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 3)
        self.between: Callable[[torch.Tensor], torch.Tensor] = lambda h: h
        self.back: Callable[[Any], None] = lambda gradient: None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.first(x))
        if h.requires_grad:
            h.register_hook(lambda gradient: self.back(gradient))
        return self.last(self.between(h))


class Steps(torch.optim.SGD):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.stops = False

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        if self.stops:
            interrupt()
        return super().step(closure)


def interrupt(*_: Any) -> Any:
    raise KeyboardInterrupt


def made(seed: int = 0) -> tuple[Net, Steps]:
    torch.manual_seed(seed)
    net = Net()
    return net, Steps(net.parameters(), 0.1)


def step(net: nn.Module, optimizer: Any, seed: int = 0) -> float:
    x = torch.randn(16, 8, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    loss = F.cross_entropy(net(x), x[:, :3].argmax(1))
    loss.backward()
    optimizer.step()
    return loss.item()


def in_forward(net: Net, optimizer: Steps) -> None:
    net.between = interrupt


def in_backward(net: Net, optimizer: Steps) -> None:
    net.back = interrupt


def in_step(net: Net, optimizer: Steps) -> None:
    optimizer.stops = True


def numbers(run: unvanish.Run) -> dict[str, Any]:
    names = ("loss", "total_log10_grad_norm", "log10_signal", "dead_fraction", "update_to_weight_ratio")
    return {name: run.metrics(name) for name in names}


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("stops", [in_forward, in_backward, in_step])
def test_an_interrupted_step_is_no_part_of_those_that_follow(
    stops: Callable[[Net, Steps], None], every: int, tmp_path: Path
) -> None:
    """The last sample is that of a training that nobody interrupted, and what breaks after it is named."""
    last: list[dict[str, Any]] = []
    for times in (0, 3):
        net, optimizer = made()
        run = unvanish.watch(net, optimizer, every=every, to=tmp_path / f"{times}.unvanish")
        before, losses = _len_torch_function_stack(), dict[int, float]()
        for seed in range(6):
            for _ in range(times if seed == 4 else 0):
                stops(net, optimizer)
                with pytest.raises(KeyboardInterrupt):
                    step(net, optimizer, seed)
                net.between, net.back, optimizer.stops = (lambda h: h), (lambda gradient: None), False
            loss = step(net, optimizer, seed)
            losses[run.step - 1] = loss
        while run.step % every:
            losses[run.step - 1] = step(net, optimizer, 6)  # the place is asked for last
        losses[run.step - 1] = step(net, optimizer, 7)
        assert _len_torch_function_stack() == before
        run.flush()
        read = unvanish.load_run(run.path)
        known = dict(zip(read.steps, read.whole("loss"), strict=True))
        assert {at: known.get(at, loss) for at, loss in losses.items()} == pytest.approx(losses, abs=1e-5)
        last.append({
            name: {layer: each[-1] for layer, each in of.items()} if isinstance(of, dict) else of[-1]
            for name, of in numbers(read).items()
        })  # fmt: skip
        net.between = lambda h: torch.log(h - 5.0)
        step(net, optimizer, 8)
        assert [each.code for each in run.findings] == ["UV501"]
        assert "from log at" in run.findings[0].message
        assert not run.watcher.failed
        run.close()
    if stops is in_step and every == 2:  # an interrupted step counts, so that the two do not end at the same one
        return
    for name, plain in last[0].items():
        assert last[1][name] == pytest.approx(plain, abs=1e-5, nan_ok=True), name


def test_a_mode_that_was_entered_since_stays(tmp_path: Path) -> None:
    net, optimizer = made()
    with unvanish.watch(net, optimizer, to=tmp_path / "r.unvanish") as run:
        in_forward(net, optimizer)
        with pytest.raises(KeyboardInterrupt):
            step(net, optimizer)
        net.between = lambda h: h
        with torch.device("meta"):
            with torch.no_grad():
                net(torch.ones(2, 8, device="cpu"))
            assert torch.ones(2).is_meta
        assert _len_torch_function_stack() == 0
        assert not run.watcher.failed


def test_a_pass_that_fails_and_is_passed_over_does_not_count(tmp_path: Path) -> None:
    """Out of memory, say: the loop goes on with the next batch."""
    net, optimizer = made()

    def full(_: Any) -> None:
        raise RuntimeError("out of memory")

    losses: dict[int, float] = {}
    with unvanish.watch(net, optimizer, every=1, to=tmp_path / "r.unvanish") as run:
        for seed in range(5):
            net.back = full if seed == 2 else lambda gradient: None
            try:
                loss = step(net, optimizer, seed)
            except RuntimeError:
                continue
            losses[run.step - 1] = loss
    read = unvanish.load_run(tmp_path / "r.unvanish")
    known = dict(zip(read.steps, read.whole("loss"), strict=True))
    assert known == pytest.approx({at: losses[at] for at in known}, abs=1e-6)
    assert {*losses} - {*known} == {2}  # the one after it, whose error signals would hold those of both


def test_two_networks_go_on_together_after_an_interruption(tmp_path: Path) -> None:
    (one, of_one), (two, of_two) = made(0), made(1)
    with unvanish.watch({"one": one, "two": two}, [of_one, of_two], to=tmp_path / "r.unvanish") as run:
        for seed in range(8):
            step(one, of_one, seed)
            if seed == 3:
                in_backward(two, of_two)
                with pytest.raises(KeyboardInterrupt):
                    step(two, of_two, seed)
                two.back = lambda gradient: None
                continue
            step(two, of_two, seed)
        assert run.step == 8


class Base(sqlite3.Connection):
    """Is interrupted once, just after a statement that begins so."""

    at = ""

    def execute(self, statement: str, *values: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        done = super().execute(statement, *values)
        if Base.at and statement.startswith(Base.at):
            Base.at = ""
            interrupt()
        return done


@pytest.mark.parametrize("at", ["BEGIN", "INSERT OR REPLACE INTO samples", "COMMIT"])
def test_what_was_being_written_when_it_was_interrupted_is_written_later(
    at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_file, "FLUSH", 0.0)
    monkeypatch.setattr(sqlite3, "connect", functools.partial(sqlite3.connect, factory=Base))
    net, optimizer = made()
    run = unvanish.watch(net, optimizer, every=1, to=tmp_path / "r.unvanish")
    for seed in range(6):
        Base.at = at if seed == 2 else ""
        try:
            step(net, optimizer, seed)
        except KeyboardInterrupt:
            assert seed == 2
    run.close()
    assert not run.file.broken and not run.watcher.failed
    assert unvanish.load_run(run.path).steps == tuple(range(6))


def test_looks_from_another_thread_do_not_disturb_the_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_file, "FLUSH", 0.0)
    net, optimizer = made()
    run = unvanish.watch(net, optimizer, every=1, to=tmp_path / "r.unvanish")
    original, threads = run.file._commit, list[threading.Thread]()

    def slow(waiting: Any) -> None:
        if threading.current_thread() is threading.main_thread() and len(threads) < 5:
            threads.append(threading.Thread(target=lambda: (run.flush(), run.findings, repr(run))))
            threads[-1].start()
            time.sleep(0.01)
        original(waiting)

    monkeypatch.setattr(run.file, "_commit", slow)
    for seed in range(8):
        step(net, optimizer, seed)
    for each in threads:
        each.join()
    run.close()
    assert threads and not run.file.broken and not run.watcher.failed
    assert unvanish.load_run(run.path).steps == tuple(range(8))


def test_a_cell_that_makes_everything_anew_frees_what_it_made_before(tmp_path: Path) -> None:
    gone: list[weakref.ref[Any]] = []
    for turn in range(3):
        net, optimizer = made()
        run = unvanish.watch(net, optimizer, to=tmp_path / f"{turn}.unvanish")
        step(net, optimizer)
        gone += [weakref.ref(each) for each in (net, optimizer, run)]
    gc.collect()
    assert [each() is None for each in gone] == [True] * 6 + [False] * 3
    assert unvanish.load_run(tmp_path / "0.unvanish").facts["why"] == "its optimizer is gone"
    del net, optimizer
    gc.collect()
    assert "the optimizer of this run is gone after step 1" in " ".join(str(run.report()).split())
    assert run.closed


def test_what_is_watched_lives_as_long_as_its_optimizer(tmp_path: Path) -> None:
    """A container that was made for the call alone, say."""
    net, optimizer = made()
    run = unvanish.watch(nn.ModuleList([net.first, net.last]), optimizer, to=tmp_path / "r.unvanish")
    gc.collect()
    step(net, optimizer)
    assert [layer.name for layer in run.report().layers] == ["0", "1"]
    run.close()


def test_a_run_without_a_sample_is_shown_without_an_error(tmp_path: Path) -> None:
    net, optimizer = made()
    with unvanish.watch(net, optimizer, to=tmp_path / "r.unvanish") as run:
        assert repr(run) == f"<Watch of {run.path}: step 0, 0 findings>"
        read = unvanish.load_run(run.path)
        for shown in (run._repr_html_(), read._repr_html_(), str(read), repr(read)):
            assert "no step() of a watched optimizer was seen" in shown


class ZMQInteractiveShell:
    """The part of a notebook's shell by which others know it, and which knows its cells."""

    def __init__(self) -> None:
        self.cells: dict[str, int] = {}
        self.compile = SimpleNamespace(format_code_name=self.name)

    def name(self, file: str) -> tuple[str, str] | None:
        return ("Cell", f"In[{self.cells[file]}]") if file in self.cells else None


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> ZMQInteractiveShell:
    shell = ZMQInteractiveShell()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setattr("builtins.get_ipython", lambda: shell, raising=False)
    return shell


def test_a_report_is_a_text_in_a_notebook_too(shell: ZMQInteractiveShell, tmp_path: Path) -> None:
    """Else each line of it would be shown by itself while the text is made, and the text be empty."""
    net, optimizer = made()
    with unvanish.watch(net, optimizer, to=tmp_path / "r.unvanish") as run:
        step(net, optimizer)
        report: Report = run.report()
    assert str(report).startswith("Healthy")


@pytest.mark.parametrize("file", ["/tmp/ipykernel_7/123.py", "<ipython-input-2-0a1b>"])
def test_a_line_of_a_cell_has_the_number_of_the_cell(file: str, shell: ZMQInteractiveShell, tmp_path: Path) -> None:
    text = "def log(h):\n    return torch.log(h - 5.0)"
    found: dict[str, Any] = {"torch": torch}
    exec(compile(text, file, "exec"), found)
    for number in (2, 7):  # the cell is run again
        shell.cells[file] = number
        net, optimizer = made()
        net.between = found["log"]
        with unvanish.watch(net, optimizer, to=tmp_path / f"{number}.unvanish") as run:
            step(net, optimizer)
        assert f" at In[{number}]:2" in run.findings[0].message
    assert places.shorten(__file__).endswith("test_watch_interrupted.py")


def test_findings_in_a_list_are_readable() -> None:
    said: list[str] = []
    finding = Finding(code="UV101", verdict="vanished", level="error", message="it is gone")
    finding._repr_pretty_(SimpleNamespace(text=said.append), False)
    assert said == ["UV101 (error): it is gone"]
