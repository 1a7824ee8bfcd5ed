"""Transformers as their library builds them: dict batches, the loss inside, tied weights; nothing is downloaded."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from unvanish.decide import decide
from unvanish.pipeline import look
from unvanish.problem import Problem

transformers: Any = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def gpt2(seed: int) -> Problem:
    torch.manual_seed(seed)
    config = transformers.GPT2Config(vocab_size=50, n_positions=16, n_embd=32, n_layer=3, n_head=2)
    tokens = torch.randint(50, (4, 12))
    return Problem(transformers.GPT2LMHeadModel(config), {"input_ids": tokens, "labels": tokens})


def bert(seed: int) -> Problem:
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=16, num_labels=3,
    )  # fmt: skip
    batch = {
        "input_ids": torch.randint(50, (4, 12)),
        "attention_mask": torch.ones(4, 12, dtype=torch.long),
        "labels": torch.randint(3, (4,)),
    }
    return Problem(transformers.BertForSequenceClassification(config), batch)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("make", [gpt2, bert])
def test_a_fresh_transformer_has_a_record_for_every_module_and_none_vanished(make: Any, seed: int) -> None:
    problem = make(seed)
    flow = decide(look(problem))
    names = {layer.name.partition("#")[0] for layer in flow.layers}
    model: Any = problem.model
    owners = {name for name, module in model.named_modules() if list(module.parameters(recurse=False))}
    assert names == owners
    assert not [layer.name for layer in flow.layers if layer.verdict in ("vanished", "exploding", "dead", "nonfinite")]
    assert all(layer.log10_grad_norm is not None for layer in flow.layers if layer.call is not None)
    assert flow.setting.batch_size == 4 and flow.setting.exact


@pytest.mark.parametrize("make", [gpt2, bert])
def test_its_gradients_are_autograds(make: Any) -> None:
    problem = make(0)
    model = problem.model.double().eval()  # the same dropout-free pass twice
    flow = look(problem)
    problem.loss(problem.outputs(model)).backward()
    for layer in flow.layers:
        if layer.call is None:
            continue
        module = model.get_submodule(layer.name.partition("#")[0])
        norm = math.sqrt(sum(float(p.grad.norm()) ** 2 for p in module.parameters(recurse=False)))
        assert layer.log10_grad_norm == pytest.approx(math.log10(norm), abs=1e-9), layer.name


def test_the_head_of_a_gpt2_is_tied_with_its_embedding() -> None:
    problem = gpt2(0)
    model: Any = problem.model
    assert model.lm_head.weight is model.transformer.wte.weight
    by_name = {layer.name: layer for layer in look(problem).layers}
    head, embedding = by_name["lm_head"], by_name["transformer.wte"]
    assert head.call is not None and embedding.call is not None and head.call > embedding.call
    assert head.log10_grad_norm == embedding.log10_grad_norm  # one parameter, one gradient


def test_the_trunk_is_the_residual_stream() -> None:
    """Token plus position embedding, then two adds a block, the last norm, the head and the loss."""
    calls = [call for call in look(gpt2(0)).calls if call.trunk]
    adds = [call for call in calls if call.name in ("add", "add_", "__add__", "__radd__")]
    assert len(adds) == 1 + 2 * 3
    assert [call.module for call in adds[1:]] == [f"transformer.h.{k}" for k in (0, 0, 1, 1, 2, 2)]
    modules = [call.module for call in calls]
    assert "transformer.ln_f" in modules and "lm_head" in modules
