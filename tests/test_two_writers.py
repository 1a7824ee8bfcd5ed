"""A run file under two writers, and clocks that jump: one of the writers is refused, and the file stays whole."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

import unvanish
from unvanish import UnvanishError, load_run
from unvanish.watching.run_file import RunFile
from unvanish.watching.sample import Column, Sample

WRITER = """
import sys, time
from pathlib import Path
from unvanish.records import UnvanishError
from unvanish.watching import run_file
from unvanish.watching.sample import Column, Sample
run_file.FLUSH = 0.0
who, path = float(sys.argv[1]), Path(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
try:
    file = run_file.RunFile(path, {"who": who})
except UnvanishError as error:
    print("refused", error)
    sys.exit()
file.layers([Column("layer", "Linear", 1)])
for step in range(400):
    file.sample(Sample(step, {0: (who,) * 7}, {"loss": who}))
file.close(steps=400)
print("broken" if file.broken else "wrote")
"""


def test_of_several_processes_that_make_one_file_one_does_and_the_others_are_refused(tmp_path: Path) -> None:
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    pipe, path = subprocess.PIPE, tmp_path / "a.unvanish"
    commands = [[sys.executable, "-c", WRITER, str(who), str(path)] for who in range(4)]
    processes = [subprocess.Popen(each, stdin=pipe, stdout=pipe, env=variables, text=True) for each in commands]
    for each in processes:
        assert each.stdout is not None and each.stdout.readline() == "ready\n"
    for each in processes:
        assert each.stdin is not None
        each.stdin.write("go\n")
        each.stdin.flush()
    said = [each.communicate(timeout=120)[0] for each in processes]
    assert sorted(text.split()[0] for text in said) == ["refused"] * 3 + ["wrote"]
    assert all("already" in text for text in said if text.startswith("refused"))
    run = load_run(path)
    assert run.steps == tuple(range(400)) and set(run.whole("loss")) == {run.facts["who"]}


@pytest.mark.parametrize("seed", range(3))
def test_two_that_go_on_with_one_run_leave_a_file_that_can_be_read(seed: int, tmp_path: Path) -> None:
    """A training that was started twice by mistake: rows of either, never a damaged file or an exception."""
    import random

    chance, path = random.Random(seed), tmp_path / "a.unvanish"
    first = RunFile(path, {"every": 1})
    first.layers([Column("layer", "Linear", 1)])
    for step in range(100):
        first.sample(Sample(step, {0: (0.0,) * 7}, {"loss": 0.0}))
    first.close()
    both = [RunFile(path, {"every": 1}, from_step=at) for at in (50, 80)]
    for each in both:
        each.layers([Column("layer", "Linear", 1)])
    for step in range(50, 200):
        each = both[chance.randrange(2)]
        each.sample(Sample(step, {0: (1.0,) * 7}, {"loss": 1.0}))
        if chance.random() < 0.2:
            each.flush()
    for each in both:
        each.close()
    run = load_run(path)
    assert run.steps == tuple(range(200)) and not any(each.broken for each in both)
    assert set(run.whole("loss")[:50]) == {0.0} and set(run.whole("loss")[50:]) == {1.0}


def trained(path: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch) -> unvanish.watching.watch.Watch:
    """A training whose wall clock shows these hours in turn."""
    now = time.time
    shown = iter(clock)
    at = [0.0]
    monkeypatch.setattr(time, "time", lambda: now() + 3_600.0 * at[0])
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    run = unvanish.watch(model, optimizer, every=1, to=path)
    for _ in range(40):
        at[0] = next(shown, at[0])
        optimizer.zero_grad()
        model(torch.randn(8, 4)).pow(2).mean().backward()
        optimizer.step()
    run.close()
    return run


@pytest.mark.parametrize("hours", [[0.0, 0.0, -1.0, -1.0], [0.0, 24.0, -24.0, 8_760.0], [-500_000.0]])
def test_a_clock_that_jumps_changes_nothing_but_the_dates(
    hours: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as steady:
        trained(tmp_path / "steady.unvanish", [], steady)
    trained(tmp_path / "jumped.unvanish", hours, monkeypatch)
    steady, jumped = load_run(tmp_path / "steady.unvanish"), load_run(tmp_path / "jumped.unvanish")
    assert jumped.steps == steady.steps == tuple(range(40))
    assert jumped.metrics("loss") == steady.metrics("loss") and jumped.findings == steady.findings
    assert str(jumped.report()) == str(steady.report())
    from unvanish.cli import main

    assert main(["show", str(tmp_path / "jumped.unvanish")]) == 0
    assert capsys.readouterr().out


@pytest.mark.parametrize("hours", [-1.0, 1e6, float("inf"), float("nan"), -1e12])
def test_dates_that_make_no_sense_are_shown_as_they_are_or_left_out(hours: float, tmp_path: Path) -> None:
    """A page is shown of a run that began at any time at all."""
    pytest.importorskip("starlette")
    from run_files import begun

    from unvanish.server.view import answers
    from unvanish.server.view.folder import glance

    file = begun(tmp_path / "a.unvanish")
    file.fact(started=time.time() + 3_600.0 * hours)
    file.close()
    seen = glance(tmp_path / "a.unvanish")
    assert seen["state"] == "ended"
    assert ("began" in answers.status(seen)) == math.isfinite(hours)


def test_a_file_that_was_taken_away_while_it_is_written_ends_the_watching_alone(tmp_path: Path) -> None:
    file = RunFile(tmp_path / "a.unvanish", {"every": 1})
    file.layers([Column("layer", "Linear", 1)])
    file.sample(Sample(0, {0: (0.0,) * 7}))
    file.flush()
    for each in tmp_path.iterdir():
        each.unlink()
    for step in range(1, 50):
        file.sample(Sample(step, {0: (0.0,) * 7}))
        file.flush()
    file.close()
    with pytest.raises(UnvanishError, match="there is no run file"):
        load_run(tmp_path / "a.unvanish")
