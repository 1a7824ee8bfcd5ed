"""``unvanish run`` on scripts that do not know of it, and ``unvanish show`` on what it wrote."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from unvanish import UnvanishError, load_run
from unvanish.cli import main

SCRIPT = """
import argparse, sys, torch
from torch import nn
parser = argparse.ArgumentParser()
parser.add_argument("--depth", type=int, default=12)
parser.add_argument("--end", default="")
args = parser.parse_args()
torch.manual_seed(0)
layers = [nn.Linear(8, 16), nn.Sigmoid()]
for _ in range(args.depth):
    layers += [nn.Linear(16, 16), nn.Sigmoid()]
model = nn.Sequential(*layers, nn.Linear(16, 3))
optimizer = torch.optim.Adam(model.parameters(), 1e-3)
for step in range(25):
    x = torch.randn(32, 8)
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), x[:, :3].argmax(1)).backward()
    optimizer.step()
print("the script's own output")
if args.end == "raise":
    raise RuntimeError("the script's own error")
if args.end == "exit":
    sys.exit(7)
if args.end == "interrupt":
    raise KeyboardInterrupt
"""


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text(SCRIPT, encoding="utf-8")
    return "train.py"


def test_an_unmodified_script_is_watched_and_its_output_untouched(
    script: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "-o", "r.unvanish", script, "--depth", "10"]) == 0
    out, err = capsys.readouterr()
    assert out == "the script's own output\n"
    assert "unvanish: 25 steps of train.py, 3 sampled" in err
    assert "Vanished: layers 0" in err and "r.unvanish" in err
    run = load_run("r.unvanish")
    assert run.steps == (0, 10, 20)
    assert [finding.code for finding in run.findings] == ["UV101"]
    assert run.facts["arguments"] == ["--depth", "10"]


@pytest.mark.parametrize(("end", "status"), [("raise", 1), ("exit", 7), ("interrupt", 130)])
def test_however_it_ends_there_is_a_report_and_the_status_is_its_own(
    end: str, status: int, script: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "-o", "r.unvanish", script, "--end", end]) == status
    err = capsys.readouterr().err
    assert "25 steps of train.py" in err
    assert ("RuntimeError: the script's own error" in err) == (end == "raise")
    assert "unvanish/watching" not in err.replace("\\", "/")  # no frame of ours in the script's traceback
    assert load_run("r.unvanish").steps


def test_fail_on_and_stop_after(script: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "-o", "a.unvanish", "--fail-on", "error", script]) == 1
    assert main(["run", "-o", "b.unvanish", "--fail-on", "error", script, "--depth", "1"]) == 0
    capsys.readouterr()
    assert main(["run", "-o", "c.unvanish", "--stop-after", "3", script]) == 1
    out, err = capsys.readouterr()
    assert out == ""  # it never came to its print
    assert "3 steps of train.py" in err and "stopped after 3 steps" in err
    assert "slopes" in err  # the report is that of a full check
    assert main(["run", "-o", "d.unvanish", "--stop-after", "3", script, "--depth", "1"]) == 0


def test_a_module_is_run_as_python_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "mine"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "size.py").write_text("STEPS = 5\n")
    (package / "train.py").write_text("from .size import STEPS\n" + SCRIPT.replace("range(25)", "range(STEPS)"))
    monkeypatch.chdir(tmp_path)
    words = [sys.executable, "-m", "unvanish", "run", "-o", "m.unvanish", "-m", "mine.train", "--depth", "2"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "5 steps of mine.train" in done.stderr


def test_a_script_that_trains_nothing_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.py").write_text("print('hello')")
    assert main(["run", "-o", str(tmp_path / "r.unvanish"), str(tmp_path / "x.py")]) == 0
    assert "made no optimizer step that was seen" in capsys.readouterr().err


def test_steps_that_no_backward_comes_before_are_told_from_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.py").write_text(SCRIPT.replace(".backward()", ".item()"))
    assert main(["run", "-o", str(tmp_path / "r.unvanish"), str(tmp_path / "x.py")]) == 0
    assert "of 25 optimizer steps none had a gradient to go by" in capsys.readouterr().err
    assert main(["show", str(tmp_path / "r.unvanish")]) == 2
    assert "does loss.backward() run before each" in capsys.readouterr().err


def test_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "none.py"]) == 2
    assert "there is no file 'none.py'" in capsys.readouterr().err
    assert main(["run", "--every", "0", "none.py"]) == 2
    assert main(["show", str(tmp_path / "none.unvanish")]) == 2
    assert "there is no run file" in capsys.readouterr().err
    assert main(["show", str(tmp_path)]) == 2
    assert main(["watch", "none.py"]) == 2
    assert "did you mean run?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("output", "files"), [("a/b", "a/b/*.unvanish"), ("v1.0/", "v1.0/*.unvanish"), ("a/r.x", "a/r.x")]
)
def test_a_folder_that_is_missing_is_made(script: str, output: str, files: str) -> None:
    assert main(["run", "-o", output, script]) == 0
    assert len([*Path().glob(files)]) == 1


def test_a_run_file_that_cannot_be_made_is_said_before_the_script_runs(
    script: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("file").touch()
    for output, said in (("file/r.unvanish", "is no folder"), ("file", "is no folder"), ("train.py", "already")):
        assert main(["run", "-o", output, script]) == 2
        out, err = capsys.readouterr()
        assert out == "" and said in err


def test_show_writes_every_format_and_compares(script: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["run", "-o", "a.unvanish", script])
    main(["run", "-o", "b.unvanish", script, "--depth", "1"])
    capsys.readouterr()
    assert main(["show", "a.unvanish", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "vanished"
    for suffix in ("html", "sarif", "md", "xml"):
        assert main(["show", "a.unvanish", "-o", f"r.{suffix}"]) == 0
        assert Path(f"r.{suffix}").stat().st_size > 500
    assert main(["show", ".", "--fail-on", "error"]) in (0, 1)
    assert main(["show", "a.unvanish", "--fail-on", "error"]) == 1
    capsys.readouterr()
    assert main(["show", "a.unvanish", "--against", "b.unvanish"]) == 0
    out = capsys.readouterr().out
    assert "found only in a.unvanish: UV101" in out and "loss at step 20, the last in common" in out
    assert main(["show", "a.unvanish", "--follow"]) == 0
    assert "Vanished" in capsys.readouterr().out


def test_watch_refuses_what_it_cannot_watch(tmp_path: Path) -> None:
    from torch import nn, optim

    import unvanish

    net, other = nn.Linear(2, 2), nn.Linear(2, 2)
    optimizer = optim.SGD(net.parameters(), 0.1)
    with pytest.raises(UnvanishError, match="holds none of the parameters"):
        unvanish.watch(other, optimizer, to=tmp_path)
    with pytest.raises(UnvanishError, match="takes a module"):
        unvanish.watch(3, optimizer, to=tmp_path)  # type: ignore[arg-type]
    with pytest.raises(UnvanishError, match="torch Optimizer"):
        unvanish.watch(net, "adam", to=tmp_path)
    with pytest.raises(UnvanishError, match="every=0"):
        unvanish.watch(net, optimizer, every=0, to=tmp_path)
    assert list(tmp_path.iterdir()) == []
