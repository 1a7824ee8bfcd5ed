"""The error signal along the steps of a sequence: its numbers against float64 autograd, and what is said of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import unvanish
from unvanish.evidence.dependence import dependence
from unvanish.problem import Problem
from unvanish.records import TimeFacts
from unvanish.report import Report
from unvanish.report.through_time import bars

SEEDS = range(3)
STEPS, SAMPLES, UNITS = 60, 24, 12
PARTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
LAYERS: dict[str, dict[str, Any]] = {
    "LSTM": {},
    "GRU": {},
    "RNN": {},
    "RNN relu": {"nonlinearity": "relu"},
    "LSTM two layers": {"num_layers": 2},
    "GRU both ways": {"bidirectional": True},
    "LSTM both ways, two layers": {"bidirectional": True, "num_layers": 2},
    "LSTM projected": {"proj_size": 5},
    "GRU time first": {"batch_first": False},
    "RNN without bias": {"bias": False},
}


class Reader(nn.Module):
    """A recurrent layer; the head reads its last step."""

    def __init__(self, kind: str, features: int = 1, **options: Any) -> None:
        super().__init__()
        self.first = options.setdefault("batch_first", True)
        self.read = getattr(nn, kind)(features, UNITS, **options)
        width = (options.get("proj_size") or UNITS) * (2 if options.get("bidirectional") else 1)
        self.head = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        given = self.read(x if self.first else x.transpose(0, 1))[0]
        return self.head(given[:, -1] if self.first else given[-1])


class Loop(nn.Module):
    """A recurrence written by hand."""

    def __init__(self, taken: str) -> None:
        super().__init__()
        self.taken = taken
        self.fed, self.back, self.head = nn.Linear(1, UNITS), nn.Linear(UNITS, UNITS), nn.Linear(UNITS, 1)

    def steps(self, x: Tensor) -> Any:
        if self.taken == "unbind":
            return x.unbind(1)
        if self.taken == "time first":
            return x.transpose(0, 1)
        return (x[:, step] for step in range(x.shape[1]))

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), UNITS)
        for each in self.steps(x):
            h = torch.tanh(self.fed(each) + self.back(h))
        return self.head(h)


class Cells(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.cell, self.head = getattr(nn, kind)(1, UNITS), nn.Linear(UNITS, 1)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for each in x.unbind(1):
            state = self.cell(each, state)
        return self.head(state[0] if isinstance(state, tuple) else state)


def model_of(name: str) -> nn.Module:
    if name.startswith("loop "):
        return Loop(name.removeprefix("loop "))
    return Cells(name) if name.endswith("Cell") else Reader(name.split()[0], **LAYERS[name])


ALL = [*LAYERS, "loop index", "loop unbind", "loop time first", "LSTMCell", "GRUCell", "RNNCell"]


def reading(
    name: str,
    seed: int,
    steps: int = STEPS,
    place: int = 0,
    make: Callable[[str], nn.Module] = model_of,
    many: int = SAMPLES,
) -> Problem:
    """The number that stood at ``place`` is wanted."""
    torch.manual_seed(seed)
    model, x = make(name), torch.randn(many, steps, 1)
    return Problem(model, x, x[:, place].clone(), F.mse_loss, torch.optim.Adam(model.parameters()))


def time_of(problem: Problem, effort: str = "auto") -> TimeFacts:
    (facts,) = unvanish.diagnose(problem, effort=effort).time
    assert not facts.why
    return facts


def levels(report: Report) -> list[str]:
    return [finding.level for finding in report.findings if finding.code == "UV102"]


def in_double(problem: Problem) -> list[float]:
    """log10 of the norm of the loss's derivative by the inputs of each step, beside the last tenth, by autograd."""
    model = problem.model.double()
    x = problem.inputs.double().requires_grad_()
    (gradient,) = torch.autograd.grad(F.mse_loss(model(x), problem.targets.double()), x)
    return beside_the_last([float(step.norm().log10()) for step in gradient.unbind(1)])


