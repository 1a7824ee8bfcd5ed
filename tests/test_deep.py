"""Depths at which every dtype underflows, against 60-digit arithmetic; and graphs deep enough to break a destructor."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mpmath
import pytest
import torch
from architectures import Forward, chain, squares
from torch import Tensor, nn

from unvanish.flow.observe import _single_nodes
from unvanish.problem import Problem
from unvanish.trace.backward import walk
from unvanish.trace.capture import record
from unvanish.trace.scaled import Scaled

ROOT = Path(__file__).resolve().parents[1]
DEPTHS = (4, 20, 50, 100, 200)
WIDTHS = [(torch.float32, 1e-5), (torch.float64, 1e-9)]
SIGNS = {"half_sq": 0.5, "sq": 1.0}


def exact_chain(depth: int, weight: Any) -> tuple[list[Any], Any]:
    """∂h_L/∂w_l for every l of h ← σ(w·h) from h_0 = 1, and h_L."""
    h, before, slopes = mpmath.mpf(1), [], []
    for _ in range(depth):
        before.append(h)
        h = 1 / (1 + mpmath.exp(-weight * h))
        slopes.append(h * (1 - h))
    behind, gradients = mpmath.mpf(1), []
    for prior, slope in zip(reversed(before), reversed(slopes), strict=True):
        gradients.append(behind * slope * prior)
        behind *= slope * weight
    return gradients[::-1], h


def log10_gradients(model: Any, given: Problem) -> list[float]:
    """log10 of the norm of each parameter's gradient, in the order of ``parameters()``."""
    capture = record(given, model)
    root = capture.loss_root
    assert root is not None
    (tape,) = walk(capture, [[(root, torch.ones(root.shape, dtype=root.dtype))]])
    return [tape.leaves[id(p)] for p in model.parameters()]


@pytest.mark.parametrize(("dtype", "tolerance"), WIDTHS)
@pytest.mark.parametrize("depth", DEPTHS)
def test_the_golden_chain(golden: Callable[[str], Any], depth: int, dtype: torch.dtype, tolerance: float) -> None:
    known = golden("seeds")[f"chain_L{depth}"]
    model = chain(depth, dtype=dtype)
    gradients = log10_gradients(model, Problem(model, torch.tensor(1.0, dtype=dtype)))
    with mpmath.workdps(60):
        exact, _ = exact_chain(depth, mpmath.mpf("0.17"))
        expected = [float(mpmath.log10(g)) for g in exact]
    listed = known["dout_dw"] or [known["dout_dw1"], *[None] * (depth - 2), known["dout_dwL"]]
    assert len(gradients) == len(expected) == len(listed) == depth
    for ours, theirs, golden_value in zip(gradients, expected, listed, strict=True):
        assert ours == pytest.approx(theirs, abs=tolerance)
        if golden_value is not None:
            assert ours == pytest.approx(float(mpmath.log10(mpmath.mpf(golden_value))), abs=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), WIDTHS)
@pytest.mark.parametrize("target", ["0", "0.5", "1"])
@pytest.mark.parametrize("kind", SIGNS)
@pytest.mark.parametrize("depth", DEPTHS)
def test_the_golden_losses(
    golden: Callable[[str], Any], depth: int, kind: str, target: str, dtype: torch.dtype, tolerance: float
) -> None:
    known = mpmath.mpf(golden("seeds")[f"chain_L{depth}"][f"dC_dw1_{kind}_y{target}"])
    model = chain(depth, dtype=dtype)
    one, y = torch.tensor(1.0, dtype=dtype), torch.tensor(float(target), dtype=dtype)
    given = Problem(model, one, y, lambda out, y: SIGNS[kind] * (out - y) ** 2)
    first = log10_gradients(model, given)[0]
    # Near its target the loss is about 0.522 − 0.5: rounding the output weighs 23 times as much.
    room = tolerance if target != "0.5" else 2.0 * tolerance
    assert first == pytest.approx(float(mpmath.log10(abs(known))), abs=room)


