"""A run that goes on in its file, and what is no part of the training it watches."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import unvanish
from unvanish import UnvanishError, load_run


def network(hidden: int = 8) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, hidden), nn.Tanh(), nn.Linear(hidden, 2))


def batch(at: int, samples: int = 16) -> tuple[Tensor, Tensor]:
    x = torch.randn(samples, 4, generator=torch.Generator().manual_seed(at))
    return x, x[:, :2].argmax(1)


def train(net: nn.Module, optimizer: Any, steps: range, between: Any = None) -> None:
    for at in steps:
        x, y = batch(at)
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        if between is not None:
            between(x, y)
        optimizer.step()


def samples(path: Path) -> tuple[Any, ...]:
    run = load_run(path)
    return run.steps, run.whole("loss"), run.by_layer("log10_signal"), run.by_layer("log10_grad_norm")


def test_a_loop_that_goes_on_from_a_checkpoint_has_the_file_of_one_that_never_stopped(tmp_path: Path) -> None:
    whole, parted = tmp_path / "whole.unvanish", tmp_path / "parted.unvanish"
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    with unvanish.watch(net, optimizer, every=2, to=whole) as straight:
        train(net, optimizer, range(60))

    net = network()
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    with unvanish.watch(net, optimizer, every=2, to=parted) as run:
        train(net, optimizer, range(40))
        saved = {"net": net.state_dict(), "optimizer": optimizer.state_dict(), "step": run.step, "run": str(run.path)}
        saved = torch.load(_written(saved, tmp_path / "c.pt"))
        train(net, optimizer, range(40, 51))  # lost: the checkpoint is older
    assert load_run(parted).steps[-1] == 50

    net = network()
    net.load_state_dict(saved["net"])
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    optimizer.load_state_dict(saved["optimizer"])
    with unvanish.watch(net, optimizer, every=2, to=saved["run"], from_step=saved["step"]) as run:
        assert "ended" not in load_run(parted).facts
        train(net, optimizer, range(40, 60))
    assert samples(parted) == samples(whole)
    assert load_run(parted).facts["resumed"] == [40] and load_run(parted).facts["steps"] == 60
    assert run.judging.history.baselines.keys() == straight.judging.history.baselines.keys()
    for key, values in run.judging.history.baselines.items():  # the file keeps float32
        assert values == pytest.approx(straight.judging.history.baselines[key], abs=1e-6)
    assert run.judging.history.losses == pytest.approx(straight.judging.history.losses)
    assert run.judging.history.highest_rate == straight.judging.history.highest_rate == 0.1


def _written(saved: Any, path: Path) -> Path:
    torch.save(saved, path)
    return path


def test_findings_that_held_at_the_checkpoint_are_not_told_again_and_later_ones_are_taken_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    deep = [layer for _ in range(12) for layer in (nn.Linear(8, 8), nn.Sigmoid())]
    net = nn.Sequential(nn.Linear(4, 8), *deep, nn.Linear(8, 2))
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    path = tmp_path / "r.unvanish"
    with unvanish.watch(net, optimizer, every=1, to=path) as run:
        train(net, optimizer, range(6))
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        train(net, optimizer, range(6, 12))
    before = [finding.code for finding in run.findings]
    assert before[0] == "UV101" and "UV807" in before
    told: list[str] = []
    with unvanish.watch(net, optimizer, every=1, to=path, from_step=6, on_finding=lambda f: told.append(f.code)) as run:
        assert [finding.code for finding in load_run(path).findings] == [each for each in before if each != "UV807"]
        optimizer.param_groups[0]["lr"] = 0.1
        train(net, optimizer, range(6, 12))
    assert told == [] and [finding.code for finding in run.findings] == [each for each in before if each != "UV807"]


def test_steps_count_on_in_a_new_file_where_the_old_one_is_gone(tmp_path: Path) -> None:
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    with unvanish.watch(net, optimizer, every=1, to=tmp_path / "new.unvanish", from_step=7):
        train(net, optimizer, range(2))
    assert load_run(tmp_path / "new.unvanish").steps == (7, 8)


def test_what_cannot_go_on_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    net, path = network(), tmp_path / "r.unvanish"
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    with unvanish.watch(net, optimizer, every=1, to=path):
        train(net, optimizer, range(3))
    before = path.read_bytes()
    other = nn.Sequential(nn.Tanh(), nn.Linear(4, 2))
    with pytest.raises(UnvanishError, match=r"layer 0 is '0', and that of this model '1'"):
        unvanish.watch(other, torch.optim.SGD(other.parameters(), 0.1), to=path, from_step=2)
    with pytest.raises(UnvanishError, match="there is a file"):
        unvanish.watch(net, optimizer, to=path)
    for wrong in (0, -1, True, 1.5):
        with pytest.raises(UnvanishError, match="from_step="):
            unvanish.watch(net, optimizer, to=path, from_step=wrong)  # type: ignore[arg-type]
    (tmp_path / "notes.txt").write_text("no run")
    with pytest.raises(UnvanishError, match="no run file of unvanish"):
        unvanish.watch(net, optimizer, to=tmp_path / "notes.txt", from_step=2)
    assert path.read_bytes() == before and (tmp_path / "notes.txt").read_text() == "no run"


@pytest.mark.parametrize("what", ["validation", "check"])
def test_a_validation_or_a_check_of_ones_own_is_no_part_of_the_step(what: str, tmp_path: Path) -> None:
    def between(net: nn.Module) -> Any:
        def validate(x: Tensor, y: Tensor) -> None:
            with torch.no_grad():
                net(batch(99, 500)[0])

        def check(x: Tensor, y: Tensor) -> None:
            assert unvanish.diagnose(net, x, y, F.cross_entropy).layers

        return {"validation": validate, "check": check}[what]

    for name in ("plain", "beside"):
        net = network()
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        with unvanish.watch(net, optimizer, every=1, to=tmp_path / f"{name}.unvanish") as run:
            train(net, optimizer, range(3), between(net) if name == "beside" else None)
            assert not run.watcher.failed
    assert samples(tmp_path / "plain.unvanish") == samples(tmp_path / "beside.unvanish")


def test_a_closure_that_accumulates_clips_and_is_called_once_is_read_from_both_sides(tmp_path: Path) -> None:
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    norms: list[float] = []

    def closure() -> Tensor:
        x, y = batch(1)
        loss = F.cross_entropy(net(x), y) / 2
        loss.backward()
        norms.append(float(nn.utils.clip_grad_norm_(net.parameters(), 1e-3)))
        return loss

    with unvanish.watch(net, optimizer, every=1, to=tmp_path / "r.unvanish"):
        optimizer.zero_grad()
        first = F.cross_entropy(net(batch(0)[0]), batch(0)[1]) / 2
        first.backward()
        second: Any = optimizer.step(closure)
    run = load_run(tmp_path / "r.unvanish")
    assert 10 ** run.whole("total_log10_grad_norm")[0] == pytest.approx(norms[0], rel=1e-5)
    assert run.whole("log10_grad_norm_clipped")[0] == pytest.approx(-3.0, abs=1e-4)
    assert run.whole("loss")[0] == pytest.approx(float((first + second).detach()), rel=1e-6)
    layers = run.by_layer("log10_grad_norm").values()
    assert sum(10 ** (2 * values[0]) for values in layers) == pytest.approx(1e-6, rel=1e-3)


UNCLOSED = """
import torch, unvanish
net = torch.nn.Linear(4, 2)
optimizer = torch.optim.SGD(net.parameters(), 0.1)
unvanish.watch(net, optimizer, every=1, to="r.unvanish")
for _ in range(3):
    net(torch.randn(8, 4)).square().mean().backward()
    optimizer.step()
