"""Short trainings to which something happens on the way, one for each code that only a watched training shows."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from contextlib import redirect_stdout
from textwrap import dedent, fill, indent

from unvanish.preserve import seeded

PROGRAM = """\
import torch, unvanish
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(
    nn.Linear(8, 32), nn.{first},
    nn.Linear(32, 32), nn.{second},
    nn.Linear(32, 4),
)
{optimizer}
with unvanish.watch(model, optimizer, every=1, to="runs/") as run:
    for step in range({steps}):
        x = torch.randn(64, 8)
{happens}        loss = nn.functional.{loss}
{empty}{backward}for finding in run.findings:
    print(finding.code, finding.message)"""
SGD = "optimizer = torch.optim.SGD(model.parameters(), lr=0.01)"
ORDINARY = {
    "steps": "80",
    "first": "ReLU()",
    "second": "ReLU()",
    "optimizer": SGD,
    "happens": "",
    "loss": "cross_entropy(model(x), x[:, :4].argmax(1))",
    "empty": "        optimizer.zero_grad()\n",
    "backward": "loss.backward()\noptimizer.step()",
}
HAPPENS = {
    "UV801": {
        "happens": """
            if step == 40:  # what too much weight decay does in the long run
                model[2].weight.data *= 0.02"""
    },
    "UV802": {
        "first": "LayerNorm(32)",
        "happens": """
            if step == 40:  # what weight decay does in front of a normaliser in the long run
                for parameter in model[0].parameters():
                    parameter.data *= 0.03""",
    },
    "UV803": {
        "happens": """
            if step == 40:  # as after one step that was far too long
                model[2].bias.data -= 100"""
    },
    "UV804": {
        "second": "Tanh()",
        "happens": """
            if step == 40:  # as after one step that was far too long
                model[2].weight.data *= 100""",
    },
    "UV805": {
        "loss": "mse_loss(model(x), y)",
        "happens": """
            y = x[:, :4] * (1000 if step == 40 else 1)  # one batch has another unit""",
    },
    "UV806": {
        "optimizer": """\
layers = [{"params": model[at].parameters(), "lr": 0.01} for at in (0, 2, 4)]
optimizer = torch.optim.SGD(layers)""",
        "happens": """
            if step == 40:  # of the first layer alone
                optimizer.param_groups[0]["lr"] = 1e-6""",
    },
    "UV807": {
        "happens": """
            if step == 40:  # a schedule that goes on too far
                optimizer.param_groups[0]["lr"] = 1e-9"""
    },
    "UV808": {
        "optimizer": f'{SGD.replace("0.01", "1e-4")}\nscaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)',
        "loss": 'mse_loss(model(x), x[:, :4], reduction="sum")',
        "backward": "scaler.scale(loss).backward()\nscaler.step(optimizer)\nscaler.update()",
    },
    "UV809": {
        "steps": "400",
        "first": "Tanh()",
        "second": "Tanh()",
        "optimizer": "optimizer = torch.optim.Adam(model.parameters(), lr=0.01)",
        "loss": "mse_loss(model(x), torch.zeros(64, 4))",
    },
    "UV810": {"steps": "10", "backward": "loss.backward()\noptimizer.zero_grad()\noptimizer.step()"},
    "UV811": {"steps": "10", "empty": ""},
    "UV812": {
        "happens": """
            if step == 0:  # and never left: the same as a loop inside of it
                torch.autocast("cpu", torch.bfloat16).__enter__()"""
    },
    "UV813": {"loss": "cross_entropy(model(x), x[:, :4].argmax(1)) / 64**6"},
}
"""What is other than ordinary in the training that shows a code."""


def shown(code: str) -> tuple[str, str]:
    """The program for a code, and what it prints; SystemExit where it does not come to the code."""
    parts = {**ORDINARY, **HAPPENS[code]}
    program = PROGRAM.format(**{**parts, "happens": _within(parts["happens"]), "backward": _within(parts["backward"])})
    printed, log = io.StringIO(), logging.getLogger("unvanish")
    was, log.disabled = log.disabled, True  # what it says is printed at the end
    inside = compile(program, f"training for {code}", "exec")
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), redirect_stdout(printed), seeded(0):
        exec(inside, {"__name__": "training"})
    log.disabled = was
    said = printed.getvalue().rstrip()
    if f"{code} " not in said:
        raise SystemExit(f"the training for {code} comes to something else: {said or 'nothing'}")
    return program, "\n".join(fill(line, 88, subsequent_indent="      ") for line in said.splitlines())


def _within(lines: str) -> str:
    """Lines as they stand in the loop, each with its end; "" for none."""
    return indent(dedent(lines).strip(), " " * 8) + "\n" if lines else ""
