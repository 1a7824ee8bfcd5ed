"""Ctrl-C in the trainings of frameworks: the file is whole, nothing is lost, and why it ended is said once."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import unvanish
from unvanish.integrations.required import where_its_cell_fails

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
LIGHTNING = """
import lightning
from unvanish.integrations.lightning import Watch

class Net(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(4, 2)
    def training_step(self, batch, at):
        return self.net(batch[0]).square().mean()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

class Interrupts(lightning.Callback):
    def on_train_batch_end(self, trainer, module, outputs, batch, at):
        interrupt(at)

data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(64, 4)), batch_size=4)
lightning.Trainer(accelerator="cpu", max_epochs=50, logger=False, enable_checkpointing=False,
    enable_progress_bar=False, callbacks=[Watch(every=1, to="r.unvanish"), Interrupts()]).fit(Net(), data)
"""
TRAINER = """
import transformers
from unvanish.integrations.huggingface import Watch

class Interrupts(transformers.TrainerCallback):
    def on_step_end(self, args, state, control, **more):
        interrupt(state.global_step - 1)

config = transformers.GPT2Config(vocab_size=20, n_positions=8, n_embd=8, n_layer=1, n_head=1)
data = [{"input_ids": torch.arange(6), "labels": torch.arange(6)}] * 64
args = transformers.TrainingArguments("out", max_steps=50, use_cpu=True, report_to="none", save_strategy="no")
transformers.Trainer(transformers.GPT2LMHeadModel(config), args, train_dataset=data,
    callbacks=[Watch(every=1, to="r.unvanish"), Interrupts()]).train()
"""
KERAS = """
import keras
from unvanish.integrations.keras import Watch

class Interrupts(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        interrupt(batch)

model = keras.Sequential([keras.layers.Dense(2)])
model.compile("sgd", "mse")
model.fit(torch.randn(64, 4).numpy(), torch.randn(64, 2).numpy(), batch_size=4, epochs=50, verbose=0,
    callbacks=[Watch(every=1, to="r.unvanish"), Interrupts()])
"""
INTERRUPT = """
import os, signal, torch

def interrupt(step):
    if step == 5:
        os.kill(os.getpid(), signal.SIGINT)
"""


@pytest.mark.parametrize(
    ("package", "program"),
    [("lightning", LIGHTNING), ("accelerate", TRAINER), ("keras", KERAS)], ids=["lightning", "transformers", "keras"],
)  # fmt: skip
def test_an_interrupt_leaves_a_whole_file_and_says_so_once(package: str, program: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPT + program], cwd=tmp_path, capture_output=True, text=True, timeout=300,
        env={**os.environ, "KERAS_BACKEND": "torch"},
    )  # fmt: skip
    assert done.returncode in (1, -signal.SIGINT), done.stderr
    assert [path.name for path in tmp_path.glob("r.*")] == ["r.unvanish"]  # no log of SQLite beside it
    run = unvanish.load_run(tmp_path / "r.unvanish")
    assert run.steps[:6] == (0, 1, 2, 3, 4, 5) and len(run.steps) < 8
    assert run.facts["why"] == "interrupted" and run.facts["steps"] == len(run.steps)
    said = f"unvanish watched {len(run.steps)} steps until it was interrupted; its run is r.unvanish"
    assert done.stderr.count(said) == done.stderr.count("unvanish watched") == 1, done.stderr


class Shell:
    """The part of IPython's shell that tells of the end of a cell."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.events = SimpleNamespace(register=lambda _, f: self.told.append(f), unregister=self._unregister)

    def _unregister(self, event: str, function: Any) -> None:
        assert event == "post_run_cell"
        self.told.remove(function)

    def cell(self, error: BaseException | None) -> None:
        for each in list(self.told):
            each(SimpleNamespace(error_in_exec=error))


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("x"), None])
def test_a_cell_that_fails_is_the_end_and_one_that_does_not_is_none(
    error: BaseException | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell = Shell()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    ended: list[BaseException] = []
    where_its_cell_fails(ended.append)
    shell.cell(error)
    shell.cell(KeyboardInterrupt())  # another cell
    assert ended == [each for each in [error] if each is not None]
