"""The callback for the Trainer of Hugging Face, with the real package."""

from __future__ import annotations

import copy
import json
import math
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import unvanish

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
transformers: Any = pytest.importorskip(
    "transformers", reason="Transformers is not installed: pip install transformers"
)
pytest.importorskip("accelerate", reason="the Trainer needs accelerate: pip install accelerate")
pytestmark = pytest.mark.filterwarnings("ignore")


class Tokens(torch.utils.data.Dataset[Any]):
    """Sequences of 12 tokens; ``classes``: with one label each instead of a label a token."""

    def __init__(self, classes: int = 0) -> None:
        self.classes = classes

    def __len__(self) -> int:
        return 32

    def __getitem__(self, at: int) -> dict[str, Any]:
        tokens = torch.randint(50, (12,), generator=torch.Generator().manual_seed(at))
        return {"input_ids": tokens, "labels": torch.tensor(at % self.classes) if self.classes else tokens}


def gpt2() -> Any:
    """Its input and its output share a weight, and nothing in it is random."""
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=50, n_positions=16, n_embd=32, n_layer=2, n_head=2, resid_pdrop=0.0, embd_pdrop=0.0,
            attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
        )
    )  # fmt: skip


class Logs(transformers.TrainerCallback):
    def __init__(self) -> None:
        self.losses: list[float] = []
        self.norms: list[float] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **more: Any) -> None:
        if "loss" in logs:
            self.losses.append(float(logs["loss"]))
            self.norms.append(float(logs["grad_norm"]))


def trained(folder: Path, model: Any, *, data: Any = None, also: tuple[Any, ...] = (), watch: Any = None,
            resume: Any = None, callback: Any = None, **args: Any) -> tuple[Any, Any, Any]:  # fmt: skip
    from unvanish.integrations.huggingface import Watch

    logs, callback = Logs(), callback or Watch(every=1, to=folder / "runs", **(watch or {}))
    given = {
        "output_dir": str(folder / "out"), "max_steps": 3, "per_device_train_batch_size": 4, "report_to": "none",
        "logging_steps": 1, "disable_tqdm": True, "use_cpu": True, "save_strategy": "no",
        "train_sampling_strategy": "sequential",
    }  # fmt: skip
    trainer = transformers.Trainer(
        model, transformers.TrainingArguments(**{**given, **args}), train_dataset=data or Tokens(),
        callbacks=[callback, logs, *also],
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=resume)
    return unvanish.load_run(callback.run.path), logs, callback


def unclipped(run: Any) -> list[float]:
    return [10.0**value for value in run.whole("total_log10_grad_norm")]


@pytest.mark.parametrize("parts", [1, 2])
def test_losses_and_norms_are_those_of_the_trainer_and_clipping_is_seen(parts: int, tmp_path: Path) -> None:
    run, logs, callback = trained(tmp_path, gpt2(), gradient_accumulation_steps=parts)
    assert not callback.run.watcher.failed and run.steps == (0, 1, 2)
    assert run.whole("loss") == pytest.approx(logs.losses, rel=1e-5)
    assert unclipped(run) == pytest.approx(logs.norms, rel=1e-4) and min(logs.norms) > 1.1
    assert run.whole("log10_grad_norm_clipped") == pytest.approx([0.0] * 3, abs=1e-4)  # its max_grad_norm is 1.0
    assert run.facts.get("notes", []) == []


