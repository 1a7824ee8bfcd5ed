"""A tiny GPT-2 from the transformers library, with random weights; its loss is computed inside the model.

unvanish check examples/huggingface_gpt2.py
"""

import torch

import unvanish

try:
    from transformers import GPT2Config, GPT2LMHeadModel
except ImportError:
    raise unvanish.UnvanishError(
        "this example needs the transformers library: pip install transformers (nothing is downloaded besides it)"
    ) from None

torch.manual_seed(0)
config = GPT2Config(
    vocab_size=128, n_positions=32, n_embd=64, n_layer=3, n_head=4, bos_token_id=0, eos_token_id=0,
    resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
)  # fmt: skip
model = GPT2LMHeadModel(config).train()
tokens = (torch.arange(32) + torch.randint(128, (8, 1))) % 128  # each row counts upwards from somewhere
batch = {"input_ids": tokens, "labels": tokens}  # a mapping: called as model(**batch); the output has a .loss
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
problem = unvanish.Problem(model, batch, optimizer=optimizer)


def main(steps: int = 50) -> None:
    """Train as usual."""
    for step in range(steps):
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        if step % 10 == 0:
            print(f"step {step}: loss {loss.item():.4f}")


if __name__ == "__main__":
    main()
