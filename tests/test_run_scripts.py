"""``unvanish run`` on scripts of every kind: what they print and how they end is theirs, what they train is seen."""

from __future__ import annotations

import math
import os
import re
import runpy
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from unvanish import load_run
from unvanish.cli import main

HEAD = """
import torch
from torch import nn
from torch.nn import functional as F
torch.manual_seed(0)
x = torch.randn(64, 8)
y = x[:, :3].argmax(1)
def network(end=3):
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, end))
"""

SCRIPTS = {
    "several models and optimizers": """
    made, judge = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 8)), network(1)
    of_judge, of_made = torch.optim.Adam(judge.parameters(), 1e-3), torch.optim.SGD(made.parameters(), 1e-2)
    for step in range(12):
        of_judge.zero_grad()
        loss = F.softplus(-judge(x)).mean() + F.softplus(judge(made(torch.randn(64, 4)).detach())).mean()
        loss.backward()
        of_judge.step()
        of_made.zero_grad()
        other = F.softplus(-judge(made(torch.randn(64, 4)))).mean()
        other.backward()
        of_made.step()
        print(loss.item(), other.item())
    """,
    "mixed precision and a scaler": """
    net = network()
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for step in range(12):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = F.cross_entropy(net(x), y)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(net.parameters(), 0.5)
        scaler.step(optimizer)
        scaler.update()
        print(loss.item())
    """,
    "accumulation": """
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), 1e-1)
    for step in range(12):
        for a, b in zip(x.chunk(4), y.chunk(4)):
            loss = F.cross_entropy(net(a), b) / 4
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        print(loss.item())
    """,
    "a compiled model": """
    net = torch.compile(network(), backend="aot_eager", fullgraph=True)
    optimizer = torch.optim.SGD(net.parameters(), 1e-1)
    for step in range(12):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        print(loss.item())
    """,
    "a model compiled in place": """
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 3)
        def forward(self, x):
            return self.c(torch.tanh(self.b(torch.relu(self.a(x)))))
    net = Net()
    net.compile(backend="aot_eager", fullgraph=True)
    optimizer = torch.optim.SGD(net.parameters(), 1e-1)
    for step in range(12):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        print(loss.item())
    """,
    "a compiled function that calls a model": """
    net = network()
    @torch.compile(backend="aot_eager", fullgraph=True)
    def cost(a, b):
        return F.cross_entropy(net(a), b)
    optimizer = torch.optim.SGD(net.parameters(), 1e-1)
    for step in range(12):
        optimizer.zero_grad()
        loss = cost(x[: 64 - step // 6], y[: 64 - step // 6])
        loss.backward()
        optimizer.step()
        print(loss.item())
    """,
    "an optimizer that never steps, then another": """
    net = network()
    spare, first = torch.optim.Adam(net.parameters()), torch.optim.SGD(net.parameters(), 1e-1)
    second = None
    for step in range(12):
        if step == 5:
            second = torch.optim.Adam(net.parameters(), 1e-3)
        (second or first).zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        (second or first).step()
        print(loss.item())
    """,
    "the workers of a data loader": """
    from torch.utils.data import DataLoader, TensorDataset
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), 1e-1)
    for epoch in range(3):
        for a, b in DataLoader(TensorDataset(x, y), batch_size=16, num_workers=2, multiprocessing_context="fork"):
            optimizer.zero_grad()
            loss = F.cross_entropy(net(a), b)
            loss.backward()
            optimizer.step()
            print(loss.item())
    """,
    "its own log on standard output": """
    import logging, sys
    logging.basicConfig(stream=sys.stdout, level=logging.DEBUG, format="%(name)s %(message)s")
    net = nn.Sequential(*[part for _ in range(12) for part in (nn.Linear(8, 8), nn.Sigmoid())], nn.Linear(8, 3))
    optimizer = torch.optim.SGD(net.parameters(), 1e-1)
    for step in range(12):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        logging.getLogger("mine").info("%s", loss.item())
    """,
    "a class, a function and __main__": """
    import dataclasses, pickle, sys
    @dataclasses.dataclass
    class Settings:
        steps: int = 12
    def main():
        net, settings = network(), pickle.loads(pickle.dumps(Settings()))
        optimizer = torch.optim.SGD(net.parameters(), 1e-1)
        for step in range(settings.steps):
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x), y)
            loss.backward()
            optimizer.step()
            print(__name__, loss.item())
    if __name__ == "__main__":
        main()
    """,
}
LAYERS = {
    "a model compiled in place": ("a", "b", "c"),
    "several models and optimizers": ("judge.0", "judge.2", "judge.4", "made.0", "made.2"),
    "its own log on standard output": tuple(str(2 * at) for at in range(13)),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_it_prints_what_it_prints_alone_and_what_it_trains_is_sampled(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("train.py").write_text(HEAD + textwrap.dedent(SCRIPTS[name]), encoding="utf-8")
    if "log" in name:
        alone = subprocess.run([sys.executable, "train.py"], capture_output=True, text=True, timeout=120).stdout
        words = [sys.executable, "-m", "unvanish", "run", "-o", "r.unvanish", "train.py"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=120)
        status, out, err = done.returncode, done.stdout, done.stderr
        assert "unvanish: UV101" in err
    else:
        runpy.run_path("train.py", run_name="__main__")
        alone = capsys.readouterr().out
        status = main(["run", "-o", "r.unvanish", "train.py"])
        out, err = capsys.readouterr()
    torch._dynamo.reset()
    assert (status, out) == (0, alone), err
    assert "12 steps of train.py, 2 sampled" in err
    run = load_run("r.unvanish")
    assert run.facts["failed"] == ""
    assert run.steps == (0, 10)
    assert run.layers == LAYERS.get(name, ("0", "2", "4"))
    assert len(run.facts["groups"]) == (2 if "several" in name else 1)
    for layer in run.layers:
        assert all(math.isfinite(each) for each in run.by_layer("log10_grad_norm")[layer])
        seen = [math.isfinite(each) for each in run.by_layer("log10_signal")[layer]]
        assert all(seen) != ("compiled" in name)


COMPILED = """
net = torch.compile(network(), backend="aot_eager")
optimizer = torch.optim.SGD(net.parameters(), 1e-1)
for step in range(12):
    optimizer.zero_grad()
    loss = F.cross_entropy(net(x), y) / (step != {broken})
    loss.backward()
    optimizer.step()
"""


@pytest.mark.parametrize("in_place", [False, True])
def test_the_note_on_a_compiled_model_says_what_can_be_done(
    in_place: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    script = COMPILED.format(broken=-1)
    if in_place:
        script = script.replace("torch.compile(network(), backend=", "network()\nnet.compile(backend=")
    Path("train.py").write_text(HEAD + script, encoding="utf-8")
    assert main(["run", "-o", "r.unvanish", "--fail-on", "error", "train.py"]) == 0
    err = " ".join(capsys.readouterr().err.split())
    torch._dynamo.reset()
    assert "the model has no parameters" not in err
    assert ("lets a check of the running batch (check_every=K) judge them" in err) == in_place
    assert ("(check_every=K) runs the module itself, and judges them" in err) == (not in_place)
    assert load_run("r.unvanish").report().setting.batch_size == (0 if in_place else 64)


@pytest.mark.parametrize("broken", [7, -1])
def test_each_step_of_a_compiled_model_can_be_checked_and_run_again(
    broken: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("train.py").write_text(HEAD + COMPILED.format(broken=broken), encoding="utf-8")
    assert main(["run", "-o", "r.unvanish", "--check-every", "5", "train.py"]) == 0
    err = capsys.readouterr().err
    torch._dynamo.reset()
    if broken < 0:
        assert "no full check" not in err
        report = load_run("r.unvanish").last_report()
        assert [each.verdict for each in report.layers] == ["healthy"] * 3
        assert report.setting.batch_size == 64
    else:
        assert "UV501 at step 7: the loss made a number that is not finite: it was born at div" in err
        assert main(["show", "--fail-on", "error", "r.unvanish"]) == 1


def run_as_program(folder: Path, script: str, *words: str) -> subprocess.CompletedProcess[str]:
    (folder / "train.py").write_text(HEAD + textwrap.dedent(script), encoding="utf-8")
    command = [sys.executable, "-m", "unvanish", "run", "-o", "r.unvanish", *words, "train.py"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=folder)


FORKING = """
import os, sys
net = network()
optimizer = torch.optim.SGD(net.parameters(), 1e-1)
for step in range(12):
    if step in (3, 6, 9):
        sys.stdout.flush()
        child = os.fork()
        if not child:
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
            print("child", step)
            if step == 3:
                sys.exit(5)
            if step == 6:
                raise RuntimeError("in the child")
            break
        print("ended with", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    optimizer.zero_grad()
    F.cross_entropy(net(x), y).backward()
    optimizer.step()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a script that forks")
def test_a_script_that_forks_has_one_report_and_its_children_their_own_ends(tmp_path: Path) -> None:
    done = run_as_program(tmp_path, FORKING)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n") == [
        "child 3", "ended with 5", "child 6", "ended with 1", "child 9", "ended with 0", "",
    ]  # fmt: skip
    assert done.stderr.count("12 steps of train.py") == done.stderr.count("sampled") == 1
    assert done.stderr.count("RuntimeError: in the child") == 1
    assert load_run(tmp_path / "r.unvanish").steps == (0, 10)


ENDLESS = """
net = network()
optimizer = torch.optim.SGD(net.parameters(), 1e-3)
for step in range(10**9):
    optimizer.zero_grad()
    F.cross_entropy(net(x), y).backward()
    optimizer.step()
    if step == 30:
        print("go", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="an interrupt from outside")
def test_ctrl_c_ends_it_with_a_report(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(HEAD + ENDLESS, encoding="utf-8")
    command = [sys.executable, "-m", "unvanish", "run", "-o", "r.unvanish", "train.py"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    ) as process:  # fmt: skip
        assert process.stdout is not None and process.stdout.readline() == "go\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (130, "")
    assert "interrupted" in err and "steps of train.py" in err and "Traceback" not in err
    assert load_run(tmp_path / "r.unvanish").facts["why"] == "interrupted"


TOGETHER = """
import os
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
dist.init_process_group("gloo")
rank = dist.get_rank()
net = DistributedDataParallel(network())
optimizer = torch.optim.SGD(net.parameters(), 1e-1)
for step in range(12):
    optimizer.zero_grad()
    loss = F.cross_entropy(net(x.chunk(2)[rank]), y.chunk(2)[rank])
    loss.backward()
    optimizer.step()
os.write(1, f"{rank} {loss.item():.6f}{os.linesep}".encode())  # in one piece
dist.destroy_process_group()
"""

ALONE = """
net = network()
optimizer = torch.optim.SGD(net.parameters(), 1e-1)
for step in range(12):
    optimizer.zero_grad()
    loss = F.cross_entropy(net(x), y)
    loss.backward()
    optimizer.step()
"""


def torchrun(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The script in several processes; again where torch's own threads bring one down after it has done its work.

    That befell 1 of 12 plain trainings, and 1 of 24 that were watched (torch 2.13, gloo, two cores).
    """
    command = [sys.executable, "-m", "torch.distributed.run", *words]
    for _ in range(4):
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=folder)
        if "terminate called without an active exception" not in done.stderr:
            break
        (folder / "r.unvanish").unlink(missing_ok=True)
    return done


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="gloo with torchrun")
def test_torchrun_starts_it_in_every_process_and_one_reports(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(HEAD + TOGETHER, encoding="utf-8")
    two = ["--standalone", "--nproc-per-node", "2"]
    plain = torchrun(tmp_path, *two, "train.py")
    done = torchrun(tmp_path, *two, "-m", "unvanish", "run", "-o", "r.unvanish", "train.py")
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == sorted(plain.stdout.splitlines())
    assert done.stderr.count("12 steps of train.py, 2 sampled") == 1
    run_as_program(tmp_path, ALONE, "-o", "one.unvanish")
    one, two = load_run(tmp_path / "one.unvanish"), load_run(tmp_path / "r.unvanish")
    assert two.layers == one.layers and two.steps == one.steps
    for name in ("log10_signal", "log10_grad_norm"):
        for layer in one.layers:
            assert two.by_layer(name)[layer] == pytest.approx(one.by_layer(name)[layer], abs=2e-6)
    assert two.whole("loss") == pytest.approx(one.whole("loss"), abs=1e-6)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="gloo with torchrun")
def test_the_example_for_torchrun_runs_as_it_says(tmp_path: Path) -> None:
    path = Path(__file__).parents[1] / "examples" / "train_torchrun.py"
    text = path.read_text(encoding="utf-8")
    assert "import unvanish" not in text
    said = re.search(r"^torchrun (.* -m unvanish run) examples/train_torchrun.py$", text, re.MULTILINE)
    assert said is not None
    done = torchrun(tmp_path, *said[1].split(), "-o", "r.unvanish", str(path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("step") == 4 and "100 steps of" in done.stderr
    run = load_run(tmp_path / "r.unvanish")
    assert len(run.steps) == 10 and "2 processes train" in run.facts["notes"][0]
    assert all(each > 0.0 for each in run.whole("gradient_noise_scale"))