"""


@pytest.mark.parametrize(
    ("end", "why"),
    [("", "the program ended while it was watched"), ("raise KeyboardInterrupt", "interrupted"),
     ("raise ValueError('bad')", "ValueError: bad"), ("raise SystemExit(3)", "the program ended while it was watched")],
)  # fmt: skip
def test_a_run_that_nobody_closed_is_whole_when_its_program_ends_and_says_why(
    tmp_path: Path, end: str, why: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", UNCLOSED + end], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert [path.name for path in tmp_path.iterdir()] == ["r.unvanish"]
    run = load_run(tmp_path / "r.unvanish")
    assert run.steps == (0, 1, 2) and run.facts["why"] == why
    said = done.stderr.count("unvanish watched 3 steps until it was interrupted; its run is r.unvanish")
    assert said == (why == "interrupted"), done.stderr


def test_an_interrupted_training_is_closed_and_says_so_once(tmp_path: Path, caplog: Any) -> None:
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    with (
        pytest.raises(KeyboardInterrupt),
        unvanish.watch(net, optimizer, every=5, to=tmp_path / "r.unvanish") as run,
    ):
        net(batch(0)[0]).sum().backward()
        optimizer.step()
        raise KeyboardInterrupt
    run.close()
    assert [each.getMessage() for each in caplog.records if each.name == "unvanish"] == [
        f"unvanish watched 1 steps until it was interrupted; its run is {tmp_path / 'r.unvanish'}"
    ]
    assert load_run(run.path).facts["why"] == "interrupted" and load_run(run.path).steps == (0,)


def test_a_second_watch_of_one_optimizer_ends_the_first(tmp_path: Path, caplog: Any) -> None:
    """A cell of a notebook that was interrupted is run again: its training is not watched twice."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    first = unvanish.watch(net, optimizer, every=1, to=tmp_path / "a.unvanish")
    net(batch(0)[0]).sum().backward()
    optimizer.step()
    with unvanish.watch(net, optimizer, every=1, to=tmp_path / "b.unvanish"):
        assert first.closed and "a.unvanish ends here" in caplog.text
        for _ in range(2):
            net(batch(0)[0]).sum().backward()
            optimizer.step()
    assert load_run(tmp_path / "a.unvanish").steps == (0,) and load_run(tmp_path / "b.unvanish").steps == (0, 1)
    assert load_run(tmp_path / "a.unvanish").facts["why"] == "its optimizer was watched anew"


