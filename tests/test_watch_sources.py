"""From where the layers of a run are called: in its file, its report, its SARIF; with scripts of one's own."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from unvanish import load_run
from unvanish.report import sarif

HEAD = """
import torch, unvanish
from torch import nn
torch.manual_seed(0)
"""
LOOP = """
optimizer = torch.optim.SGD(net.parameters(), 0.1)
with unvanish.watch(net, optimizer, every=1, to="r.unvanish"):
    for _ in range(3):
        optimizer.zero_grad()
        out = net(torch.randn(16, 4))  # called here
        out.square().mean().backward()
        optimizer.step()
"""
OWN = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)
    def forward(self, x):
        h = self.a(x)  # a
        h = {bad}(self.b(h))  # b
        return self.c(h)  # c
net = Net()
"""


def line(text: str, mark: str) -> int:
    return next(at for at, each in enumerate(text.splitlines(), 1) if each.endswith(f"# {mark}"))


def ran(folder: Path, text: str) -> Any:
    (folder / "train.py").write_text(text)
    done = subprocess.run([sys.executable, "train.py"], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return load_run(folder / "r.unvanish").report()


def results(report: Any) -> dict[str, tuple[str, int, list[tuple[str, int]]]]:
    """By code: file and line of the place, and the words and lines of those beside it."""
    found: dict[str, tuple[str, int, list[tuple[str, int]]]] = {}
    for each in json.loads(sarif.write(report))["runs"][0]["results"]:
        at = each["locations"][0]["physicalLocation"]
        beside = [
            (other["message"]["text"], other["physicalLocation"]["region"]["startLine"])
            for other in each.get("relatedLocations", [])
        ]
        found[each["ruleId"]] = at["artifactLocation"]["uri"], at["region"]["startLine"], beside
    return found


def test_layers_are_called_in_the_forward_of_a_model_and_the_birth_of_nan_comes_first(tmp_path: Path) -> None:
    text = HEAD + OWN.format(bad="torch.log") + LOOP
    report = ran(tmp_path, text)
    assert {each.name: each.source for each in report.layers} == {
        name: f"train.py:{line(text, name)}" for name in "abc"
    }
    file, at, beside = results(report)["UV501"]
    assert (file, at) == ("train.py", line(text, "b"))
    assert beside == [("Also called here: a", line(text, "a")), ("Also called here: c", line(text, "c"))]
    assert f"train.py:{line(text, 'a')}" in str(report)


def test_a_birth_between_the_layers_stands_before_them(tmp_path: Path) -> None:
    text = (
        HEAD
        + OWN.format(bad="").replace("return self.c(h)", "h = torch.log(h)  # log\n        return self.c(h)")
        + LOOP
    )
    file, at, beside = results(ran(tmp_path, text))["UV501"]
    assert (file, at) == ("train.py", line(text, "log"))
    assert beside == [(f"Called here: {name}", line(text, name)) for name in "abc"]


def test_a_finding_without_layers_stands_where_the_outputs_are_made_and_is_told_once(tmp_path: Path) -> None:
    """The logarithm of a negative number is nan, and its slope is finite: only the loss shows it."""
    text = (
        HEAD
        + "net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))"
        + LOOP.replace("out.square().mean().backward()", "torch.log(out).mean().backward()")
    )
    report = ran(tmp_path, text)
    assert results(report)["UV501"] == ("train.py", line(text, "called here"), [])
    (found,) = load_run(tmp_path / "r.unvanish").findings
    assert found.message.startswith("at step 0: the loss made a number that is not finite: it was born at log of a neg")


def test_layers_of_a_container_of_torch_are_called_from_the_loop(tmp_path: Path) -> None:
    parts = "net = nn.Sequential(*[part for _ in range(12) for part in (nn.Linear(4, 4), nn.Sigmoid())])"
    text = HEAD + parts + LOOP
    report = ran(tmp_path, text)
    assert {each.source for each in report.layers} == {f"train.py:{line(text, 'called here')}"}
    assert results(report)["UV101"] == ("train.py", line(text, "called here"), [])


def test_a_file_of_before_says_nothing_of_places(tmp_path: Path) -> None:
    ran(tmp_path, HEAD + OWN.format(bad="") + LOOP)
    import sqlite3

    with sqlite3.connect(tmp_path / "r.unvanish") as base:
        assert base.execute("DELETE FROM facts WHERE key = 'sources'").rowcount == 1
    assert {each.source for each in load_run(tmp_path / "r.unvanish").report().layers} == {""}


TRAINER = """
import torch, transformers
from unvanish.integrations.huggingface import Watch
config = transformers.GPT2Config(vocab_size=20, n_positions=8, n_embd=8, n_layer=1, n_head=1)
data = [{"input_ids": torch.arange(6), "labels": torch.arange(6)}] * 8
args = transformers.TrainingArguments("out", max_steps=2, use_cpu=True, report_to="none", save_strategy="no")
trainer = transformers.Trainer(transformers.GPT2LMHeadModel(config), args, train_dataset=data,
    callbacks=[Watch(every=1, to="r.unvanish")])
trainer.train()  # called here
"""
LIGHTNING = """
import lightning, torch
from unvanish.integrations.lightning import Watch
class Net(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(4, 2)
    def training_step(self, batch, at):
        return self.net(batch[0]).square().mean()  # called here
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)
data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(8, 4)), batch_size=4)
lightning.Trainer(accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False,
    enable_progress_bar=False, callbacks=[Watch(every=1, to="r.unvanish")]).fit(Net(), data)
"""
KERAS = """
import os
os.environ["KERAS_BACKEND"] = "torch"
import keras, torch
from unvanish.integrations.keras import Watch
class Net(keras.Model):
    def __init__(self):
        super().__init__()
        self.last = keras.layers.Dense(2)
    def call(self, x):
        return self.last(x)  # called here
net = Net()
net.compile("sgd", "mse")
net.fit(torch.randn(64, 4).numpy(), torch.randn(64, 2).numpy(), verbose=0, callbacks=[Watch(every=1, to="r.unvanish")])
"""


@pytest.mark.parametrize(
    ("package", "text"), [("accelerate", TRAINER), ("lightning", LIGHTNING), ("keras", KERAS)],
    ids=["transformers", "lightning", "keras"],
)  # fmt: skip
def test_under_a_framework_the_line_is_the_users_own(package: str, text: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    report = ran(tmp_path, text)
    assert {each.source for each in report.layers} == {f"train.py:{line(text, 'called here')}"}