@pytest.mark.parametrize("weight", [0.17, 1.0, 3.0, -2.0])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-4), (torch.float64, 1e-9)])
def test_a_thousand_layers(dtype: torch.dtype, tolerance: float, weight: float) -> None:
    model = chain(1000, weight, dtype)
    gradients = log10_gradients(model, Problem(model, torch.tensor(1.0, dtype=dtype)))
    with mpmath.workdps(60):
        exact, _ = exact_chain(1000, mpmath.mpf(float(torch.tensor(weight, dtype=dtype))))
        expected = [float(mpmath.log10(abs(g))) for g in exact]
    assert gradients == pytest.approx(expected, abs=tolerance)


DEEP = """
import json, resource, sys
import torch
sys.path.insert(0, {tests!r})
from architectures import chain
from unvanish.trace.backward import walk
from unvanish.trace.capture import record
from unvanish.problem import Problem
from unvanish.records import UnvanishError

depth = {depth}
torch.set_num_threads(1)
model, one = chain(depth), torch.tensor(1.0)
answer = {{}}
{body}
answer["gigabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(json.dumps(answer))
"""
WALKED = """
capture = record(Problem(model, one), model)
(tape,) = walk(capture, [[(capture.loss_root, torch.ones_like(one))]])
answer["first"], answer["middle"] = tape.leaves[id(model.w[0])], tape.leaves[id(model.w[depth // 2])]
"""
LOSS_RAISES = """
def loss(out, target):
    raise ValueError("no loss today")
try:
    record(Problem(model, one, one, loss), model)
except UnvanishError as error:
    answer["said"] = str(error)
"""
INTERRUPTED = """
seen = 0
def on_node(call, node, cotangent):
    global seen
    seen += 1
    if seen == 50_000:
        raise KeyboardInterrupt
capture = record(Problem(model, one), model)
try:
    walk(capture, [[(capture.loss_root, torch.ones_like(one))]], on_node=on_node)
except KeyboardInterrupt:
    answer["seen"] = seen
answer["left"] = len(capture.owner)
"""


def in_a_process_of_its_own(body: str) -> dict[str, Any]:
    program = DEEP.format(tests=str(ROOT / "tests"), depth=100_000, body=body)
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=240, env=surroundings, check=False
    )
    assert done.returncode == 0, f"exit code {done.returncode}: {done.stderr[-2000:]}"
    return json.loads(done.stdout)


