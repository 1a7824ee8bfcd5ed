"""Programs as they are reported, repaired to nine tenths of their known cure; the rules and remedies behind that."""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from torch import Tensor, nn

import unvanish
from unvanish.preserve import seeded
from unvanish.remedies import Draft, Refused, get

sys.path.insert(0, str(ROOT / "benchmarks"))
reports: Any = importlib.import_module("reports")
sys.path.remove(str(ROOT / "benchmarks"))
CASES: Any = reports.CASES

pytestmark = pytest.mark.filterwarnings("ignore:Using a target size")  # torch's word on one of the faults
QUICK = ("raw_nll", "broadcast_inside")
DEAR = ("tiny_weights", "thirty_blocks", "long_memory", "deep_forces")
"""Half a minute and more each: searched in ``benchmarks/reports.py`` alone, whose kept rows are held below."""


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES if name not in DEAR],
)
def test_a_search_goes_nine_tenths_of_the_way_to_the_known_cure(name: str) -> None:
    found = reports.row(name, CASES[name], 0, 3)
    assert found["verdict"] == "repaired" and found["share"] >= reports.REACHED, found
    assert not [code for code in found["after"] if code.endswith("error")]


def test_the_page_on_fixing_says_of_these_programs_what_was_measured() -> None:
    rows = json.loads((ROOT / "benchmarks" / "results" / "reports.json").read_text())["rows"]
    judged = [each for each in rows if each["case"] not in reports.NO_CURE]
    assert all("holds none of the model's parameters" in each["error"] for each in rows if each not in judged)
    reached = sum(each["share"] >= reports.REACHED for each in judged)
    repaired, improved = (sum(each["verdict"] == word for each in judged) for word in ("repaired", "improved"))
    text = " ".join((ROOT / "docs" / "fixing.md").read_text().split())
    assert f"On {len({each['case'] for each in judged})} programs as people report them, three seeds each" in text
    assert f"in {reached} of {len(judged)} searches; {repaired} were called a repair, {improved} an improvement" in text


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("last", "loss", "wrong"),
    [
        (nn.Identity(), F.nll_loss, True),
        (nn.Softmax(1), F.nll_loss, True),
        (nn.LogSoftmax(1), F.nll_loss, False),
        (nn.Identity(), F.cross_entropy, False),
    ],
)
def test_a_loss_of_log_probabilities_that_is_given_none(last: nn.Module, loss: Any, wrong: bool, seed: int) -> None:
    with seeded(seed):
        model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 5), last)
        x = torch.randn(32, 8)
    report = unvanish.diagnose(model, x, torch.arange(32) % 5, loss, optimizer=torch.optim.SGD(model.parameters(), 0.1))
    found = [
        finding for finding in report.findings if finding.code == "UV706" and "log-probabilities" in finding.message
    ]
    assert bool(found) == wrong
    if found:
        z = model(x).detach()
        assert found[0].evidence[0].value == pytest.approx(float(z.logsumexp(1).abs().mean()), rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("wrong", [True, False])
def test_a_loss_over_alignments_takes_log_probabilities(wrong: bool, seed: int) -> None:
    """As `softmax` for CTC it falls below zero and learns nothing; outputs are of samples first, the loss of steps."""
    with seeded(seed):
        model = nn.Sequential(
            nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 5), nn.Softmax(-1) if wrong else nn.LogSoftmax(-1)
        )
        x, y = torch.randn(12, 9, 6), torch.randint(1, 5, (12, 3))

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.ctc_loss(outputs.transpose(0, 1), targets, torch.full((12,), 9), torch.full((12,), 3))

    report = unvanish.diagnose(model, x, y, loss, optimizer=torch.optim.Adam(model.parameters(), 1e-3))
    told = [f.message for f in report.findings if f.level == "error"]
    assert len(told) == wrong
    assert all(message.startswith("ctc_loss takes log-probabilities and is given something else") for message in told)


def own_logits(outputs: Tensor, targets: Tensor) -> float:
    return float(((outputs.sigmoid() > 0.5) == (targets > 0.5)).float().mean())


def probabilities(outputs: Tensor, targets: Tensor) -> float:
    return float(((outputs > 0.5) == (targets > 0.5)).float().mean())


@pytest.mark.parametrize(("metric", "restored"), [(own_logits, False), (probabilities, True), (None, True)])
def test_outputs_are_given_to_the_metric_as_it_reads_them(metric: Any, restored: bool) -> None:
    with seeded(0):
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1), nn.Sigmoid())
        x = torch.randn(20, 4)
    targets = (x[:, :1] > 0).float()
    problem = unvanish.Problem(model, x, targets, nn.BCEWithLogitsLoss(), metric=metric)
    draft = Draft.of(problem, model, None)
    get("output-layer").apply(draft)
    logits = model[:3](x)
    assert torch.equal(draft.model(x), logits)
    assert (draft.restore_outputs is not None) == restored
    if draft.restore_outputs is not None:
        assert torch.equal(draft.restore_outputs(logits), logits.sigmoid())


class Regressor(nn.Module):
    """A model that computes its own loss, in one of several ways of writing the same broadcast."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.layer, self.how, self.criterion = nn.Linear(4, 1), how, nn.MSELoss()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        out = self.layer(x)
        if self.how == "module":
            return self.criterion(out, y)
        if self.how in BY_HAND:
            return BY_HAND[self.how](out, y)
        return F.smooth_l1_loss(out, y) if self.how == "huber" else F.mse_loss(out, y)


BY_HAND: dict[str, Any] = {
    "squares": lambda out, y: ((out - y) ** 2).mean(),
    "targets first": lambda out, y: (y - out).pow(2).mean(),
    "torch.sub": lambda out, y: torch.sub(out, y).abs().mean(),
}


@pytest.mark.parametrize("how", ["function", "module", "huber", *BY_HAND])
def test_shapes_are_matched_inside_of_a_model_where_a_check_has_seen_it(how: str) -> None:
    with seeded(0):
        model = Regressor(how)
        x = torch.randn(64, 4)
    y = x @ torch.tensor([1.0, -2.0, 0.5, 0.0])
    problem = unvanish.Problem(model, (x, y), optimizer=torch.optim.SGD(model.parameters(), 0.1))
    report = unvanish.diagnose(problem)
    assert [finding.code for finding in report.findings if finding.level == "error"] == ["UV708"]
    draft = Draft.of(problem, model, None, findings=report.findings)
    get("match-shapes").apply(draft)
    loss: Any = BY_HAND.get(how, F.smooth_l1_loss if how == "huber" else F.mse_loss)
    assert torch.allclose(draft.model(x, y), loss(model.layer(x).squeeze(1), y))
    with pytest.raises(Refused):  # nothing was found: differences of all with all may be meant
        get("match-shapes").apply(Draft.of(problem, model, None))
