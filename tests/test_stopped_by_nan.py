"""Programs that look at their loss themselves, and stop before the optimizer's step where it is not finite."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from unvanish import load_run
from unvanish.watching.script import run_script

SCRIPT = """
import math, sys, torch
from torch import nn
from torch.nn import functional as F
torch.manual_seed({seed})
x = torch.randn(32, 8)
y = x[:, :2].argmax(1)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.step = nn.Linear(8, 16), nn.Linear(16, 3), 0
    def forward(self, x):
        h = torch.tanh(self.a(x))
        return self.last(h)
    def last(self, h):
        return {last}

net = Net()
optimizer = torch.optim.SGD(net.parameters(), 0.1)
for net.step in range(20):
    loss = F.cross_entropy(net({data}), y)
    {before}
    optimizer.zero_grad()
    loss.backward()
    {after}
    optimizer.step()
"""
LOG = "self.b(torch.log(h + (2.0 if self.step < 13 else 0.0)))"
MASKED = "self.b(h).masked_fill(torch.tensor([False, False, True]), -math.inf) if self.step > 12 else self.b(h)"
GIVES_UP = "if not math.isfinite(loss.item()): sys.exit('the loss is not finite')"
RAISES = "assert math.isfinite(loss.item()), loss"
ENDS = "if net.step == 14: raise KeyError('another error')"


def ran(tmp_path: Path, *, last: str = "self.b(h)", data: str = "x", before: str = "", after: str = "", seed: int = 0):
    script, path = tmp_path / "train.py", tmp_path / "r.unvanish"
    script.write_text(SCRIPT.format(last=last, data=data, before=before, after=after, seed=seed))
    ending = run_script(str(script), to=path)
    assert not ending.run.watcher.failed
    return ending.status, load_run(path)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("stop", [GIVES_UP, RAISES])
def test_the_call_is_named_for_which_a_program_stopped(stop: str, where: str, seed: int, tmp_path: Path) -> None:
    status, run = ran(tmp_path, last=LOG, seed=seed, **{where: stop})
    assert status == 1
    ((step, _, finding),) = run.episodes
    assert (step, finding.code) == (13, "UV501")
    assert "from log at" in finding.message
    assert str(run).startswith("Nonfinite: at step 13")


@pytest.mark.parametrize("where", ["before", "after"])
def test_so_is_the_batch(where: str, tmp_path: Path) -> None:
    _, run = ran(tmp_path, data="x if net.step != 13 else x * math.inf", seed=0, **{where: GIVES_UP})
    assert [each.message for each in run.findings] == ["at step 13: the batch holds numbers that are not finite."]


@pytest.mark.parametrize("last", ["self.b(h)", MASKED])
@pytest.mark.parametrize("where", ["before", "after"])
def test_a_program_that_stops_for_another_reason_is_as_healthy_as_it_was(where: str, last: str, tmp_path: Path) -> None:
    """What is masked with -inf is meant to be; a class that is never the target makes no loss of it."""
    status, run = ran(tmp_path, last=last, data="x", seed=0, **{where: ENDS})
    assert status == 1
    assert math.isfinite(run.whole("loss")[-1])
    assert not [each for each in run.findings if each.verdict == "nonfinite"]
