"""Command lines put together at random: each ends with a status of its command, and what goes wrong is one message."""

from __future__ import annotations

import random
from pathlib import Path

import made_reports
import pytest
from run_files import made

import unvanish.server
from unvanish.cli import main
from unvanish.records import UnvanishError

FILES = {
    "net.py": """
import torch
from unvanish import Problem
torch.manual_seed(0)
loss = torch.nn.functional.cross_entropy
problem = Problem(torch.nn.Linear(3, 2), torch.randn(4, 3), torch.tensor([0, 1, 0, 1]), loss)
number = 3
""",
    "train.py": """
import torch
model = torch.nn.Linear(3, 2)
optimizer = torch.optim.SGD(model.parameters(), 0.1)
for _ in range(3):
    optimizer.zero_grad(); model(torch.randn(4, 3)).pow(2).mean().backward(); optimizer.step()
""",
    "wrong.py": "problem = ",
    "empty.py": "",
    "grid.toml": "[grid]\ndepth = [2, 3]\n[fixed]\nwidth = 4\n",
    "wrong.toml": "[grid]\ndepth = 1\n",
    "text.json": "{",
}
WORDS = (
    "net.py", "net.py:problem", "net.py:number", "net.py:", ":", "train.py", "wrong.py", "empty.py", "gone.py",
    "grid.toml", "wrong.toml", "run.unvanish", "report.json", "text.json", "folder", ".", "/", "/dev/null",
    "no/such/out.json",
    "out.json", "out.html", "out.xyz", "out.csv", "out", "torch:nn", "json:loads", "no.such:x", "-", "--", "", " ", "0",
    "1", "-1", "5", "1e9", "9" * 400, "nan", "inf", "0x10", "٣", "quick", "auto", "full", "text", "json", "html",
    "sarif",
    "junit", "github", "md", "code", "diff", "error", "never", "UV101", "uv", "uv101,UV2", "vanished", "local",
    "ray://x", "chain", "whatif", "depth", "\x1b[31m", "\u202e", "\ud800", "a" * 10_000, "%s", "{}", "*", "\\", "é",
)  # fmt: skip
OPTIONS = {
    "check": ("--effort", "--format", "--json", "-o", "--select", "--ignore", "--exit-zero", "--seed", "--init", "--"),
    "fix": ("--budget", "--seeds", "--on", "--workers", "--format", "-o", "--write", "--seed", "--resume", "--anyway"),
    "run": ("--every", "-o", "--check-every", "--stop-after", "--fail-on", "-m"),
    "show": ("--against", "--fail-on", "--format", "--json", "-o"),
    "view": ("--port", "--no-browser"),
    "lab": ("--list", "--format", "-o", "--port", "--depth", "--weight", "--report", "--quick", "--nothing"),
    "sweep": ("--on", "-o"),
    "explain": (),
    "zoo": (),
    "": ("--version", "--help", "-h", "--nothing"),
}
LIKELY = {
    "check": ("net.py", "wrong.py", "--", "text", "json"), "fix": ("net.py", "1", "local"), "run": ("train.py", "1"),
    "show": ("run.unvanish", "json"), "view": ("folder", "0"), "lab": ("chain", "5"), "sweep": ("grid.toml", "out.csv"),
    "explain": ("UV101",), "zoo": (), "": (),
}  # fmt: skip


def drawn(command: str, chance: random.Random) -> list[str]:
    """A command line of a few words, more of them right than by chance alone."""
    options, likely = OPTIONS[command], LIKELY[command] or WORDS
    words: list[str] = []
    for _ in range(chance.randint(0, 4)):
        if options and chance.random() < 0.4:
            words.append(chance.choice(options) + chance.choice(("", "", "", "=", "=5", "=\ud800")))
        words.append(chance.choice(likely if chance.random() < 0.4 else WORDS))
    return [*([command] if command else []), *words]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "report.json").write_text(made_reports.MADE["dead"].to_json())
    (tmp_path / "folder").mkdir()
    made(tmp_path / "run.unvanish", 20)
    monkeypatch.chdir(tmp_path)

    def serve(name: str, port: int = 0, **given: object) -> int:
        raise UnvanishError("a server would run now")

    monkeypatch.setattr(unvanish.server, "serve", serve)
    return tmp_path


@pytest.mark.parametrize("command", OPTIONS, ids=lambda each: each or "none")
def test_any_command_line_ends_with_a_status_and_one_message(
    command: str, place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    chance = random.Random(command)
    count = {"fix": 60, "sweep": 80, "run": 80}.get(command, 150)
    seen: set[int] = set()
    for _ in range(count):
        words = drawn(command, chance)
        status = main(words)
        out, err = capfd.readouterr()
        assert status in (0, 1, 2), words
        seen.add(status)
        assert "UNVANISH_TRACEBACK=1 shows where" not in err or "wrong.py" in str(words), (words, err)
        assert "Traceback" not in out + err or command == "run", (words, err)
        assert "\x1b" not in out + err and "\u202e" not in out + err, words
        if status == 2:
            assert err.strip(), words
        for made_now in place.glob("out*"):
            made_now.unlink()
    assert 2 in seen