def test_a_module_whose_input_another_made_is_checked_although_that_graph_is_used_up(tmp_path: Path) -> None:
    """The step of a generator: its loss has gone back through the judge and through what it judged."""
    torch.manual_seed(0)
    maker, judge = nn.Linear(4, 4), nn.Linear(4, 1)
    optimizer = torch.optim.SGD(maker.parameters(), 0.1)
    with unvanish.watch({"maker": maker, "judge": judge}, optimizer, every=1, to=tmp_path / "r.unvanish") as run:
        x = torch.randn(8, 4)
        judge(maker(x)).square().mean().backward()
        found = run.check()
        wanted = unvanish.diagnose(maker, x, None, lambda made, _: judge(made).square().mean())
        optimizer.step()
    assert found is not None and [each.name for each in found.layers] == ["maker"]
    assert found.layers[0].log10_grad_norm == pytest.approx(wanted.layers[0].log10_grad_norm, abs=1e-4)


def test_a_check_is_handed_over_and_outside_of_a_step_there_is_none(tmp_path: Path) -> None:
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    found: list[Any] = []
    with unvanish.watch(net, optimizer, every=5, to=tmp_path / "r.unvanish") as run:
        assert run.check() is None
        train(
            net,
            optimizer,
            range(2),
            lambda x, y: found.append((run.check(), unvanish.diagnose(net, x, y, F.cross_entropy))),
        )
        assert run.check() is None
    for mine, wanted in found:
        assert [layer.log10_signal for layer in mine.layers] == pytest.approx(
            [layer.log10_signal for layer in wanted.layers], abs=1e-5
        )
