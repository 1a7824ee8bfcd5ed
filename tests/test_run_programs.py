"""Programs of other shapes than one model and one loop: several optimizers, closures, packages, side branches."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import unvanish
from unvanish.cli import main
from unvanish.records import Finding, LayerFlow
from unvanish.watching.run import load_run

ACTOR_CRITIC = """
import torch
from torch import nn

def play(actor):
    with torch.no_grad():  # a rollout: none of its samples are the step's
        for _ in range(50):
            actor(torch.randn(1, 6))

def main():
    torch.manual_seed(0)
    actor = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 2))
    critic = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
    first, second = torch.optim.Adam(actor.parameters()), torch.optim.SGD(critic.parameters(), 0.1)
    for _ in range(30):
        play(actor)
        seen = torch.randn(20, 6)
        value = critic(seen).squeeze(1)
        gain = (seen[:, 0] - value).detach()
        loss = -(actor(seen).log_softmax(1)[:, 0] * gain).mean()
        first.zero_grad(); loss.backward(); first.step()
        second.zero_grad(); (value - seen[:, 0]).square().mean().backward(); second.step()

main()
"""

CLOSURE = """
import torch
from torch import nn
from torch.nn import functional as F

torch.manual_seed(0)
model = nn.Sequential(*[part for _ in range(12) for part in (nn.Linear(8, 8), nn.Sigmoid())], nn.Linear(8, 3))
optimizer = torch.optim.AdamW(model.parameters())
with torch.no_grad():
    model(torch.randn(500, 8))  # a validation before the first step
for _ in range(5):
    x = torch.randn(16, 8)

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), x[:, :3].argmax(1))
        loss.backward()
        return loss

    optimizer.step(closure)
"""


def run_of(text: str, tmp_path: Path, *options: str) -> Any:
    script, path = tmp_path / "train.py", tmp_path / "r.unvanish"
    script.write_text(text)
    main(["run", "-o", str(path), *options, str(script)])
    return load_run(path)


def test_a_check_of_two_optimizers_holds_both_models_by_their_names(tmp_path: Path) -> None:
    report = run_of(ACTOR_CRITIC, tmp_path, "--stop-after", "4").last_report()
    assert [layer.name for layer in report.layers] == ["actor.0", "actor.2", "critic.0", "critic.2"]
    assert all(layer.log10_transmission is not None for layer in report.layers)  # a check, not a sample
    assert report.healthy and report.setting.batch_size == 20


def test_without_a_stop_each_has_its_rows_and_rollouts_do_not_count(tmp_path: Path) -> None:
    run = run_of(ACTOR_CRITIC, tmp_path, "--every", "5")
    assert run.layers == ("actor.0", "actor.2", "critic.0", "critic.2")
    signals = run.by_layer("log10_signal")
    assert all(math.isfinite(value) for values in signals.values() for value in values[1:])
    assert run.last_report().setting.batch_size == 20


def test_a_step_that_calls_a_closure_is_checked_inside_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of(CLOSURE, tmp_path, "--stop-after", "2")
    report = run.last_report()
    assert report.verdict == "vanished" and report.setting.batch_size == 16
    assert report.layers[0].log10_transmission is not None
    assert "no full check" not in capsys.readouterr().err


def test_what_a_check_has_measured_is_not_told_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = run_of(CLOSURE, tmp_path, "--stop-after", "2").last_report()
    assert [finding.code for finding in report.findings if finding.level == "error"] == ["UV101"]
    assert "since step" not in report.findings[0].message
    assert "how strongly the outputs depend on each layer" not in report.findings[0].message  # it was asked
    said = capsys.readouterr().err
    assert said.count("UV101 since step 0") == 1 and "UV101 at step" not in said  # the end is in the report


def test_a_module_of_a_src_layout_runs_and_a_wrong_name_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package = tmp_path / "src" / "lattice"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "parts.py").write_text("from torch import nn\nmake = lambda: nn.Linear(4, 2)\n")
    (package / "train.py").write_text(
        "import torch\nfrom .parts import make\nmodel = make()\nmove = torch.optim.SGD(model.parameters(), 0.1)\n"
        "for _ in range(4):\n    model(torch.randn(8, 4)).square().mean().backward()\n    move.step()\n"
    )
    monkeypatch.chdir(tmp_path)
    assert main(["run", "-o", "r.unvanish", "-m", "lattice.train"]) == 0
    assert load_run("r.unvanish").steps == (0,)
    capsys.readouterr()
    assert main(["run", "-m", "lattice.trian"]) == 2
    said = capsys.readouterr().err
    assert "there is no module 'lattice.trian'" in said and "Traceback" not in said
    main(["run", "-o", "q.unvanish", "src/lattice/train.py"])
    assert "unvanish run -m lattice.train" in capsys.readouterr().err


class Block(nn.Module):
    """Attention with library-sized weights beside a trunk: query and key get a thousandth of the signal."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.norm = nn.LayerNorm(width)
        for each in (self.query, self.key, self.value, self.out):
            nn.init.normal_(each.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        mixed = F.scaled_dot_product_attention(self.query(x), self.key(x), self.value(x))
        return self.norm(x + self.out(mixed))


@pytest.mark.parametrize("seed", range(3))
def test_query_and_key_beside_a_trunk_have_not_vanished(seed: int, tmp_path: Path) -> None:
    torch.manual_seed(seed)
    embed = nn.Embedding(50, 32).requires_grad_(False)
    model = nn.Sequential(embed, *[Block(32) for _ in range(3)], nn.Flatten(), nn.Linear(32 * 12, 3))
    found = list[Finding]()
    words = torch.randint(50, (16, 12))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-4)
    with unvanish.watch(model, optimizer, every=1, to=tmp_path / "r.unvanish", on_finding=found.append) as run:
        for _ in range(5):
            optimizer.zero_grad()
            F.cross_entropy(model(words), words[:, 0] % 3).backward()
            optimizer.step()
    low = [layer for layer in run.report().layers if layer.name.endswith("query")]
    assert all(layer.log10_signal is not None and layer.log10_signal < -3.0 for layer in low)  # it is small
    assert [finding for finding in found if finding.level == "error"] == []