def beside_the_last(signal: list[float]) -> list[float]:
    scale = max(signal[-(len(signal) // 10) :])
    return [each - scale for each in signal]


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", ALL)
def test_the_signal_at_the_inputs_is_that_of_autograd_in_double(name: str, seed: int) -> None:
    facts = time_of(reading(name, seed))
    assert facts.at == tuple(range(STEPS)) and facts.steps == STEPS
    assert facts.log10_loss_signal == pytest.approx(in_double(reading(name, seed)), abs=1e-3)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN", "RNN relu", "LSTM two layers", "GRU both ways"])
def test_the_signal_at_the_states_is_that_of_an_unrolled_network_in_double(name: str, seed: int) -> None:
    problem = reading(name, seed, many=1)  # one output of one sample: the random error at it is a factor
    facts = time_of(problem)
    assert not facts.states_unseen
    assert facts.log10_state == pytest.approx(by_hand(problem.model.double(), problem.inputs.double()), abs=1e-3)


def by_hand(model: Any, x: Tensor) -> list[float]:
    """The derivative of the output by all states of each step, from the equations of torch's documentation."""
    read, flow = model.read, list(x.unbind(1))
    states: list[list[Tensor]] = [[] for _ in flow]
    for layer in range(read.num_layers):
        sides = []
        for end in ["", "_reverse"][: 2 if read.bidirectional else 1]:
            w, u, b, c = (
                getattr(read, f"{part}_l{layer}{end}") for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            h = memory = torch.zeros(1, UNITS, dtype=torch.float64)
            given: dict[int, Tensor] = {}
            for step in reversed(range(len(flow))) if end else range(len(flow)):
                fed, back = flow[step] @ w.T + b, h @ u.T + c
                if read.mode == "LSTM":
                    i, f, g, o = (fed + back).chunk(4, 1)
                    memory = f.sigmoid() * memory + i.sigmoid() * g.tanh()
                    states[step].append(memory)
                    h = o.sigmoid() * memory.tanh()
                elif read.mode == "GRU":
                    (r, z, n), (rr, zz, nn_) = fed.chunk(3, 1), back.chunk(3, 1)
                    z = (z + zz).sigmoid()
                    h = (1 - z) * (n + (r + rr).sigmoid() * nn_).tanh() + z * h
                else:
                    h = (fed + back).relu() if read.mode == "RNN_RELU" else (fed + back).tanh()
                states[step].append(h)
                given[step] = h
            sides.append(given)
        flow = [torch.cat([side[step] for side in sides], 1) for step in range(len(flow))]
    out = model.head(flow[-1])
    torch.testing.assert_close(out, model(x))
    found = torch.autograd.grad(out.sum(), [t for step in states for t in step], allow_unused=True)
    each = len(found) // len(states)
    norms = [
        math.sqrt(sum(float(g.square().sum()) for g in found[k * each : (k + 1) * each] if g is not None))
        for k in range(len(states))
    ]
    return beside_the_last([math.log10(n) for n in norms])


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("seed", SEEDS[:2])
@pytest.mark.parametrize("name", [*ALL, "packed", "packed and padded", "by keyword"])
def test_a_target_that_stood_too_far_back_is_an_error(name: str, seed: int) -> None:
    report = unvanish.diagnose(far_back(name, seed))
    assert report.verdict == "vanished" and "error" in levels(report)
    facts = report.time[0]
    assert facts.horizon is not None and facts.horizon < 50 and facts.beyond is not None and facts.beyond > 0.8


def far_back(name: str, seed: int, place: int = 0) -> Problem:
    if name in ALL:
        return reading(name, seed, 150, place, many=64)
    torch.manual_seed(seed)
    model, x = Varied(name), torch.randn(64, 150, 1)
    lengths = torch.randint(110, 151, (64,))
    wanted = x[:, 0] if place == 0 else x[torch.arange(64), lengths + place]
    given = (x,) if name == "by keyword" else (x, lengths)
    return Problem(model, given, wanted, F.mse_loss, torch.optim.Adam(model.parameters()))


class Varied(nn.Module):
    """An LSTM that is called as people call it."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.read, self.head = how, nn.LSTM(1, UNITS, batch_first=True), nn.Linear(UNITS, 1)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        if lengths is None:
            begin = x.new_zeros(1, len(x), UNITS)
            return self.head(self.read(input=x, hx=(begin, begin))[0][:, -1])
        packed, state = self.read(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))
        if self.how == "packed":
            return self.head(state[0][-1])
        return self.head(pad_packed_sequence(packed, batch_first=True)[0][torch.arange(len(x)), lengths - 1])


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("seed", SEEDS[:2])
@pytest.mark.parametrize("name", [*ALL, "packed", "packed and padded"])
def test_a_target_within_reach_is_no_error(name: str, seed: int) -> None:
    assert "error" not in levels(unvanish.diagnose(far_back(name, seed, place=-3)))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", ALL)
def test_a_short_sequence_is_quiet(name: str, seed: int) -> None:
    assert not levels(unvanish.diagnose(reading(name, seed, 10, place=-3)))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_target_spread_over_all_steps_is_no_error(seed: int) -> None:
    problem = reading("LSTM", seed, 100, many=128)
    problem = Problem(problem.model, problem.inputs, problem.inputs.mean(1), F.mse_loss, problem.optimizer)
    assert levels(unvanish.diagnose(problem)) == ["note"]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("what", ["sum", "sign", "word"])
def test_what_is_asked_may_be_a_sum_a_class_or_a_word(what: str, seed: int) -> None:
    torch.manual_seed(seed)
    if what == "word":
        words = torch.randint(0, 8, (96, 100))
        model: nn.Module = Words()
        problem = Problem(model, words, words[:, 2], F.cross_entropy, torch.optim.Adam(model.parameters()))
    else:
        model, x = Reader("LSTM"), torch.randn(64, 100, 1)
        if what == "sign":
            model.head = nn.Linear(UNITS, 2)
        asked = x[:, :8].sum(1) if what == "sum" else (x[:, 0, 0] > 0).long()
        loss = F.mse_loss if what == "sum" else F.cross_entropy
        problem = Problem(model, x, asked, loss, torch.optim.Adam(model.parameters()))
    assert "error" in levels(unvanish.diagnose(problem))


class Words(nn.Module):
    """Words in, and what stood at some place out."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.read, self.head = nn.Embedding(8, 6), nn.GRU(6, UNITS, batch_first=True), nn.Linear(UNITS, 8)

    def forward(self, words: Tensor) -> Tensor:
        return self.head(self.read(self.embed(words))[1][-1])


def test_a_recurrent_layer_whose_steps_were_not_seen_is_not_called_healthy() -> None:
    class Hidden(Reader):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.read.forward(x)[0][:, -1])

    report = unvanish.diagnose(reading("", 0, 10, make=lambda _: Hidden("LSTM")))
    assert [layer.verdict for layer in report.layers] == ["undecided", "healthy"]
    assert report.time[0].why == "its calls were not seen"


def test_a_network_without_a_sequence_has_no_time_axis() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 144, 4))
    report = unvanish.diagnose(model, torch.randn(8, 3, 12, 12), torch.arange(8) % 4, F.cross_entropy)
    assert report.time == () and '"time"' not in report.to_json()


@pytest.mark.parametrize("seed", SEEDS)
def test_convolutions_end_where_their_field_does(seed: int) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv1d(1, 6, 5), nn.Tanh(), nn.Conv1d(6, 6, 5), nn.Tanh(), Last(), nn.Linear(6, 1))
    x = torch.randn(64, 1, 40)
    report = unvanish.diagnose(model, x, x[:, :, 0], F.mse_loss)
    (facts,) = report.time
    assert [at for at, s in zip(facts.at, facts.log10_signal, strict=True) if s != -math.inf] == list(range(31, 40))
    assert facts.horizon == 9 and levels(report) == ["error"]


