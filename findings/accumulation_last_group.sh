#!/usr/bin/env bash
# Gradient accumulation: the last, shorter group of an epoch gets a smaller gradient in Lightning and Accelerate, not in the
# Trainer of Hugging Face.
#
# Expected: batches of one gradient, accumulated over 4 and averaged, give that gradient at every step, whatever loops over
# them; where an epoch has 6 batches, its second step is the mean over the 2 that are left.
# Found (lightning 2.6.6, accelerate 1.15.0, transformers 5.23.0, torch 2.13.0, CPU): Lightning and Accelerate divide by 4 there
# too, so the last step of every epoch has half of the gradient: with SGD a step half as long, and a limit on the norm that cuts
# all others lets this one pass. The Trainer divides by 2. The same program trains differently in the three, and norms that
# are logged fall once an epoch though nothing has happened.
#
# Output (gradients at the steps of one epoch):
#   Lightning   [1.0, 0.5]
#   Accelerate  [1.0, 0.5]
#   Trainer     [1.0, 1.0]
#
# Exit status: 0 while this is so, 1 when it has changed. Uses nothing of unvanish.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet \
    torch==2.13.0 lightning==2.6.6 accelerate==1.15.0 transformers==5.23.0 numpy
cat > "$folder/case.py" <<'PYTHON'
import logging
import sys

import accelerate
import lightning
import torch
import transformers

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
transformers.utils.logging.set_verbosity_error()
BATCHES, GROUP = 6, 4


def loader():
    return torch.utils.data.DataLoader(torch.ones(BATCHES, 1), batch_size=1)


class Weight(torch.nn.Module):
    """One weight w with the loss w · mean(x); the gradient of every batch of ones is 1."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(()))

    def forward(self, x, labels=None):
        return {"loss": self.w * x.mean()}


def by_lightning():
    seen = []

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = Weight()

        def training_step(self, batch, index):
            return self.model(batch)["loss"]

        def on_before_optimizer_step(self, optimizer):
            seen.append(self.model.w.grad.item())

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    trainer = lightning.Trainer(
        max_epochs=1, accumulate_grad_batches=GROUP, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )
    trainer.fit(Module(), loader())
    return seen


def by_accelerate():
    seen, model = [], Weight()
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=GROUP)
    model, optimizer, batches = accelerator.prepare(model, torch.optim.SGD(model.parameters(), 0.1), loader())
    for batch in batches:
        with accelerator.accumulate(model):
            accelerator.backward(model(batch)["loss"])
            if accelerator.sync_gradients:
                seen.append(model.w.grad.item())
            optimizer.step()
            optimizer.zero_grad()
    return seen


def by_trainer():
    seen = []

    class Seen(transformers.TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **more):
            seen.append(model.w.grad.item())

    arguments = transformers.TrainingArguments(
        sys.argv[1], num_train_epochs=1, per_device_train_batch_size=1, gradient_accumulation_steps=GROUP,
        max_grad_norm=0, report_to="none", use_cpu=True, save_strategy="no", disable_tqdm=True,
    )
    rows = [{"x": torch.ones(1), "labels": torch.ones(1)}] * BATCHES
    trainer = transformers.Trainer(Weight(), arguments, train_dataset=rows, callbacks=[Seen()])
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    return seen


seen = {"Lightning": by_lightning(), "Accelerate": by_accelerate(), "Trainer": by_trainer()}
for name, gradients in seen.items():
    print(f"{name:11} {gradients}")
sys.exit(seen != {"Lightning": [1.0, 0.5], "Accelerate": [1.0, 0.5], "Trainer": [1.0, 1.0]})
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/case.py" "$folder/out"