def test_a_model_that_does_not_divide_by_the_number_of_items_is_named_and_no_explosion(tmp_path: Path) -> None:
    class Undivided(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.embedding, self.head = nn.Embedding(50, 16), nn.Linear(16, 50)

        def forward(self, input_ids: Any, labels: Any, **kwargs: Any) -> dict[str, Any]:
            scores = self.head(self.embedding(input_ids))
            return {"loss": nn.functional.cross_entropy(scores.flatten(0, 1), labels.flatten()), "logits": scores}

    run, _, _ = trained(tmp_path, Undivided(), gradient_accumulation_steps=4, max_steps=2)
    (note,) = run.facts["notes"]
    assert "may be 4 times those of one batch" in note and note in run.report().to_json()
    assert run.whole("loss")[0] > 3.9 * math.log(50)
    assert not [each for each in run.findings if each.code in ("UV201", "UV805")]
    alone, _, _ = trained(tmp_path, Undivided(), max_steps=2)
    assert "notes" not in alone.facts


def test_a_loss_that_is_not_a_number_is_found_where_the_trainer_logs_zero(tmp_path: Path) -> None:
    class Breaks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.embedding, self.head, self.calls = nn.Embedding(50, 16), nn.Linear(16, 50), 0

        def forward(self, input_ids: Any, labels: Any) -> dict[str, Any]:
            self.calls += 1
            scores = self.head(self.embedding(input_ids))
            loss = nn.functional.cross_entropy(scores.flatten(0, 1), labels.flatten())
            return {"loss": loss * (math.nan if self.calls == 3 else 1.0), "logits": scores}

    run, logs, _ = trained(tmp_path, Breaks(), max_steps=4)
    assert logs.losses[2] == 0.0
    found = next(each for each in run.findings if each.verdict == "nonfinite")
    assert found.code in ("UV501", "UV502") and "at step 2" in found.message


def test_the_training_is_the_same_bit_for_bit_and_a_hook_can_check_its_batch(tmp_path: Path) -> None:
    reports: list[Any] = []

    class Asks(transformers.TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            reports.append(callback.diagnose())

    from unvanish.integrations.huggingface import Watch

    callback: Any = Watch(every=1, to=tmp_path / "asked")
    ours, theirs = gpt2(), gpt2()
    trained(tmp_path, ours, also=(callback, Asks()))  # of two that watch one optimizer the later one goes on
    run = unvanish.load_run(callback.run.path)
    trainer = transformers.Trainer(
        theirs, transformers.TrainingArguments(
            output_dir=str(tmp_path / "out"), max_steps=3, per_device_train_batch_size=4, report_to="none",
            disable_tqdm=True, use_cpu=True, save_strategy="no", train_sampling_strategy="sequential",
        ), train_dataset=Tokens(),
    )  # fmt: skip
    trainer.train()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, other)
    assert len(reports) == 3 and all(report is not None for report in reports)
    signals = {layer.name: layer.log10_signal for layer in reports[0].layers}
    measured = {name: values[0] for name, values in run.by_layer("log10_signal").items()}
    assert measured["transformer.h.0.mlp.c_fc"] == pytest.approx(signals["transformer.h.0.mlp.c_fc"], abs=1e-4)


@pytest.mark.parametrize("restored", [False, True], ids=["as it is", "callbacks restored"])
def test_a_training_that_goes_on_from_a_checkpoint_goes_on_in_its_file(restored: bool, tmp_path: Path) -> None:
    saving = {"save_strategy": "steps", "save_steps": 2}
    first, _, _ = trained(tmp_path, gpt2(), max_steps=3, **saving)
    state = json.loads((tmp_path / "out" / "checkpoint-2" / "trainer_state.json").read_text())
    assert state["stateful_callbacks"]["unvanish"]["step"] == 2
    again, _, callback = trained(
        tmp_path, gpt2(), max_steps=5, resume=str(tmp_path / "out" / "checkpoint-2"),
        restore_callback_states_from_checkpoint=restored, watch={"on_finding": print}, **saving,
    )  # fmt: skip
    assert again.path == first.path and len(list((tmp_path / "runs").glob("*.unvanish"))) == 1
    assert again.steps == (0, 1, 2, 3, 4) and again.facts["resumed"] == [2]
    assert callback.run.on_finding is print  # what cannot be written into a checkpoint is still that of the caller


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_an_interrupt_of_which_no_callback_hears_loses_no_step(tmp_path: Path) -> None:
    class Interrupts(transformers.TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            if state.global_step == 3:
                os.kill(os.getpid(), signal.SIGINT)

    from unvanish.integrations.huggingface import Watch

    callback = Watch(every=1, to=tmp_path / "runs")
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, gpt2(), max_steps=9, also=(Interrupts(),), callback=callback)
    (path,) = (tmp_path / "runs").glob("*.unvanish")
    run = unvanish.load_run(path)  # the process goes on, as that of a notebook does
    assert run.steps == (0, 1, 2) and "ended" not in run.facts
    callback.run.close()


def test_a_second_training_with_the_same_callback_gets_a_file_of_its_own(tmp_path: Path) -> None:
    first, _, callback = trained(tmp_path, gpt2(), max_steps=1)
    trainer = transformers.Trainer(
        gpt2(), transformers.TrainingArguments(output_dir=str(tmp_path / "out"), max_steps=1, report_to="none",
        use_cpu=True, save_strategy="no", disable_tqdm=True), train_dataset=Tokens(), callbacks=[callback],
    )  # fmt: skip
    trainer.train()
    assert callback.run.path != first.path and unvanish.load_run(callback.run.path).steps == (0,)
    assert type(copy.copy(callback)) is type(callback)
