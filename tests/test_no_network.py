"""No command asks the network for anything: with every way out shut but loopback, all of them do their work."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
GUARD = """
import os, sys

def watch(event, args):
    if not event.startswith("socket."):
        return
    there = args[1] if event in ("socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg") else None
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        there = (args[0],)
    host = there[0] if isinstance(there, tuple) else ""
    if host not in ("", None, "127.0.0.1", "localhost", "::1"):
        with open(os.environ["TRIED"], "a") as file:
            file.write(f"{event} {there!r}\\n")
        raise OSError(101, "the network is shut for this test")

sys.addaudithook(watch)
"""
TRAINING = """
import torch
model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
optimizer = torch.optim.Adam(model.parameters(), 0.01)
for _ in range(30):
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(torch.randn(16, 4)), torch.randint(0, 2, (16,))).backward()
    optimizer.step()
"""
WATCHED = "import unvanish\n" + TRAINING.replace(
    "for _ in", 'run = unvanish.watch(model, optimizer, every=5, to="w.unvanish")\nfor _ in'
)
GRID = "[grid]\ndepth = [2, 3]\nweight_variance = [1.0, 2.0]\n[fixed]\nwidth = 8\n"


@pytest.fixture
def shut(tmp_path: Path) -> dict[str, str]:
    """The environment of a process, and of those it starts, whose sockets reach loopback only."""
    (tmp_path / "guard").mkdir()
    (tmp_path / "guard" / "sitecustomize.py").write_text(GUARD)
    path = os.pathsep.join([str(tmp_path / "guard"), *sys.path])
    return {**os.environ, "PYTHONPATH": path, "TRIED": str(tmp_path / "tried.txt"), "PYTHONUNBUFFERED": "1"}


def did(words: list[str], shut: dict[str, str], folder: Path, *expected: int) -> str:
    done = subprocess.run([sys.executable, *words], cwd=folder, env=shut, text=True, capture_output=True, timeout=300)
    assert done.returncode in (expected or (0,)), (words, done.stderr)
    return done.stdout + done.stderr


def test_the_guard_sees_what_it_should(shut: dict[str, str], tmp_path: Path) -> None:
    did(["-c", "import socket; socket.create_connection(('192.0.2.1', 9), 1)"], shut, tmp_path, 1)
    did(["-c", "import urllib.request; urllib.request.urlopen('http://example.invalid', timeout=1)"], shut, tmp_path, 1)
    tried = (tmp_path / "tried.txt").read_text()
    assert "192.0.2.1" in tried and "example.invalid" in tried


def test_every_command_does_its_work_without_the_network(shut: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "deep.py").write_text((ROOT / "examples" / "deep_sigmoid.py").read_text())
    (tmp_path / "train.py").write_text(TRAINING)
    (tmp_path / "watched.py").write_text(WATCHED)
    (tmp_path / "grid.toml").write_text(GRID)
    unvanish = ["-m", "unvanish"]
    did([*unvanish, "check", "deep.py", "-o", "report.html"], shut, tmp_path, 1)
    assert not re.findall(r"https?://(?!www\.w3\.org/)", (tmp_path / "report.html").read_text())
    did([*unvanish, "fix", "deep.py", "--budget", "120", "--seeds", "1"], shut, tmp_path, 0, 1)
    did([*unvanish, "run", "--every", "5", "-o", "r.unvanish", "train.py"], shut, tmp_path)
    did([*unvanish, "show", "r.unvanish", "--against", "r.unvanish"], shut, tmp_path)
    did(["watched.py"], shut, tmp_path)
    did([*unvanish, "show", "w.unvanish"], shut, tmp_path)
    did([*unvanish, "sweep", "grid.toml", "-o", "grid.csv"], shut, tmp_path)
    did([*unvanish, "lab", "chain", "-o", "chain.html"], shut, tmp_path)
    did([*unvanish, "zoo", "stuck-sigmoid-10"], shut, tmp_path, 1)
    did([*unvanish, "explain"], shut, tmp_path)
    assert not (tmp_path / "tried.txt").exists(), (tmp_path / "tried.txt").read_text()


@pytest.mark.parametrize("site", ["lab", "view"])
def test_the_pages_are_served_without_the_network_and_load_nothing_from_it(
    site: str, shut: dict[str, str], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "unvanish", site, "--no-browser", *(["."] if site == "view" else [])]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=tmp_path, env=shut, stdout=pipe, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        try:
            address = re.search(r"http://127\S+", process.stdout.readline())
            assert address is not None
            opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
            page = opener.open(address[0], timeout=60).read().decode()
            base = address[0].partition("/?")[0]
            for path in re.findall(r'(?:src|href)="(?!data:,|#)([^"]+)"', page):
                assert path.startswith("/"), path
                opener.open(base + path, timeout=60).read()
            time.sleep(0.1)
        finally:
            process.kill()
    assert not (tmp_path / "tried.txt").exists(), (tmp_path / "tried.txt").read_text()
