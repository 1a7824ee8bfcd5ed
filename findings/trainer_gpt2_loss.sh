#!/usr/bin/env bash
# The Trainer of Hugging Face trains GPT-2 on a loss that is not the model's: too small by (T - 1) / T for T tokens a row.
#
# Expected: for one batch, the loss that the Trainer logs is that of model(**batch).
# Found (transformers 5.23.0, torch 2.13.0, accelerate 1.15.0, CPU): for rows of 12 tokens it is 11/12 of it, gradients
# too. Causal losses shift the labels, so the first token of a row is no target, and the Trainer counts the targets over
# labels[..., 1:] where the loss is known to be causal. It knows that from model.loss_type, which is derived from the
# name of the class: "GPT2LMHeadModel" does not hold "ForCausalLM", its loss_type is None, the model falls back to the
# causal loss, and the Trainer to all labels. A class that is named ...ForCausalLM (Llama here) gets the right loss.
#
# Output:
#   GPT2LMHeadModel   loss_type None         model 3.9498  Trainer 3.6207  ratio 0.9167        (11/12 = 0.9167)
#   LlamaForCausalLM  loss_type ForCausalLM  model 3.8990  Trainer 3.8990  ratio 1.0000
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
size = {"vocab_size": 50, "bos_token_id": 0, "eos_token_id": 0}
models = {
    transformers.GPT2LMHeadModel: transformers.GPT2Config(
        n_positions=16, n_embd=32, n_layer=2, n_head=2, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **size
    ),
    transformers.LlamaForCausalLM: transformers.LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, **size
    ),
}
torch.manual_seed(0)
rows = [{"input_ids": row, "labels": row} for row in torch.randint(50, (4, 12))]
batch = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


class Logged(transformers.TrainerCallback):
    def on_log(self, args, state, control, logs=None, **more):
        self.loss = logs.get("loss", getattr(self, "loss", None))


ratios = []
for kind, config in models.items():
    torch.manual_seed(0)
    model, logged = kind(config), Logged()
    own = float(model(**batch).loss.detach())
    arguments = transformers.TrainingArguments(
        sys.argv[1], max_steps=1, per_device_train_batch_size=4, logging_steps=1, report_to="none", use_cpu=True,
        save_strategy="no", disable_tqdm=True,
    )
    transformers.Trainer(model, arguments, train_dataset=rows, callbacks=[logged]).train()
    ratios.append(float(logged.loss) / own)
    print(f"{kind.__name__:17} loss_type {model.loss_type!s:12} model {own:.4f}  Trainer {float(logged.loss):.4f}"
          f"  ratio {ratios[-1]:.4f}", file=sys.stderr)
sys.exit(not (abs(ratios[0] - 11 / 12) < 1e-3 and abs(ratios[1] - 1.0) < 1e-3))
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/case.py" "$folder/out" > /dev/null
