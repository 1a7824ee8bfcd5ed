"""Where numbers that are not finite are born: behind masks, before what replaces them, in the batch, in the weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unvanish.pipeline import diagnose
from unvanish.problem import Problem
from unvanish.records import Finding
from unvanish.report import Report

INF = math.inf
SEEDS = range(3)
K = torch.zeros(8, 4, dtype=torch.bool)
K[2] = True


class Net(nn.Module):
    def __init__(self, run: Callable[..., Any], **parts: nn.Module) -> None:
        super().__init__()
        self.run = run
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 1)
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


def problem(seed: int, run: Callable[..., Any], loss: Any = F.mse_loss, **parts: Callable[[], nn.Module]) -> Problem:
    torch.manual_seed(seed)
    model = Net(run, **{name: make() for name, make in parts.items()})
    return Problem(model, torch.randn(32, 8), torch.randn(32, 1), loss)


def the_gradient_is_finite(problem: Problem) -> bool:
    model, _ = problem.build()
    found = torch.autograd.grad(problem.loss(problem.outputs(model)), list(model.parameters()), allow_unused=True)
    return all(bool(torch.isfinite(g).all()) for g in found if g is not None)


def nonfinite(report: Report) -> Finding:
    (finding,) = [f for f in report.findings if f.code in ("UV501", "UV502")]
    assert report.verdict == "nonfinite" and not report.healthy
    return finding


def named(report: Report, index: int | None) -> str:
    return "" if index is None else report.calls[index].name


def groups(m: Any, x: Tensor) -> Tensor:
    return m.a(x).view(8, 4, 16)


def attended(m: Any, x: Tensor, mask: Callable[[Tensor], Tensor], after: Callable[[Tensor], Tensor]) -> Tensor:
    h = groups(m, x)
    return m.b(after(mask(h @ h.mT / 4.0).softmax(-1)) @ h).flatten(0, 1)


def written(scores: Tensor) -> Tensor:
    scores[:, 0] = -INF
    return scores


def with_module(m: Any, x: Tensor, hide: bool) -> Tensor:
    h = groups(m, x)
    found = m.attention(h, h, h, key_padding_mask=K)[0]
    return m.b(found.masked_fill(K[..., None], 0.0) if hide else found).flatten(0, 1)


def attention() -> nn.Module:
    return nn.MultiheadAttention(16, 2, batch_first=True)


ROWS = {
    "masked_fill": lambda scores: scores.masked_fill(K[:, None], -INF),
    "added": lambda scores: scores + torch.zeros(8, 1, 4).masked_fill(K[:, None], -INF),
    "where": lambda scores: torch.where(K[:, None], torch.tensor(-INF), scores),
    "written": written,
}  # fmt: skip


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("hide", [True, False])
@pytest.mark.parametrize("how", ROWS)
def test_a_row_that_is_masked_whole(seed: int, hide: bool, how: str) -> None:
    mask: Any = ROWS[how]
    asked = problem(seed, lambda m, x: attended(m, x, mask, torch.nan_to_num if hide else lambda t: t))
    sound = the_gradient_is_finite(asked)
    assert sound == (hide and how != "added")  # filled in, the scores get no gradient where they were masked
    report = diagnose(asked)
    if sound:
        assert report.verdict == "healthy" and report.birth is None
        assert report.notes[0].startswith("softmax in the model") and "nan_to_num" in report.notes[0]
        return
    finding = nonfinite(report)
    assert finding.code == "UV501" and finding.cause == "softmax" and report.birth is not None and report.birth.row
    assert named(report, report.birth.hidden_by) == ("nan_to_num" if hide else "")
    assert "-inf throughout" in finding.message and "pass is finite" not in finding.message


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("hide", [True, False])
def test_a_row_masked_whole_inside_torch_s_own_attention(seed: int, hide: bool) -> None:
    asked = problem(seed, lambda m, x: with_module(m, x, hide), attention=attention)
    assert not the_gradient_is_finite(asked)
    report = diagnose(asked)
    assert nonfinite(report).cause == "multi_head_attention_forward"
    assert report.birth is not None and report.birth.row
    assert named(report, report.birth.hidden_by) == ("masked_fill" if hide else "")


@pytest.mark.parametrize("seed", SEEDS)
def test_masking_alone_is_no_fault(seed: int) -> None:
    causal = torch.ones(4, 4).triu(1).bool()
    for mask in (
        lambda s: s.masked_fill(causal, -INF),
        lambda s: s + torch.zeros(4, 4).masked_fill(causal, -INF),
        lambda s: torch.where(causal, torch.tensor(-INF), s),
    ):
        report = diagnose(problem(seed, lambda m, x, mask=mask: attended(m, x, mask, lambda t: t)))
        assert report.verdict == "healthy" and not report.notes and report.birth is None


@pytest.mark.parametrize("seed", SEEDS)
def test_outputs_of_minus_infinity_that_the_loss_never_asks_for_are_no_fault(seed: int) -> None:
    shut = torch.tensor([False, False, False, False, True])

    def asked(wanted: int) -> Problem:
        torch.manual_seed(seed)
        model = Net(lambda m, x: m.b(m.a(x).relu()).masked_fill(shut, -INF), b=nn.Linear(16, 5))
        return Problem(model, torch.randn(32, 8), torch.arange(32) % wanted, F.cross_entropy)

    report = diagnose(asked(4))
    assert report.verdict == "healthy" and report.loss is not None
    assert report.loss.best_constant == pytest.approx(math.log(4), rel=1e-3)  # of the four that are open
    assert report.loss.best_free == pytest.approx(0.0, abs=1e-3)
    finding = nonfinite(report := diagnose(asked(5)))  # now a target is behind the mask
    assert finding.cause == "cross_entropy" and "masked_fill" in finding.message
    assert report.birth is not None and report.birth.given == "mask"


HIDDEN: dict[str, tuple[Callable[..., Any], str, str]] = {
    "square root": (lambda m, x: m.b(m.a(x).sqrt().nan_to_num()), "sqrt", "nan_to_num"),
    "where": (lambda m, x: m.b(torch.where((h := m.a(x)) > 0, h.sqrt(), torch.zeros(()))), "sqrt", "where"),
    "sigmoid by hand": (lambda m, x: m.b(1.0 / (1.0 + torch.exp(-1e3 * m.a(x)))), "exp", "__rdiv__"),
    "softplus by hand": (
        lambda m, x: m.b(torch.where((h := 1e3 * m.a(x)) > 20, h, torch.log1p(torch.exp(h)))), "exp", "where",
    ),
    "rows left out": (
        lambda m, x: m.b((n := (h := m.a(x) * (torch.arange(32) > 0)[:, None]) / h.norm(dim=1, keepdim=True))
                         [~n.isnan().any(1)]).expand(-1, 32).T[:, :1],
        "div", "__getitem__",
    ),
}  # fmt: skip


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("how", HIDDEN)
def test_what_is_replaced_later_is_found_where_it_was_born(seed: int, how: str) -> None:
    run, born, hider = HIDDEN[how]
    asked = problem(seed, run)
    assert not the_gradient_is_finite(asked) and math.isfinite(asked.loss(asked.outputs(asked.build()[0])).item())
    report = diagnose(asked)
    finding = nonfinite(report)
    assert (finding.code, finding.cause) == ("UV501", born) and report.birth is not None
    assert named(report, report.birth.hidden_by) == hider and f"{hider} at" in finding.message


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_replaced_and_leaves_the_gradient_finite_is_a_remark(seed: int) -> None:
    asked = problem(seed, lambda m, x: m.b(torch.where((h := m.a(x)) > 0, h.log(), torch.zeros(()))))
    assert the_gradient_is_finite(asked)
    report = diagnose(asked)
    assert report.verdict == "healthy" and report.birth is None
    assert any(note.startswith("log in the model") and "where" in note for note in report.notes)


def test_a_gradient_that_breaks_alone_is_said_to_come_from_a_finite_pass() -> None:
    asked = problem(0, lambda m, x: m.b((m.a(x) * 0.0).square().sum(1, keepdim=True).sqrt().expand(-1, 16)))
    assert nonfinite(diagnose(asked)).message.startswith("The forward pass is finite, but the gradient")
    shut = torch.arange(32)[:, None] == 3

    def masked(m: Any, x: Tensor) -> Tensor:
        scores = m.b(m.a(x)) + torch.zeros(32, 4).masked_fill(shut, -INF)
        return torch.where(shut, torch.zeros(()), scores.logsumexp(1, keepdim=True))

    finding = nonfinite(report := diagnose(problem(0, masked)))
    assert (finding.code, finding.cause) == ("UV502", "logsumexp")
    assert finding.message.startswith("The loss is finite") and "-inf throughout" in finding.message
    assert report.birth is not None and report.birth.row


def test_the_batch_is_named_where_it_is_to_blame() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))
    x, y = torch.randn(32, 8), torch.randn(32, 1)
    bad_x, bad_y = x.clone(), y.clone()
    bad_x[3, 2], bad_y[5] = math.nan, math.nan
    for inputs, targets, who, cause in ((bad_x, y, "inputs", "linear"), (x, bad_y, "targets", "mse_loss")):
        finding = nonfinite(diagnose(Problem(model, inputs, targets, F.mse_loss)))
        assert f"because the {who} of this batch hold such numbers" in finding.message and finding.cause == cause


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize(("labels", "short"), [([1, 2, 3, 1, 2], False), ([1, 1, 2, 3, 1], True), ([1] * 7, True)])
def test_targets_that_an_alignment_cannot_hold_are_named(labels: list[int], short: bool, joined: bool) -> None:
    """Five steps hold five labels, but not five of which two equal ones stand side by side: a blank goes between."""
    torch.manual_seed(0)
    rows = [[1, 2], labels]
    targets = torch.tensor([1, 2, *labels]) if joined else nn.utils.rnn.pad_sequence([*map(torch.tensor, rows)], True)
    sizes, steps = torch.tensor([2, len(labels)]), torch.tensor([5, 5])

    def loss(outputs: Tensor, _: Any) -> Tensor:
        return F.ctc_loss(outputs.log_softmax(-1).transpose(0, 1), targets, steps, sizes)

    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 4))
    report = diagnose(Problem(model, torch.randn(2, 5, 3), torch.zeros(2), loss))
    if not short:
        assert report.birth is None
        return
    finding = nonfinite(report)
    assert finding.cause == "ctc_loss" and "need more steps than their inputs have" in finding.message


def test_numbers_without_a_gradient_are_traced_to_their_maker() -> None:
    asked = problem(0, lambda m, x: m.b(m.a((x - x.mean(0)) / x.std(0)).relu()))
    asked.inputs[:, 2] = 1.0  # a feature that never changes has a deviation of 0
    report = diagnose(asked)
    assert report.birth is not None and report.birth.given == "constant" and report.birth.maker.startswith("div at")
    assert "made by div at" in nonfinite(report).message
    normed = problem(
        0, lambda m, x: m.b(m.n(x).relu()), n=lambda: nn.utils.parametrizations.weight_norm(nn.Linear(8, 16))
    )
    with torch.no_grad():
        normed.model.n.parametrizations.weight.original1[1] = 0.0  # type: ignore[union-attr]
    report = diagnose(normed)
    assert report.birth is not None and report.birth.given == "weights" and "_weight_norm" in nonfinite(report).message
    assert "out of zeros" not in nonfinite(report).message  # one row of them is


def test_weights_that_are_nan_already_come_first() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))
    with torch.no_grad():
        model[2].get_parameter("weight")[0, 3] = math.nan
    finding = nonfinite(diagnose(Problem(model, torch.randn(32, 8), torch.randn(32, 1), F.mse_loss)))
    assert finding.message.startswith("2.weight holds nan or inf already") and finding.layers == ("2",)
    assert finding.cause == "parameters"


def test_weights_that_are_nan_and_not_met_by_this_batch_are_found() -> None:
    model = nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 3))
    asked = Problem(model, torch.arange(32) % 10, torch.arange(32) % 3, F.cross_entropy)
    assert diagnose(asked).healthy
    with torch.no_grad():
        model[0].get_parameter("weight")[19] = math.nan
    report = diagnose(asked)
    assert nonfinite(report).message.startswith("0.weight holds nan") and not report.nonfinite
    assert "vanished" not in {layer.verdict for layer in report.layers}


def test_statistics_that_are_nan_are_found_where_they_are_used() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 1))
    model[1].get_buffer("running_var")[2] = math.nan
    asked = Problem(model, torch.randn(32, 8), torch.randn(32, 1), F.mse_loss)
    assert diagnose(asked).healthy  # training takes the batch's own
    model.eval()
    assert nonfinite(diagnose(asked)).message.startswith("1.running_var holds nan")


def test_a_report_with_a_birth_survives_its_file() -> None:
    report = diagnose(problem(0, HIDDEN["square root"][0]))
    again = Report.from_json(report.to_json())
    assert again.to_json() == report.to_json() and again.birth == report.birth is not None
    healthy = diagnose(problem(0, lambda m, x: m.b(m.a(x).relu())))
    assert '"birth"' not in healthy.to_json()


@pytest.mark.parametrize(("size", "expected"), [(1e3, False), (1e5, True)])
@pytest.mark.parametrize("seed", SEEDS)
def test_inputs_that_the_type_of_autocast_cannot_hold(seed: int, size: float, expected: bool) -> None:
    """The largest number of float16 is 65,504; bfloat16 has the range of float32."""
    torch.manual_seed(seed)
    model, x = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 4)), size * torch.randn(64, 10)

    def told(kind: torch.dtype) -> str:
        return " ".join(str(diagnose(Problem(model, x, torch.arange(64) % 4, F.cross_entropy, autocast=kind))).split())

    most = f"inputs of this batch go up to {float(x.abs().max()):.3g}, which float16 cannot hold"
    assert (most in told(torch.float16)) == expected
    assert "cannot hold" not in told(torch.bfloat16)


@pytest.mark.parametrize("divided", [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm])
def test_a_layer_of_zeros_that_is_divided_by_its_norm_is_told_as_such(divided: Any) -> None:
    def last() -> nn.Module:
        layer = nn.Linear(16, 16)
        nn.init.zeros_(layer.weight)
        return divided(layer)

    report = diagnose(problem(0, lambda m, x: m.b(m.a(x) + m.n(m.a(x).relu())), n=last))
    assert "although all parameters are: they are computed by" in (message := nonfinite(report).message)
    assert "out of zeros (0 divided by 0)." in message