def test_in_a_chain_all_before_a_vanished_layer_has_vanished() -> None:
    """The other direction: with nothing sound before it, what is not reached is not excused by its name."""
    from unvanish.decide.live import arrivals, passed_by

    def layer(name: str, signal: float) -> LayerFlow:
        return LayerFlow(
            name=name, kind="Linear", source="", parameters=100, log10_signal=signal, log10_grad_norm=signal,
            log10_weight_norm=0.0,
        )  # fmt: skip

    chain = [layer(f"{at}.query", -6.0 + at) for at in range(7)]
    arrived = arrivals(chain)
    assert not any(passed_by(chain, each, arrived) for each in chain)
    beside = [layer("0.query", -4.0), layer("0.trunk", -0.5), layer("1.query", -4.0), layer("1.trunk", 0.0)]
    assert [passed_by(beside, each, arrivals(beside)) for each in beside] == [True, False, True, False]


class Branched(nn.Module):
    """A trunk with a deep middle, and beside that a branch whose part of the result is scaled down."""

    def __init__(self, small: float, depth: int, gain: float) -> None:
        super().__init__()
        self.first, self.side, self.last = (nn.Linear(32, 32) for _ in range(3))
        self.middle = nn.Sequential(*(part for _ in range(depth) for part in (nn.Linear(32, 32), nn.Tanh())))
        self.small = small
        for each in self.middle.children():
            if isinstance(each, nn.Linear):
                nn.init.normal_(each.weight, std=gain / 32**0.5)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        beside = self.small * torch.tanh(self.side(h))
        return self.last(self.middle(h) + beside)


