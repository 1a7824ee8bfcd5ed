"""Networks trained many at once, and the experiments that train: depth, remedies, bottom."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from unvanish import lab
from unvanish.lab import bottom, remedies
from unvanish.population.data import Images, images
from unvanish.population.designs import Design
from unvanish.population.initialisations import critical_variances
from unvanish.population.names import OPTIMIZERS
from unvanish.population.shape import Shape
from unvanish.population.training import MAKERS, Stack
from unvanish.population.tuning import LOWEST, Tuned, spread, tuned
from unvanish.records import UnvanishError

DESIGNS = (
    Design(3, 5),
    Design(4, 6, "tanh", "critical"),
    Design(3, 5, "relu", "he", skip=0.5),
    Design(3, 5, init="xavier", after=True, skip=1.0),
    Design(3, 5, norm="batch"),
    Design(3, 5, norm="layer"),
)


def some_data(count: int = 12, seed: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 8, generator=generator), torch.randint(3, (count,), generator=generator)


@pytest.mark.parametrize("design", DESIGNS)
def test_a_stack_does_what_each_of_its_networks_does(design):
    inputs, labels = some_data()
    networks = [design.build(8, 3, seed) for seed in range(3)]
    shape = Shape(
        design.hidden, design.width, 8, 3, design.activation, norm=design.norm, skip=design.skip > 0, after=design.after
    )
    drawn = [[p.detach() for p in network.parameters()] for network in networks]
    stack = Stack(shape, np.full(3, design.skip), drawn)
    losses = stack.differentiate(inputs, labels)
    for place, network in enumerate(networks):
        loss = F.cross_entropy(network(inputs), labels)
        loss.backward()
        assert float(losses[place]) == pytest.approx(float(loss.detach()), rel=1e-5)
        for (name, parameter), gradient in zip(network.named_parameters(), stack.gradients, strict=True):
            # a bias before a batch norm has gradient 0 but for rounding
            assert torch.allclose(gradient[place], parameter.grad, atol=4e-6, rtol=1e-4), name


@pytest.mark.parametrize("optimizer", LOWEST)
def test_tuning_is_that_of_a_loop_under_torchs_own_optimizers(optimizer):
    data = Images(some_data(40, 1), some_data(30, 2), some_data(30, 4))
    design = Design(2, 5, "tanh")
    told = []
    result = tuned(design, data, optimizer, rates=3, seeds=2, steps=21, batch=10, seed=7, progress=told.append)
    names = {title: name for name, title in OPTIMIZERS.items()}
    for row, rate in enumerate(result.rates):
        for place in range(2):
            network = design.build(8, 3, 7 + place)
            descent = MAKERS[names[optimizer]](network.parameters(), lr=rate)
            loss = torch.tensor(math.nan)
            for inputs, labels in data.batches(10, 21, 7):
                descent.zero_grad()
                loss = F.cross_entropy(network(inputs), labels)
                loss.backward()
                descent.step()
            assert result.losses[row][place] == pytest.approx(loss.item(), rel=2e-3)
            for scores, (inputs, labels) in ((result.chosen_by, data.choose), (result.judged, data.judge)):
                right = (network(inputs).argmax(-1) == labels).double().mean().item()
                assert scores[row][place] == pytest.approx(right, abs=1 / 30 + 1e-9)  # a tie may fall either way
    assert told == sorted(told) and told[0] == 0 and len(told) == 3


def test_building_follows_from_the_seed_and_leaves_torchs_generator_alone():
    before = torch.get_rng_state()
    built: list[Any] = [Design(2, 4).build(8, 3, seed) for seed in (1, 1, 2)]
    first, again, other = built
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first[0].linear.weight, again[0].linear.weight)
    assert not torch.equal(first[0].linear.weight, other[0].linear.weight)


@pytest.mark.parametrize("seed", [0, 1])
def test_centred_initialisation_is_a_network_of_centred_sigmoids(seed):
    """W = 4 W₀ and b = −½ Σ W after a sigmoid make it the same function as 4 (σ(z) − ½) with W₀ and no bias."""
    network = Design(5, 8, init="centred").build(8, 3, seed).double()
    linears = [m for m in network.modules() if isinstance(m, nn.Linear)]
    inputs = some_data()[0].double()
    signal = inputs @ linears[0].weight.T
    for linear in linears[1:]:
        signal = 4 * (torch.sigmoid(signal) - 0.5) @ (linear.weight / 4).T
    assert torch.allclose(network(inputs), signal, atol=1e-6)
    assert torch.allclose(linears[1].weight @ linears[1].weight.T / 16, torch.eye(8).double(), atol=1e-6)


@pytest.mark.parametrize(
    ("init", "variance"),
    [("xavier", 2 / 1600), ("he", 2 / 800), ("critical", 103.00755385551933 / 800), ("normal", 1 / 800)],
)
def test_variances_of_the_initialisations(init, variance):
    block: Any = Design(2, 800, init=init).build(4, 3, 0)[1]
    linear = block.linear  # from 800 units to 800
    assert float(linear.weight.detach().var()) == pytest.approx(variance, rel=0.01)
    assert float(linear.bias.detach().var()) == (pytest.approx(1.0, rel=0.1) if init == "normal" else 0.0)


def test_critical_variances_are_the_golden_ones(golden):
    numbers = golden("meanfield")
    root = numbers["sigmoid"]["zero_bias_roots"][0]
    assert critical_variances("sigmoid")[0] == pytest.approx(root["sigma_w2"], rel=1e-9)
    assert critical_variances("relu") == pytest.approx((2.0, 0.0), abs=1e-12)
    assert critical_variances("tanh") == pytest.approx((1.7609546396, 0.05), rel=1e-8)


def test_images_are_parted_without_overlap_and_every_pass_shows_each_once():
    data = images("mnist", count=200)
    sizes = [len(labels) for _, labels in (data.train, data.choose, data.judge)]
    assert sizes == [120, 40, 40] and (data.inputs, data.classes) == (784, 10)
    rows = torch.cat([data.train[0], data.choose[0], data.judge[0]])
    assert len(rows.unique(dim=0)) == 200
    batches = [labels.tolist() for _, labels in data.batches(40, 6, seed=1)]
    first, second = ([label for batch in some for label in batch] for some in (batches[:3], batches[3:]))
    assert sorted(first) == sorted(second) == sorted(data.train[1].tolist()) and first != second
    assert batches == [labels.tolist() for _, labels in data.batches(40, 6, seed=1)]


def test_digits_need_scikit_learn(monkeypatch):
    pytest.importorskip("sklearn")
    data = images("digits", count=1_000)
    assert data.inputs == 64 and 0.9 < float(data.train[0].max()) <= 1.0
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UnvanishError, match="scikit-learn is not installed"):
        images("digits")


def test_the_rate_is_chosen_by_images_that_do_not_judge():
    found = Tuned(
        (0.1, 1.0), chosen_by=((0.5, 0.7), (0.4, 0.9)), judged=((0.9, 0.9), (0.2, 0.3)), losses=((1, 1), (1, 1))
    )
    assert found.rate == 1.0 and found.scores == (0.2, 0.3)
    level = Tuned((0.1, 1.0), ((0.5,), (0.5,)), ((0.9,), (0.2,)), losses=((math.nan,), (2.0,)))
    assert level.rate == 1.0  # of equals the one whose loss is lower, and nan is not


def test_rates_span_three_decades():
    assert spread(0.01, 4) == pytest.approx((0.01, 0.1, 1.0, 10.0))
    assert spread(0.01, 1) == pytest.approx((10**-0.5,))


@pytest.mark.parametrize(
    ("score", "word"), [(0.1, "no"), (0.25, "no"), (0.27, "partly"), (0.73, "partly"), (0.75, "yes")]
)
def test_rescued_means_most_of_the_way(score, word):
    assert remedies._rescued(score, best_constant=0.1, shallow=0.9) == word
    assert remedies._rescued(score, best_constant=0.1, shallow=0.1) == "no"


def test_remedies_part_those_that_rescue_from_those_that_do_not():
    names = "sigmoid as is; Xavier init; centred init, Adam"
    outcome = lab.run("remedies", quick=True, only=names, seeds=1)
    rows = {row["remedy"]: row for row in outcome.rows}
    assert set(rows) == {"one hidden layer", *names.split("; ")}
    assert [row["accuracy"] for row in outcome.rows] == sorted((r["accuracy"] for r in outcome.rows), reverse=True)
    assert outcome.ok and rows["sigmoid as is"]["rescued"] == "no" and rows["centred init, Adam"]["rescued"] == "yes"
    assert (rows["sigmoid as is"]["verdict"], rows["centred init, Adam"]["verdict"]) == ("vanished", "healthy")
    assert rows["sigmoid as is"]["reaches"] < -15 < -1 < rows["centred init, Adam"]["reaches"]
    assert len(outcome.chart(0).svg()) > 1_000


def test_what_reaches_the_first_layer_is_the_ratio_of_the_error_signals():
    data = images("mnist", count=200)
    design = Design(4, 10)
    settings = lab.get("remedies").settle(seeds=1, seed=5)
    reaches, _ = remedies._at_start(design, data, settings)
    network: Any = design.build(784, 10, 5).double()
    inputs, labels = data.train[0][:100].double(), data.train[1][:100]
    first = network[0].linear(inputs)
    before_last = network[1:4](network[0].activation(first))
    last = network[4](before_last)
    signals = torch.autograd.grad(F.cross_entropy(last, labels), [first, last])
    assert reaches == pytest.approx(float((signals[0].norm() / signals[1].norm()).log10()), abs=1e-4)


def test_unknown_remedies_are_refused_before_anything_is_trained():
    with pytest.raises(UnvanishError, match=r"no remedy 'Xavier'; did you mean .*Xavier init"):
        lab.run("remedies", only="Xavier")


@pytest.mark.parametrize("request_type", [lab.Stopped, KeyboardInterrupt])
def test_a_stopped_training_keeps_its_finished_rows(request_type):
    def impatient(share: float, what: str) -> None:
        if what == "Adagrad" or what.startswith("2 hidden"):
            raise request_type

    small: dict[str, Any] = {"steps": 12, "seeds": 1, "rates": 2, "images": 150}
    outcome = lab.run("remedies", progress=impatient, hidden=3, only="sigmoid as is; Adagrad", **small)
    assert [row["remedy"] for row in outcome.rows if row["remedy"] != "one hidden layer"] == ["sigmoid as is"]
    assert "2 of 3 rows" in outcome.notes[0]
    outcome = lab.run("depth", progress=impatient, hidden=(1, 2), **small)
    assert {row["hidden"] for row in outcome.rows} == {1} and "6 of 12" in outcome.notes[0]


def test_progress_rises_to_one_and_the_same_settings_give_the_same_outcome():
    shares: list[float] = []
    settings: dict[str, Any] = {"hidden": (1, 2), "steps": 21, "seeds": 2, "rates": 2, "images": 150}
    outcome = lab.run("depth", progress=lambda share, what: shares.append(share), **settings)
    assert shares == sorted(shares) and 0 <= shares[0] < 0.1 and 0.9 < shares[-1] <= 1
    assert outcome.to_json() == lab.run("depth", **settings).to_json()


def test_depth_loses_plain_sigmoids_and_keeps_centred_ones():
    outcome = lab.run("depth", hidden=(1, 20), quick=True, seeds=1, steps=100)
    assert outcome.checks and outcome.ok
    plain = {row["hidden"]: row["accuracy"] for row in outcome.rows if row["kind"] == "sigmoid"}
    assert plain[20] < 0.2 < 0.6 < plain[1]
    assert [drawing.name for drawing in outcome.pictures] == ["speeds", "remedies", "remedies"]
    lines = outcome.pictures[0].data
    assert [row["hidden layers"] for row in lines] == [1, 20]
    assert [row["log10 sigmoid"] for row in lines] == pytest.approx([math.log10(plain[n]) for n in (1, 20)])


@pytest.mark.parametrize(("seed", "gradient"), [(0, 1e-6), (2, 1e-8), (6, 1e-3)])
def test_bottom_tells_the_five_places_apart(seed, gradient):
    outcome = lab.run("bottom", seed=seed, gradient=gradient)
    assert outcome.ok, [check for check in outcome.checks if not check.ok]
    rows = {row["place"]: row for row in outcome.rows}
    assert set(rows) == set(bottom.EXPECTED)
    for place in ("minimum", "local minimum"):
        assert rows[place]["gradient"] == pytest.approx(math.log10(gradient), abs=1e-3)
        assert rows[place]["distance"] < -2 and rows[place]["decrement"] < -6
    assert rows["minimum"]["loss"] < -6 < -5 < rows["local minimum"]["loss"]
    for place in ("plateau", "vanished"):
        assert rows[place]["distance"] > 2 and rows[place]["decrement"] > -2
    assert rows["saddle"]["gradient"] == -math.inf and rows["saddle"]["curvature"] is None


def test_the_local_minimum_is_one_and_not_the_best():
    task = bottom.Task.drawn(0)
    model, note = bottom.local_minimum(task, 0, 30, lambda share, what: None)
    assert model is not None and "all eigenvalues" in note
    shapes = [p.shape for p in model.parameters()]

    def loss(*parts: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(task.inputs @ parts[0].T + parts[1])
        return (hidden @ parts[2].T + parts[3] - task.targets).square().mean()

    parts = tuple(p.detach() for p in model.parameters())
    blocks = torch.autograd.functional.hessian(loss, parts)
    sizes = [math.prod(shape) for shape in shapes]
    rows = [torch.cat([b.reshape(size, -1) for b in row], 1) for size, row in zip(sizes, blocks, strict=True)]
    assert float(torch.linalg.eigvalsh(torch.cat(rows))[0]) > 0
    assert float(loss(*parts)) > 1e-4 > 1e-20 > float(task.loss(bottom.teacher(0)).detach())


def test_curvature_and_decrement_of_the_first_layer_follow_their_formulas():
    """½ gᵀ G⁺ g with the dense Gauss-Newton matrix, and h = vᵀ G v along the gradient."""
    task = bottom.Task.drawn(3)
    model: Any = bottom.small(8)
    row = bottom._row("start", model, task, 0)
    outputs = model(task.inputs).flatten()
    first = [model[0].weight, model[0].bias]
    jacobian = torch.stack(
        [torch.cat([g.flatten() for g in torch.autograd.grad(o, first, retain_graph=True)]) for o in outputs]
    )
    g = 2 / 64 * jacobian.T @ (outputs - task.targets.flatten()).detach()
    matrix = 2 / 64 * jacobian.T @ jacobian
    assert row["gradient"] == pytest.approx(float(g.norm().log10()), abs=1e-9)
    assert row["curvature"] == pytest.approx(float((g @ matrix @ g / (g @ g)).log10()), abs=1e-9)
    decrement = 0.5 * g @ torch.linalg.pinv(matrix, rtol=1e-6) @ g / task.constant
    assert row["decrement"] == pytest.approx(float(decrement.log10()), abs=1e-6)
