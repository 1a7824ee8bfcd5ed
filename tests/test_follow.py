"""``unvanish show RUNFILE --follow`` beside a training in another process: to its end, to its death, until Ctrl-C."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from unvanish.cli import main
from unvanish.watching.alive import alive, here

SCRIPT = """
import sys, time, torch
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
optimizer = torch.optim.SGD(net.parameters(), 0.05)
for step in range(int(sys.argv[1])):
    x = torch.randn(32, 8)
    optimizer.zero_grad()
    (net(x) - x.sum(1, keepdim=True)).square().mean().backward()
    optimizer.step()
    time.sleep(0.02)
"""
PATIENCE = 120
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    (tmp_path / "train.py").write_text(SCRIPT)
    started: list[subprocess.Popen[str]] = []

    def begin(*words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "unvanish", *words]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, cwd=tmp_path, **pipes))
        return started[-1]

    yield begin
    for each in started:
        if each.poll() is None:
            each.kill()
        each.communicate()


def training(start: Start, folder: Path, steps: int) -> subprocess.Popen[str]:
    """One whose file is there."""
    run = start("run", "-o", "r.unvanish", "train.py", str(steps))
    until = time.monotonic() + PATIENCE
    while not (folder / "r.unvanish-wal").exists() and time.monotonic() < until and run.poll() is None:
        time.sleep(0.05)
    return run


def shown(text: str) -> list[int]:
    return [int(each) for each in re.findall(r"^step (\d+)$", text, re.M)]


def until_it_shows(follow: subprocess.Popen[str]) -> str:
    """Its output up to the line of a second sample."""
    assert follow.stdout is not None
    lines: list[str] = []
    for line in follow.stdout:
        lines.append(line)
        if len(shown("".join(lines))) > 1:
            break
    return "".join(lines)


def test_it_goes_on_to_the_end_of_the_run(start: Start, tmp_path: Path) -> None:
    run = training(start, tmp_path, 200)
    out, err = start("show", "r.unvanish", "--follow").communicate(timeout=PATIENCE)
    assert run.wait(PATIENCE) == 0
    steps = shown(out)
    assert len(steps) > 1 and steps == sorted(set(steps)) and steps[-1] == 190
    assert out.count("Healthy:") == len(steps) and err == ""


def test_a_run_that_is_killed_is_told_of(start: Start, tmp_path: Path) -> None:
    run = training(start, tmp_path, 100_000)
    follow = start("show", "r.unvanish", "--follow")
    out = until_it_shows(follow)
    run.kill()  # nobody asks how it ended: its number stays taken
    rest, err = follow.communicate(timeout=PATIENCE)
    assert follow.returncode == 2 and run.returncode is None
    (said,) = err.splitlines()
    assert "is gone, and did not end its file" in said
    assert said.endswith(f"its last sample is that of step {shown(out + rest)[-1]}")


def test_ctrl_c_ends_it_and_not_the_run(start: Start, tmp_path: Path) -> None:
    run = training(start, tmp_path, 100_000)
    follow = start("show", "r.unvanish", "--follow")
    until_it_shows(follow)
    follow.send_signal(signal.SIGINT)
    _, err = follow.communicate(timeout=PATIENCE)
    assert follow.returncode == 130 and err == ""
    assert run.poll() is None


def test_a_run_without_a_sample_is_said_to_be_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.py").write_text("")
    path = str(tmp_path / "r.unvanish")
    main(["run", "-o", path, str(tmp_path / "x.py")])
    capsys.readouterr()
    assert main(["show", path, "--follow"]) == 0
    assert capsys.readouterr().err == "unvanish: this run has ended before a step was sampled\n"


def test_it_writes_text_and_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(tmp_path / "r.unvanish"), "--follow", "--format", "json"]) == 2
    assert "--follow writes text" in capsys.readouterr().err


def test_whether_a_process_is_alive() -> None:
    assert alive(here()) and alive({}) and alive({"process": None})
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and nobody has asked how
    assert not alive({**here(), "process": child.pid})
    child.wait()
    assert not alive({**here(), "process": child.pid})
    assert alive({**here(), "process": child.pid, "host": "another"})
