"""The last activation of models that compute their own loss: taken away where it does not fit, and only there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import unvanish
from unvanish.preserve import seeded
from unvanish.problem import Problem
from unvanish.remedies import Draft, Refused, get


class OwnLoss(nn.Module):
    """A layer, an activation, and a loss of whatever kind."""

    def __init__(self, last: nn.Module, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.last, self.loss = nn.Linear(6, 4), last, loss

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.loss(self.last(self.layer(x)), y)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


LABELS = torch.arange(16) % 4
ONE_HOT = F.one_hot(LABELS, 4).float()


def draft_of(last: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], targets: Tensor = LABELS) -> Draft:
    with seeded(1):
        model = OwnLoss(last, loss)
    return Draft.of(Problem(model, (random(16, 6), targets)), model, None)


@pytest.mark.parametrize(
    ("last", "loss", "targets", "wanted"),
    [
        (nn.Softmax(-1), F.cross_entropy, LABELS, lambda z, y: F.cross_entropy(z, y)),
        (nn.ReLU(), lambda z, y: F.cross_entropy(z.view(-1, 4), y.view(-1)), LABELS, F.cross_entropy),
        (nn.Softmax(-1), lambda z, y: F.cross_entropy(z.reshape(-1, 4), y), LABELS, F.cross_entropy),
        (nn.Sigmoid(), F.binary_cross_entropy_with_logits, ONE_HOT, F.binary_cross_entropy_with_logits),
        (nn.Softmax(-1), F.nll_loss, LABELS, F.cross_entropy),
        (nn.ReLU(), F.mse_loss, random(16, 4, seed=5), F.mse_loss),
        (nn.ReLU(), lambda z, y: ((z - y) ** 2).mean(), random(16, 4, seed=5), F.mse_loss),
    ],
)
def test_an_activation_that_does_not_fit_the_loss_is_taken_away(
    last: nn.Module, loss: Any, targets: Tensor, wanted: Any
) -> None:
    draft = draft_of(last, loss, targets)
    model: Any = draft.model
    z = model.layer(draft.inputs[0])
    get("output-layer").apply(draft)
    assert torch.allclose(draft.model(*draft.inputs), wanted(z, targets))


@pytest.mark.parametrize(
    ("last", "loss", "targets"),
    [
        (nn.LogSoftmax(-1), F.nll_loss, LABELS),
        (nn.Identity(), F.cross_entropy, LABELS),
        (nn.Sigmoid(), F.binary_cross_entropy, ONE_HOT),
        (nn.Softmax(-1), lambda p, y: -(y * p.log()).sum(1).mean(), ONE_HOT),
        (nn.Sigmoid(), lambda p, y: -(y * p.log() + (1 - y) * (1 - p).log()).mean(), ONE_HOT),
        (nn.Identity(), lambda z, y: torch.relu(1.0 - z * (2.0 * y - 1.0)).mean(), ONE_HOT),
        (nn.Softplus(), lambda r, y: (r - y * r.log()).mean(), ONE_HOT),
    ],
)
def test_a_loss_that_fits_or_is_not_understood_keeps_it(last: nn.Module, loss: Any, targets: Tensor) -> None:
    with pytest.raises(Refused, match="computes its own loss"):
        get("output-layer").apply(draft_of(last, loss, targets))


@pytest.mark.slow
def test_the_head_of_a_hugging_face_model_is_reached() -> None:
    """A softmax in the classifier, in front of the cross-entropy that the library computes."""
    transformers: Any = pytest.importorskip("transformers")

    def build() -> nn.Module:
        config = transformers.BertConfig(
            vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
            max_position_embeddings=8, num_labels=3, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )  # fmt: skip
        model = transformers.BertForSequenceClassification(config)
        model.classifier = nn.Sequential(model.classifier, nn.Softmax(-1))
        return model

    words = torch.randint(3, 20, (96, 6), generator=torch.Generator().manual_seed(0))
    labels = words[:, 0] % 3
    words[:, 0] = labels  # one word for each class
    batches = [{"input_ids": words[i : i + 32], "labels": labels[i : i + 32]} for i in range(0, 96, 32)]
    problem = Problem(
        build, batches[0], optimizer=lambda p: torch.optim.Adam(p, 3e-3), train_batches=batches, steps=160
    )
    model, optimizer = problem.build(0)
    draft = Draft.of(problem, model, optimizer)
    get("output-layer").apply(draft)
    found, there = draft.model(**batches[0]), model(**batches[0])
    assert torch.allclose(found.logits.softmax(-1), there.logits, atol=1e-6)
    assert torch.allclose(found.loss, F.cross_entropy(found.logits, batches[0]["labels"]))
    fixes = unvanish.fix(problem, seeds=2, anyway=True)
    assert any("output-layer" in trial.edits for trial in fixes.trials)
