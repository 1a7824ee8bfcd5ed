"""Full and read-only disks: one clear error, nothing half written, and a training that goes on to its end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = {
    "deep.py": (ROOT / "examples" / "deep_sigmoid.py").read_text(),
    "net.py": """
import torch
from torch import nn
from unvanish import Problem
torch.manual_seed(0)
layers = [each for _ in range(12) for each in (nn.Linear(6, 6), nn.Sigmoid())]
model = nn.Sequential(*layers, nn.Linear(6, 2))
x = torch.randn(64, 6)
problem = Problem(model, x, (x[:, 0] > 0).long(), nn.functional.cross_entropy, torch.optim.Adam, steps=10)
""",
    "train.py": """
import torch
model = torch.nn.Sequential(*(torch.nn.Linear(8, 8) for _ in range(40)))
optimizer = torch.optim.SGD(model.parameters(), 0.01)
for step in range(600):
    optimizer.zero_grad()
    model(torch.randn(4, 8)).pow(2).mean().backward()
    optimizer.step()
print("trained to the end", step)
""",
    "grid.toml": "[grid]\ndepth = [2, 3]\nweight_variance = [1.0, 2.0]\n[fixed]\nwidth = 8\n[run]\nseeds = 40\n",
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def mounted(folder: Path, size: str) -> Iterator[Path]:
    """A small disk of its own; skipped where none may be mounted."""
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip("no disk can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def full(place: Path) -> Iterator[Path]:
    for folder in mounted(place / "full", "64k"):
        ballast = (folder / "ballast").open("wb", buffering=0)
        with ballast as file, pytest.raises(OSError, match="No space left"):
            while True:
                file.write(bytes(512))
        yield folder


@pytest.fixture
def small(place: Path) -> Iterator[Path]:
    yield from mounted(place / "small", "160k")


@pytest.fixture
def fixed(place: Path) -> Iterator[Path]:
    """A disk that can be read only."""
    for folder in mounted(place / "fixed", "64k"):
        done = subprocess.run(["mount", "-o", "remount,ro", str(folder)], capture_output=True)
        if done.returncode:
            pytest.skip("no disk can be made read-only here")
        yield folder


def called(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "unvanish", *words]
    return subprocess.run(command, cwd=place, env=variables, text=True, capture_output=True, timeout=300)


COMMANDS = {
    "check": ["check", "deep.py", "-o", "{}/out.html"],
    "fix, answer": ["fix", "net.py", "--budget", "60", "--seeds", "1", "-o", "{}/out.json"],
    "fix, program": ["fix", "net.py", "--budget", "60", "--seeds", "1", "--write", "{}/out.py"],
    "fix, state": ["fix", "net.py", "--budget", "60", "--seeds", "1", "--resume", "{}/state.json"],
    "run": ["run", "--every", "1", "-o", "{}/out.unvanish", "train.py"],
    "sweep": ["sweep", "grid.toml", "-o", "{}/out.sqlite"],
    "sweep, table": ["sweep", "grid.toml", "-o", "{}/out.csv"],
    "lab": ["lab", "chain", "-o", "{}/out.csv"],
}


@pytest.mark.parametrize("kind", ["full", "fixed"])
@pytest.mark.parametrize("name", COMMANDS)
def test_what_cannot_be_written_is_one_error_and_leaves_nothing_half_done(
    name: str, kind: str, place: Path, request: pytest.FixtureRequest
) -> None:
    disk = request.getfixturevalue(kind)
    before = {each.name for each in disk.iterdir()}
    done = called(place, *(word.format(disk) for word in COMMANDS[name]))
    assert done.returncode == 2, done.stdout + done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("unvanish: error: ")]
    assert len(errors) == 1 and str(disk) in errors[0] and "shows where" not in errors[0], done.stderr
    assert "Traceback" not in done.stderr
    empty = {each.name for each in disk.iterdir() if each.stat().st_size == 0}  # a name takes no room
    assert {each.name for each in disk.iterdir()} - empty == before - empty


def test_a_disk_that_fills_up_ends_the_watching_and_not_the_training(small: Path, place: Path) -> None:
    done = called(place, "run", "--every", "1", "-o", f"{small}/r.unvanish", "train.py")
    assert done.returncode == 0 and "trained to the end 599" in done.stdout, done.stderr
    assert "full" in done.stderr, done.stderr
    shown = called(place, "show", f"{small}/r.unvanish")
    assert shown.returncode == 0 and shown.stdout.strip(), shown.stderr


def test_a_sweep_on_a_disk_that_fills_up_goes_on_when_there_is_room(small: Path, place: Path) -> None:
    text = (place / "grid.toml").read_text().replace("seeds = 40", "seeds = 400")
    (place / "grid.toml").write_text(text)
    done = called(place, "sweep", "grid.toml", "-o", f"{small}/s.sqlite")
    assert done.returncode == 2 and "full" in done.stderr, done.stderr
    for each in small.iterdir():
        (place / each.name).write_bytes(each.read_bytes())
    done = called(place, "sweep", "grid.toml", "-o", "s.sqlite")
    assert done.returncode == 0 and "all 1,600 networks" in done.stderr, done.stderr