def test_a_hundred_thousand_layers() -> None:
    printed = in_a_process_of_its_own(WALKED)
    depth, weight = 100_000, float(torch.tensor(0.17))
    with mpmath.workdps(30):
        # From layer 100 on every factor is the same to 30 digits: the product is the short chain's times a power.
        short, h = exact_chain(200, mpmath.mpf(weight))
        factor = mpmath.log10(weight * h * (1 - h))
        first = float(mpmath.log10(short[0]) + (depth - 200) * factor)
        middle = float(mpmath.log10(short[150]) + (depth - depth // 2 - 50) * factor)
    assert printed["first"] == pytest.approx(first, abs=1e-3)
    assert printed["middle"] == pytest.approx(middle, abs=1e-3)
    assert printed["gigabytes"] < 4.0


def test_a_loss_that_raises_behind_a_hundred_thousand_layers() -> None:
    printed = in_a_process_of_its_own(LOSS_RAISES)
    assert "no loss today" in printed["said"]


def test_a_walk_interrupted_half_way_down_a_hundred_thousand_layers() -> None:
    printed = in_a_process_of_its_own(INTERRUPTED)
    assert printed["seen"] == 50_000 and printed["left"] == 0


def shrunk_residual(blocks: int) -> tuple[Forward, Problem]:
    """Without its skips this stack would lose a factor 50 a block; the skips keep it alive."""
    torch.manual_seed(0)
    parts = nn.ModuleList([nn.Linear(8, 8) for _ in range(blocks)])

    def forward(m: Any, x: Tensor) -> Tensor:
        for part in m.parts:
            x = x + torch.tanh(part(x)) / 30.0
        return m.head(x)

    model = Forward(forward, parts=parts, head=nn.Linear(8, 4))
    return model, Problem(model, torch.randn(6, 8), torch.randn(6, 4), squares)


def plain_stack(layers: int) -> tuple[Forward, Problem]:
    torch.manual_seed(0)
    parts = nn.ModuleList([nn.Linear(8, 8) for _ in range(layers)])

    def forward(m: Any, x: Tensor) -> Tensor:
        for part in m.parts:
            x = torch.sigmoid(part(x))
        return x

    model = Forward(forward, parts=parts)
    return model, Problem(model, torch.randn(6, 8), torch.randn(6, 8), squares)


def small_gain_transformer(layers: int) -> tuple[nn.Module, Problem]:
    torch.manual_seed(0)
    model = nn.Sequential(
        *[nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True) for _ in range(layers)]
    )
    with torch.no_grad():
        for layer in model:
            layer.norm1.weight.fill_(0.1)  # type: ignore[union-attr,operator]
            layer.norm2.weight.fill_(0.1)  # type: ignore[union-attr,operator]
    return model, Problem(model, torch.randn(3, 5, 16), torch.randn(3, 5, 16), squares)


@pytest.mark.parametrize(
    ("make", "size", "fall"),
    [(shrunk_residual, 300, (0, 4)), (small_gain_transformer, 60, (10, 20)), (plain_stack, 150, (120, 140))],
)
def test_deep_networks_in_float32_against_autograd_in_float64(make: Any, size: int, fall: tuple[int, int]) -> None:
    """``fall``: orders of magnitude between the largest and the smallest gradient; float64 holds all of them."""
    model, given = make(size)
    gradients = log10_gradients(model, given)
    if fall[0] > 45:
        given.loss(given.outputs(model)).backward()
        assert any(not p.grad.any() for p in model.parameters()), "float32 autograd was expected to underflow here"
        model.zero_grad()
    model.double()
    wide = Problem(model, given.inputs.double(), given.targets.double(), given.loss_fn)
    wide.loss(wide.outputs(model)).backward()
    assert gradients == pytest.approx([math.log10(float(p.grad.norm())) for p in model.parameters()], abs=1e-5)
    assert fall[0] < max(gradients) - min(gradients) < fall[1]


def test_the_gradients_themselves_come_back_scaled() -> None:
    """A gradient of 10^-137 as float32 entries with a power of two beside them."""
    model = chain(100)
    capture = record(given := Problem(model, torch.tensor(1.0)), model)
    kept: dict[int, Scaled] = {}
    assert capture.loss_root is not None and given.loss_fn is None
    walk(capture, [[(capture.loss_root, torch.ones(()))]], lambda p, _, g: kept.update({id(p): g}))
    first = kept[id(model.w[0])]
    assert 2.0**-40 < float(first.mantissa) < 2.0**40
    log10 = math.log10(float(first.mantissa)) + first.exponent * math.log10(2.0)
    assert log10 == pytest.approx(-136.479434722, abs=1e-5)


class Counted(list[Any]):
    asked = 0

    def __getitem__(self, at: Any) -> Any:
        self.asked += 1
        return super().__getitem__(at)


def test_the_kinds_of_a_long_chains_calls_are_found_in_one_pass() -> None:
    depth = 300
    problem = Problem(
        nn.Sequential(nn.Linear(3, 3), *(nn.Tanh() for _ in range(depth))), torch.ones(2, 3), None, torch.sum
    )
    capture = record(problem, problem.build_all(0)[0])
    calls = capture.calls = Counted(capture.calls)
    assert len(_single_nodes(capture)) >= depth
    assert calls.asked <= 3 * depth
    capture.release()
