#!/usr/bin/env bash
# The Trainer of Hugging Face logs a loss of 0.0 for a model whose loss is NaN, and the earlier a run diverges, the lower is
# its train_loss.
#
# Expected: a training that diverges after step 4 of 16 logs NaN from there on, or, with logging_nan_inf_filter (the default),
# leaves those steps out of its averages.
# Found (transformers 5.23.0, torch 2.13.0, accelerate 1.15.0, CPU): a step whose loss is not finite adds to the sum of losses
# the mean of those since the last log. Where all of them are NaN that is 0.0, which reads as a perfect fit; only grad_norm
# beside it says nan. The train_loss at the end is the sum of the finite steps over the number of all steps: whoever sorts
# runs by it finds first the one that diverged first. With logging_nan_inf_filter=False both are NaN.
#
# Output (the loss is 1.0 for as long as it is finite):
#   filter True,  NaN after step 4:  logged [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]  train_loss 0.25
#   filter True,  NaN after step 8:  logged [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]  train_loss 0.5
#   filter True,  never NaN:         logged [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]  train_loss 1.0
#   filter False, NaN after step 8:  logged [1.0, 1.0, 1.0, 1.0, nan, nan, nan, nan]  train_loss nan
#
# Exit status: 0 while this is so, 1 when it has changed. Uses nothing of unvanish.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 accelerate==1.15.0 numpy
cat > "$folder/case.py" <<'PYTHON'
import sys

import torch
import transformers

transformers.utils.logging.set_verbosity_error()
NAN = float("nan")
STEPS, NEVER = 16, 99


class Diverging(torch.nn.Module):
    """Its loss is 1 for so many steps, and NaN then."""

    def __init__(self, finite):
        super().__init__()
        self.weight, self.left = torch.nn.Parameter(torch.zeros(1)), finite

    def forward(self, x, labels=None):
        self.left -= 1
        return {"loss": 1.0 + 0.0 * (self.weight * x).mean() if self.left >= 0 else self.weight.sum() * NAN}


class Logged(transformers.TrainerCallback):
    def __init__(self):
        self.losses, self.total = [], None

    def on_log(self, args, state, control, logs=None, **more):
        if "loss" in logs:
            self.losses.append(float(logs["loss"]))
        self.total = logs.get("train_loss", self.total)


def trained(finite, filtered):
    """The logged losses, and the mean that stands at the end."""
    logged, rows = Logged(), [{"x": torch.ones(1), "labels": torch.ones(1)}] * (4 * STEPS)
    arguments = transformers.TrainingArguments(
        sys.argv[1], max_steps=STEPS, per_device_train_batch_size=4, logging_steps=2, report_to="none", use_cpu=True,
        save_strategy="no", disable_tqdm=True, logging_nan_inf_filter=filtered,
    )
    trainer = transformers.Trainer(Diverging(finite), arguments, train_dataset=rows, callbacks=[logged])
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    return logged.losses, logged.total


wanted = {
    (True, 4): ([1.0] * 2 + [0.0] * 6, 0.25),
    (True, 8): ([1.0] * 4 + [0.0] * 4, 0.5),
    (True, NEVER): ([1.0] * 8, 1.0),
    (False, 8): ([1.0] * 4 + [NAN] * 4, NAN),
}
same = True
for (filtered, finite), expected in wanted.items():
    seen = trained(finite, filtered)
    begins = "never NaN:" if finite == NEVER else f"NaN after step {finite}:"
    print(f"filter {f'{filtered},':6} {begins:18} logged {seen[0]}  train_loss {seen[1]}")
    same &= repr(seen) == repr(expected)
sys.exit(not same)
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/case.py" "$folder/out"
