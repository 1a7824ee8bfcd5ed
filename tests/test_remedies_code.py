"""Remedies on networks of every build: what they reach, leave alone or refuse, and the code they hand over."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish import zoo
from unvanish.preserve import seeded
from unvanish.problem import Problem
from unvanish.records import UnvanishError
from unvanish.remedies import Draft, Refused, get, remedies, script


def draft_of(model: nn.Module, inputs: Any, targets: Any = None, loss_fn: Any = None, **more: Any) -> Draft:
    if loss_fn is None:
        loss_fn = F.cross_entropy
    if targets is None:
        targets = torch.randint(3, (len(inputs),), generator=torch.Generator().manual_seed(5))
    problem = Problem(model, inputs, targets, loss_fn)
    return Draft.of(problem, model, None, **more)


def hidden_kinds(model: nn.Module) -> list[str]:
    return [type(module).__name__ for module in model.modules() if not list(module.children())]


class Functional(nn.Module):
    """Activations as functions, one of them on the output; another function in a block of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 3)
        self.block = FunctionalBlock()

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        return torch.sigmoid(self.last(self.block(x)))


class FunctionalBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        y = self.inner(x).relu_()
        return y if mask is None else y * mask


class SharedInForward(nn.Module):
    """One activation module for a hidden layer and for the output."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.act = nn.Linear(8, 8), nn.Linear(8, 3), nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.b(self.act(self.a(x))))


class DataDependent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        return self.b(torch.sigmoid(h) if h.sum() > 0 else torch.relu(h))


class ModeDependent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.dropout(torch.relu(self.a(x)), 0.5, self.training))


class FrozenNoise(nn.Module):
    """Draws noise that a trace would freeze."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)) + torch.randn(8))