@pytest.mark.parametrize(("small", "depth", "gain", "grows"), [(1e-5, 2, 1.0, False), (1e-5, 50, 3.0, True)])
def test_beside_a_branch_with_little_signal_the_trunk_has_not_grown(
    small: float, depth: int, gain: float, grows: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = Branched(small, depth, gain)
    with unvanish.watch(model, optimizer := torch.optim.SGD(model.parameters(), 1e-9), to=tmp_path / "r") as run:
        F.cross_entropy(model(torch.randn(64, 32)), torch.randint(0, 32, (64,))).backward()
        optimizer.step()
    layers = {layer.name: layer for layer in run.report().layers}
    assert [layers[name].before for name in ("first", "side", "middle.0", "middle.2", "last")] == [
        "", "first", "first", "middle.0", f"middle.{2 * depth - 2}"
    ]  # fmt: skip
    assert ("UV201" in {finding.code for finding in run.findings}) == grows, run.findings
    one, other = (layers[name].log10_signal for name in ("first", "side"))
    assert one is not None and other is not None and one - other > 3.0  # along the order of the calls it had grown


COMPILED = """
import torch
from torch import nn
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
compiled = torch.compile(model, backend="eager")
optimizer = torch.optim.SGD(model.parameters(), 0.1)
for _ in range(4):
    for _ in range(3):
        x = torch.randn(16, 8)
        nn.functional.cross_entropy(compiled(x), x[:, :3].argmax(1)).backward()
    optimizer.step()
    optimizer.zero_grad()
"""


@pytest.mark.parametrize("options", [(), ("--check-every", "1")])
def test_a_compiled_model_is_one_model_however_often_it_is_called_before_a_step(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    run = run_of(COMPILED, tmp_path, *options)
    assert run.layers == ("0", "2") and run.facts["setting"]["model"] == "Sequential"
    assert run.last_report().setting.batch_size == (16 if options else 48)  # a check is of one call


BETWEEN = """
import torch
from torch import nn
torch.manual_seed(0)
first, last = nn.Linear(8, 8), nn.Linear(8, 3)
optimizer = torch.optim.SGD([*first.parameters(), *last.parameters()], 0.1)
for step in range(6):
    x = torch.randn(16, 8)
    h = first(x if step < 4 else x * 0.0 + 1.0)
    logits = last((h - h.mean(0)) / (h.std(0) if step < 4 else 0.0 * h.std(0)))
    loss = nn.functional.cross_entropy(logits, x[:, :3].argmax(1))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""


def test_a_number_that_is_born_between_two_models_is_not_put_to_the_loss(tmp_path: Path) -> None:
    (finding,) = [each for each in run_of(BETWEEN, tmp_path, "--every", "1").findings if each.verdict == "nonfinite"]
    assert finding.message.startswith("at step 4:") and "div" in finding.message
    assert "given to another" in finding.message and "the loss made" not in finding.message


ODD_MODULES = """
import torch
from torch import nn
torch.manual_seed(0)
class Half(nn.Module):
    def __init__(self):
        pass
class Odd(nn.Linear):
    def {method}(self, *args, **kwargs):
        raise RuntimeError
model, half, odd = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)), Half(), Odd(8, 8)
forward = torch.compile(lambda x: model(x), backend="eager") if {compiled} else model
optimizer = torch.optim.SGD(model.parameters(), 0.1)
for _ in range(3):
    x = torch.randn(16, 8)
    loss = nn.functional.cross_entropy(forward(x if {compiled} else odd(x).detach()), x[:, :3].argmax(1))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print("done")
"""


@pytest.mark.parametrize(
    ("method", "compiled", "watched"),
    [("parameters", False, True), ("parameters", True, True), ("modules", False, False)],
)
def test_a_module_whose_own_code_fails_stops_no_script(
    method: str, compiled: bool, watched: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of(ODD_MODULES.format(method=method, compiled=compiled), tmp_path, "--every", "1")
    out, err = capsys.readouterr()
    assert out == "done\n"
    assert (run.layers == ("0", "2")) == watched and ("stopped watching at step 0: RuntimeError" in err) != watched