class Last(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[..., -1]


@pytest.mark.parametrize("seed", SEEDS)
def test_dependence_on_one_number_is_the_squared_correlation(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(30, 80, 1, generator=generator, dtype=torch.float64)
    asked = inputs[4] + 0.7 * torch.randn(80, 1, generator=generator, dtype=torch.float64)
    told = dependence(inputs, asked, range(20), seed)
    assert told is not None
    squared = [float(torch.corrcoef(torch.cat([step, asked], 1).T)[0, 1]) ** 2 for step in inputs]
    assert told.beyond == pytest.approx(squared[4]) and told.beyond_chance <= 0.01
    assert told.within >= max(squared[20:]) - 1e-12


def test_dependence_is_found_by_chance_as_often_as_it_says() -> None:
    generator = torch.Generator().manual_seed(0)
    chances = []
    for seed in range(60):
        told = dependence(
            torch.randn(20, 32, 1, generator=generator), torch.randn(32, 1, generator=generator), range(10), seed
        )
        assert told is not None
        chances.append(told.beyond_chance)
    assert (
        1 <= sum(chance <= 0.2 for chance in chances) <= 15
    )  # 6 of 60 by chance, within four standard deviations: the best of ten of twenty


def test_nothing_is_left_on_the_modules() -> None:
    problem = reading("LSTM two layers", 0)
    unvanish.diagnose(problem)
    read: Any = problem.model.read
    assert not read._forward_hooks and not read._forward_pre_hooks and not read._forward_pre_hooks_with_kwargs


def test_the_report_shows_the_bars_and_its_json_comes_back() -> None:
    report = unvanish.diagnose(reading("LSTM", 0))
    (facts,) = report.time
    assert Report.from_json(report.to_json()) == report
    drawn = bars(facts, 40)
    assert len(drawn) == 40 and drawn[0] == "▁" and drawn[-1] == "█"
    assert "The error signal on its way back through time" in str(report)
    assert f"a thousandth is left after {facts.horizon} steps" in " ".join(str(report).split())


def test_the_bars_of_numbers_that_are_known() -> None:
    """From -8 to 0 in eighths: nothing arrives, not measured, the lowest, the middle, the highest, infinite."""
    signal = (-math.inf, None, -8.0, -4.0, 0.0, math.inf)
    facts = TimeFacts(layer="", kind="unbind", steps=6, log10_signal=signal)
    assert bars(facts, 6) == "·▁▁▅██"
    assert bars(facts, 3) == "▁▃█"  # two steps each: their mean
    assert bars(facts.replace(log10_signal=(-2.0, 0.0)), 6) == "▅█"  # the bars span four decades at least
    assert bars(facts.replace(log10_signal=(None, -math.inf)), 6) == ""
