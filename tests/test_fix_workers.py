"""A search by several processes gives the answer of one, also when one of them dies in the middle."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_sweep_killed import children
from torch import nn

import unvanish
from unvanish import UnvanishError
from unvanish.cli import main
from unvanish.trials.crew import Crew, _drive
from unvanish.trials.questions import Answer, Learn, Train
from unvanish.trials.race import Race
from unvanish.workers.pickled import pickled
from unvanish.workers.process import Process, UnstartedError


def deep(**changes: Any) -> unvanish.Problem:
    """A deep sigmoid network, with functions that only cloudpickle can send."""
    torch.manual_seed(3)
    x = torch.randn(400, 6)
    y = (x.sum(1) > 0).long()
    sizes = [6, *[10] * 9]
    pairs = itertools.pairwise(sizes)
    model = nn.Sequential(*(m for a, b in pairs for m in (nn.Linear(a, b), nn.Sigmoid())), nn.Linear(10, 2))
    given: dict[str, Any] = {
        "optimizer": lambda parameters: torch.optim.Adam(parameters, lr=1e-3),
        "train_batches": list(zip(x[:320].split(32), y[:320].split(32), strict=True)),
        "validation": (x[320:], y[320:]),
        "metric": lambda outputs, targets: (outputs.argmax(1) == targets).float().mean().item(),
        "steps": 160,
        **changes,
    }
    return unvanish.Problem(given.pop("model", model), x[:64], y[:64], F.cross_entropy, **given)


def of_a_factory() -> unvanish.Problem:
    """Without validation data and metric, and with weights that follow from the seed."""
    return deep(
        model=lambda: nn.Sequential(
            *(m for _ in range(9) for m in (nn.Linear(6, 6), nn.Sigmoid(), nn.Dropout(0.1))), nn.Linear(6, 2)
        ),
        validation=None,
        metric=None,
    )


def assert_same(one: unvanish.Fixes, other: unvanish.Fixes) -> None:
    assert one.to_json() == other.to_json()
    assert one.state == other.state
    assert (one.model is None) == (other.model is None)
    if one.model is not None and other.model is not None:
        weights = zip(one.model.state_dict().values(), other.model.state_dict().values(), strict=True)
        assert all(torch.equal(a, b) for a, b in weights)


@pytest.mark.parametrize(("made", "seed", "copied"), [(deep, 0, True), (deep, 5, False), (of_a_factory, 3, True)])
def test_two_processes_give_the_answer_of_one(
    made: Callable[[], unvanish.Problem], seed: int, copied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not copied:
        monkeypatch.setattr("unvanish.trials.crew.can_fork", lambda: False)
    one = unvanish.fix(made(), seeds=2, seed=seed)
    assert len(one.trials) > 5
    assert_same(one, unvanish.fix(made(), seeds=2, seed=seed, workers=2))


def test_trainings_go_ahead_to_where_the_judgement_will_be(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, told = Race._foresee, list[int]()

    def foresee(race: Race, places: Any, own: Any, last: int) -> None:
        places, rung = list(places), race.plan.rungs[-1]
        if last > rung:
            told.append(last)
            assert all((*place, rung) in race.ledger.measures for place in places)  # none is taken past what is asked
        kept(race, places, own, last)

    monkeypatch.setattr(Race, "_foresee", foresee)
    found = unvanish.fix(deep(), seeds=2, workers=2)
    assert len(told) == 2 and set(told) == {found.trials[0].steps}


def test_others_are_told_what_the_probe_found_before_they_are_asked_again() -> None:
    heard: list[Any] = []

    class Listening:
        def ask(self, question: Any, limits: Any = None) -> Answer:
            heard.append(question)
            return Answer()

    crew = Crew(lambda question: Answer())
    driving = threading.Thread(target=_drive, args=(crew, 0, Listening()))
    driving.start()
    first, second, finding = Train((), 1, 5), Train((), 1, 9), unvanish.diagnose(deep()).findings[0]
    crew.expect([first])
    while first not in heard:
        time.sleep(0.001)
    crew.start((finding,), {})
    crew.expect([second])
    while second not in heard:
        time.sleep(0.001)
    crew.close()
    driving.join()
    assert heard == [first, Learn((finding,)), second]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for child processes in /proc")
def test_a_process_that_is_killed_changes_nothing() -> None:
    killed: list[int] = []

    def kill(standing: Any) -> None:
        there = [child for child in children(os.getpid()) if child not in before]
        if standing.doing.startswith("race") and len(killed) < 3 and there:
            killed.append(there[-1])
            os.kill(there[-1], signal.SIGKILL)

    before = set(children(os.getpid()))  # what other tests of this process may have left is not ours to kill
    found = unvanish.fix(deep(), seeds=1, workers=2, progress=kill)
    assert len(killed) == 3
    assert_same(unvanish.fix(deep(), seeds=1), found)
    assert set(children(os.getpid())) <= before  # none is left over


@pytest.mark.skipif(not hasattr(os, "waitid"), reason="waits for a process without taking its exit status")
def test_a_process_that_dies_before_it_is_told_what_to_do_is_not_left_over(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[Any]] = []
    kept = subprocess.Popen

    def dead(command: list[str], **given: Any) -> subprocess.Popen[Any]:
        started.append(kept([command[0], "-c", ""], **given))
        os.waitid(os.P_PID, started[-1].pid, os.WEXITED | os.WNOWAIT)
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", dead)
    process = Process("unvanish.trials.questions:answer", bytes)
    process.begin()
    assert len(started) == 1
    for _ in range(2):  # the one that was begun ahead, and one that is started to be asked
        with pytest.raises(UnstartedError):
            process.ask(None)
    assert [each.returncode for each in started] == [0, 0]
    assert all(each.stdin is not None and each.stdin.closed for each in started)


def test_the_search_goes_on_from_a_file_by_other_processes(tmp_path: Path) -> None:
    whole = unvanish.fix(deep(), seeds=2, workers=2, resume=tmp_path / "state.json")
    part = {**whole.state, "measures": whole.state["measures"][:9]}
    (tmp_path / "part.json").write_text(json.dumps(part))
    assert_same(whole, unvanish.fix(deep(), seeds=2, workers=2, resume=tmp_path / "part.json"))
    assert_same(whole, unvanish.fix(deep(), seeds=2, resume=tmp_path / "state.json"))


def test_the_number_of_threads_is_put_back() -> None:
    torch.set_num_threads(2)
    try:
        unvanish.fix(deep(steps=40), seeds=1, workers=2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_what_cannot_be_sent_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unvanish.trials.crew.can_fork", lambda: False)
    with pytest.raises(UnvanishError, match="the Problem cannot be sent to another process"):
        unvanish.fix(deep(metric=Locked()), workers=2)


class Locked:
    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __call__(self, outputs: Any, targets: Any) -> float:
        with self.lock:
            return 0.5


def test_parts_of_a_tensor_are_sent_without_the_rest() -> None:
    whole = torch.arange(100_000.0).reshape(1000, 100)
    tied = nn.Linear(4, 4)
    parts = {"parts": list(whole.split(10))[:3], "step": whole[::500], "tied": [tied.weight, tied.weight], "all": whole}
    data = pickled(parts, "it")
    assert len(data) < whole.numel() * 4 + 20_000
    back = pickle.loads(data)
    assert all(torch.equal(a, b) for a, b in zip(back["parts"], parts["parts"], strict=True))
    assert torch.equal(back["step"], parts["step"]) and back["tied"][0] is back["tied"][1]
    assert isinstance(back["tied"][0], nn.Parameter) and not back["parts"][0].requires_grad


def test_a_question_that_fails_elsewhere_is_answered_here() -> None:
    seen: list[Train] = []

    def mine(question: Any) -> Answer:
        seen.append(question)
        return Answer(steps=question.steps)

    crew = Crew(mine)
    asked = [Train((name,), 0, steps) for steps, name in enumerate("abc", 1)]
    crew.expect(asked, own=[asked[2]])
    assert crew.some(5, 0) == [asked[1], asked[0]]
    crew.put(0, asked[0], Answer(steps=7))
    crew.put(0, asked[1], None)  # it raised there
    assert crew.take(asked[0]).steps == 7 and not seen
    assert crew.take(asked[1]).steps == 2 and asked[1] in seen
    assert crew.take(asked[2]).steps == 3


def test_the_command_takes_a_file_with_its_own_functions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "beside.py").write_text("import torch\n\ndef rate(p):\n    return torch.optim.Adam(p, lr=1e-3)\n")
    (tmp_path / "mine.py").write_text(FILE)
    assert main(["fix", f"{tmp_path}/mine.py", "--seeds", "1", "--format", "json"]) in (0, 1)
    alone = capsys.readouterr().out
    assert main(["fix", f"{tmp_path}/mine.py", "--seeds", "1", "--format", "json", "--workers", "2"]) in (0, 1)
    assert capsys.readouterr().out == alone
    assert '"spent"' in alone


FILE = """
import torch, unvanish, beside
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(8))

    def forward(self, x):
        for layer in self.layers:
            x = torch.sigmoid(layer(x))
        return x

def loss(outputs, targets):
    return (outputs - targets).square().mean()

torch.manual_seed(0)
x = torch.randn(64, 8)
problem = unvanish.Problem(Net(), x, x.sigmoid(), loss, beside.rate, steps=160)
"""