class Gated(nn.Module):
    """Squeeze and excitation: the sigmoid is a gate, the ReLU an activation."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.act, self.gate, self.sigmoid, self.b = (
            nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.Sigmoid(), nn.Linear(8, 3),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(self.a(x))
        return self.b(h * self.sigmoid(self.gate(h)))


class Convolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.Sigmoid(), nn.Conv2d(4, 4, 3, padding=1), nn.Sigmoid(), nn.MaxPool2d(2),
        )  # fmt: skip
        self.head = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).flatten(1))


def transformer() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    return nn.Sequential(nn.TransformerEncoder(layer, 2), nn.Flatten(), nn.Linear(32, 3))


ROWS = torch.randn(16, 8, generator=torch.Generator().manual_seed(1))
IMAGES = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(2))
SEQUENCES = torch.randn(6, 4, 8, generator=torch.Generator().manual_seed(3))
NETWORKS: dict[str, tuple[Any, Tensor]] = {
    "sequential": (lambda: nn.Sequential(*[nn.Linear(8, 8), nn.Sigmoid()] * 1, *deep(3), nn.Linear(8, 3)), ROWS),
    "functional": (Functional, ROWS),
    "shared": (SharedInForward, ROWS),
    "gated": (Gated, ROWS),
    "convolutional": (Convolutional, IMAGES),
    "transformer": (transformer, SEQUENCES),
    "with a norm": (lambda: nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(True), nn.Linear(8, 3)), ROWS),
}


def deep(depth: int) -> list[nn.Module]:
    return [module for _ in range(depth) for module in (nn.Linear(8, 8), nn.Sigmoid())]


def state(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.state_dict())


@pytest.mark.parametrize("slug", [each.slug for each in remedies() if each.slug not in ("tat", "dks")])
@pytest.mark.parametrize("network", NETWORKS)
def test_the_code_alone_makes_the_same_model(network: str, slug: str) -> None:
    """Bit for bit: the same weights, outputs and loss as the draft's, and the draft's original stays as it was."""
    build, inputs = NETWORKS[network]
    with seeded(7):
        original = build()
    before = copy.deepcopy(original)
    draft = draft_of(original, inputs, seed=3)
    try:
        change = get(slug).apply(draft)
    except Refused as refused:
        assert str(refused)
        assert all(torch.equal(a, b) for a, b in zip(state(draft.model).values(), state(before).values(), strict=True))
        return
    text = script([change], draft.recipe, draft.model)
    assert "unvanish" not in text
    names: dict[str, Any] = {"model": copy.deepcopy(before), "loss_fn": F.cross_entropy, "restore_outputs": None}
    names |= {"inputs": inputs, "targets": draft.targets, "sample_inputs": inputs, "sample_targets": draft.targets}
    exec(compile(text, "handed over", "exec"), names)
    made = names["model"]
    assert state(made).keys() == state(draft.model).keys()
    assert all(torch.equal(a, b) for a, b in zip(state(made).values(), state(draft.model).values(), strict=True))
    for training in (True, False):
        for each in (made, draft.model):
            each.train(training)
        with seeded(0):
            here = made(inputs)
        with seeded(0):
            there = draft.model(inputs)
        assert torch.equal(here, there)
        assert torch.equal(names["loss_fn"](here, draft.targets), draft.loss_fn(there, draft.targets))  # type: ignore[misc]
    built, handed = draft.recipe.build(draft.model.parameters()), names["optimizer"]
    assert (type(built), built.defaults) == (type(handed), handed.defaults)
    assert handed.param_groups[0]["lr"] == built.param_groups[0]["lr"] * draft.recipe.rate(0)
    assert all(torch.equal(a, b) for a, b in zip(state(original).values(), state(before).values(), strict=True))


def test_functional_activations_are_swapped_and_the_output_is_kept() -> None:
    draft = draft_of(Functional(), ROWS)
    change = get("activation-tanh").apply(draft)
    assert set(change.edits) == {"", "block"}
    assert hidden_kinds(draft.model).count("Tanh") == 2
    a, inner, last = (draft.model.get_submodule(path) for path in ("first", "block.inner", "last"))
    expected = torch.sigmoid(last(torch.tanh(inner(torch.tanh(a(ROWS))))))
    assert torch.equal(draft.model(ROWS), expected)


def test_one_module_for_hidden_layers_and_the_output_is_split() -> None:
    draft = draft_of(SharedInForward(), ROWS)
    get("activation-tanh").apply(draft)
    model: Any = draft.model
    assert torch.equal(model(ROWS), torch.sigmoid(model.b(torch.tanh(model.a(ROWS)))))


def test_one_module_in_several_places_of_a_sequential_is_split() -> None:
    act = nn.Sigmoid()
    draft = draft_of(nn.Sequential(nn.Linear(8, 8), act, nn.Sequential(nn.Linear(8, 3), act)), ROWS)
    get("activation-selu").apply(draft)
    assert re.findall(r"SELU|Sigmoid", repr(draft.model)) == ["SELU", "Sigmoid"]


def test_gates_are_no_activations() -> None:
    draft = draft_of(Gated(), ROWS)
    get("activation-tanh").apply(draft)
    model: Any = draft.model
    assert (type(model.act), type(model.sigmoid)) == (nn.Tanh, nn.Sigmoid)


def test_the_activation_inside_a_transformer_layer_is_swapped_in_both_modes() -> None:
    draft = draft_of(transformer(), SEQUENCES)
    get("activation-tanh").apply(draft)
    layer: Any = draft.model.get_submodule("0.layers.1")
    assert type(layer.activation) is nn.Tanh
    with torch.no_grad():
        trained, evaluated = draft.model(SEQUENCES), draft.model.eval()(SEQUENCES)
    assert torch.allclose(trained, evaluated, atol=1e-5)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (DataDependent, "cannot trace"),
        (ModeDependent, "self.training"),
        (FrozenNoise, "something else than it does"),
    ],
)
def test_what_a_trace_would_falsify_is_refused_with_the_reason(build: Any, words: str) -> None:
    draft = draft_of(build(), ROWS)
    before = draft.model
    with pytest.raises(Refused, match=words):
        get("activation-tanh").apply(draft)
    assert draft.model is before


def test_pretrained_weights_are_kept_unless_the_draft_says_otherwise() -> None:
    plain, recurrent = nn.Sequential(*deep(2), nn.Linear(8, 3)), nn.Sequential(nn.LSTM(8, 8))
    inits = [each for each in remedies() if each.kind == "init" and each.slug != "zero-factors"]  # zeros keep nothing
    assert len(inits) == 10
    for each in inits:
        model = recurrent if each.only_for else plain
        with pytest.raises(Refused, match=r"pretrained|have seen training and are kept"):
            get(each.slug).apply(draft_of(model, ROWS, pretrained=True))


def test_tied_and_frozen_weights_are_left_alone_and_said() -> None:
    problem = zoo.get("small-gpt").build(0)
    model, optimizer = problem.build(0)
    draft_of_gpt = Draft.of(problem, model, optimizer)
    tied = copy.deepcopy(draft_of_gpt.model.get_parameter("head.weight"))
    change = get("xavier-init").apply(draft_of_gpt)
    assert "1 tied left alone" in change.sentence
    assert torch.equal(draft_of_gpt.model.get_parameter("head.weight"), tied)
    frozen = nn.Sequential(nn.Linear(8, 8).requires_grad_(False), nn.ReLU(), nn.Linear(8, 3))
    draft = draft_of(frozen, ROWS)
    change = get("he-init").apply(draft)
    assert change.edits == ("2",)
    assert "1 frozen left alone" in change.sentence


def test_images_get_batchnorm_of_channels_and_sequences_layernorm() -> None:
    draft = draft_of(Convolutional(), IMAGES)
    change = get("batchnorm").apply(draft)
    assert change.edits == ("features.0", "features.2")
    assert hidden_kinds(draft.model).count("BatchNorm2d") == 2
    with pytest.raises(Refused, match="sequences"):
        get("batchnorm").apply(draft_of(nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1), nn.Flatten(),
                                                      nn.Linear(4, 3)), SEQUENCES))  # fmt: skip


def test_residual_wrapping_of_a_forward_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(Refused, match=r"torch\.fx cannot trace"):
        get("residual").apply(draft_of(DataDependent(), ROWS))


def test_groups_of_parameters_keep_their_settings_through_a_change() -> None:
    model = nn.Sequential(*deep(2), nn.Linear(8, 3))
    groups = [{"params": model[:4].parameters(), "lr": 0.1}, {"params": model[4].parameters(), "lr": 0.01}]
    problem = Problem(model, ROWS, torch.zeros(16, dtype=torch.long), F.cross_entropy, torch.optim.SGD(groups))
    draft = Draft.of(problem, *problem.build())
    get("layernorm").apply(draft)
    get("lr-10").apply(draft)
    built = draft.recipe.build(draft.model.parameters())
    settings = [(group["lr"], len(group["params"])) for group in built.param_groups]
    assert settings == [(pytest.approx(1.0), 8), (pytest.approx(0.1), 2)]


@pytest.mark.parametrize("slugs", [("layernorm", "lr-10"), ("residual", "warmup"), ("lr-0.1",)])
def test_the_code_alone_makes_the_same_groups_of_parameters(slugs: tuple[str, ...]) -> None:
    """By name, in a model whose modules stand elsewhere after the change."""
    model = nn.Sequential(*deep(2), nn.Linear(8, 3))
    parts = [model[:2].parameters(), model[2:4].parameters(), model[4].parameters()]
    rates = ({"lr": 0.1}, {"lr": 0.01, "weight_decay": 0.5}, {"lr": 0.02, "momentum": 0.9})
    groups = [{"params": part, **settings} for part, settings in zip(parts, rates, strict=True)]
    problem = Problem(model, ROWS, torch.zeros(16, dtype=torch.long), F.cross_entropy, torch.optim.SGD(groups))
    draft = Draft.of(problem, *problem.build())
    changes = [get(slug).apply(draft) for slug in slugs]
    names: dict[str, Any] = {"model": copy.deepcopy(model), "loss_fn": F.cross_entropy, "inputs": ROWS}
    exec(script(changes, draft.recipe, draft.model), names)
    handed, built = names["optimizer"], draft.recipe.build(draft.model.parameters())
    warm = draft.recipe.rate(0)  # the scheduler of the handed optimizer stands before its first step
    for mine, theirs in zip(handed.param_groups, built.param_groups, strict=True):
        assert mine["lr"] == pytest.approx(theirs["lr"] * warm)
        assert (mine["weight_decay"], mine["momentum"]) == (theirs["weight_decay"], theirs["momentum"])
        assert [p.shape for p in mine["params"]] == [p.shape for p in theirs["params"]]
    paths = [{id(p): path for path, p in each.named_parameters()} for each in (names["model"], draft.model)]
    for mine, theirs in zip(handed.param_groups, built.param_groups, strict=True):
        assert [paths[0][id(p)] for p in mine["params"]] == [paths[1][id(p)] for p in theirs["params"]]


def test_a_model_that_cannot_be_copied_says_what_to_pass() -> None:
    layer = nn.Linear(8, 3)
    model = nn.Sequential(layer)
    model.register_buffer("made", layer.weight * 2)  # not a leaf: torch refuses to copy it
    with pytest.raises(UnvanishError, match="a function that builds the model"):
        draft_of(model, ROWS)


def test_two_changes_in_a_row_make_one_script() -> None:
    model = nn.Sequential(*deep(3), nn.Linear(8, 3))
    draft = draft_of(model, ROWS, seed=1)
    changes = [get("residual").apply(draft), get("orthogonal-init").apply(draft)]
    names: dict[str, Any] = {"model": copy.deepcopy(model), "loss_fn": F.cross_entropy}
    exec(script(changes, draft.recipe, draft.model), names)
    assert torch.equal(names["model"](ROWS), draft.model(ROWS))


def test_a_softmax_between_layers_is_an_activation_and_missing_ones_are_put_in() -> None:
    draft = draft_of(nn.Sequential(nn.Linear(8, 8), nn.Softmax(1), nn.Linear(8, 3)), ROWS)
    get("activation-tanh").apply(draft)
    assert hidden_kinds(draft.model) == ["Linear", "Tanh", "Linear"]
    draft = draft_of(nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.1), nn.Linear(8, 8), nn.Linear(8, 3)), ROWS)
    assert get("activation-relu").apply(draft).edits == ("0", "2")
    assert hidden_kinds(draft.model) == ["Linear", "ReLU", "Dropout", "Linear", "ReLU", "Linear"]


def test_a_wrapped_model_is_refused_with_what_to_give() -> None:
    with pytest.raises(UnvanishError, match=r"model\.module"):
        draft_of(nn.DataParallel(nn.Linear(8, 3)), ROWS)


def test_statistics_are_taken_from_the_training_batches() -> None:
    batches = [(ROWS[:4] + i, torch.zeros(4, dtype=torch.long)) for i in range(3)]
    problem = Problem(nn.Linear(8, 3), ROWS, torch.zeros(16).long(), F.cross_entropy, train_batches=batches)
    draft = Draft.of(problem, *problem.build())
    assert torch.equal(draft.sample_inputs, torch.cat([inputs for inputs, _ in batches]))
    assert draft.sample_targets.shape == (12,)
    uneven = [(ROWS, torch.zeros(16)), (ROWS[:, :4], torch.zeros(16))]
    draft = Draft.of(Problem(nn.Linear(8, 3), ROWS, torch.zeros(16).long(), F.cross_entropy, train_batches=uneven),
                     nn.Linear(8, 3), None)  # fmt: skip
    assert draft.sample_inputs is ROWS
